"""Proteins from expression."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.module.base import LossOutput
from torch import Tensor

from scssl._checks import check_choice, some, table_of
from scssl._random import RNG
from scssl.data import GeneAlignment
from scssl.data.keys import PROTEINS
from scssl.model.base import (
    SETUP,
    Backbone,
    CellReader,
    DataSetup,
    SetupArgument,
    SSLModel,
    register_model,
    some_of,
)
from scssl.module import SSLModule, asked_for, blockwise
from scssl.nn import mean_of_all

from ._model import FineTunedModel, FineTunedModule, Freeze, HeadKind
from ._proteins import (
    Transform,
    choose_transform,
    from_mudata,
    is_mudata,
    likely_proteins,
    modality_of,
    moments,
    protein_table,
    transformed,
)

HeadStart = Literal["ridge", "random"]
_LOGGER = logging.getLogger("scssl")
# Entry of the setup that says where the proteins are, and what in it names the modalities of a MuData.
_PROTEIN, _MODALITIES = "protein", "modalities"
# Below this number of cells with proteins, a validation set costs more than it tells.
_FEW_CELLS = 100
# Ridge penalties per cell and feature of unit spread; the best one of each protein is taken.
_PENALTIES = np.logspace(-1, 4, 16)


class ProteinPredictorModule(FineTunedModule):
    r"""Encoder and head that predicts proteins.

    The loss is the mean squared error of standardised targets over the entries that are measured,

    .. math:: L = \frac{\sum_{np} m_{np}\,(\hat y_{np} - (y_{np} - \mu_p) / \sigma_p)^2}{\sum_{np} m_{np}}

    with :math:`m_{np} = 0` where protein :math:`p` is missing in cell :math:`n`.
    """

    def __init__(self, backbone: SSLModule, *, n_proteins: int, **options: Any) -> None:
        super().__init__(backbone, n_proteins, **options)
        self.register_buffer("target_mean", torch.zeros(n_proteins))
        self.register_buffer("target_scale", torch.ones(n_proteins))
        self.target_mean: Tensor
        self.target_scale: Tensor

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        target = (tensors[PROTEINS] - self.target_mean) / self.target_scale
        measured = target.isfinite()
        target = target.nan_to_num(0.0)
        predicted = self.head(self.features(tensors, evaluate=False)).float()
        target, measured, predicted = asked_for(tensors, target, measured, predicted)
        n_measured = mean_of_all(measured.sum().float())
        error = ((predicted - target).square() * measured).sum()
        error = error / n_measured.clamp(min=torch.finfo(torch.float32).tiny)
        extra = {}
        if full:
            y, p = target.double(), predicted.double() * measured
            sums = (measured.double(), y, p, y * y, p * p, y * p)
            extra = {"sums": torch.stack([s.sum(0) for s in sums])}
        return LossOutput(loss=error, n_obs_minibatch=len(target), extra_metrics=extra)

    def validation_scores(self, tally: Mapping[str, Tensor]) -> dict[str, float]:
        """Pearson correlation of each protein over the validation cells, the mean over proteins."""
        n, y, p, yy, pp, yp = tally["sums"].double()
        n = n.clamp(min=1)
        covariance = yp / n - (y / n) * (p / n)
        spread = (yy / n - (y / n) ** 2).clamp(min=0) * (pp / n - (p / n) ** 2).clamp(min=0)
        r = (covariance / spread.sqrt())[spread > 1e-12]
        return {"pearson": float(r.mean()) if len(r) else float("nan")}

    def predict(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Predicted proteins in evaluation mode, the same for a cell in any batch."""

        def read(features: Tensor) -> Tensor:
            # Rescaled in here: products and sums may be fused, or not, by the height of a batch.
            return self.head(features) * self.target_scale + self.target_mean

        return blockwise(read, self.features(tensors, evaluate=True))


