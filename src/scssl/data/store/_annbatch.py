"""The one file that knows annbatch, whose `Loader` and `write_sharded` move the bytes of a store."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import BundleError
from scssl.data.matrix import RowSource, canonical_csr

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

_KNOWN = "0.3"
# Cells of a compressed piece, the least that is read; and bytes of a file of pieces.
_CHUNK_CELLS = 64
_SHARD_BYTES = "16MB"
#: Cells that are read at once: 32 runs of 128 of a shuffled store are as random as single cells, and a
#: sixth of the work. Values of twice as many are mapped into memory anew each time, which costs a fifth.
CELLS_PER_READ = 4096


def need_annbatch() -> Any:
    """The package, or an error that says how to install it."""
    try:
        import annbatch
    except ImportError as error:
        raise ImportError('Stores need annbatch: `pip install "scssl[atlas]"`') from error
    if not (found := version("annbatch")).startswith(f"{_KNOWN}."):
        raise ImportError(
            f'Stores need annbatch {_KNOWN}, found {found}: `pip install "scssl[atlas]"`'
        )
    return annbatch


@contextmanager
def _zarr() -> Iterator[Any]:
    """Zarr with the faster codecs, and without what it says of its own file format."""
    import zarr

    codecs = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
    with zarr.config.set(codecs), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")
        yield zarr


def finish_collection(folder: Path) -> None:
    """Make a folder with shards one that annbatch's ``DatasetCollection`` opens."""
    from annbatch.io import V1_ENCODING

    with _zarr() as zarr:
        zarr.open_group(folder, mode="a", use_consolidated=False).update_attributes(V1_ENCODING)
        zarr.consolidate_metadata(folder)


def write_shard(folder: Path, name: str, adata: AnnData) -> None:
    """Write cells as a data set of the collection, every piece with a checksum."""
    annbatch = need_annbatch()
    with _zarr() as zarr:
        from zarr.codecs import BloscCodec, Crc32cCodec

        annbatch.write_sharded(
            # As a store of its own: of one for all, metadata would be gathered anew for each.
            zarr.open_group(folder / name, mode="w"),
            adata,
            n_obs_per_chunk=_CHUNK_CELLS,
            shard_size=_SHARD_BYTES,
            compressors=(BloscCodec(cname="lz4", clevel=3, shuffle="shuffle"), Crc32cCodec()),
        )


def read_codes(shard: Path, column: str) -> np.ndarray:
    """Numbers of a column of a shard, or the codes of its categories."""
    with _zarr() as zarr:
        found = zarr.open_group(shard / "obs", mode="r", use_consolidated=False)[column]
        values: np.ndarray = (found if isinstance(found, zarr.Array) else found["codes"])[...]
    return values


class ShardRows(RowSource):
    """The cells of all shards, one after another; may be read from several threads, in turn."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        annbatch = need_annbatch()
        from anndata.io import sparse_dataset

        with _zarr() as zarr:
            root = zarr.open_group(folder, mode="r", use_consolidated=False)
            shards = [sparse_dataset(root[f"{name}/X"]) for name in names]
        self._folder, self._asked = folder, _asked_type()()
        self._loader = annbatch.Loader(batch_sampler=self._asked, preload_to_gpu=False)
        with warnings.catch_warnings():
            # Counts of shards that were appended may be of a larger type.
            warnings.filterwarnings("ignore", "Adding dataset with dtype")
            self._loader.add_datasets(shards)
        self._lock = threading.Lock()
        shape = (sum(one.shape[0] for one in shards), shards[0].shape[1])
        super().__init__(shape, rows_per_read=CELLS_PER_READ)
        with _zarr():
            # Arrays are opened at the first read, with the codecs of then.
            self.read([0])

    @property
    def reads_ahead(self) -> bool:
        return True

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        with self._lock:
            self._asked.rows, self._asked.places = np.unique(rows, return_inverse=True)
            try:
                block = next(iter(self._loader))["X"]
            except (OSError, RuntimeError, ValueError) as error:
                raise BundleError(
                    f"Cells of {self._folder} cannot be read ({error}): a part of it was altered after it was "
                    "built. scssl.data.Store.check says which."
                ) from error
        return canonical_csr(
            block.data, block.indices, block.indptr, block.shape, is_canonical=True
        )


def _asked_type() -> Any:
    """A sampler of annbatch that asks for the rows that it is given, as one batch."""
    from annbatch.abc import Sampler

    class Asked(Sampler):
        batch_size, shuffle = None, False
        rows = places = np.zeros(0, dtype=np.int64)

        def n_batches(self, n_obs: int) -> int:
            return 1

        def validate(self, n_obs: int) -> None:
            pass

        def _sample(self, n_obs: int) -> Iterator[dict[str, Any]]:
            yield {"requests": self.rows, "splits": [self.places]}

    return Asked
