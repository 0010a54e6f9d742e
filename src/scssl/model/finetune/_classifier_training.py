"""How a classifier learns: from labelled cells, starting from a regression on embeddings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from scssl.data.keys import LABELS
from scssl.model.base import SETUP, CellReader, label_codes

from ._classifier_network import CellTypeClassifierModule
from ._model import FineTunedModel

_LOGGER = logging.getLogger("scssl")
UNLABELED = "unlabeled_category"
# With fewer labelled cells of a typical class, a validation set costs more than it tells.
_FEW_PER_CLASS = 30


class LabelledTraining(FineTunedModel):
    """The part of a classifier that trains it, on the cells that have a label."""

    module: CellTypeClassifierModule
    classes: list[str]
    _arguments: dict[str, Any]

    def _training_data(self) -> CellReader:
        data = super()._training_data()
        key = self.setup.labels_key
        assert key is not None
        unlabeled = self.registry_[SETUP].get(UNLABELED)
        data.obs[LABELS] = label_codes(data.adata, key, self.classes, unlabeled)
        return data

    def _training_cells(self, data: CellReader) -> np.ndarray:
        labelled = np.flatnonzero(data.obs[LABELS] >= 0)
        _LOGGER.info(
            "%s of %s cells have a label, of %d classes.",
            f"{len(labelled):,}",
            f"{data.n_cells:,}",
            len(self.classes),
        )
        return labelled

    def _default_train_size(self, labels: pd.Series | None) -> float:
        assert labels is not None
        return 1.0 if labels.astype(str).value_counts().median() < _FEW_PER_CLASS else 0.9

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        batch_size = 128 if n_cells < 20_000 else 512
        per_epoch = -(-n_cells // batch_size)
        # With a few labels an epoch is one step, and a pretrained encoder needs fewer of them.
        most = 100 if self._source.pretrained else 200
        return {
            "max_epochs": int(np.clip(2000 // per_epoch, 20, most)),
            "batch_size": batch_size,
            "lr": 1e-3,
            "weight_decay": 1e-2,
            "lr_schedule": "constant",
            "patience": 15,
        }

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: Mapping[str, Any], *, resumed: bool
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

    def _start_head(self, data: CellReader, rows: np.ndarray) -> None:
        from sklearn.linear_model import LogisticRegression

        labels = data.obs[LABELS][rows]
        z = self.module.head.standardise(torch.from_numpy(self._embeddings(data, rows)))
        found = np.unique(labels)
        if not self._source.pretrained or len(found) < 2:
            return
        weights = dict(enumerate(self.module.class_weights.tolist()))
        fitted = LogisticRegression(
            max_iter=1000, class_weight={code: weights[code] for code in found}
        ).fit(z.numpy().astype(np.float64), labels)
        weight, bias = fitted.coef_, fitted.intercept_
        if len(found) == 2:
            weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.stack([-bias[0], bias[0]]) / 2
        full, offset = (
            np.zeros((len(self.classes), z.shape[1])),
            np.full(len(self.classes), bias.min()),
        )
        full[found], offset[found] = weight, bias
        self.module.head.start_from(torch.from_numpy(full), torch.from_numpy(offset))