@register_model
class ProteinPredictor(FineTunedModel):
    """Predict surface proteins from expression, starting from any self-supervised model.

    A head on the encoder of another model predicts all proteins at once. It has a linear part, which
    starts as the ridge regression of the proteins on what the head sees, and an MLP that starts at
    zero and learns what is left, together with the encoder. The head sees the embedding and
    `n_components` principal components of the normalised expression of the training cells: what a
    linear regression can tell from expression is then known from the start.

    Parameters
    ----------
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
    unit_length
        Whether what the head sees of a cell is scaled to unit length, after embedding and components
        were each given the same variance.
    freeze
        What is not trained: ``"none"``; ``"encoder"``, all of it; a number of layers, counted from the
        genes.
    head
        ``"mlp"``, or ``"linear"``: without MLP.
    head_start
        ``"ridge"``: the linear part starts as a ridge regression, with a penalty for each protein
        chosen on the training cells. ``"random"``: it does not.
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

    module: ProteinPredictorModule
    _targets_are = "proteins"
    _starts_as = "ridge regression"
    _judged_by = ("mean squared error", "correlation")
    _n_measured = 0
    # Unlike a class label, a protein tells the encoder more than it knows already.
    _pretrained_lr_factor = 1.0
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
        transform: Transform | None = "auto",
        n_components: int = 50,
        unit_length: bool = True,
        freeze: Freeze = "none",
        head: HeadKind = "mlp",
        head_start: HeadStart = "ridge",
        min_overlap: float = 0.5,
        rng: RNG = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        where = self.registry_[SETUP].get(_PROTEIN)
        if where is None:
            raise ValueError(
                "No proteins were set up: name them as `protein_obsm` of setup_anndata."
            )
        self.proteins = list(where["names"])
        # Columns of an array have the names of the setup here, and nowhere else.
        self._named = adata
        check_choice("head", head, get_args(HeadKind))
        check_choice("head_start", head_start, get_args(HeadStart))
        n_cells = None
        if adata is not None:
            values, _ = protein_table(adata, where["obsm"], self.proteins)
            transform = choose_transform(values, transform, where["obsm"])
            n_cells = int(np.isfinite(values).any(axis=1).sum())
        n_components = self._n_components(n_components, n_cells, backbone)
        arguments = {
            "transform": transform,
            "n_components": n_components,
            "unit_length": check_choice("unit_length", unit_length, (True, False)),
            "freeze": freeze,
            "head": head,
            "head_start": head_start,
            "min_overlap": float(min_overlap),
        }
        summary = (
            f" and {n_components} principal components, {head} head for {len(self.proteins)} "
            f"proteins, transform {transform}"
        )
        self._start(backbone, {**(backbone_arguments or {}), **kwargs}, rng, arguments, summary)

    @classmethod
    def _setup_needs(cls, data: Any) -> dict[str, Any]:
        likely = likely_proteins(data)
        return {} if likely is None else {"protein_obsm": likely}

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        obsm = given["protein_obsm"]
        values, names = protein_table(data, obsm, given["protein_names"])
        never = [name for name, n in zip(names, np.isfinite(values).sum(0), strict=True) if n < 2]
        if never:
            raise ValueError(
                f'{len(never)} proteins are measured in fewer than 2 cells of adata.obsm["{obsm}"], such as '
                f"{never[0]!r}. Leave them out."
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
        transform: Transform | None = "auto",
        n_components: int = 50,
        unit_length: bool = True,
        freeze: Freeze = "none",
        head: HeadKind = "mlp",
        head_start: HeadStart = "ridge",
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
        transform, n_components, unit_length, freeze, head, head_start, rng
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
            unit_length=unit_length,
            freeze=freeze,
            head=head,
            head_start=head_start,
            min_overlap=min_overlap,
            rng=rng,
        )
        if several:
            predictor._where[_MODALITIES] = {"rna": rna_modality, "protein": protein_modality}
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
            unit_length=arguments["unit_length"],
            head=arguments["head"],
            freeze=arguments["freeze"],
        )

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Mapping[str, Any]) -> Self:
        # Models saved by earlier versions do not say it: it was this.
        return super()._from_config(registry, {"unit_length": False, **config})

    @property
    def _where(self) -> dict[str, Any]:
        """Where the proteins of the model's own cells are."""
        where: dict[str, Any] = self.registry_[SETUP][_PROTEIN]
        return where

    def _modalities(self, mdata: Any) -> tuple[str, str]:
        """Names of the modalities of a MuData, expression and proteins."""
        names = self._where.get(_MODALITIES)
        if names is None:
            name = "rna" if "rna" in mdata.mod else next(iter(mdata.mod))
            raise TypeError(
                f"The model is of an AnnData. Pass that of a MuData: `adata=mdata[{name!r}]`; for "
                f"get_proteins with the proteins in its .obsm[{self._where['obsm']!r}]."
            )
        return names["rna"], names["protein"]

    def _read(
        self, adata: Any, *, min_overlap: float | None = None, indices: Any = None
    ) -> CellReader:
        if is_mudata(adata):
            adata = modality_of(adata, self._modalities(adata)[0])
        return super()._read(adata, min_overlap=min_overlap, indices=indices)

    def _with_proteins(self, adata: Any) -> AnnData:
        """Cells with their proteins, which a MuData has in another modality."""
        if is_mudata(adata):
            adata = from_mudata(adata, *self._modalities(adata), self._where["obsm"])
        cells: AnnData = adata
        return cells

    def align(self, adata: AnnData | MuData, *, min_overlap: float = 0.0) -> GeneAlignment:
        """How the genes of a data set map onto those of the model, by name.

        Parameters
        ----------
        adata
            The data; of a MuData, its modality with the expression.
        min_overlap
            Share of the model's genes that it must have.
        """
        if is_mudata(adata):
            adata = modality_of(adata, self._modalities(adata)[0])
        return super().align(adata, min_overlap=min_overlap)

    def attach(self, adata: AnnData | MuData) -> None:
        """Make a data set the model's own, to embed it or to go on training.

        Parameters
        ----------
        adata
            Data with the genes, columns and proteins that the model was set up with; it is not changed.
            A MuData if the model was made from one.
        """
        super().attach(self._with_proteins(adata))

    def _targets(self, adata: AnnData) -> np.ndarray:
        """Transformed proteins of the model, NaN where not measured; matched by name."""
        obsm = self._where["obsm"]
        own = adata is self._named
        names = None
        if obsm in adata.obsm and not isinstance(adata.obsm[obsm], pd.DataFrame):
            if not own and "protein_names" not in adata.uns:
                same = np.shape(adata.obsm[obsm])[1:] == (len(self.proteins),)
                name = (
                    ': `adata.uns["protein_names"] = model.proteins` if they are those of the model'
                )
                raise ValueError(
                    f'The proteins in adata.obsm["{obsm}"] have no names to match them by. Name the columns '
                    f'in adata.uns["protein_names"]{name if same else ""}.'
                )
            names = self.proteins if own else adata.uns["protein_names"]
        values, found = protein_table(adata, obsm, names)
        columns = pd.Index(found).get_indexer(self.proteins)
        if (columns < 0).all():
            raise ValueError(
                f'adata.obsm["{obsm}"] has {some(found)}, the model {some(self.proteins)}: none match.'
            )
        chosen = np.where(columns >= 0, values[:, columns], np.nan)
        transform = self._arguments["transform"]
        # Of its own cells the model has said so when it was made.
        choose_transform(chosen, transform, obsm, loud=not own)
        return transformed(chosen, transform)

    def _training_data(self) -> CellReader:
        data = super()._training_data()
        data.obs[PROTEINS] = self._targets(data.adata).astype(np.float32)
        return data

    def _training_cells(self, data: CellReader) -> np.ndarray:
        measured = np.flatnonzero(np.isfinite(data.obs[PROTEINS]).any(axis=1))
        self._n_measured, self._has_few = len(measured), False
        _LOGGER.info("%s of %s cells have proteins.", f"{len(measured):,}", f"{data.n_cells:,}")
        return measured

    def _default_train_size(self, labels: pd.Series | None) -> float:
        self._has_few = self._n_measured < _FEW_CELLS
        return 1.0 if self._has_few else 0.9

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        batch_size = 128 if n_cells < 20_000 else 512
        return {
            "max_epochs": 1
            if self._is_start_alone
            else int(np.clip(4000 // -(-n_cells // batch_size), 20, 200)),
            "batch_size": batch_size,
            "lr": 1e-3 if n_cells < 2000 else 3e-4,
            "lr_schedule": "constant",
            "patience": 15,
        }

    def _start_head(self, data: CellReader, rows: np.ndarray) -> bool:
        targets = data.obs[PROTEINS][rows].astype(np.float64)
        mean, spread = moments(targets, np.isfinite(targets))
        self.module.target_mean.copy_(torch.from_numpy(mean))
        self.module.target_scale.copy_(torch.from_numpy(spread))
        self._start_features(data, rows)
        by_ridge: bool = self._arguments["head_start"] == "ridge"
        if by_ridge:
            self._fit_head(data, rows)
        return by_ridge

    def _standardised_targets(self, data: CellReader, rows: np.ndarray) -> np.ndarray:
        """Proteins of cells as the loss sees them, NaN where not measured."""
        mean, scale = self.module.target_mean.cpu().numpy(), self.module.target_scale.cpu().numpy()
        targets: np.ndarray = (data.obs[PROTEINS][rows].astype(np.float64) - mean) / scale
        return targets

    def _fit_head(self, data: CellReader, rows: np.ndarray) -> None:
        from sklearn.linear_model import RidgeCV

        rows = some_of(rows)
        x, y = self._scaled(data, rows), self._standardised_targets(data, rows)
        weight = np.zeros((y.shape[1], x.shape[1]))
        bias = np.zeros(y.shape[1])
        # Proteins that were measured in the same cells are fitted together.
        patterns, which = np.unique(np.isfinite(y), axis=1, return_inverse=True)
        for i in range(patterns.shape[1]):
            cells, columns = patterns[:, i], np.flatnonzero(which.ravel() == i)
            if cells.sum() < 2:
                continue
            fitted = RidgeCV(_PENALTIES, alpha_per_target=True).fit(x[cells], y[cells][:, columns])
            weight[columns], bias[columns] = fitted.coef_, fitted.intercept_
        self.module.head.start_from(torch.from_numpy(weight), torch.from_numpy(bias))

    def _judged(self, data: CellReader, held_out: np.ndarray) -> tuple[float, float]:
        y = self._standardised_targets(data, held_out)
        seen = torch.from_numpy(self._seen(data, held_out)).to(self.module.target_mean.device)
        with torch.inference_mode():
            found = self.module.head(seen).cpu().numpy().astype(np.float64)
        pairs = [(a[m], b[m]) for a, b, m in zip(y.T, found.T, np.isfinite(y).T, strict=True)]
        # Of two cells a correlation is 1 or -1.
        known = [np.corrcoef(a, b)[0, 1] for a, b in pairs if len(a) > 2 and a.std() and b.std()]
        return float(np.nanmean((y - found) ** 2)), float(np.mean(known)) if known else 0.0

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
        found, cells = self._predicted(self.module.predict, adata, indices, batch_size, min_overlap)
        return table_of(found, cells, self.proteins)

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
        adata = self._with_proteins(self._or_own(adata))
        return table_of(self._targets(adata), adata.obs_names, self.proteins)
