"""Model folders on the Hugging Face Hub, through its own client."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from scssl._checks import check_whole
from scssl._errors import MALFORMED, BundleError
from scssl._io import MAX_JSON_BYTES, as_path, file_digest, replace_folder
from scssl._settings import settings

from ._bundle import (
    CONFIG,
    FILES,
    GENES,
    TENSORS,
    check_target,
    is_ours,
    read_bundle,
    read_document,
)

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import HfApi

_LOGGER = logging.getLogger("scssl")
TAG = "scssl"
LOG_IN = "Log in with `hf auth login`, or pass your `token=TOKEN`"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
# What of the metadata of a card is shown in the list of models: text of strangers, so only this.
_FACTS = {
    "model": str,
    "species": str,
    "n_cells": int,
    "n_genes": int,
    "gene_ids": str,
    "input": str,
    "license": str,
}


def is_repo_id(text: object) -> bool:
    """Whether `text` reads as ``"owner/name"``."""
    return isinstance(text, str) and _REPO_ID.fullmatch(text) is not None


def fetch_file(
    repo_id: str,
    filename: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    expected_sha256: str | None = None,
) -> Path:
    """Fetch one file of a model repository of the Hugging Face Hub.

    The file is kept in the cache of huggingface_hub and fetched again only when it has changed. With
    the environment variable ``HF_HUB_OFFLINE=1`` only the cache is used.

    Parameters
    ----------
    repo_id
        Repository, ``"owner/name"``.
    filename
        Path of the file in it.
    revision
        Branch, tag or commit; the newest of the main branch by default.
    token
        Access token; that of ``hf auth login`` by default.
    expected_sha256
        Digest that the file must have.

    Returns
    -------
    Path of the file in the cache, not to be written to.

    Raises
    ------
    FileNotFoundError
        If there is no such repository, revision or file.
    PermissionError
        If the repository is gated, or the token is not accepted.
    ConnectionError
        If the hub cannot be reached and the file is not in the cache.
    BundleError
        If the file has another digest.
    ValueError
        If `repo_id`, `filename` or `revision` cannot be one.
    """
    check_repo_id(repo_id)
    _check_filename(filename)
    if expected_sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", expected_sha256):
        found = f"found {expected_sha256!r}"
        raise ValueError(f"`expected_sha256` must have 64 hexadecimal digits, {found}.")
    path = fetch(client(token), repo_id, filename, check_revision(revision))
    if expected_sha256 is not None:
        digest = file_digest(path)
        if digest != expected_sha256.lower():
            raise BundleError(
                f"{filename} of {repo_id} is another file than expected: its sha256 is {digest}, not "
                f"{expected_sha256.lower()}. It was changed on the hub (the expected one may be in an "
                "earlier commit, which `revision` takes), or damaged: to fetch it again, delete "
                f"{path.resolve()}"
            )
    return path


def fetch_bundle(
    repo_id: str,
    path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
) -> str:
    """Fetch a model of the Hugging Face Hub into a folder, such as one for a machine without network.

    ``config.json`` comes first; only if it is of scssl the two files that it describes follow, from
    the same commit. The folder is checked before it takes its place, and nothing in it is executed.

    Parameters
    ----------
    repo_id
        Repository, ``"owner/name"``.
    path
        Folder to write.
    revision
        Branch, tag or commit; the newest of the main branch by default.
    token
        Access token; that of ``hf auth login`` by default.
    overwrite
        Replace a model that is in `path`.

    Returns
    -------
    The commit that was fetched. As `revision` it gives the same model ever after.

    Raises
    ------
    BundleError
        If the repository does not hold a sound model of scssl that this version can read.
    FileNotFoundError, PermissionError, ConnectionError
        As in :func:`fetch_file`.
    ValueError
        If `path` exists and may not be replaced.
    """
    path = as_path(path)
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"{path} is not empty. Give a new folder, or replace it: `overwrite=True`")
    check_target(path, overwrite=overwrite)
    with replace_folder(path) as folder:
        commit = collect(repo_id, folder, revision=revision, token=token)
        with renamed(folder, repo_id):
            read_bundle(folder)
    return commit


def collect(
    repo_id: str,
    folder: Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Put the files of a model into an empty folder, unread but for ``config.json``; the commit."""
    check_repo_id(repo_id)
    api, revision = client(token), check_revision(revision)
    config = fetch(api, repo_id, CONFIG, revision, max_bytes=MAX_JSON_BYTES)
    # The cache names the folder of a snapshot by its commit. The other files are taken from the same
    # one, whatever is pushed meanwhile.
    commit = config.parent.name
    shutil.copyfile(config, folder / CONFIG)
    with renamed(folder, repo_id):
        files = read_document(folder)["files"]
    for name, limit in ((GENES, MAX_JSON_BYTES), (TENSORS, None)):
        size = files[name].get("size") if isinstance(files[name], dict) else None
        if type(size) is not int:
            raise BundleError(f"{repo_id}/{CONFIG} is malformed: it has no size of {name}.")
        found = fetch(api, repo_id, name, commit, max_bytes=limit, size=size)
        shutil.copyfile(found, folder / name)
    _LOGGER.info("%s at commit %s.", repo_id, commit)
    return commit


