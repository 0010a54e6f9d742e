"""Proteins from expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scssl._random import RNG, as_seed
from scssl.data import GeneVocabulary
from scssl.model.base import (
    SETUP,
    Backbone,
    DataSetup,
    SetupArgument,
    SSLModel,
    register_model,
)

from ._protein_modalities import _MODALITIES, ProteinModalitiesMixin, from_mudata, is_mudata
from ._protein_network import ProteinPredictorModule
from ._protein_training import _PROTEIN
from ._proteins import choose_transform, protein_table

if TYPE_CHECKING:
    from mudata import MuData


@register_model
class ProteinPredictor(ProteinModalitiesMixin):
    """Predict surface proteins from expression, starting from any self-supervised model.

    A head on the encoder of another model predicts all proteins at once. It has a linear part, which
    starts as the ridge regression of the proteins on what the head sees, and an MLP that starts at
    zero and learns what is left, together with the encoder. The head sees the embedding and
    `n_components` principal components of the normalised expression of the training cells: what a
    linear regression can tell from expression is then known from the start.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    backbone
        Name of the model class whose encoder is used, one of :func:`list_models`.
    backbone_arguments
        Arguments of that class; they can also be given one by one.
    transform
        ``"log1p"``; ``"clr"``: log1p minus its mean over the proteins of the cell; `None`: as they
        are; ``"auto"``: log1p of whole numbers, otherwise none. Transforms of values that are not whole
        numbers come with a warning. Predictions are of the transformed values, see
        :meth:`get_proteins`.
    n_components
        Principal components of expression that the head sees beside the embedding, no more than a
        quarter of the training cells; 0: the embedding alone.
    freeze
        What is not trained: ``"none"``; ``"encoder"``, all of it; a number of layers, counted from the
        genes.
    head
        ``"mlp"``, or ``"linear"``: without MLP.
    head_start
        ``"ridge"``: the linear part starts as a ridge regression, with a penalty for each protein
        chosen on the training cells. ``"random"``: it does not.
    rng
        Seed of the initial weights.
    **kwargs
        Further arguments of the backbone.

    Examples
    --------
    >>> import numpy as np, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> adata.obsm["protein"] = np.asarray(adata[:, ["CD3D", "CD79A", "LYZ"]].X.todense())
    >>> adata.uns["protein_names"] = ["CD3", "CD79a", "Lysozyme"]
    >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
    >>> ssl_model = scssl.model.MaskedAutoencoder(adata)
    >>> ssl_model.train(max_epochs=2, progress=False)
    >>> model = scssl.model.ProteinPredictor.from_ssl_model(ssl_model, adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.predict(adata).columns.tolist()
    ['CD3', 'CD79a', 'Lysozyme']
    """

    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "protein_obsm": SetupArgument(
            """Entry of ``adata.obsm`` with the proteins: an array or a frame, NaN where a protein was
            not measured. Cells without any are not learnt from.""",
            str,
            "protein",
        ),
        "protein_names": SetupArgument(
            """Names of the columns of an array, by default ``adata.uns["protein_names"]``; of a frame, the
            columns to learn, by default all.""",
            Sequence[str] | None,
        ),
    }

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        backbone: str | Backbone = "MaskedAutoencoder",
        backbone_arguments: Mapping[str, Any] | None = None,
        transform: Literal["auto", "log1p", "clr"] | None = "auto",
        n_components: int = 50,
        freeze: Literal["none", "encoder"] | int = "none",
        head: Literal["mlp", "linear"] = "mlp",
        head_start: Literal["ridge", "random"] = "ridge",
        min_overlap: float = 0.5,
        rng: RNG = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        seed = as_seed(rng)
        where = self.registry_[SETUP].get(_PROTEIN)
        if where is None:
            raise ValueError(
                "No proteins were set up. Call ProteinPredictor.setup_anndata(adata, protein_obsm=...)"
            )
        self.proteins = list(where["names"])
        # Columns of an array have the names of the setup here, and nowhere else.
        self._named = adata
        if adata is not None:
            values, _ = protein_table(adata, where["obsm"], self.proteins)
            transform = choose_transform(values, transform, f'adata.obsm["{where["obsm"]}"]')
            # Half of the features at most, or the ridge regression has nothing to learn from.
            n_cells = int(np.isfinite(values).any(axis=1).sum())
            n_components = _checked_components(n_components, n_cells, len(self.genes))
        for name, value, known in (
            ("head", head, ("mlp", "linear")),
            ("head_start", head_start, ("ridge", "random")),
        ):
            if value not in known:
                raise ValueError(
                    f"`{name}` must be {' or '.join(map(repr, known))}, found {value!r}."
                )
        self._start(backbone, {**(backbone_arguments or {}), **kwargs}, seed)
        self._min_overlap = float(min_overlap)
        self._arguments = {
            "backbone": self._source.to_dict(),
            "proteins": self.proteins,
            "transform": transform,
            "n_components": int(n_components),
            "freeze": freeze,
            "head": head,
            "head_start": head_start,
            "min_overlap": self._min_overlap,
        }
        self._finish(seed)
        start = "pretrained" if self._source.pretrained else "new"
        self._model_summary_string = (
            f"{start} encoder of {self._source.model_class}{self._frozen(freeze)} and "
            f"{n_components} principal components, {head} head for {len(self.proteins)} proteins, "
            f"transform {transform}"
        )
        backbone = self._source.model_class  # not the weights once more
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        obsm = given["protein_obsm"]
        values, names = protein_table(data, obsm, given["protein_names"])
        never = [name for name, n in zip(names, np.isfinite(values).sum(0), strict=True) if n < 2]
        if never:
            raise ValueError(
                f'{len(never)} proteins are measured in fewer than 2 cells of adata.obsm["{obsm}"], '
                f"such as {never[0]!r}. Leave them out."
            )
        return super()._checked_setup(data, {**given, "protein_names": names})

    @classmethod
    def _also_recorded(
        cls, data: Any, setup: DataSetup, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        proteins = {"obsm": given["protein_obsm"], "names": given["protein_names"]}
        return {**super()._also_recorded(data, setup, given), _PROTEIN: proteins}

    @classmethod
    def from_ssl_model(
        cls,
        model: SSLModel | str | Path,
        adata: AnnData | MuData,
        protein_obsm: str = "protein",
        *,
        protein_names: Sequence[str] | None = None,
        rna_modality: str = "rna",
        protein_modality: str = "prot",
        labels_key: str | None = None,
        transform: Literal["auto", "log1p", "clr"] | None = "auto",
        n_components: int = 50,
        freeze: Literal["none", "encoder"] | int = "none",
        head: Literal["mlp", "linear"] = "mlp",
        head_start: Literal["ridge", "random"] = "ridge",
        min_overlap: float = 0.5,
        rng: RNG = 0,
    ) -> Self:
        """Predictor that starts from the encoder of another model.

        The encoder is copied: `model` stays as it is. Genes, kind of input and normalisation are those
        of `model`. Genes that `adata` lacks are taken as zero, and reported.

        Parameters
        ----------
        model
            Any model of this package, or the folder of one.
        adata
            Cells with proteins; they are set up here. Of a MuData the cells of `rna_modality` are used;
            those that `protein_modality` does not have count as not measured.
        protein_obsm, protein_names, labels_key
            As in :meth:`setup_anndata`; of a MuData, proteins and their names are those of
            `protein_modality`.
        rna_modality, protein_modality
            Names of the modalities of a MuData.
        transform, n_components, freeze, head, head_start, rng
            As in the class.
        min_overlap
            Share of the model's genes that `adata` must have.

        Raises
        ------
        GeneMismatchError
            If too few genes are found.
        KeyError
            If there are no such proteins or modalities.
        ValueError
            As in :meth:`setup_anndata`; if `adata` holds another kind of input than `model` reads.
        """
        several = is_mudata(adata)
        if several:
            adata = from_mudata(adata, rna_modality, protein_modality, protein_obsm)
        source = cls._setup_like(
            model,
            adata,
            min_overlap=min_overlap,
            protein_obsm=protein_obsm,
            protein_names=protein_names,
            labels_key=labels_key,
        )
        predictor = cls(
            adata,
            backbone=source,
            transform=transform,
            n_components=n_components,
            freeze=freeze,
            head=head,
            head_start=head_start,
            min_overlap=min_overlap,
            rng=rng,
        )
        if several:
            where = predictor.registry_[SETUP][_PROTEIN]
            where[_MODALITIES] = {"rna": rna_modality, "protein": protein_modality}
        return predictor

    @classmethod
    def _make_module(
        cls, backbone: Backbone, arguments: Mapping[str, Any]
    ) -> ProteinPredictorModule:
        return ProteinPredictorModule(
            backbone.build(),
            n_genes=len(backbone.genes),
            n_latent=backbone.n_latent,
            n_proteins=len(arguments["proteins"]),
            n_components=arguments["n_components"],
            n_hidden=128 if arguments["head"] == "mlp" else None,
            freeze=arguments["freeze"],
        )

    def _config(self) -> dict[str, Any]:
        return self._arguments

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Mapping[str, Any]) -> Self:
        names = registry["field_registries"]["X"]["state_registry"]["column_names"]
        rest = {k: value for k, value in config.items() if k not in ("backbone", "proteins")}
        backbone = Backbone.from_dict(config["backbone"], GeneVocabulary(names))
        model = cls(registry=registry, backbone=backbone, **rest)
        if model.proteins != config["proteins"]:
            raise ValueError(
                f"the proteins are {config['proteins']}, those of the setup {model.proteins}"
            )
        return model

    @torch.inference_mode()
    def predict(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        min_overlap: float = 0.5,
    ) -> pd.DataFrame:
        """Predict the proteins of cells.

        Predictions are expected values of the transformed proteins, in the units of
        :meth:`get_proteins`. The prediction for a cell does not depend on the cells beside it.

        Parameters
        ----------
        adata
            Cells, the model's own by default. They need no proteins and need not be set up. Of a MuData,
            which a model that was made from one takes, those of its modality with the expression.
        indices
            Rows, a boolean mask or cell names; all by default.
        batch_size
            Cells to read at a time, 2,048 by default.
        min_overlap
            Share of the model's genes that `adata` must have.

        Returns
        -------
        Frame with one row per cell and one column per protein.

        Raises
        ------
        ValueError
            If the model is not trained.
        GeneMismatchError
            If too few genes are found.
        """
        self._check_trained()
        data = self._read(adata, min_overlap=min_overlap)
        if self.module.encodes_covariates:
            data = data.with_covariates()
        rows = data.rows(indices)
        found = self._apply(data, rows, batch_size, self.module.predict, len(self.proteins))
        return pd.DataFrame(found, index=data.adata.obs_names[rows], columns=self.proteins)

    def get_proteins(self, adata: AnnData | MuData | None = None) -> pd.DataFrame:
        """Measured proteins in the units of :meth:`predict`: transformed, NaN where not measured.

        Parameters
        ----------
        adata
            Cells, the model's own by default. Proteins are matched by name (columns of a frame, or
            ``adata.uns["protein_names"]``); those that the model does not know are left out. A model that
            was made from a MuData takes one too.

        Returns
        -------
        Frame with one row per cell and one column per protein of the model.

        Raises
        ------
        KeyError
            If there are no proteins.
        ValueError
            If they have no names, or there are none that the model knows.
        """
        if adata is None:
            adata = self._adata
        if adata is None:
            raise ValueError("The model was loaded without an AnnData. Pass one: adata=...")
        adata = self._with_proteins(adata)
        return pd.DataFrame(self._targets(adata), index=adata.obs_names, columns=self.proteins)


def _checked_components(n: Any, n_cells: int, n_genes: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
        raise ValueError(f"`n_components` must be a whole number of at least 0, found {n!r}.")
    return min(int(n), n_cells // 4, n_genes - 1)
