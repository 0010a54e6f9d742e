"""What went wrong on the hub, and the line to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._bundle import CONFIG

LOG_IN = 'Log in with `hf auth login`, or pass token="hf_..."'


@contextmanager
def explained(
    repo_id: str | None,
    *,
    filename: str | None = None,
    revision: str | None = None,
    write: bool = False,
) -> Iterator[None]:
    """Turn errors of the client into built-in ones that say what to do.

    Parameters
    ----------
    repo_id
        Repository that is asked for; `None` for all.
    filename, revision
        File that is asked for, if one is.
    write
        Whether it is written to.
    """
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    # The client's library for HTTP is not ours to import: its name differs between versions.
    transport_error: type[Any] = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(_not_cached(repo_id, filename, revision, error)) from error
    except errors.OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"{hub} is not asked, because HF_HUB_OFFLINE is set. Unset it: unset HF_HUB_OFFLINE"
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{repo_id} is gated. Ask for access on {hub}/{repo_id}. {LOG_IN}."
        ) from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise FileNotFoundError(_absent(repo_id, filename, revision, error)) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, errors.RepositoryNotFoundError) and not write:
            owner = "" if repo_id is None else repo_id.split("/")[0]
            raise FileNotFoundError(
                f"There is no model {repo_id} on {hub}, or it is private. What there is: "
                f'scssl.hub.list_models(author="{owner}"). For private ones: {LOG_IN}.'
            ) from error
        if status in (401, 403) or isinstance(error, errors.RepositoryNotFoundError):
            what = f"write to {repo_id}" if write else f"read {repo_id or 'the list of models'}"
            scope = "; the token must have the right to write" if write else ""
            raise PermissionError(
                f"{hub} does not let you {what} (status {status}). {LOG_IN}{scope}."
            ) from error
        raise ConnectionError(f"{hub} failed: {_first_line(error)} Try again later.") from error
    except errors.HFValidationError as error:
        raise ValueError(str(error)) from error
    except transport_error as error:
        raise ConnectionError(
            f"{hub} cannot be reached: {_first_line(error)} Check the network or HF_ENDPOINT."
        ) from error
    except RuntimeError as error:
        # What the client makes of a failed transfer.
        cause = f" ({_first_line(error.__cause__)})" if error.__cause__ else ""
        raise ConnectionError(
            f"The transfer failed: {_first_line(error)}{cause} Try again."
        ) from error


def _not_cached(
    repo_id: str | None, filename: str | None, revision: str | None, error: Exception
) -> str:
    from huggingface_hub import constants

    what = f"{repo_id}/{filename}" + (f" at {revision!r}" if revision is not None else "")
    if constants.HF_HUB_OFFLINE:
        return (
            f"{what} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set. Unset "
            f"it, or fetch the model where there is a network: hf download {repo_id}"
        )
    return (
        f"{what} is not in the cache ({constants.HF_HUB_CACHE}) and cannot be fetched from "
        f"{constants.ENDPOINT}: {_first_line(error.__cause__ or error)} Check the network or HF_ENDPOINT."
    )


def _absent(
    repo_id: str | None, filename: str | None, revision: str | None, error: Exception
) -> str:
    from huggingface_hub import constants, errors

    at = f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}. Leave it out for the newest; all: {at}/commits/main"
    if filename == CONFIG:
        return (
            f"{repo_id} has no {CONFIG}: it is not a model of scssl. Those are: scssl.hub.list_models(). "
            "If it holds a published checkpoint, say which: from_pretrained(..., file=...)"
        )
    return f"{repo_id} has no file {filename!r}. Its files: {at}/tree/{revision or 'main'}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if text.endswith(".") else f"{text}."
