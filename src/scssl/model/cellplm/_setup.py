"""What a model of tissues is told of data: samples, places, batches, panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from scssl._errors import warn
from scssl.data import ContextOptions, Datasets
from scssl.model.base import SETUP, DatasetsMixin, DataSetup, read_tissue, tissue_fingerprint

if TYPE_CHECKING:
    from anndata import AnnData


#: Genes of a panel at most.
PANEL_GENES = 1000


class CellPLMSetup(DatasetsMixin):
    """Set up a tissue, or several data sets."""

    _takes_tissue = True

    @classmethod
    def setup_anndata(  # type: ignore[override]
        cls,
        adata: AnnData,
        layer: str | None = None,
        sample_key: str | None = None,
        spatial_key: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        input: Literal["auto", "counts", "lognorm"] = "auto",
        *,
        target_sum: float | Literal["auto"] | None = "auto",
        **kwargs: Any,
    ) -> None:
        """Check an AnnData and say where things are in it.

        Parameters
        ----------
        adata
            Cells by genes.
        layer
            Layer with the expression values, ``adata.X`` by default.
        sample_key
            Column of ``adata.obs`` with the sample of each cell, such as the slice. Cells see those of their
            sample; without it all cells are one sample, whatever else they differ in.
        spatial_key
            Entry of ``adata.obsm`` with the place of each cell, ``(n_cells, 2)`` in any unit; NaN where a
            cell has none. Places are scaled to the unit square sample by sample.
        batch_key
            Column of ``adata.obs`` with the batch, of which the decoder is told, and the encoder is not.
        labels_key
            Column of ``adata.obs`` with cell types. The validation split is stratified by it; it is a target
            only with ``objective="cross_entropy"`` and ``"supcon"``.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns of ``adata.obs`` that the decoder is told.
        input
            What the values are, see :meth:`SSLModel.setup_anndata`.
        target_sum
            Sum of a cell before the logarithm, for counts. `None`: log1p of the counts as they are, as in
            :cite:p:`Wen2024`. ``"auto"`` (default): `None` for panels of up to 1,000 genes, where the sum says
            what a cell is, and 1e4 for more, where it mostly says how deeply it was sequenced.
        **kwargs
            Taken for compatibility with scvi-tools.

        Raises
        ------
        ValueError
            If `adata` is a view; if values are missing, negative, or not what `input` says; if gene
            names are duplicated; if a column or the coordinates are not what they are used for.
        KeyError
            If a layer, column or entry does not exist.
        TypeError
            If `adata` is not an AnnData.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.CellPLM.setup_anndata(adata, sample_key="phase")
        """
        super().setup_anndata(
            adata,
            layer,
            batch_key=batch_key,
            labels_key=labels_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            input=input,
            target_sum=_scale(target_sum, getattr(adata, "n_vars", 0)),
            sample_key=sample_key,
            spatial_key=spatial_key,
            **kwargs,
        )
        if spatial_key is not None and sample_key is None and batch_key is not None:
            n_batches = adata.obs[batch_key].nunique()
            if n_batches > 1:
                warn(
                    f'The cells have coordinates and {n_batches} batches of adata.obs["{batch_key}"], but no '
                    "samples: all are taken as one tissue, in one frame of coordinates. If batches are slices: "
                    f'sample_key="{batch_key}". If they are one tissue: make a column that says so, and name it.'
                )

    @classmethod
    def setup_datasets(  # type: ignore[override]
        cls,
        datasets: Datasets,
        layer: str | None = None,
        sample_key: str | None = None,
        spatial_key: str | None = None,
        labels_key: str | None = None,
        input: Literal["auto", "counts", "lognorm"] = "auto",
        *,
        target_sum: float | Literal["auto"] | None = "auto",
    ) -> None:
        """Check several AnnData, such as dissociated cells and tissues, and say where things are in them.

        Genes that a data set does not have are left out of the loss of its cells. The decoder is told the
        data set.

        Parameters
        ----------
        datasets
            The data sets and their genes, see :class:`scssl.data.Datasets`; ``genes="union"`` to predict
            genes that some do not have.
        layer
            Layer with the expression values, ``X`` of each by default.
        sample_key
            Column of ``obs`` with the sample of each cell; data sets without it are one sample.
        spatial_key
            Entry of ``obsm`` with the place of each cell; cells of data sets without it have none.
        labels_key
            One of the `obs_keys` of `datasets`, as in :meth:`setup_anndata`.
        input, target_sum
            As in :meth:`setup_anndata`, of all data sets alike.

        Raises
        ------
        ValueError
            If values are missing, negative, or not what `input` says, or are counts in one data set and
            logarithms in another.
        KeyError
            If a layer, column or entry does not exist in any data set.
        TypeError
            If `datasets` are not Datasets.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> one, two = adata[:300].copy(), adata[300:, :500].copy()
        >>> datasets = scssl.data.Datasets({"one": one, "two": two}, genes="union")
        >>> scssl.model.CellPLM.setup_datasets(datasets)
        """
        n_genes = len(datasets.genes) if isinstance(datasets, Datasets) else 0
        scale = _scale(target_sum, n_genes)
        super().setup_datasets(datasets, layer, labels_key, input, target_sum=scale)
        manager = cls._get_most_recent_anndata_manager(datasets.handle, required=True)
        setup = DataSetup.from_dict(manager.registry[SETUP]["setup"])
        setup = replace(setup, sample_key=sample_key, spatial_key=spatial_key)
        # Looked at here, so that what is missing is missed at setup.
        context = read_tissue(datasets, setup, ContextOptions())
        manager.registry[SETUP]["setup"] = setup.to_dict()
        manager.registry[SETUP]["fingerprint"] |= tissue_fingerprint(context, setup)


def _scale(target_sum: float | str | None, n_genes: int) -> Any:
    """What counts of a cell are scaled to."""
    if target_sum != "auto":
        return target_sum
    return None if n_genes <= PANEL_GENES else 1e4