def push_bundle(
    path: str | Path,
    repo_id: str,
    *,
    card: str,
    private: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Publish a model folder on the Hugging Face Hub, in one commit.

    Parameters
    ----------
    path
        Folder that ``model.save`` wrote.
    repo_id
        Repository, ``"owner/name"``; made if there is none.
    card
        Text of its ``README.md``.
    private
        Make it private. A repository that exists stays as it is, and is refused if it is public.
    revision
        Branch to push to, made if there is none; the main branch by default.
    token
        Access token that may write; that of ``hf auth login`` by default.
    commit_message
        Message of the commit.

    Returns
    -------
    Address of the commit.

    Raises
    ------
    BundleError
        If `path` does not hold a sound model.
    ValueError
        If the model is not trained, the repository holds a model of another program, or it is public
        and should be private.
    PermissionError
        If the token may not write to the repository.
    ConnectionError
        If the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd

    from scssl import __version__

    path = as_path(path)
    check_repo_id(repo_id)
    branch = check_revision(revision) or "main"
    config = read_bundle(path).config
    if not config.get("trained"):
        raise ValueError(f"The model in {path} is not trained. Train it and save it again.")
    api = client(token)
    with progress_bars(), explained(repo_id, write=True):
        api.create_repo(repo_id, private=private, exist_ok=True)
        is_public = private and not api.model_info(repo_id).private
    if is_public:
        raise ValueError(
            f"{repo_id} is public already. Make it private first: `import huggingface_hub; "
            f'huggingface_hub.update_repo_settings("{repo_id}", private=True)`'
        )
    if branch != "main":
        with explained(repo_id, write=True):
            api.create_branch(repo_id, branch=branch, exist_ok=True)
    _check_content(api, repo_id, branch)
    operations = [CommitOperationAdd(name, str(path / name)) for name in FILES]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    with progress_bars(), explained(repo_id, write=True):
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"{config.get('class')} of scssl {__version__}",
            revision=branch,
        )
    _LOGGER.info("Pushed to %s/%s (commit %s).", api.endpoint, repo_id, commit.oid)
    return str(commit.commit_url)


def _check_content(api: HfApi, repo_id: str, branch: str) -> None:
    """Refuse to write over the model of another program."""
    with explained(repo_id, write=True):
        there = {file.rfilename for file in api.model_info(repo_id, revision=branch).siblings or ()}
    if CONFIG not in there:
        return
    path = fetch(api, repo_id, CONFIG, branch, max_bytes=MAX_JSON_BYTES)
    # Through links: the cache is made of them.
    if not is_ours(path.resolve()):
        what = f"a model of another program (its {CONFIG} is not of scssl)"
        raise ValueError(f"{repo_id} holds {what}, which is not replaced. Give another name.")


def list_models(
    author: str | None = None,
    search: str | None = None,
    *,
    limit: int | None = 100,
    token: str | bool | None = None,
) -> pd.DataFrame:
    """Models of scssl on the Hugging Face Hub, most downloaded first.

    What they are is taken from their cards: it is what their authors say.

    Parameters
    ----------
    author
        Only those of this user or organisation.
    search
        Only those with this text in their name.
    limit
        How many at most; `None` for all.
    token
        Access token, for private models; that of ``hf auth login`` by default.

    Returns
    -------
    One row per model: ``repo_id`` (for ``from_pretrained``), ``model`` (its class), ``species``,
    ``n_cells``, ``n_genes``, ``gene_ids``, ``input``, ``license``, ``downloads``, ``likes``,
    ``last_modified``, ``private`` and ``gated``. What a card does not say is missing.

    Raises
    ------
    ConnectionError
        If the hub cannot be reached.
    PermissionError
        If the token is not accepted.

    Examples
    --------
    >>> import scssl
    >>> scssl.hub.list_models(search="pbmc")  # doctest: +SKIP
    """
    import pandas as pd

    limit = check_whole("limit", limit, none=True)
    api = client(token)
    asked: dict[str, Any] = {"filter": TAG, "author": author, "search": search, "limit": limit}
    expand: list[Any] = ["downloads", "gated", "lastModified", "likes", "private"]
    with explained(None):
        try:
            found = list(api.list_models(**asked, sort="downloads", expand=["cardData", *expand]))
        except TypeError:
            # One card has a field that the client takes for an argument of its own: all are asked for alone.
            found = list(api.list_models(**asked, sort="downloads", expand=expand))
            for info in found:
                with suppress(TypeError):
                    info.card_data = api.model_info(info.id, expand=["cardData"]).card_data
    names = ["repo_id", *_FACTS, "downloads", "likes", "last_modified", "private", "gated"]
    numbers = dict.fromkeys(("n_cells", "n_genes", "downloads", "likes"), "Int64")
    return pd.DataFrame([_row(info) for info in found], columns=names).astype(numbers)


