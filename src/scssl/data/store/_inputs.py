"""What a store is built from: files and AnnData, of which only what goes into it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_names, get_column, get_matrix, some, whole_numbers
from scssl._errors import MissingKeyError
from scssl._io import as_path
from scssl.data.genes import GeneVocabulary
from scssl.data.matrix import RowSource, SelectedRows, open_csr, open_rows, sample_digest

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass
class Input:
    """Cells to put into a store; a file is open until :meth:`close`."""

    name: str
    #: Path of the file, or the AnnData.
    of: Path | AnnData
    layer: str | None
    _files: ExitStack = field(default_factory=ExitStack)

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"Input {self.name!r}" + (f" ({self.of})" if isinstance(self.of, Path) else "")

    @cached_property
    def _root(self) -> Any:
        """The open file."""
        path = self.of
        assert isinstance(path, Path)
        try:
            if path.is_dir():
                import zarr

                return zarr.open_group(path, mode="r")
            import h5py

            return self._files.enter_context(h5py.File(path, "r"))
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{self.called} cannot be read: {error}") from error

    @property
    def _is_10x(self) -> bool:
        return "matrix" in self._root and "X" not in self._root

    def _element(self, *path: str) -> Any:
        """An entry of the file, in memory."""
        from anndata.io import read_elem

        try:
            return read_elem(self._root["/".join(path)])
        except Exception as error:
            raise ValueError(f"{self.called} cannot be read as cells: {error}") from error

    def _index(self, table: str) -> pd.Index:
        import pandas as pd

        # Text is an array of NumPy with pandas 2.
        return pd.Index(self._element(table, self._root[table].attrs.get("_index", "_index")))

    @cached_property
    def matrix(self) -> Any:
        """The matrix, where it is stored."""
        if not isinstance(self.of, Path):
            return get_matrix(self.of, self.layer)[0]
        place = "X" if self.layer is None else f"layers/{self.layer}"
        if place not in self._root:
            layers = some(self._root["layers"]) if "layers" in self._root else "none"
            raise MissingKeyError(f"{self.called} has no {place}; layers are: {layers}.")
        found = self._root[place]
        if "encoding-type" not in found.attrs or found.attrs["encoding-type"] == "array":
            return found
        from anndata.io import sparse_dataset

        return sparse_dataset(found)

    @cached_property
    def rows(self) -> RowSource:
        """The matrix, as rows."""
        if isinstance(self.of, Path) and self._is_10x:
            found = self._root["matrix"]
            names = found["features/id"][:].astype(str)
            n_cells = int(found["shape"][1])
            rows = open_csr(found["data"], found["indices"], found["indptr"], (n_cells, len(names)))
            # Other features would be normalised together with genes.
            return SelectedRows(rows, None, GeneVocabulary(self.genes).align(names))
        return open_rows(self.matrix, where=self.where)

    @property
    def where(self) -> str:
        """What messages call the matrix."""
        return "adata.X" if self.layer is None else f'adata.layers["{self.layer}"]'

    @cached_property
    def genes(self) -> np.ndarray:
        """Names of the columns of the matrix."""
        if not isinstance(self.of, Path):
            return self.of.var_names.astype(str).to_numpy()
        if self._is_10x:
            found = self._root["matrix/features"]
            kept = found["feature_type"][:].astype(str) == "Gene Expression"
            return found["id"][:].astype(str).astype(object)[kept]
        return self._index("var").astype(str).to_numpy()

    def cells(self, start: int, stop: int) -> np.ndarray:
        """Names of some cells: as text, those of all may take more memory than all else."""
        if not isinstance(self.of, Path):
            return self.of.obs_names[start:stop].astype(str).to_numpy()
        if self._is_10x:
            names = self._root["matrix/barcodes"]
        else:
            obs = self._root["obs"]
            names = obs[obs.attrs.get("_index", "_index")]
            # Text that may be missing has a mask beside it.
            names = names["values"] if "values" in getattr(names, "keys", tuple)() else names
        names = names.asstr() if hasattr(names, "asstr") and names.dtype.kind in "OS" else names
        values = names[start:stop]
        # Numbers can be names too.
        return np.array([str(name) for name in values.tolist()], dtype=object)

    def column(self, key: str) -> pd.Series[Any] | None:
        """A column of ``obs``, `None` where there is none."""
        import pandas as pd

        if not isinstance(self.of, Path):
            return whole_numbers(get_column(self.of, key)) if key in self.of.obs else None
        if self._is_10x or key not in self._root["obs"]:
            return None
        values = pd.Series(self._element("obs", key), name=key)
        check_names(values)
        return whole_numbers(values)

    @property
    def identity(self) -> dict[str, Any]:
        """What would be different if it had been changed; JSON."""
        if not isinstance(self.of, Path):
            names = {"cells": self.of.n_obs, "genes": self.of.n_vars}
            return names | {"values of some cells": sample_digest(self.matrix)}
        files = [self.of] if self.of.is_file() else [p for p in self.of.rglob("*") if p.is_file()]
        found = [one.stat() for one in files]
        return {
            "bytes": sum(one.st_size for one in found),
            "time of the last change": max((one.st_mtime_ns for one in found), default=0),
        }

    def close(self) -> None:
        """Let go of the file, and of what was read of it."""
        self._files.close()
        for name in ("_root", "matrix", "rows"):
            self.__dict__.pop(name, None)


def as_inputs(inputs: Any, layer: str | None) -> list[Input]:
    """Inputs by name, each a file that is there or an AnnData."""
    from anndata import AnnData

    if isinstance(inputs, (str, Path, AnnData)):
        inputs = [inputs]
    if isinstance(inputs, Mapping):
        named = [(str(name), one) for name, one in inputs.items()]
    elif isinstance(inputs, Sequence):
        named = [
            (as_path(one).stem if isinstance(one, (str, Path)) else f"input {i}", one)
            for i, one in enumerate(inputs, start=1)
        ]
    else:
        raise TypeError(
            f"`inputs` must be files or AnnData, in a list or by name in a dict, found "
            f"{type(inputs).__name__}."
        )
    if not named:
        raise ValueError("There are no `inputs` to build a store of.")
    names = [name for name, _ in named]
    if twice := [name for name in names if names.count(name) > 1]:
        files = [str(one) for name, one in named if name == twice[0]]
        raise ValueError(
            f"Several inputs are called {twice[0]!r} ({', '.join(files)}). Name them in a dict: "
            f"`inputs={ {f'{twice[0]}_{i}': one for i, one in enumerate(files, start=1)}!r}`"
        )
    found = []
    for name, one in named:
        if isinstance(one, (str, Path)):
            one = as_path(one, "inputs")
            if not one.exists():
                raise FileNotFoundError(f"There is no input {one}.")
        elif not isinstance(one, AnnData):
            raise TypeError(
                f"Input {name!r} must be a file or an AnnData, found {type(one).__name__}."
            )
        found.append(Input(name, one, layer))
    return found
