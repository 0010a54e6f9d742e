"""Cell types from expression."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi.module.base import LossOutput
from torch import Tensor
from torch.nn import functional

from scssl._checks import LABELLED, check_choice, check_number, likely_column, table_of
from scssl._io import as_path
from scssl._linear import chosen_logistic, held_out_distances, temperature_of
from scssl._random import RNG
from scssl.data.keys import LABELS
from scssl.model.base import (
    SETUP,
    Backbone,
    CellReader,
    DataSetup,
    SetupArgument,
    SSLModel,
    check_label_column,
    check_unused,
    checked_weights,
    from_foreign,
    label_codes,
    register_model,
    resolve,
    some_of,
    trained_classes,
)
from scssl.module import SSLModule, asked_for, blockwise
from scssl.nn import gather, weighed
from scssl.objective import SUPCON_TEMPERATURE, supcon
from scssl.train import TrainOptions

from ._model import FineTunedModel, FineTunedModule, Freeze, HeadKind, NewGenes

_LOGGER = logging.getLogger("scssl")
_UNLABELED = "unlabeled_category"
# With fewer labelled cells of a typical class, a validation set costs more than it tells.
_FEW_PER_CLASS = 30
# Of the folds in which the penalty and the temperature of the start are chosen.
_SEED = 0
Loss = Literal["ce", "supcon"]
HeadStart = Literal["logistic", "random"]
ClassWeight = Literal["balanced"] | Mapping[str, float] | None


class CellTypeClassifierModule(FineTunedModule):
    """Encoder and head that predicts a class.

    With ``loss="ce"`` the loss is the cross-entropy of the head's output. With ``loss="supcon"`` the
    encoder learns from the supervised contrastive loss :cite:p:`Khosla2020` alone, and the head at the
    same time from the cross-entropy on embeddings that pass no gradient back. In validation it is the
    cross-entropy, unweighted, in both.
    """

    def __init__(
        self,
        backbone: SSLModule,
        *,
        n_classes: int,
        loss: Loss,
        temperature: float,
        **options: Any,
    ) -> None:
        super().__init__(backbone, n_classes, **options)
        self.n_classes, self.objective, self.temperature = n_classes, loss, temperature
        self.register_buffer("class_weights", torch.ones(n_classes))
        self.class_weights: Tensor

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        seen = self.features(tensors, evaluate=False)
        seen, labels = asked_for(tensors, seen, tensors[LABELS].squeeze(1))
        if full:
            logits = self.head(seen).float()
            found = labels * self.n_classes + logits.argmax(1)
            tally = torch.bincount(found, minlength=self.n_classes**2).float()
            return LossOutput(
                loss=weighed(functional.cross_entropy(logits, labels), len(labels)),
                n_obs_minibatch=len(labels),
                extra_metrics={"confusion": tally},
            )
        contrast = self.objective == "supcon"
        logits = self.head(seen.detach() if contrast else seen).float()
        loss = weighed(
            functional.cross_entropy(logits, labels, weight=self.class_weights),
            self.class_weights[labels].sum(),
        )
        if contrast and not self.backbone_is_frozen:
            z = gather(seen[:, : self.widths[0]])
            loss = loss + supcon(z, gather(labels), temperature=self.temperature)
        return LossOutput(loss=loss, n_obs_minibatch=len(labels))

    def validation_scores(self, tally: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy and macro-F1, the latter over the classes that validation cells have."""
        counts = tally["confusion"].double().view(self.n_classes, self.n_classes)
        hits, true, called = counts.diagonal(), counts.sum(1), counts.sum(0)
        f1 = (2 * hits / (true + called).clamp(min=1))[true > 0]
        return {
            "accuracy": float(hits.sum() / counts.sum()),
            "macro_f1": float(f1.mean()),
        }

    def logits(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Output of the head in evaluation mode, the same for a cell in any batch."""
        return blockwise(self.head, self.features(tensors, evaluate=True))

    def classify(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Probability of each class in evaluation mode, the same for a cell in any batch."""
        return self.logits(tensors).softmax(1)


@register_model
class CellTypeClassifier(FineTunedModel):
    """Predict cell types, starting from any self-supervised model or from scratch.

    A head on the encoder of another model is trained with the encoder, or without it, on the cells
    that have a label. :meth:`from_ssl_model` starts from a trained model; the class itself, on data set
    up with :meth:`setup_anndata`, trains the same network from scratch.

    The head sees the embedding and `n_components` principal components of the normalised expression of all
    cells, those without a label too. Where the encoder was pretrained, it starts as the logistic regression
    of the labels on them, as :func:`~scssl.tl.linear_probe` fits it, so that its first gradients do not undo
    what the encoder has learnt :cite:p:`Kumar2022`. It stays that regression, of all labels, and the encoder
    stays as it was, where held-out labels do not say that fine-tuning helps (``training_["head"]`` tells),
    and where there are too few to hold any out, unless `max_epochs` is given to :meth:`train`.
    Probabilities are calibrated by one temperature :cite:p:`Guo2017` on labels that were not fitted, where
    a class has two at least.

    Parameters
    ----------
    backbone
        Name of the model class whose encoder is used, one of :func:`list_models`.
    backbone_arguments
        Arguments of that class; they can also be given one by one.
    n_components
        Principal components of expression that the head sees beside the embedding, no more than a
        quarter of the cells; 0: the embedding alone.
    unit_length
        Whether what the head sees of a cell is scaled to unit length, after embedding and components
        were each given the same variance: few labels are worth more then.
    freeze
        What is not trained: ``"none"``; ``"encoder"``, all of it; a number of layers, counted from the
        genes.
    head
        ``"linear"``, or ``"mlp"``: with a hidden layer of 128 units beside the linear part.
    loss
        ``"ce"``: cross-entropy. ``"supcon"``: the encoder learns from the supervised contrastive loss
        :cite:p:`Khosla2020`, the head from the cross-entropy on its embeddings; for an encoder that is
        not frozen.
    supcon_temperature
        Of ``loss="supcon"``, 0.1 as in :cite:p:`Khosla2020`.
    class_weight
        `None`; ``"balanced"``: every class weighs as much in training as any other; or weights by
        class, 1 for those left out. Validation is never weighted.
    head_start
        ``"logistic"``: the head starts as a logistic regression, as told above. ``"random"``: it has new
        weights, and what training has changed is kept whatever held-out labels say, which is fine-tuning as
        it is usually done.
    **kwargs
        Further arguments of the backbone.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
    >>> ssl_model = scssl.model.MaskedAutoencoder(adata)
    >>> ssl_model.train(max_epochs=2, progress=False)
    >>> model = scssl.model.CellTypeClassifier.from_ssl_model(ssl_model, adata, "bulk_labels")
    >>> model.train(max_epochs=2, progress=False)
    >>> model.predict(adata, soft=True).shape
    (700, 10)

    From scratch:

    >>> scssl.model.CellTypeClassifier.setup_anndata(adata, labels_key="bulk_labels")
    >>> scssl.model.CellTypeClassifier(adata).classes[:2]
    ['CD14+ Monocyte', 'CD19+ B']
    """

    module: CellTypeClassifierModule
    _targets_are = "classes"
    _starts_as = "logistic regression"
    _judged_by = ("log loss", "accuracy")
    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "labels_key": SetupArgument(
            "Column of ``adata.obs`` with the classes to learn, at least two."
        ),
        _UNLABELED: SetupArgument(
            """Label of cells whose class is not known. They are not learnt from, nor are cells whose
            label is missing.""",
            str | None,
        ),
    }

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        backbone: str | Backbone = "MaskedAutoencoder",
        backbone_arguments: Mapping[str, Any] | None = None,
        n_components: int = 50,
        unit_length: bool = True,
        freeze: Freeze = "none",
        head: HeadKind = "linear",
        loss: Loss = "ce",
        supcon_temperature: float = SUPCON_TEMPERATURE,
        class_weight: ClassWeight = None,
        head_start: HeadStart = "logistic",
        min_overlap: float = 0.5,
        rng: RNG = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        self.classes = trained_classes(self.setup, self.registry_[SETUP].get(_UNLABELED))
        check_choice("head", head, get_args(HeadKind))
        check_choice("loss", loss, get_args(Loss))
        check_choice("head_start", head_start, get_args(HeadStart))
        n_cells = None if adata is None else adata.n_obs
        n_components = self._n_components(n_components, n_cells, backbone)
        arguments = {
            "n_components": n_components,
            "unit_length": check_choice("unit_length", unit_length, (True, False)),
            "freeze": freeze,
            "head": head,
            "loss": loss,
            "supcon_temperature": check_number(
                "supcon_temperature", supcon_temperature, "(0, inf)"
            ),
            "class_weight": checked_weights(class_weight, self.classes),
            "head_start": head_start,
            "min_overlap": float(min_overlap),
        }
        summary = (
            f" and {n_components} principal components, {head} head for {len(self.classes)} classes, "
            f"loss {loss}"
        )
        self._start(backbone, {**(backbone_arguments or {}), **kwargs}, rng, arguments, summary)
        if loss == "supcon" and registry is None and self.module.backbone_is_frozen:
            raise ValueError(
                f'loss="supcon" trains the encoder: pass `freeze="none"` or `loss="ce"`, found {freeze=}.'
            )

    @classmethod
    def _setup_needs(cls, data: Any) -> dict[str, Any]:
        return {"labels_key": likely_column(data.obs, *LABELLED)}

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        unlabeled = given.get(_UNLABELED)
        given = {**given, _UNLABELED: None if unlabeled is None else str(unlabeled)}
        check_label_column(data, given["labels_key"], given[_UNLABELED])
        return super()._checked_setup(data, given)

    @classmethod
    def _also_recorded(
        cls, data: Any, setup: DataSetup, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        recorded = super()._also_recorded(data, setup, given)
        return {**recorded, _UNLABELED: given[_UNLABELED]}

    @classmethod
    def from_ssl_model(
        cls,
        model: SSLModel | str | Path,
        adata: AnnData,
        labels_key: str | None = None,
        *,
        unlabeled_category: str | None = None,
        n_components: int = 50,
        unit_length: bool = True,
        freeze: Freeze = "none",
        head: HeadKind = "linear",
        loss: Loss = "ce",
        supcon_temperature: float = SUPCON_TEMPERATURE,
        class_weight: ClassWeight = None,
        head_start: HeadStart = "logistic",
        min_overlap: float = 0.5,
        new_genes: NewGenes = "ignore",
        rng: RNG = 0,
    ) -> Self:
        """Classifier that starts from the encoder of another model.

        The encoder is copied: `model` stays as it is. Kind of input and normalisation are those of
        `model`, and so are the genes, unless new ones are to be learnt. Genes that `adata` lacks are
        taken as zero, and reported.

        Parameters
        ----------
        model
            Any model of this package, the folder of one or its name on the Hugging Face Hub.
        adata
            Cells with labels; they are set up here.
        labels_key, unlabeled_category
            As in :meth:`setup_anndata`. By default the labels are those that `model` was set up with.
        n_components, unit_length, freeze, head, loss, supcon_temperature, class_weight, head_start, rng
            As in the class.
        min_overlap
            Share of the model's genes that `adata` must have.
        new_genes
            What to do with genes that `model` does not know: ``"ignore"``; or ``"learn"``, by which the
            classifier has all genes of `adata`, and no others. Weights of known genes are taken over by
            name, those of new ones start at zero: they say nothing yet. Counts are still scaled by the
            sum over all genes of `adata`, new ones too, which moves embeddings a little from those of
            `model`. To have the genes from the start, pretrain on data sets with
            ``scssl.data.Datasets(..., genes="union")``.

        Raises
        ------
        GeneMismatchError
            If too few genes are found.
        ValueError
            As in :meth:`setup_anndata`; if `adata` holds another kind of input than `model` reads.
        """
        model = resolve(model)
        source = cls._setup_like(
            model,
            adata,
            min_overlap=min_overlap,
            new_genes=new_genes,
            labels_key=model.setup.labels_key if labels_key is None else labels_key,
            unlabeled_category=unlabeled_category,
        )
        return cls(
            adata,
            backbone=source,
            n_components=n_components,
            unit_length=unit_length,
            freeze=freeze,
            head=head,
            loss=loss,
            supcon_temperature=supcon_temperature,
            class_weight=class_weight,
            head_start=head_start,
            min_overlap=min_overlap,
            rng=rng,
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        file: str | Path | None = None,
        genes: str | Path | pd.DataFrame | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        labels_key: str = "cell_type",
        layer: str | None = None,
        sha256: str | None = None,
        revision: str | None = None,
        adata: AnnData | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
    ) -> Self:
        """Load a classifier of scssl, or a cell-type classifier of :cite:p:`Richter2025`.

        With `file`, a checkpoint as published in ``TillR/sc_pretrained`` on the Hugging Face Hub,
        encoder and head; see :meth:`MaskedAutoencoder.from_pretrained` for how it is read. Without
        `file`, a model of scssl on the hub or in a folder.

        Parameters
        ----------
        source
            Repository, ``"owner/name"``, or a folder; or the path of a checkpoint.
        file
            Checkpoint in it, such as ``"Finetuned Models/Cell Type Prediction/HLCA_SSL.ckpt"``; or
            the path of one.
        classes
            Names of the classes in the order of the network's outputs, which the checkpoints do not
            hold.
        labels_key
            Name of the column with the classes.
        genes, layer, sha256, revision, adata, device, token
            As in :meth:`MaskedAutoencoder.from_pretrained`.

        Raises
        ------
        BundleError
            If there is no sound model, or the checkpoint is no classifier of a layout known here.
        GeneMismatchError
            If `genes` is not the table that belongs to the checkpoint.
        FileNotFoundError, PermissionError, ConnectionError
            If a repository or a file of it cannot be had.
        ValueError
            If `classes` are missing, not as many as the network has outputs, or not unique; if
            arguments for checkpoints are given without `file`.

        Examples
        --------
        >>> import scssl
        >>> model = scssl.model.CellTypeClassifier.from_pretrained(
        ...     "TillR/sc_pretrained",
        ...     file="Finetuned Models/Cell Type Prediction/HLCA_SSL.ckpt",
        ...     classes=names_of_the_classes,
        ... )  # doctest: +SKIP
        """
        options: dict[str, Any] = {"classes": classes, "layer": layer, "sha256": sha256}
        access: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "adata": adata,
            "device": device,
        }
        if file is None and not as_path(source, "source").is_file():
            check_unused('file="HLCA_SSL.ckpt"', genes=genes, **options)
            return super().from_pretrained(source, **access)
        options["labels_key"] = labels_key
        model: Self = from_foreign("classifier_from", cls, source, file, genes, **options, **access)
        return model

    @classmethod
    def _make_module(
        cls, backbone: Backbone, arguments: Mapping[str, Any]
    ) -> CellTypeClassifierModule:
        return CellTypeClassifierModule(
            backbone.build(),
            n_genes=len(backbone.genes),
            n_latent=backbone.n_latent,
            n_components=arguments["n_components"],
            unit_length=arguments["unit_length"],
            n_classes=len(arguments["classes"]),
            head=arguments["head"],
            loss=arguments["loss"],
            temperature=arguments["supcon_temperature"],
            freeze=arguments["freeze"],
        )

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Mapping[str, Any]) -> Self:
        # Models saved by earlier versions do not say them: they were these.
        before = {"supcon_temperature": 0.1, "n_components": 0, "unit_length": False}
        return super()._from_config(registry, {**before, **config})

    def _training_data(self) -> CellReader:
        data = super()._training_data()
        key = self.setup.labels_key
        assert key is not None
        unlabeled = self.registry_[SETUP].get(_UNLABELED)
        data.obs[LABELS] = label_codes(data.adata, key, self.classes, unlabeled)
        return data

    def _training_cells(self, data: CellReader) -> np.ndarray:
        labelled = np.flatnonzero(data.obs[LABELS] >= 0)
        self._has_few = False
        _LOGGER.info(
            "%s of %s cells have a label, of %d classes.",
            f"{len(labelled):,}",
            f"{data.n_cells:,}",
            len(self.classes),
        )
        return labelled

    def _default_train_size(self, labels: pd.Series | None) -> float:
        assert labels is not None
        self._has_few = bool(labels.astype(str).value_counts().median() < _FEW_PER_CLASS)
        return 1.0 if self._has_few else 0.9

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        batch_size = 128 if n_cells < 20_000 else 512
        per_epoch = -(-n_cells // batch_size)
        # With a few labels an epoch is one step, and a pretrained encoder needs fewer of them.
        most = 100 if self._source.pretrained else 200
        max_epochs = int(np.clip(2000 // per_epoch, 20, most))
        return {
            "max_epochs": 1 if self._is_start_alone else max_epochs,
            "batch_size": batch_size,
            "lr": 1e-3,
            "lr_schedule": "constant",
            "patience": 15,
        }

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: TrainOptions, *, resumed: bool
    ) -> dict[str, Any]:
        count = np.bincount(data.obs[LABELS][rows], minlength=len(self.classes))
        weight = np.ones(len(count))
        given = self._arguments["class_weight"]
        if given == "balanced":
            weight = len(rows) / (len(count) * np.maximum(count, 1))
        elif given is not None:
            weight = np.array([given.get(name, 1.0) for name in self.classes])
        self.module.class_weights.copy_(torch.from_numpy(weight))
        return super()._before_training(data, rows, chosen, resumed=resumed)

    def _start_head(self, data: CellReader, rows: np.ndarray) -> bool:
        # Expression is known of all cells, labels are of some.
        self._start_features(data, np.arange(data.n_cells))
        informed = self._source.pretrained or self.module.components is not None
        informed &= self._arguments["head_start"] == "logistic"
        if informed:
            self._fit_head(data, rows)
        return informed

    def _fit_head(self, data: CellReader, rows: np.ndarray) -> None:
        from sklearn.linear_model import LogisticRegression

        rows, head = some_of(rows), self.module.head
        found, codes = np.unique(data.obs[LABELS][rows], return_inverse=True)
        if len(found) < 2:
            return
        x = self._scaled(data, rows)
        weights = dict(enumerate(self.module.class_weights[found].tolist()))

        def make(strength: float) -> LogisticRegression:
            return LogisticRegression(C=strength, max_iter=10_000, class_weight=weights)

        strength, weight, bias = chosen_logistic(
            x, codes, _SEED, self.module.class_weights[found].numpy()
        )
        full = np.zeros((len(self.classes), x.shape[1]))
        offset = np.full(len(self.classes), bias.min())
        full[found], offset[found] = weight, bias
        head.start_from(torch.from_numpy(full), torch.from_numpy(offset))
        held_out = held_out_distances(lambda: make(strength), x, codes, _SEED)
        if held_out is not None:
            scores, truth = held_out
            head.divide(temperature_of(scores / (2 if len(found) == 2 else 1), truth))

    def _held_out_logits(
        self, data: CellReader, held_out: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Logits of held-out cells, their labels, and the temperature at which these are likeliest."""
        with torch.inference_mode():
            logits = self._apply(data, held_out, None, self.module.logits, len(self.classes))
        codes = data.obs[LABELS][held_out]
        return logits, codes, temperature_of(logits.astype(np.float64), codes)

    def _judged(self, data: CellReader, held_out: np.ndarray) -> tuple[float, float]:
        from scipy.special import log_softmax

        # At the best temperature: more or less confidence alone is no gain.
        logits, codes, temperature = self._held_out_logits(data, held_out)
        likely = log_softmax(logits / temperature, axis=1)[np.arange(len(codes)), codes]
        return -float(likely.mean()), float((logits.argmax(axis=1) == codes).mean())

    def _after_training(
        self, data: CellReader, rows: np.ndarray, held_out: np.ndarray
    ) -> dict[str, Any]:
        found = super()._after_training(data, rows, held_out)
        if found["head"] != self._starts_as and len(held_out):
            self.module.head.divide(self._held_out_logits(data, held_out)[2])
        return found

    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        soft: bool = False,
        min_overlap: float = 0.5,
    ) -> pd.Series | pd.DataFrame:
        """Predict the class of cells.

        The prediction for a cell does not depend on the cells beside it, but where the encoder is that of a
        model of tissues (:class:`CellPLM`), in which cells of a sample see each other.

        Parameters
        ----------
        adata
            Cells, the model's own by default. They need no labels and need not be set up.
        indices
            Rows, a boolean mask or cell names; all by default.
        batch_size
            Cells to read at a time, 2,048 by default.
        soft
            Probabilities of all classes instead of the most probable one.
        min_overlap
            Share of the model's genes that `adata` must have.

        Returns
        -------
        Series of class names; with `soft` a frame of probabilities, one column per class, whose rows
        sum to 1. The index is that of the cells.

        Raises
        ------
        ValueError
            If the model is not trained.
        GeneMismatchError
            If too few genes are found.
        """
        found, cells = self._predicted(
            self.module.classify, adata, indices, batch_size, min_overlap
        )
        if soft:
            return table_of(found, cells, self.classes)
        names = np.asarray(self.classes, dtype=object)[found.argmax(1)]
        return pd.Series(names, index=cells, name=self.setup.labels_key)
