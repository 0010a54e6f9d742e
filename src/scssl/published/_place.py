"""Where a published checkpoint and the files beside it are."""

from __future__ import annotations

from pathlib import Path

from scssl._checks import some
from scssl._errors import BundleError
from scssl._io import as_path
from scssl.hub import commit_of, fetch_file, is_repo_id

#: The table of genes as it is published.
TABLE = "var.parquet"
# Where the checkpoints of pre-training lie, in the repository and in copies of it.
_FOLDER = "Pretrained Models/"
_PRETRAINED = ("RandomMask.ckpt", "GPMask.ckpt", "BYOL.ckpt", "BarlowTwins.ckpt")


class Place:
    """Where a checkpoint and the files beside it are: a folder, or a repository on the hub."""

    def __init__(
        self,
        source: str | Path,
        file: str | Path | None,
        revision: str | None,
        token: str | bool | None,
    ) -> None:
        self.revision, self.token = revision, token
        self.folder: Path | None = None
        self.repository = ""
        path = as_path(source, "source")
        if path.is_file():
            if file is not None:
                raise ValueError(f"{source} is a file: pass its folder, or leave out `file`.")
            self.folder, file = path.parent, path.name
        elif file is None:
            raise BundleError(f"There is no file {source}.")
        elif path.is_dir():
            self.folder = path
        elif is_repo_id(str(source)):
            self.repository = str(source)
        else:
            raise BundleError(
                f"There is no folder {source}. Pass a folder, or a repository of the hub such as "
                '"TillR/sc_pretrained".'
            )
        if self.folder is not None and revision is not None:
            raise ValueError(f"{source} is here, and has no revisions. Leave `revision` out.")
        self.file = str(as_path(file, "file"))
        # Not the path: the report is part of the model, and may be published with it.
        self.name = self.repository or "a folder"

    def checkpoint(self, sha256: str | None) -> Path:
        """Path of the checkpoint, fetched if need be."""
        if Path(self.file).is_absolute():
            return Path(self.file)
        if self.folder is not None:
            return _find(self.file, self.folder)
        folder = _FOLDER if self.file in _PRETRAINED else ""
        return self._fetch(folder + self.file, sha256)

    def table(self, name: str | Path) -> Path:
        """Path of the table of genes, fetched if need be."""
        # The usual name means the file in the repository, even if there is one here as well.
        if self.folder is None and str(name) != TABLE and (path := as_path(name)).is_file():
            return path
        return self.beside(name)

    def beside(self, name: str | Path) -> Path:
        """Path of another file of the same place, fetched if need be."""
        if self.folder is not None:
            return _find(name, self.folder)
        return self._fetch(str(name), None)

    def _fetch(self, name: str, sha256: str | None) -> Path:
        path: Path = fetch_file(
            self.repository,
            name,
            revision=self.revision,
            token=self.token,
            expected_sha256=sha256,
        )
        # What follows is taken from the same commit, and the report has it and not a branch.
        self.revision = commit_of(path, name) or self.revision
        return path


def _find(name: str | Path, folder: Path) -> Path:
    """A file in a folder, in its folder of pre-trained models, or at the path that `name` is."""
    places = (folder / name, folder / _FOLDER / name, as_path(name))
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        here = some(sorted(path.name for path in folder.iterdir()), 10) or "nothing"
        raise BundleError(f"There is no file {name} in {folder}, which holds {here}.")
    return found
