"""Publish model folders on the Hugging Face Hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from scssl._errors import BundleError
from scssl._io import MAX_JSON_BYTES, parse_json

from ._bundle import CONFIG, FILES, FORMAT, read_bundle
from ._remote import check_repo_id, check_revision, client, fetch, progress_bars
from ._remote_errors import explained

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOGGER = logging.getLogger("scssl")
CARD = "README.md"
MAIN = "main"


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

    path = Path(path)
    check_repo_id(repo_id)
    branch = check_revision(revision) or MAIN
    config = read_bundle(path).config
    if not config.get("trained"):
        raise ValueError(
            f"The model in {path} is not trained, so it is not published. Call model.train()."
        )
    api = client(token)
    with progress_bars(), explained(repo_id, write=True):
        api.create_repo(repo_id, private=private, exist_ok=True)
        _check_privacy(api, repo_id, private=private)
        if branch != MAIN:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
    _check_content(api, repo_id, branch)
    operations = [CommitOperationAdd(name, str(path / name)) for name in FILES]
    operations.append(CommitOperationAdd(CARD, card.encode()))
    with progress_bars(), explained(repo_id, write=True):
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"{config.get('class')} of scssl {__version__}",
            revision=branch,
        )
    _LOGGER.info("Pushed to %s/%s (commit %s).", api.endpoint, repo_id, commit.oid)
    return str(commit.commit_url)


def _check_privacy(api: HfApi, repo_id: str, *, private: bool) -> None:
    if private and not api.model_info(repo_id).private:
        raise ValueError(
            f"{repo_id} exists already and is public, so nothing is pushed with private=True. Make it "
            f'private first: huggingface_hub.update_repo_settings("{repo_id}", private=True)'
        )


def _check_content(api: HfApi, repo_id: str, branch: str) -> None:
    """Refuse to write over the model of another program."""
    with explained(repo_id, write=True):
        there = {file.rfilename for file in api.model_info(repo_id, revision=branch).siblings or ()}
    if CONFIG not in there:
        return
    path = fetch(api, repo_id, CONFIG, branch, max_bytes=MAX_JSON_BYTES)
    try:
        ours = parse_json(path.read_bytes(), path).get("format") == FORMAT
    except BundleError:
        ours = False
    if not ours:
        raise ValueError(
            f"{repo_id} holds a model of another program (its {CONFIG} is not of scssl), so nothing "
            "is pushed there. Give another name."
        )
