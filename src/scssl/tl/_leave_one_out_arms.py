"""The arms that `tl.leave_one_dataset_out` compares: what each makes of the same cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import ScsslWarning

from ._protocol import Protocol

if TYPE_CHECKING:
    from anndata import AnnData

    from scssl.data import Datasets

_KNOWN = "scssl_known_label"
_N_PCS = 50
# Arguments of the classifier that both its arms take.
_CLASSIFIER = ("freeze", "head", "loss", "class_weight")


class Arms:
    """How models are made and trained, the same for every data set."""

    def __init__(
        self,
        model: str,
        layer: str | None,
        input: Any,
        *,
        model_arguments: Mapping[str, Any] | None,
        train_arguments: Mapping[str, Any] | None,
        classifier_arguments: Mapping[str, Any] | None,
        finetune_arguments: Mapping[str, Any] | None,
    ) -> None:
        from scssl.model import get_model_class

        self.model_class: Any = get_model_class(model)
        if not hasattr(self.model_class, "setup_datasets"):
            raise ValueError(f"{model} cannot be trained on several data sets at once.")
        self.model, self.layer, self.input = model, layer, input
        self.model_arguments = dict(model_arguments or {})
        self.train_arguments = {"progress": False, **(train_arguments or {})}
        self.classifier_arguments = dict(classifier_arguments or {})
        self.finetune_arguments = {"progress": False, **(finetune_arguments or {})}
        strange = sorted(set(self.classifier_arguments) - set(_CLASSIFIER))
        if strange:
            raise ValueError(
                f"`classifier_arguments` takes {', '.join(map(repr, _CLASSIFIER))} of "
                f"CellTypeClassifier; found {', '.join(map(repr, strange))}."
            )
        for name in ("model_arguments", "train_arguments", "finetune_arguments"):
            if "rng" in getattr(self, name):
                raise ValueError(
                    f"`{name}` has 'rng': seeds are of the study, from its own `rng`. Leave it out."
                )
        self._reduced: tuple[Any, np.ndarray] | None = None

    def pretrain(self, others: Datasets, seed: int) -> Any:
        """Model of the other data sets."""
        self.model_class.setup_datasets(others, self.layer, input=self.input)
        model = self.model_class(others, rng=seed, **self.model_arguments)
        model.train(rng=seed, **self.train_arguments)
        _raise_if_interrupted(model)
        return model

    def run(
        self, arm: str, adata: AnnData, protocol: Protocol, pretrained: Any, seed: int
    ) -> np.ndarray:
        """Probability of each label for the test cells."""
        if arm == "PCA + LR":
            return self._regression(adata, protocol, seed)
        import pandas as pd

        from scssl.model import CellTypeClassifier

        # Only the training part is set up; of it, only the cells drawn have a label.
        cells = adata[protocol.pool].to_memory()
        labels = pd.Series(None, index=adata.obs_names, dtype=object)
        labels.iloc[protocol.train] = protocol.names[protocol.codes[protocol.train]]
        cells.obs[_KNOWN] = pd.Categorical(labels.iloc[protocol.pool].to_numpy())
        with warnings.catch_warnings():
            # Of genes that no cell of a small part has, of cells without a count in it.
            warnings.simplefilter("ignore", ScsslWarning)
            if arm == "pretrained":
                model = CellTypeClassifier.from_ssl_model(
                    pretrained,
                    cells,
                    _KNOWN,
                    new_genes="learn",
                    min_overlap=0,
                    rng=seed,
                    **self.classifier_arguments,
                )
            else:
                CellTypeClassifier.setup_anndata(
                    cells, layer=self.layer, labels_key=_KNOWN, input=self.input
                )
                model = CellTypeClassifier(
                    cells,
                    backbone=self.model,
                    backbone_arguments=self.model_arguments,
                    rng=seed,
                    **self.classifier_arguments,
                )
            model.train(rng=seed, **self.finetune_arguments)
            _raise_if_interrupted(model)
            found = model.predict(adata, indices=protocol.test, soft=True)
        probabilities = np.zeros((len(protocol.test), len(protocol.names)))
        probabilities[:, np.searchsorted(protocol.names, found.columns)] = found.to_numpy()
        return probabilities

    def _regression(self, adata: AnnData, protocol: Protocol, seed: int) -> np.ndarray:
        from ._estimators import fit

        # Numbers of labels differ in what is learnt from, not in the cells that are split.
        of = (id(adata), seed, protocol.pool.tobytes(), protocol.test.tobytes())
        if self._reduced is None or self._reduced[0] != of:
            self._reduced = of, self._components(adata, protocol, seed)
        values = self._reduced[1]
        fitted = fit(values, protocol, "lr", {}, seed)
        return fitted.apply(values[protocol.test])[1]

    def _components(self, adata: AnnData, protocol: Protocol, seed: int) -> np.ndarray:
        """Principal components of the training part, and the test part in terms of them."""
        from sklearn.decomposition import PCA

        from scssl.data import find_counts, normalize_rows, open_rows, resolve_input, scan_matrix

        matrix = adata.X if self.layer is None else adata.layers[self.layer]
        kind = self.input
        if kind == "auto":
            hint = find_counts(adata, layer=self.layer)
            kind = resolve_input(scan_matrix(matrix), raw_hint=hint).kind
        rows = np.concatenate([protocol.pool, protocol.test])
        x, _ = normalize_rows(open_rows(matrix).read(rows), input_kind=kind)
        n_pool = len(protocol.pool)
        n_pcs = min(_N_PCS, n_pool - 1, x.shape[1] - 1)
        pca = PCA(n_pcs, svd_solver="arpack", random_state=seed % 2**32).fit(x[:n_pool])
        values = np.zeros((adata.n_obs, n_pcs))
        values[rows] = pca.transform(x)
        return values


def _raise_if_interrupted(model: Any) -> None:
    """Ctrl-C ends training with a model that can be used, but not compared with others."""
    if model.training_["stopped_by"] == "interrupt":
        raise KeyboardInterrupt
