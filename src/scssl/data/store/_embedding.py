"""The embedding of a store: a folder with a file for each shard."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._errors import BundleError, MissingKeyError
from scssl._io import MAX_JSON_BYTES, as_path, parse_json, read_bytes, recover, replace_file

from ._manifest import write_json

if TYPE_CHECKING:
    from anndata import AnnData

_MANIFEST = "embedding.json"


class EmbeddingFolder:
    """A folder that several processes fill, each file as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, what: Mapping[str, Any]) -> None:
        """Say what it is the embedding of, or refuse what it is not."""
        file = self.path / _MANIFEST
        if not file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(file, what)
            return
        before = self.read()
        for name, value in what.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.path} holds the embedding of another {name} ({before.get(name)!r}, here {value!r}). "
                    f"Give another folder: `out={str(self.path) + '_2'!r}`"
                )

    def read(self) -> dict[str, Any]:
        """What it is the embedding of."""
        file = self.path / _MANIFEST
        if not file.is_file():
            raise BundleError(
                f"{self.path} holds no embedding of a store. To make one: model.embed_store."
            )
        return parse_json(read_bytes(file, max_bytes=MAX_JSON_BYTES), file)

    def file(self, shard: int) -> Path:
        """The file of a shard."""
        return self.path / f"shard_{shard}.h5ad"

    def has(self, shard: int) -> bool:
        """Whether a shard is embedded."""
        recover(self.file(shard))
        return self.file(shard).is_file()

    def write(self, shard: int, obs: pd.DataFrame, obsm: Mapping[str, np.ndarray]) -> None:
        """Write the file of a shard."""
        import h5py
        from anndata.io import write_elem

        with replace_file(self.file(shard)) as place, h5py.File(place, "w") as file:
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            parts = {"obs": obs, "var": pd.DataFrame(index=pd.Index([], dtype=str))}
            for name, part in {**parts, "obsm": dict(obsm)}.items():
                write_elem(file, name, part)


def read_embedding(out: str | Path, *, input: str | None = None, pieces: bool = False) -> Any:
    """Cells of a store with their embedding, as :meth:`~scssl.model.MaskedAutoencoder.embed_store` wrote it.

    Parameters
    ----------
    out
        The folder.
    input
        Name of an input of the store, for its cells alone; all by default.
    pieces
        Whether to give an iterator over the shards, with one of them in memory at a time and cells in the
        order of the store.

    Returns
    -------
    AnnData
        The embedding in ``obsm``, the columns of the store in ``obs``. Without `pieces` of all cells, in the
        order of the inputs.

    Raises
    ------
    BundleError
        If there is no embedding, or shards are not embedded yet.
    KeyError
        If there is no such input.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.data.read_embedding("embedding", input="blood")  # doctest: +SKIP
    """
    folder = EmbeddingFolder(as_path(out))
    n_shards = folder.read()["n_shards"]
    absent = [shard for shard in range(n_shards) if not folder.has(shard)]
    if absent:
        raise BundleError(
            f"{len(absent):,} of {n_shards:,} shards are not embedded yet in {folder.path}, such as number "
            f"{absent[0]}. To go on: `model.embed_store(store, {str(folder.path)!r})`"
        )
    found = _pieces(folder, n_shards, input)
    return found if pieces else _whole(list(found))


def _pieces(folder: EmbeddingFolder, n_shards: int, input: str | None) -> Iterator[AnnData]:
    import anndata

    for shard in range(n_shards):
        with _same_names():
            adata = anndata.read_h5ad(folder.file(shard))
        if input is not None:
            names = adata.obs["input"]
            if input not in names.cat.categories:
                known = ", ".join(map(repr, names.cat.categories))
                raise MissingKeyError(f"There is no input {input!r}; there are {known}.")
            with _same_names():
                adata = adata[names == input].copy()
        yield adata


def _whole(parts: list[AnnData]) -> AnnData:
    """All cells in the order of the inputs."""
    import anndata

    obs = pd.concat([part.obs for part in parts])
    for name, column in parts[-1].obs.items():
        if hasattr(column, "cat"):
            # Of shards that were appended later there are more categories.
            values = pd.concat([part.obs[name].astype(object) for part in parts])
            obs[name] = pd.Categorical(values, column.cat.categories)
    order = np.lexsort((obs["row"], obs["input"].cat.codes))
    obsm = {key: np.concatenate([part.obsm[key] for part in parts])[order] for key in parts[0].obsm}
    with _same_names():
        return anndata.AnnData(obs=obs.iloc[order], obsm=obsm)


@contextmanager
def _same_names() -> Iterator[None]:
    """Inputs may have cells of the same names, which is no surprise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        yield