def _row(info: Any) -> dict[str, Any]:
    card = info.card_data or {}
    told = card.get(TAG)
    told = {**(told if isinstance(told, dict) else {}), "license": card.get("license")}
    # A number that is no number of anything would take the whole table with it.
    told = {k: v for k, v in told.items() if type(v) is not int or 0 <= v < 2**63}
    return {
        "repo_id": info.id,
        **{
            name: told[name] if type(told.get(name)) is kind else None
            for name, kind in _FACTS.items()
        },
        **{
            name: getattr(info, name) for name in ("downloads", "likes", "last_modified", "private")
        },
        "gated": bool(info.gated),
    }


@contextmanager
def renamed(folder: Path, repo_id: str) -> Iterator[None]:
    """Have errors of reading a temporary folder name the repository that it is from."""
    try:
        yield
    except BundleError as error:
        text = str(error).replace(f'.load("{folder}")', f'.from_pretrained("{repo_id}")')
        text = text.replace(str(folder), repo_id)
        if "sha256 is not the recorded one" in text:
            text += f" If the copy in the cache is damaged, delete it: {_cache_of(repo_id)}"
        raise BundleError(text) from error


def _cache_of(repo_id: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")


def client(token: str | bool | None) -> HfApi:
    from huggingface_hub import HfApi

    from scssl import __version__

    return HfApi(token=token, library_name=TAG, library_version=__version__)


def fetch(
    api: HfApi,
    repo_id: str,
    filename: str,
    revision: str | None,
    *,
    max_bytes: int | None = None,
    size: int | None = None,
) -> Path:
    """Path in the cache. Where a size is limited or known, it is asked for before the content."""
    from huggingface_hub import hf_hub_download

    # The function: the method of the first versions does not know of `dry_run`.
    who: dict[str, Any] = {
        "endpoint": api.endpoint,
        "token": api.token,
        "library_name": api.library_name,
        "library_version": api.library_version,
    }
    with (
        progress_bars(),
        explained(repo_id, filename=filename, revision=revision),
        _names_checked(),
    ):
        if max_bytes is not None or size is not None:
            plan = hf_hub_download(repo_id, filename, revision=revision, dry_run=True, **who)
            _check_size(f"{repo_id}/{filename}", plan.file_size, max_bytes, size)
        return Path(hf_hub_download(repo_id, filename, revision=revision, **who))


@contextmanager
def _names_checked() -> Iterator[None]:
    """Refuse what the client would name a file in its cache by, and leads out of it."""
    from huggingface_hub import get_session

    def check(response: Any) -> None:
        for name in ("ETag", "X-Linked-Etag", "X-Repo-Commit"):
            value = response.headers.get(name, "") if response.request.method == "HEAD" else ""
            if ".." in value or {*"/\\:\0"} & {*value.removeprefix("W/")}:
                raise BundleError(
                    f"{response.request.url} is called {value!r} ({name}), which is no name in the cache: "
                    "nothing was written. Check HF_ENDPOINT."
                )

    hooks = get_session().event_hooks["response"]
    hooks.append(check)
    try:
        yield
    finally:
        hooks.remove(check)


def commit_of(path: Path, filename: str) -> str | None:
    """Commit that a file in the cache is of, `None` for a file that is elsewhere."""
    snapshot = path.parents[len(PurePosixPath(filename).parts) - 1]
    known = snapshot.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", snapshot.name)
    return snapshot.name if known else None


def _check_size(name: str, found: int | None, max_bytes: int | None, size: int | None) -> None:
    if found is None:
        raise BundleError(f"The hub does not say how large {name} is, so it is not fetched.")
    if max_bytes is not None and found > max_bytes:
        raise BundleError(f"{name} has {found:,} bytes; more than {max_bytes:,} are not fetched.")
    if size is not None and found != size:
        raise BundleError(
            f"{name} is not the file that was saved: it has {found:,} bytes, in {CONFIG} are {size:,}. "
            "Its owner has to push the model again."
        )


def check_repo_id(repo_id: Any) -> None:
    if not is_repo_id(repo_id) or "--" in repo_id or ".." in repo_id:
        raise ValueError(f'A repository of the hub is named "owner/name", found {repo_id!r}.')


def _check_filename(filename: Any) -> None:
    if not _is_inside(filename) or ":" in filename:
        raise ValueError(f"`filename` must be a path inside the repository, found {filename!r}.")


def check_revision(revision: Any) -> str | None:
    # It also names a file in the cache.
    if revision is not None and not _is_inside(revision):
        raise ValueError(f"`revision` must be a branch, tag or commit, found {revision!r}.")
    return None if revision is None else str(revision)


def _is_inside(path: Any) -> bool:
    """Whether a path stays in the folder that it is appended to, on every system."""
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    return bool(parts) and parts[0] != "/" and not {"..", "\\", "\0"} & {*parts, *path}


@contextmanager
def progress_bars() -> Iterator[None]:
    """Bars of the client only where ``scssl.settings.progress`` wants them."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    said = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    if settings.progress or said or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def explained(
    repo_id: str | None,
    *,
    filename: str | None = None,
    revision: str | None = None,
    write: bool = False,
) -> Iterator[None]:
    """Turn errors of the client into built-in ones: what it says, and the line to type.

    The client asks for a repository (`None`: for all), or a file of it, or with `write` writes to it.
    """
    from huggingface_hub import constants, errors

    what = f"{repo_id}/{filename}" if filename else repo_id or "the list of models"
    what += "" if revision is None else f" at {revision!r}"
    # The client's library for HTTP is not ours to import: its name differs between versions.
    transport_error: type[Any] = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        # What the client says here is of arguments that are its own.
        why = (
            f" and cannot be fetched from {constants.ENDPOINT}: {_said(error.__cause__ or error)} "
        )
        why += "Check the network or HF_ENDPOINT."
        if constants.HF_HUB_OFFLINE:
            where = f"where there is a network: `hf download {repo_id}`"
            why = f", and HF_HUB_OFFLINE is set. Unset it, or fetch the model {where}"
        cache = f"({constants.HF_HUB_CACHE})"
        raise ConnectionError(f"{what} is not in the cache {cache}{why}") from error
    except errors.HFValidationError as error:
        raise ValueError(str(error)) from error
    except BundleError:
        raise
    # The last are what the client makes of transfers that failed and answers that are cut off.
    except (errors.OfflineModeIsEnabled, transport_error, OSError, *MALFORMED) as error:
        if getattr(error, "errno", None) is not None or (
            isinstance(error, ValueError) and error.__cause__ is not None
        ):
            # Of this machine, such as a full disk, or of what it was given, such as the card.
            raise
        kind, advice = _advice(error, repo_id, filename, revision, write=write)
        done = "Writing to" if write else "Reading"
        raise kind(f"{done} {what} failed: {_said(error)} {advice}".rstrip()) from error


def _advice(
    error: Any, repo_id: str | None, filename: str | None, revision: str | None, *, write: bool
) -> tuple[type[OSError], str]:
    """What kind of error one of the client is here, and what to do that it does not say."""
    from huggingface_hub import constants, errors

    at = f"{constants.ENDPOINT}/{repo_id}"
    match error:
        case errors.OfflineModeIsEnabled():
            return ConnectionError, ""
        case errors.GatedRepoError():
            return PermissionError, f"Ask for access on {at}. {LOG_IN}."
        case errors.RevisionNotFoundError():
            return FileNotFoundError, f"Leave it out for the newest; all: {at}/commits/main"
        case errors.EntryNotFoundError() if filename == CONFIG:
            return FileNotFoundError, (
                "It is not a model of scssl. Those are: `scssl.hub.list_models()`. If it holds a published "
                "checkpoint, say which of its files it is, as `file`."
            )
        case errors.EntryNotFoundError():
            return FileNotFoundError, f"Its files: {at}/tree/{revision or 'main'}"
        case errors.RepositoryNotFoundError() if not write:
            owner = "" if repo_id is None else repo_id.split("/")[0]
            there = f'What there is: `scssl.hub.list_models(author="{owner}")`.'
            return FileNotFoundError, f"{there} For private ones: {LOG_IN}."
        case errors.RepositoryNotFoundError():
            return PermissionError, f"{LOG_IN}; the token must have the right to write."
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            scope = "; the token must have the right to write" if write else ""
            return PermissionError, f"{LOG_IN}{scope}."
        case errors.HfHubHTTPError():
            return ConnectionError, "Try again later."
        case _ if isinstance(error, (OSError, *MALFORMED)):
            cause = f"({_said(error.__cause__)}) " if error.__cause__ else ""
            return ConnectionError, f"{cause}Try again, or check HF_ENDPOINT."
    return ConnectionError, f"Check the network to {constants.ENDPOINT}, or HF_ENDPOINT."


def _said(error: BaseException) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
