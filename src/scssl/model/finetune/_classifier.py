"""Cell types from expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scssl._checks import check_number
from scssl._random import RNG, as_seed
from scssl.data import GeneVocabulary
from scssl.model.base import (
    SETUP,
    Backbone,
    DataSetup,
    SetupArgument,
    SSLModel,
    check_label_column,
    checked_weights,
    register_model,
    trained_classes,
)
from scssl.objective import SUPCON_TEMPERATURE

from ._classifier_network import CellTypeClassifierModule
from ._classifier_training import UNLABELED, LabelledTraining
from ._from_pretrained import PublishedClassifierMixin

ClassWeight = Literal["balanced"] | Mapping[str, float] | None


@register_model
class CellTypeClassifier(PublishedClassifierMixin, LabelledTraining):
    """Predict cell types, starting from any self-supervised model or from scratch.

    A head on the encoder of another model is trained with the encoder, or without it, on the cells
    that have a label. :meth:`from_ssl_model` starts from a trained model; the class itself, on data set
    up with :meth:`setup_anndata`, trains the same network from scratch.

    Where the encoder was pretrained, the head starts as the logistic regression of the labels on its
    embeddings, so that its first gradients do not undo what the encoder has learnt
    :cite:p:`Kumar2022`.

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
    rng
        Seed of the initial weights.
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

    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "labels_key": SetupArgument(
            "Column of ``adata.obs`` with the classes to learn, at least two."
        ),
        UNLABELED: SetupArgument(
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
        freeze: Literal["none", "encoder"] | int = "none",
        head: Literal["linear", "mlp"] = "linear",
        loss: Literal["ce", "supcon"] = "ce",
        supcon_temperature: float = SUPCON_TEMPERATURE,
        class_weight: ClassWeight = None,
        min_overlap: float = 0.5,
        rng: RNG = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        seed = as_seed(rng)
        self.classes = trained_classes(self.setup, self.registry_[SETUP].get(UNLABELED))
        for name, value, known in (
            ("head", head, ("linear", "mlp")),
            ("loss", loss, ("ce", "supcon")),
        ):
            if value not in known:
                raise ValueError(
                    f"`{name}` must be {' or '.join(map(repr, known))}, found {value!r}."
                )
        self._start(backbone, {**(backbone_arguments or {}), **kwargs}, seed)
        self._min_overlap = float(min_overlap)
        self._arguments = {
            "backbone": self._source.to_dict(),
            "classes": self.classes,
            "freeze": freeze,
            "head": head,
            "loss": loss,
            "supcon_temperature": check_number(
                "supcon_temperature", supcon_temperature, "(0, inf)"
            ),
            "class_weight": checked_weights(class_weight, self.classes),
            "min_overlap": self._min_overlap,
        }
        self._finish(seed)
        if loss == "supcon" and registry is None and self.module.backbone_is_frozen:
            raise ValueError(
                f'loss="supcon" trains the encoder, which freeze={freeze!r} keeps as it is. Pass loss="ce", or '
                'freeze="none".'
            )
        start = "pretrained" if self._source.pretrained else "new"
        self._model_summary_string = (
            f"{start} encoder of {self._source.model_class}{self._frozen(freeze)}, {head} head for "
            f"{len(self.classes)} classes, loss {loss}"
        )
        backbone = self._source.model_class  # not the weights once more
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        unlabeled = given.get(UNLABELED)
        given = {**given, UNLABELED: None if unlabeled is None else str(unlabeled)}
        check_label_column(data, given["labels_key"], given[UNLABELED])
        return super()._checked_setup(data, given)

    @classmethod
    def _also_recorded(
        cls, data: Any, setup: DataSetup, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        recorded = super()._also_recorded(data, setup, given)
        return {**recorded, UNLABELED: given[UNLABELED]}

    @classmethod
    def from_ssl_model(
        cls,
        model: SSLModel | str | Path,
        adata: AnnData,
        labels_key: str,
        *,
        unlabeled_category: str | None = None,
        freeze: Literal["none", "encoder"] | int = "none",
        head: Literal["linear", "mlp"] = "linear",
        loss: Literal["ce", "supcon"] = "ce",
        supcon_temperature: float = SUPCON_TEMPERATURE,
        class_weight: ClassWeight = None,
        min_overlap: float = 0.5,
        new_genes: Literal["ignore", "learn"] = "ignore",
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
            As in :meth:`setup_anndata`.
        freeze, head, loss, supcon_temperature, class_weight, rng
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
        source = cls._setup_like(
            model,
            adata,
            min_overlap=min_overlap,
            new_genes=new_genes,
            labels_key=labels_key,
            unlabeled_category=unlabeled_category,
        )
        return cls(
            adata,
            backbone=source,
            freeze=freeze,
            head=head,
            loss=loss,
            supcon_temperature=supcon_temperature,
            class_weight=class_weight,
            min_overlap=min_overlap,
            rng=rng,
        )

    @classmethod
    def _make_module(
        cls, backbone: Backbone, arguments: Mapping[str, Any]
    ) -> CellTypeClassifierModule:
        return CellTypeClassifierModule(
            backbone.build(),
            n_latent=backbone.n_latent,
            n_classes=len(arguments["classes"]),
            head=arguments["head"],
            loss=arguments["loss"],
            temperature=arguments["supcon_temperature"],
            freeze=arguments["freeze"],
        )

    def _config(self) -> dict[str, Any]:
        return self._arguments

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Mapping[str, Any]) -> Self:
        names = registry["field_registries"]["X"]["state_registry"]["column_names"]
        rest = {
            name: value for name, value in config.items() if name not in ("backbone", "classes")
        }
        # Models saved by earlier versions do not say it: it was this.
        rest.setdefault("supcon_temperature", 0.1)
        backbone = Backbone.from_dict(config["backbone"], GeneVocabulary(names))
        model = cls(registry=registry, backbone=backbone, **rest)
        if model.classes != config["classes"]:
            raise ValueError(
                f"the classes are {config['classes']}, those of the setup {model.classes}"
            )
        return model

    @torch.inference_mode()
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
        self._check_trained()
        data = self._read(adata, min_overlap=min_overlap)
        if self.module.encodes_covariates:
            data = data.with_covariates()
        rows = data.rows(indices)
        found = self._apply(data, rows, batch_size, self.module.classify, len(self.classes))
        index = data.adata.obs_names[rows]
        if soft:
            return pd.DataFrame(found, index=index, columns=self.classes)
        names = np.asarray(self.classes, dtype=object)[found.argmax(1)]
        return pd.Series(names, index=index, name=self.setup.labels_key)
