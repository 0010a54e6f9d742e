"""Model folders on the Hugging Face Hub, through its own client."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from scssl._errors import BundleError
from scssl._io import MAX_JSON_BYTES, replace_folder
from scssl._settings import settings

from ._bundle import (
    CONFIG,
    FILES,
    GENES,
    TENSORS,
    check_target,
    read_bundle,
    read_document,
)
from ._remote_errors import explained

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import HfApi

_LOGGER = logging.getLogger("scssl")
TAG = "scssl"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
# What of the metadata of a card is shown in the list of models: text of strangers, so only this.
_FACTS = {
    "model": str,
    "species": str,
    "n_cells": int,
    "n_genes": int,
    "gene_ids": str,
    "input": str,
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
        raise ValueError(
            f"`expected_sha256` must have 64 hexadecimal digits, found {expected_sha256!r}."
        )
    path = fetch(client(token), repo_id, filename, check_revision(revision))
    if expected_sha256 is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != expected_sha256.lower():
            raise BundleError(
                f"{filename} of {repo_id} is another file than expected: its sha256 is {digest}, not "
                f"{expected_sha256.lower()}. It was changed on the hub (an earlier commit may have "
                f"the expected one: revision=...), or damaged: to fetch it again, delete "
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
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(
            f"{path} is not empty. Give a new folder, or overwrite=True to replace a model."
        )
    check_target(path, overwrite=overwrite)
    with replace_folder(path, owned=FILES) as folder:
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

    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, or None for all; found {limit}.")
    with explained(None):
        found = list(
            client(token).list_models(
                filter=TAG,
                author=author,
                search=search,
                limit=limit,
                sort="downloads",
                expand=["cardData", "downloads", "gated", "lastModified", "likes", "private"],
            )
        )
    numbers = {"n_cells": "Int64", "n_genes": "Int64", "downloads": "Int64", "likes": "Int64"}
    names = ["repo_id", *_FACTS, "license", "downloads", "likes"]
    names += ["last_modified", "private", "gated"]
    return pd.DataFrame([_row(info) for info in found], columns=names).astype(numbers)


def _row(info: Any) -> dict[str, Any]:
    card = info.card_data
    told = card.get(TAG) if card is not None else None
    facts = told if isinstance(told, dict) else {}
    license = card.get("license") if card is not None else None
    return {
        "repo_id": info.id,
        **{
            name: facts[name] if type(facts.get(name)) is kind else None
            for name, kind in _FACTS.items()
        },
        "license": license if isinstance(license, str) else None,
        "downloads": info.downloads,
        "likes": info.likes,
        "last_modified": info.last_modified,
        "private": info.private,
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
    with progress_bars(), explained(repo_id, filename=filename, revision=revision):
        if max_bytes is not None or size is not None:
            plan = hf_hub_download(repo_id, filename, revision=revision, dry_run=True, **who)
            _check_size(f"{repo_id}/{filename}", plan.file_size, max_bytes, size)
        return Path(hf_hub_download(repo_id, filename, revision=revision, **who))


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
            f"{name} is not the file that was saved: it has {found:,} bytes on the hub, {size:,} are "
            f"recorded in {CONFIG}. Its owner has to push the model again."
        )


def check_repo_id(repo_id: Any) -> None:
    if not is_repo_id(repo_id) or "--" in repo_id or ".." in repo_id:
        raise ValueError(f'A repository of the hub is named "owner/name", found {repo_id!r}.')


def _check_filename(filename: Any) -> None:
    parts = PurePosixPath(filename).parts if isinstance(filename, str) else ()
    outside = not parts or parts[0] == "/" or ".." in parts
    if outside or "\\" in filename or ":" in filename or "\0" in filename:
        raise ValueError(
            f"`filename` must be the path of a file inside the repository, found {filename!r}."
        )


def check_revision(revision: Any) -> str | None:
    if revision is None:
        return None
    parts = PurePosixPath(revision).parts if isinstance(revision, str) else ()
    # It also names a file in the cache.
    if not parts or parts[0] == "/" or ".." in parts or "\\" in revision or "\0" in revision:
        raise ValueError(
            f"`revision` must be a branch, tag or commit of the repository, found {revision!r}."
        )
    return str(revision)


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
