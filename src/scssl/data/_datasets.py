"""Several AnnData read as one, without copying any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scssl._errors import MissingKeyError
from scssl.data.genes import GeneVocabulary

if TYPE_CHECKING:
    from anndata import AnnData


class Datasets:
    """Several AnnData with the genes that they share, or with the genes of all.

    Nothing is copied: expression stays where it is, in memory or on disk (``backed="r"``), and is read
    in batches. Genes are matched by name. What a data set lacks of the genes is zero.

    Parameters
    ----------
    datasets
        Data sets by name. Cell names need not differ between them.
    genes
        ``"intersection"`` (default): genes that all data sets have; ``"union"``: genes of all; or the
        genes to use, as a :class:`GeneVocabulary` or list.
    obs_keys
        Columns of ``obs`` to keep, such as cell types; missing where a data set does not have them.

    Attributes
    ----------
    genes
        The :class:`GeneVocabulary`.
    how
        What was given as `genes`.
    handle
        AnnData of all cells without expression: ``obs``, with the name of the data set in
        ``obs["dataset"]``, and the genes as ``var_names``. Cells come in the order of the data sets
        and are called ``"<cell>-<data set>"``.

    Raises
    ------
    GeneMismatchError
        If the data sets share no genes, or their names are of different kinds.
    KeyError
        If no data set has a column.
    TypeError
        If `datasets` is no mapping of AnnData.
    ValueError
        If there are no data sets, or one has no cells.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> from scssl.data import Datasets
    >>> one, two = (anndata.AnnData(np.ones((3, 2), dtype="f4")) for _ in range(2))
    >>> one.var_names, two.var_names = ["CD3D", "LYZ"], ["LYZ", "MS4A1"]
    >>> datasets = Datasets({"one": one, "two": two}, genes="union")
    >>> datasets.n_cells, datasets.genes.names.tolist()
    (6, ['CD3D', 'LYZ', 'MS4A1'])
    """

    def __init__(
        self,
        datasets: Mapping[str, AnnData],
        genes: Literal["intersection", "union"] | GeneVocabulary | list[str] = "intersection",
        *,
        obs_keys: tuple[str, ...] | list[str] = (),
    ) -> None:
        if not _by_name(datasets):
            raise TypeError(
                "`datasets` must be a dict of AnnData by name, as in "
                f'{{"pbmc": adata, "lung": other}}; found {type(datasets).__name__}.'
            )
        self._datasets = {str(name): adata for name, adata in datasets.items()}
        if not self._datasets or len(self._datasets) != len(datasets):
            raise ValueError(f"Data sets need names that differ, found {list(datasets)}.")
        for name, adata in self._datasets.items():
            if not adata.n_obs:
                raise ValueError(f"Data set {name!r} has no cells. Leave it out.")
        self.how = genes
        if isinstance(genes, GeneVocabulary):
            self.genes = genes
        elif not isinstance(genes, str):
            self.genes = GeneVocabulary(genes)
        else:
            if genes not in ("intersection", "union"):
                raise ValueError(
                    f'`genes` must be "intersection", "union" or a list of genes, found {genes!r}.'
                )
            combine = getattr(GeneVocabulary, genes)
            self.genes = combine({n: a.var_names.astype(str) for n, a in self._datasets.items()})
        self.handle = self._make_handle(list(obs_keys))

    def _make_handle(self, keys: list[str]) -> AnnData:
        from anndata import AnnData

        for key in keys:
            if not any(key in adata.obs for adata in self._datasets.values()):
                raise MissingKeyError(f"No data set has a column {key!r} in obs.")
        parts = []
        for name, adata in self._datasets.items():
            part = pd.DataFrame({"dataset": name}, index=adata.obs_names.astype(str) + f"-{name}")
            for key in keys:
                values = adata.obs[key].astype(object).to_numpy() if key in adata.obs else None
                part[key] = values
            parts.append(part)
        obs = pd.concat(parts)
        obs["dataset"] = pd.Categorical(obs["dataset"], categories=list(self._datasets))
        return AnnData(obs=obs, var=pd.DataFrame(index=self.genes.names))

    @property
    def n_cells(self) -> int:
        """Number of cells of all data sets."""
        return sum(adata.n_obs for adata in self._datasets.values())

    def __len__(self) -> int:
        return len(self._datasets)

    def items(self) -> list[tuple[str, AnnData]]:
        """Names and data sets."""
        return list(self._datasets.items())

    def report(self) -> pd.DataFrame:
        """Cells and genes of each data set, and how many of the common genes it has."""
        rows = {}
        for name, adata in self._datasets.items():
            found = self.genes.align(adata.var_names, min_overlap=0)
            rows[name] = {
                "n_cells": adata.n_obs,
                "n_genes": adata.n_vars,
                "n_matched": found.n_matched,
                "share_matched": found.overlap,
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dataset")

    def places(self) -> np.ndarray:
        """First row of each data set among all cells, and the number of all; int64."""
        sizes = [adata.n_obs for adata in self._datasets.values()]
        return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    def __repr__(self) -> str:
        return (
            f"Datasets({len(self)} data sets, {self.n_cells:,} cells × {len(self.genes):,} genes)"
        )


def check_datasets(datasets: Any) -> None:
    """Raise unless an argument is what a model of several data sets takes."""
    if isinstance(datasets, Datasets):
        return
    how = "of a dict of AnnData by name"
    if _by_name(datasets):
        how = "`datasets = scssl.data.Datasets(datasets)`"
    raise TypeError(
        f"`datasets` must be scssl.data.Datasets, found {type(datasets).__name__}. Make them {how}."
    )


def _by_name(datasets: Any) -> bool:
    from anndata import AnnData

    return isinstance(datasets, Mapping) and all(
        isinstance(adata, AnnData) for adata in datasets.values()
    )
