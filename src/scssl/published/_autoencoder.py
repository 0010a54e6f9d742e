"""Models from the checkpoints that :cite:p:`Richter2025` published."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scssl._errors import BundleError
from scssl.data import GeneVocabulary
from scssl.hub import commit_of, fetch_file, is_repo_id
from scssl.model.base import SOURCE

from ._gene_table import SCTAB, GeneOrder, GeneTable, read_gene_table
from ._ssl_in_scg_file import Published, read_published

if TYPE_CHECKING:
    from scssl.model.base import SSLModel

_LOGGER = logging.getLogger("scssl")
TABLE = "var.parquet"
# Where the checkpoints of pre-training lie, in the repository and in copies of it.
_FOLDER = "Pretrained Models/"
_PRETRAINED = ("RandomMask.ckpt", "GPMask.ckpt", "BYOL.ckpt", "BarlowTwins.ckpt")


def open_published(
    source: str | Path,
    file: str | Path | None,
    genes: str | Path | pd.DataFrame | Sequence[str] | None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    sha256: str | None = None,
    legacy_output: bool = False,
    use_head: bool = False,
    pretext: str | None = None,
    order: GeneOrder = SCTAB,
) -> tuple[Published, GeneTable]:
    """Find, read and check a published checkpoint and its table of genes.

    Parameters
    ----------
    source
        Repository on the hub, a folder, or the checkpoint itself.
    file
        Checkpoint in it, or a path; `None` where `source` is the checkpoint.
    genes
        Table of the genes: a file in the repository or folder, a path, or the table itself; `None` for
        the file that is published with the checkpoints.
    revision, token
        Of the repository.
    sha256
        Digest that the checkpoint must have.
    legacy_output, use_head
        As in :func:`scssl.published._ssl_in_scg_file.read_published`.
    pretext
        What the network was trained to do, to be kept in the report.
    order
        What the table of genes must be.
    """
    place = Place(source, file, revision, token)
    # The small file first: a wrong table is found before the download of a large one.
    genes = TABLE if genes is None else genes
    is_path = isinstance(genes, (str, Path))
    table = read_gene_table(place.table(genes) if is_path else genes, order=order)  # type: ignore[arg-type]
    published = read_published(
        place.checkpoint(sha256),
        legacy_output=legacy_output,
        use_head=use_head,
        expected_sha256=sha256,
        n_genes=order.n_genes,
    )
    published.report.update(
        {
            "source": place.name,
            "revision": place.revision,
            "pretext": pretext,
            "genes": {"source": table.source, "sha256": table.sha256, "n": len(table.ids)},
        }
    )
    return published, table


def masked_autoencoder_from(
    cls: type[Any],
    source: str | Path,
    file: str | Path | None,
    genes: str | Path | pd.DataFrame | Sequence[str] | None,
    *,
    layer: str | None = None,
    **options: Any,
) -> Any:
    """Model of class `cls` with the weights of a published checkpoint, without data.

    Parameters
    ----------
    cls
        :class:`scssl.model.MaskedAutoencoder`.
    source, file, genes
        As in :func:`open_published`.
    layer
        Layer with the counts of the data that will be embedded, ``adata.X`` by default.
    **options
        Further arguments of :func:`open_published`.
    """
    published, table = open_published(source, file, genes, **options)
    vocabulary = GeneVocabulary(table.ids, species="human", aliases=table.symbols)
    model = build_published(cls, vocabulary, published, layer=layer)
    adopt(model, vocabulary, published)
    return model


def build_published(
    cls: type[Any], genes: GeneVocabulary, published: Published, **setup: Any
) -> Any:
    """Model of class `cls` with these weights, on these genes; set up as :func:`empty_registry`."""
    model = cls(registry=empty_registry(cls, genes, **setup), **published.arguments)
    model.module.load_state_dict(published.tensors, strict=True)
    model.genes, model.is_trained_ = genes, True
    return model


def adopt(model: SSLModel, genes: GeneVocabulary, published: Published) -> None:
    """Record in a model which checkpoint its weights are from."""
    report = published.report
    model.genes = genes
    model.is_trained_ = True
    model.registry_[SOURCE] = report
    _LOGGER.info(
        "%s is %s: %d tensors used, %d not used. %s",
        report["file"],
        report["is"],
        len(report["used"]),
        len(report["unused"]),
        " ".join(report["notes"]),
    )


def empty_registry(
    cls: type[SSLModel],
    genes: GeneVocabulary,
    *,
    layer: str | None = None,
    obs: pd.DataFrame | None = None,
    obsm: dict[str, np.ndarray] | None = None,
    **setup: Any,
) -> dict[str, Any]:
    """What ``setup_anndata`` of counts of these genes registers, without any data.

    It is taken from a setup of made-up cells, so that it is what `cls` and scvi-tools write.

    Parameters
    ----------
    cls
        Class of the model.
    genes
        Genes of the model.
    layer
        Layer with the counts.
    obs
        Columns of the cells; one cell without any by default.
    obsm
        Entries of ``obsm`` of the cells.
    **setup
        Further arguments of ``setup_anndata``.
    """
    n_cells = 1 if obs is None else len(obs)
    one_count = (np.ones(n_cells, np.float32), (np.arange(n_cells), np.zeros(n_cells, np.int64)))
    counts = sparse.csr_matrix(one_count, shape=(n_cells, len(genes)))
    layers = None if layer is None else {layer: counts}
    cells = AnnData(counts, obs=obs, obsm=obsm, layers=layers)
    cells.var_names = genes.names.astype(str)
    cls.setup_anndata(cells, layer=layer, **{"input": "counts", "target_sum": 1e4, **setup})
    manager = cls._setup_adata_manager_store.pop(cells.uns["_scvi_uuid"])
    registry: dict[str, Any] = manager.registry
    registry["field_registries"][REGISTRY_KEYS.X_KEY]["summary_stats"]["n_cells"] = 0
    del registry["scssl_setup"]["fingerprint"]
    return registry


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
        path = Path(source)
        if path.is_file():
            if file is not None:
                raise ValueError(
                    f"{source} is a file. Pass the folder that {file} is in, or leave out `file`."
                )
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
        self.file = str(file)
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
        if self.folder is None and str(name) != TABLE and Path(name).is_file():
            return Path(name)
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
    places = (folder / name, folder / _FOLDER / name, Path(name))
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        here = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise BundleError(f"There is no file {name} in {folder}, which holds {here}.")
    return found
