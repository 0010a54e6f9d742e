"""The parts of joint-embedding models that are for several modalities."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scipy import sparse

from scssl._checks import check_number
from scssl._errors import warn
from scssl.data import GeneAlignment, GeneVocabulary
from scssl.data.keys import PRESENT
from scssl.data.matrix import columns_of, inverse_document_frequency
from scssl.model.base import (
    SETUP,
    Backbone,
    CellReader,
    SSLModel,
    copied,
)

from ._mudata import make_mudata_setup, read_mudata, stripped
from ._network import JointEmbeddingModule

if TYPE_CHECKING:
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")


class MultimodalMixin(SSLModel):
    """Set up a MuData, and read what was set up that way."""

    module: JointEmbeddingModule

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna: str | None = "rna",
        protein: str | None = "prot",
        atac: str | None = "atac",
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        atac_layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        input: Literal["auto", "counts", "lognorm"] = "auto",
        target_sum: float = 1e4,
        protein_normalization: Literal["clr", "log1p", "none"] = "clr",
        atac_normalization: Literal["tfidf", "binary"] = "tfidf",
    ) -> None:
        """Check a MuData and say where things are in it.

        Two or three of its modalities are used; cells may lack some of them. Values are normalised as
        they are read, in batches, and no matrix is copied. Nothing of `mdata` is changed but
        ``mdata.uns["_scvi_uuid"]`` and ``mdata.uns["_scvi_manager_uuid"]``, in which scvi-tools keeps what
        it registers.

        Parameters
        ----------
        mdata
            Cells by the features of several modalities, in memory or on disk.
        rna, protein, atac
            Names of the modalities, `None` for one that is not to be used. A modality with the usual
            name is used where there is one.
        rna_layer, protein_layer, atac_layer
            Layers with the values, by default ``X`` of each.
        batch_key, labels_key
            Columns of ``mdata.obs``, or of the ``obs`` of modalities: batch, for augmentations within it,
            and cell type, by which the validation split is stratified.
        input
            What the values of RNA are, see :meth:`setup_anndata`.
        target_sum
            Sum of a cell before the logarithm, for counts of RNA and for TF-IDF.
        protein_normalization
            ``"clr"``: the centred log ratio of :cite:p:`Stoeckius2017` across the proteins of a cell, as
            the logarithm of 1 + the ratio of a count to exp(mean of log(1 + counts)), so that zeros stay
            zeros (other than the ``"clr"`` of :class:`ProteinPredictor`, which is the difference of the
            logarithms). ``"log1p"``: the logarithm alone. ``"none"``: values are normalised already, for
            instance by dsb, and may be negative.
        atac_normalization
            ``"tfidf"``: the logarithm of 1 + `target_sum` × TF × IDF :cite:p:`Stuart2021`; the
            inverse document frequency is that of the training cells and part of the model.
            ``"binary"``: whether there is a count.

        Raises
        ------
        TypeError
            If `mdata` is not a MuData.
        KeyError
            If a modality, layer or column does not exist.
        ValueError
            If `mdata` is a view or has fewer than two of the modalities; if values are not finite, or not
            what a normalisation is for; if cells are in none of the modalities.

        Examples
        --------
        >>> import anndata, mudata, numpy as np, scssl
        >>> rng = np.random.default_rng(0)
        >>> rna = anndata.AnnData(rng.poisson(1.0, (50, 20)).astype("f4"))
        >>> protein = anndata.AnnData(rng.poisson(9.0, (50, 4)).astype("f4"))
        >>> protein.var_names = ["CD3", "CD4", "CD8", "CD19"]
        >>> mdata = mudata.MuData({"rna": rna, "prot": protein})
        >>> scssl.model.SimCLR.setup_mudata(mdata)
        >>> scssl.model.SimCLR(mdata, fusion="concat").n_latent
        128
        """
        given = {k: v for k, v in locals().items() if k not in ("cls", "mdata")}
        scale = check_number("target_sum", target_sum, "(0, inf)")
        setup, features, found = make_mudata_setup(
            mdata,
            {"rna": rna, "protein": protein, "atac": atac},
            {"rna": rna_layer, "protein": protein_layer, "atac": atac_layer},
            {"protein": protein_normalization, "atac": atac_normalization},
            batch_key=batch_key,
            labels_key=labels_key,
            input=input,
            target_sum=scale,
        )
        manager = cls._manager(mdata=mdata, **given)
        manager.validation_checks.check_fully_paired_mudata = False
        cls._register_features(manager, mdata, features)
        manager.registry[SETUP] = {"setup": setup.to_dict(), "fingerprint": found}
        cls.register_manager(manager)

    @classmethod
    def _called(cls, data: Any) -> tuple[str, str]:
        return ("mdata", "setup_mudata") if hasattr(data, "mod") else super()._called(data)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the model reads, of ``"rna"``, ``"protein"`` and ``"atac"``; none of an AnnData."""
        return tuple(one.kind for one in self.setup.modalities)

    def _warn_of_no_pairs(self) -> None:
        """Warn where a contrast of modalities has nothing to contrast."""
        mdata: Any = self._adata
        if mdata is None:
            return
        has = [mdata.obs_names.isin(mdata.mod[one.name].obs_names) for one in self.setup.modalities]
        n_paired = int((np.sum(has, axis=0) > 1).sum())
        if n_paired < 2:
            warn(
                f'fusion="clip" contrasts the modalities of a cell, and {n_paired} of {mdata.n_obs:,} cells '
                "have two: nothing brings the modalities together. Add cells with both, or take "
                'fusion="mean".'
            )

    def _check_modality(self, modality: str) -> None:
        if modality not in self.modalities:
            what = ", ".join(map(repr, self.modalities)) or "none: it was set up with an AnnData"
            raise ValueError(
                f"`modality` must be one of those of the model ({what}); found {modality!r}."
            )

    def _read(self, adata: Any, *, min_overlap: float = 0.5) -> CellReader:
        if not self.setup.modalities:
            if hasattr(adata, "mod"):
                raise TypeError(
                    f"The model was set up with an AnnData. Pass a modality: adata=mdata.mod["
                    f'"{next(iter(adata.mod), "rna")}"]; to learn from several: setup_mudata(mdata)'
                )
            return super()._read(adata, min_overlap=min_overlap)
        own = adata is None or adata is self._adata
        idf = getattr(self.module, "idf", None)
        reader = read_mudata(
            self._or_own(adata),
            self.setup,
            self.genes,
            min_overlap=min_overlap,
            idf=idf.cpu().numpy() if idf is not None and self.is_trained_ else None,
        )
        if own:
            self._check_unchanged(reader.fingerprint)
        return reader

    def align(self, adata: AnnData | MuData, *, min_overlap: float = 0.0) -> GeneAlignment:
        """How the features of a data set map onto those of the model, by name.

        Parameters
        ----------
        adata
            The data.
        min_overlap
            Share of the model's features, of each modality, that it must have.
        """
        if not self.setup.modalities:
            return super().align(adata, min_overlap=min_overlap)
        reader = self._read(adata, min_overlap=min_overlap)
        if reader.alignment is not None:
            found: GeneAlignment = reader.alignment
            return found
        return self.genes.align(self.genes.names)

    def get_modality(
        self,
        adata: AnnData | MuData | None = None,
        modality: Literal["rna", "protein", "atac"] = "protein",
        *,
        min_overlap: float = 0.5,
    ) -> pd.DataFrame:
        """Values of a modality as the model reads them: normalised, in the order of its features.

        Parameters
        ----------
        adata
            Cells, the model's own by default.
        modality
            Which.
        min_overlap
            Share of the model's features of each modality that `adata` must have.

        Returns
        -------
        Frame of cells by features, float32; NaN for cells without this modality, and for features that
        `adata` does not have.

        Raises
        ------
        ValueError
            If the model has no such modality.
        """
        self._check_modality(modality)
        data = self._read(adata, min_overlap=min_overlap)
        assert data.normalize is not None
        i = self.modalities.index(modality)
        block = data.normalize.blocks[i]
        columns = stripped(self.genes, self.setup.modalities[i], block.start)
        values = np.full((data.n_cells, len(columns)), np.nan, dtype=np.float32)
        rows = np.flatnonzero(data.obs[PRESENT][:, i])
        start = 0
        for batch in data.loader(rows, 2048):
            part = columns_of(_csr(batch["X"]), block.start, block.stop)[1].toarray()
            values[rows[start : start + len(part)]] = part
            start += len(part)
        if data.alignment is not None:
            values[:, ~data.alignment.present[block.start : block.stop]] = np.nan
        return pd.DataFrame(values, index=data.adata.obs_names, columns=columns)

    def _start_idf(self, data: CellReader, rows: np.ndarray) -> None:
        """Take the inverse document frequency of peaks from the training cells, once."""
        if not hasattr(self.module, "idf") or self.is_trained_:
            return
        assert data.normalize is not None
        i = self.modalities.index("atac")
        block = data.normalize.blocks[i]
        rows = rows[data.obs[PRESENT][rows, i]]
        counts = (columns_of(part, block.start, block.stop)[1] for part in data.read(rows))
        block.idf = inverse_document_frequency(counts, block.stop - block.start, len(rows))
        self.module.idf.copy_(torch.from_numpy(block.idf))

    def _backbone(self) -> Backbone:
        if not self.setup.modalities:
            return super()._backbone()
        rna = next((one for one in self.setup.modalities if one.kind == "rna"), None)
        if rna is None:
            raise ValueError(
                "Only the RNA encoder of a model of several modalities can be fine-tuned, and this model "
                "reads none. Use its embedding: scssl.tl.label_transfer(..., use_rep=...)"
            )
        _LOGGER.info("Of the model's encoders, that of RNA is used.")
        prefix = "encoder.encoders.rna."
        weights = {
            f"encoder.{name.removeprefix(prefix)}": value
            for name, value in self.module.state_dict().items()
            if name.startswith(prefix)
        }
        arguments = {k: v for k, v in self._config().items() if k != "fusion"}
        if arguments["augmentation"] is not None:
            arguments["augmentation"] = arguments["augmentation"]["rna"]
        setup = replace(
            self.setup,
            layer=rna.layer,
            batch_key=None,
            labels_key=None,
            categories={},
            modalities=(),
        )
        return Backbone(
            type(self).__name__,
            self._encoder_arguments(arguments),
            setup,
            GeneVocabulary(stripped(self.genes, rna, 0)),
            int(arguments["n_latent"]),
            pretrained=bool(self.is_trained_),
            weights=copied(weights),
        )


def _csr(x: torch.Tensor) -> sparse.csr_matrix:
    arrays = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
    return sparse.csr_matrix(arrays, shape=tuple(x.shape))
