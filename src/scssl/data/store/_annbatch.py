"""The one file that knows annbatch, whose `Loader` and `write_sharded` move the bytes of a store."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
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
    """The cells of all shards, one after another; may be read from several threads, in turn.

    A shard is opened when a cell of it is asked for: to open the thousands of files of a large store takes seconds.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int], n_genes: int) -> None:
        self._folder, self._names = folder, list(sizes)
        self._asked = _asked_type()()
        self._loader = _loader_type()(batch_sampler=self._asked, preload_to_gpu=False)
        self._lock = threading.Lock()
        self._ends = np.cumsum(list(sizes.values()))
        # What is to be added to a row of a shard for its number among the rows of those that are open.
        self._moved, self._is_open = np.zeros_like(self._ends), np.zeros(len(sizes), dtype=bool)
        super().__init__((int(self._ends[-1]), n_genes), rows_per_read=CELLS_PER_READ)

    @property
    def reads_ahead(self) -> bool:
        return True

    def _open(self, numbers: np.ndarray) -> None:
        from anndata.io import sparse_dataset

        with _zarr() as zarr, warnings.catch_warnings():
            # Counts of shards that were appended may be of a larger type.
            warnings.filterwarnings("ignore", "Adding dataset with dtype")
            for i in numbers.tolist():
                # By itself: to read what the shard says of all its columns takes longer than all else.
                path = self._folder / self._names[i] / "X"
                group = zarr.open_group(path, mode="r", use_consolidated=False)
                before = self._loader.n_obs
                self._loader.add_datasets([sparse_dataset(group)])
                self._moved[i] = before - (self._ends[i - 1] if i else 0)
                self._is_open[i] = True
            # Arrays are opened with the next read, with the codecs of then.
            self._take(np.array([before]))

    def _take(self, rows: np.ndarray) -> sparse.csr_matrix:
        self._asked.rows, self._asked.places = np.unique(rows, return_inverse=True)
        with closing(iter(self._loader)) as batches:
            return next(batches)["X"]

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        with self._lock:
            shard = np.searchsorted(self._ends, rows, side="right")
            there = np.unique(shard)
            try:
                if len(closed := there[~self._is_open[there]]):
                    self._open(closed)
                block = self._take(rows + self._moved[shard])
            except (OSError, RuntimeError, ValueError, KeyError) as error:
                raise BundleError(
                    f"Cells of {self._folder} cannot be read ({error}): a part of it was altered after it was "
                    "built. scssl.data.Store.check says which."
                ) from error
        return canonical_csr(
            block.data, block.indices, block.indptr, block.shape, is_canonical=True
        )


def _loader_type() -> Any:
    """The loader of annbatch, which looks at the types of all data sets again each time that one is added."""
    need_annbatch()
    from annbatch import Loader

    class QuickLoader(Loader):
        @staticmethod
        def _datasets_share_dtype(datasets: Sequence[Any]) -> bool:
            # Here they are remembered; arrays of a group are opened each time.
            return len({(one.dtype, one._indices.dtype) for one in datasets}) < 2

    return QuickLoader


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
