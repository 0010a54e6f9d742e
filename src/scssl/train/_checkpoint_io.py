"""Trainer checkpoints that hold data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from scssl._errors import BundleError
from scssl._io import find_previous, load_tree, recover, replace_folder, save_tree

TENSORS, TREE = "checkpoint.safetensors", "checkpoint.json"


class SafeCheckpointIO(CheckpointIO):
    """Write each Lightning checkpoint as a folder of safetensors and JSON, never as a pickle.

    Give it to the trainer as ``Trainer(plugins=[SafeCheckpointIO()])``. Weights, optimiser,
    scheduler, loop and callback states go through :func:`scssl._io._trees.save_tree`; a state that
    is not plain data raises a ``TypeError`` naming it. A checkpoint is replaced as a whole.

    Examples
    --------
    >>> import tempfile, torch
    >>> from scssl.train._checkpoint_io import SafeCheckpointIO
    >>> io = SafeCheckpointIO()
    >>> path = tempfile.mkdtemp() + "/last.ckpt"
    >>> io.save_checkpoint({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, path)
    >>> io.load_checkpoint(path)
    {'epoch': 3, 'state_dict': {'w': tensor([1., 1.])}}
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to the folder ``path``, replacing a checkpoint that is there.

        Parameters
        ----------
        checkpoint
            State of model and trainer.
        path
            Folder to write.
        storage_options
            Not supported; Lightning passes ``None``.

        Raises
        ------
        ValueError
            When ``path`` holds something that is not a checkpoint of this class.
        TypeError
            When ``storage_options`` is given, or the checkpoint holds more than data.
        """
        if storage_options is not None:
            raise TypeError(f"There is no `storage_options` here, found {storage_options!r}.")
        path = Path(path)
        recover(path)
        if path.exists() and not _is_checkpoint(path) and not _is_empty_folder(path):
            raise ValueError(f"{path} is not a checkpoint written by scssl, so it is not replaced.")
        with replace_folder(path) as folder:
            save_tree(checkpoint, folder / TENSORS, folder / TREE)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Parameters
        ----------
        path
            Folder written by :meth:`save_checkpoint`.
        map_location
            Ignored: tensors come back on the CPU and Lightning moves them.
        weights_only
            Ignored: nothing else than data is ever read.

        Returns
        -------
        The checkpoint, equal to what was saved.

        Raises
        ------
        BundleError
            When the folder is missing, foreign, truncated, altered or of a newer format.
        """
        path = Path(path)
        recover(path)
        if path.is_file():
            raise BundleError(f"{path} is a file: checkpoints are folders, no pickles are read.")
        if not path.is_dir():
            msg = f"There is no checkpoint {path}."
            previous = find_previous(path)
            if previous is not None:
                msg += f" Saving it was interrupted; the one before is {previous}."
            raise BundleError(msg)
        checkpoint: dict[str, Any] = load_tree(path / TENSORS, path / TREE)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; anything else at ``path`` is left alone.

        Parameters
        ----------
        path
            Folder written by :meth:`save_checkpoint`.
        """
        path = Path(path)
        if path.is_symlink() or not _is_checkpoint(path):
            return
        for name in (TREE, TENSORS):
            (path / name).unlink()
        if _is_empty_folder(path):
            path.rmdir()


def _is_checkpoint(path: Path) -> bool:
    return (path / TREE).is_file() and (path / TENSORS).is_file()


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
