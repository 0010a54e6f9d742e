"""What is compared: models of scssl by name, embeddings that are there, and what others use today."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from scssl._checks import (
    check_choice,
    check_number,
    check_whole,
    close_to,
    get_embedding,
    no_argument,
    some,
)
from scssl.data import normalize_rows, open_rows
from scssl.data.matrix import PANEL_GENES, fitted_pca, typical_sum, usual_target_sum
from scssl.tl._common import absent
from scssl.tl._fuse import side_by_side, spreads

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

# Column of the labels that a method may learn from, and what stands for none there: no user's names.
KNOWN = "_scssl_known_label"
UNKNOWN = "(scssl: not known)"
_N_TOP_GENES = 2000
_N_PCS = 50


class NotPossible(ValueError):
    """A method cannot do what a task asks of it: a row that says so, and no fault of anyone."""


@dataclass(frozen=True)
class Setting:
    """What every method is told of the cells it is fitted to."""

    layer: str | None
    kind: str
    """``"counts"`` or ``"lognorm"``."""
    batch_key: str | None
    seed: int
    modality_key: str | None = None
    """Entry of ``obsm`` with a second modality."""
    is_all: bool = False
    """Whether the cells it is fitted to are all there are, so that no others have to be embedded."""
    has_new_batches: bool = False
    """Whether cells of batches that it is not fitted to will have to be embedded."""
    target_sum: float = 1e4
    """Sum of a cell before the logarithm, of counts; what models take by default."""


class Method(ABC):
    """A way to embed cells, to label them, or both.

    `fit` is given an AnnData of its own without labels, or, where it `uses_labels`, with those that may be
    learned from in ``obs[KNOWN]``.
    """

    summary: ClassVar[str]
    package: ClassVar[str] = ""
    distribution: ClassVar[str] = ""
    """What the package is called where it is installed from."""
    extra: ClassVar[str] = "benchmark"
    adapted: bool = False
    """Whether it was trained further on cells that it was asked about."""
    uses_labels: bool = False
    with_modality: bool = False
    """Whether the second modality of a cell is part of what it embeds."""
    embeds: bool = True
    labels_cells: bool = False
    seconds_per_kcell: float = 1.0
    """Measured on one core with the defaults, for estimates of time."""

    @abstractmethod
    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Learn from cells."""

    @abstractmethod
    def embed(self, cells: AnnData) -> np.ndarray:
        """Embedding of cells, those learned from or others."""

    def predict(self, cells: AnnData) -> pd.DataFrame:
        """Probability of each label that was learned, for methods that label cells themselves."""
        raise NotImplementedError

    def reconstruct(self, cells: AnnData, genes: np.ndarray) -> np.ndarray:
        """Log-normalised expression of `genes`, column numbers, as the method sees it."""
        raise NotPossible(f"{type(self).__name__} reconstructs no expression.")

    @classmethod
    def check(cls) -> None:
        """Raise ImportError, with the line that installs it, if its package is not there."""
        if not cls.package:
            return
        try:
            importlib.import_module(cls.package)
        except ImportError as error:
            raise absent(cls.package, cls.extra) from error


def _matrix(cells: AnnData, setting: Setting) -> Any:
    return cells.X if setting.layer is None else cells.layers[setting.layer]


def _normalised(cells: AnnData, setting: Setting) -> sparse.csr_matrix:
    rows = open_rows(_matrix(cells, setting)).read(np.arange(cells.n_obs))
    kind: Any = setting.kind
    return normalize_rows(rows, input_kind=kind, target_sum=setting.target_sum)[0]


def target_of(cells: AnnData, layer: str | None, kind: str) -> float:
    """What models normalise the counts of these cells to by default, and baselines with them."""
    if kind != "counts" or cells.n_vars > PANEL_GENES:
        return 1e4
    sums = np.ravel((cells.X if layer is None else cells.layers[layer]).sum(axis=1))
    return usual_target_sum(cells.n_vars, typical_sum(sums))


def _counts(cells: AnnData, setting: Setting, name: str) -> sparse.csr_matrix:
    if setting.kind != "counts":
        raise NotPossible(f"{name} needs counts, and these are log-normalised values.")
    return open_rows(_matrix(cells, setting)).read(np.arange(cells.n_obs))


def variable_genes(
    x: sparse.csr_matrix, batches: np.ndarray | None, n_top_genes: int | None
) -> np.ndarray:
    """Column numbers of the genes that vary most, by scanpy's default, within batches if there are any."""
    if n_top_genes is None or n_top_genes >= x.shape[1]:
        return np.arange(x.shape[1])
    import anndata
    import pandas as pd
    import scanpy as sc

    cells = anndata.AnnData(x)
    if batches is not None:
        cells.obs["batch"] = pd.Categorical(batches)
    key = None if batches is None or cells.obs["batch"].nunique() < 2 else "batch"
    found = sc.pp.highly_variable_genes(
        cells, n_top_genes=n_top_genes, batch_key=key, inplace=False
    )
    return np.flatnonzero(found["highly_variable"].to_numpy())


def _second(cells: AnnData, setting: Setting) -> np.ndarray:
    """Values of the second modality."""
    if setting.modality_key is None:
        raise NotPossible("`with_modality` needs a second modality: `modality_key`.")
    return get_embedding(cells, setting.modality_key).astype(np.float32)


def _normalisation(values: np.ndarray) -> Literal["clr", "none"]:
    """Of proteins: counts are not normalised yet."""
    return "clr" if (values >= 0).all() and (values == np.rint(values)).all() else "none"


class _OnVariableGenes(Method):
    """A method that is given the variable genes of the cells it is fitted to."""

    def __init__(self, *, n_top_genes: int | None = _N_TOP_GENES) -> None:
        self.n_top_genes = check_whole("n_top_genes", n_top_genes, none=True)

    def _select(self, cells: AnnData, setting: Setting) -> sparse.csr_matrix:
        """Log-normalised values of the variable genes."""
        x = _normalised(cells, setting)
        batches = None if setting.batch_key is None else cells.obs[setting.batch_key].astype(str)
        self.setting = setting
        self.genes = variable_genes(x, batches, self.n_top_genes)
        return x[:, self.genes]

    def _same(self, cells: AnnData) -> sparse.csr_matrix:
        return _normalised(cells, self.setting)[:, self.genes]


class Genes(_OnVariableGenes):
    """The log-normalised values of variable genes, as they are."""

    summary = "log-normalised values of 2,000 variable genes"
    seconds_per_kcell = 0.1

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Choose the genes."""
        self._select(cells, setting)

    def embed(self, cells: AnnData) -> np.ndarray:
        """Values of the chosen genes."""
        return self._same(cells).toarray()


class PCA(_OnVariableGenes):
    """Principal components of variable genes, log-normalised and not scaled, as in scanpy's tutorial."""

    summary = "50 principal components of 2,000 variable genes"
    seconds_per_kcell = 0.2

    def __init__(
        self,
        *,
        n_comps: int = _N_PCS,
        n_top_genes: int | None = _N_TOP_GENES,
        with_modality: bool = False,
    ) -> None:
        super().__init__(n_top_genes=n_top_genes)
        self.n_comps = check_whole("n_comps", n_comps)
        self.with_modality = with_modality

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Find the components."""
        x = self._select(cells, setting)
        n = min(self.n_comps, min(x.shape) - 1)
        found = fitted_pca(x, n, setting.seed % 2**32)
        if found is None:
            raise NotPossible("All cells are equal: there are no principal components.")
        self.pca = found
        if self.with_modality:
            self.normalisation = _normalisation(_second(cells, setting))
            blocks = self._components(cells), self._proteins(cells)
            # Each block with a mean of 0 and a total variance of 1.
            self.scales = [(one.mean(axis=0), one.var(axis=0).sum() ** 0.5) for one in blocks]

    def embed(self, cells: AnnData) -> np.ndarray:
        """Cells in terms of the components, with the second modality beside them where asked."""
        if not self.with_modality:
            return self._components(cells)
        blocks = self._components(cells), self._proteins(cells)
        scaled = zip(blocks, self.scales, strict=True)
        return np.hstack([(one - mean) / max(by, 1e-12) for one, (mean, by) in scaled])

    def _components(self, cells: AnnData) -> np.ndarray:
        return np.asarray(self.pca.transform(self._same(cells)))

    def _proteins(self, cells: AnnData) -> np.ndarray:
        """Their values, counts as the models of scssl normalise them."""
        values = _second(cells, self.setting)
        if self.normalisation == "none":
            return values
        return np.log1p(values / np.exp(np.log1p(values).mean(axis=1, keepdims=True)))

    def reconstruct(self, cells: AnnData, genes: np.ndarray) -> np.ndarray:
        """Values of genes in the space of the components."""
        values = self.pca.inverse_transform(self._components(cells))
        return np.asarray(values)[:, _places(self.genes, genes)]


def _places(known: np.ndarray, genes: np.ndarray) -> np.ndarray:
    place = np.searchsorted(known, genes)
    if (place >= len(known)).any() or (known[np.minimum(place, len(known) - 1)] != genes).any():
        raise NotPossible("Not all genes that are scored are among those it was given.")
    return place


class Harmony(PCA):
    """Harmony :cite:p:`Korsunsky2019` on principal components."""

    summary = "Harmony on 50 principal components"
    package = "harmonypy"
    seconds_per_kcell = 2.0

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Move the components of the batches together."""
        if setting.batch_key is None:
            raise NotPossible("Harmony needs batches: `batch_key`.")
        if not setting.is_all:
            raise NotPossible(
                "Harmony embeds only the cells that it is run on, so that none can be held out; it is "
                "compared where all are fitted to (transductive)."
            )
        import harmonypy

        super().fit(cells, setting)
        found = harmonypy.run_harmony(
            super().embed(cells),
            cells.obs[[setting.batch_key]].astype(str),
            [setting.batch_key],
            random_state=setting.seed % 2**32,
            verbose=False,
        ).Z_corr
        # Some versions have cells in columns.
        self.corrected = np.asarray(found if len(found) == cells.n_obs else found.T)
        self.names = cells.obs_names

    def embed(self, cells: AnnData) -> np.ndarray:
        """Rows of the cells it was run on."""
        return self.corrected[self.names.get_indexer(cells.obs_names)]

    def reconstruct(self, cells: AnnData, genes: np.ndarray) -> np.ndarray:
        """Not offered."""
        return Method.reconstruct(self, cells, genes)


class _OfScvi(_OnVariableGenes):
    """A model of scvi-tools on the counts of variable genes."""

    package = "scvi"
    distribution = "scvi-tools"
    model: Any

    def __init__(
        self,
        *,
        n_top_genes: int | None = _N_TOP_GENES,
        max_epochs: int | None = None,
        early_stopping: bool = True,
        surgery_epochs: int = 200,
        **arguments: Any,
    ) -> None:
        super().__init__(n_top_genes=n_top_genes)
        self.max_epochs = check_whole("max_epochs", max_epochs, none=True)
        self.early_stopping = early_stopping
        self.surgery_epochs = check_whole("surgery_epochs", surgery_epochs)
        known = self._known() if arguments else []
        for name, value in arguments.items():
            if name not in known:
                raise TypeError(no_argument(type(self).__name__, name, value, known))
        self.arguments = arguments
        self._adapted_to: tuple[frozenset[str], Any] | None = None

    def _known(self) -> list[str]:
        """Names of the arguments of the model and of its network."""
        import scvi

        of = (scvi.model.SCVI.__init__, scvi.module.VAE.__init__)
        return sorted({name for one in of for name in inspect.signature(one).parameters})

    def _advised(self) -> dict[str, Any]:
        """What scvi-tools' tutorials on integration, and on mapping to a reference, set."""
        if self.setting.batch_key is None:
            return {}
        advised: dict[str, Any] = {"n_layers": 2, "n_latent": 30, "gene_likelihood": "nb"}
        if self.setting.has_new_batches:
            # Or surgery changes nothing: an encoder that is not told the batch is frozen as a whole.
            advised |= {
                "encode_covariates": True,
                "use_layer_norm": "both",
                "use_batch_norm": "none",
                "dropout_rate": 0.2,
            }
        return advised

    def _prepare(self, cells: AnnData, setting: Setting) -> AnnData:
        import scvi

        scvi.settings.seed = setting.seed % 2**32
        self._select(cells, setting)
        return self._as_scvi(cells)

    def _as_scvi(self, cells: AnnData) -> AnnData:
        import anndata

        name = type(self).__name__
        own = anndata.AnnData(_counts(cells, self.setting, name)[:, self.genes])
        own.obs_names = cells.obs_names
        own.var_names = cells.var_names[self.genes]
        key = self.setting.batch_key
        if key is not None:
            own.obs["batch"] = cells.obs[key].astype(str).to_numpy()
        if self.uses_labels:
            known = KNOWN in cells.obs
            own.obs[KNOWN] = cells.obs[KNOWN].astype(str).to_numpy() if known else UNKNOWN
        return own

    def _keys(self) -> dict[str, Any]:
        return {"batch_key": None if self.setting.batch_key is None else "batch"}

    def _fit_options(self) -> dict[str, Any]:
        return {
            "max_epochs": self.max_epochs,
            "early_stopping": self.early_stopping,
            "enable_progress_bar": False,
        }

    def _model_for(self, own: AnnData) -> Any:
        """The model, or one that has learned the batches of these cells by surgery, once."""
        if self.setting.batch_key is None:
            return self.model
        known = set(self.model.adata.obs["batch"])
        if set(own.obs["batch"]) <= known:
            return self.model
        if self._adapted_to is not None and set(own.obs_names) <= self._adapted_to[0]:
            return self._adapted_to[1]
        import scvi

        scvi.settings.seed = self.setting.seed % 2**32
        query = type(self.model).load_query_data(own, self.model)
        query.train(
            self.surgery_epochs, plan_kwargs={"weight_decay": 0.0}, enable_progress_bar=False
        )
        self.adapted = True
        self._adapted_to = frozenset(own.obs_names), query
        return query

    def embed(self, cells: AnnData) -> np.ndarray:
        """Mean of the latent distribution; batches that were not learned are, by surgery."""
        own = self._as_scvi(cells)
        return np.asarray(self._model_for(own).get_latent_representation(own))


class ScVI(_OfScvi):
    """scVI :cite:p:`Lopez2018`, with the advice of scvi-tools on integration where there are batches."""

    summary = "scVI, early stopping; with batches 2 layers, 30 dimensions, negative binomial"
    seconds_per_kcell = 60.0

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Train it."""
        import scvi

        own = self._prepare(cells, setting)
        advised = self._advised()
        scvi.model.SCVI.setup_anndata(own, **self._keys())
        self.model = scvi.model.SCVI(own, **{**advised, **self.arguments})
        self.model.train(**self._fit_options())

    def reconstruct(self, cells: AnnData, genes: np.ndarray) -> np.ndarray:
        """Expected share of each gene, as counts of a cell with the common sum, log1p."""
        own = self._as_scvi(cells)
        model = self._model_for(own)
        places = _places(self.genes, genes)
        import scvi

        # A mean over draws: a single one would add the noise of the latent distribution to the error.
        scvi.settings.seed = self.setting.seed % 2**32
        share = model.get_normalized_expression(own, n_samples=25, return_numpy=True)
        share = np.asarray(share)[:, places]
        whole = _counts(cells, self.setting, "ScVI").sum(axis=1)
        per_cell = self.setting.target_sum * np.asarray(
            own.X.sum(axis=1) / np.maximum(whole, 1)
        ).reshape(-1, 1)
        return np.log1p(share * per_cell)


class ScANVI(_OfScvi):
    """scANVI :cite:p:`Xu2021`: scVI first, then with the labels that may be learned from."""

    summary = "scANVI from scVI, with the labels of the training part"
    uses_labels = True
    labels_cells = True
    seconds_per_kcell = 75.0

    def __init__(self, *, label_epochs: int = 20, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.label_epochs = check_whole("label_epochs", label_epochs)

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Train both."""
        import scvi

        own = self._prepare(cells, setting)
        advised = self._advised()
        scvi.model.SCVI.setup_anndata(own, **self._keys(), labels_key=KNOWN)
        first = scvi.model.SCVI(own, **{**advised, **self.arguments})
        first.train(**self._fit_options())
        self.model = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category=UNKNOWN)
        self.model.train(self.label_epochs, n_samples_per_label=100, enable_progress_bar=False)

    def predict(self, cells: AnnData) -> pd.DataFrame:
        """Probabilities of its classifier."""
        own = self._as_scvi(cells)
        found = self._model_for(own).predict(own, soft=True)
        return found.drop(columns=UNKNOWN, errors="ignore")


class JointEmbeddingSCVI(_OfScvi):
    """The self-supervised model of scvi-tools itself."""

    summary = "JointEmbeddingSCVI of scvi-tools"
    seconds_per_kcell = 60.0

    def _known(self) -> list[str]:
        from scvi.external import JointEmbeddingSCVI as Model

        of = (Model.__init__, Model._module_cls.__init__)
        return sorted({name for one in of for name in inspect.signature(one).parameters})

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Train it."""
        from scvi.external import JointEmbeddingSCVI as Model

        own = self._prepare(cells, setting)
        Model.setup_anndata(own, **self._keys())
        self.model = Model(own, **self.arguments)
        options = self._fit_options()
        if "early_stopping" not in inspect.signature(self.model.train).parameters:
            options.pop("early_stopping")
        self.model.train(**options)


class Concord(_OnVariableGenes):
    """CONCORD :cite:p:`Zhu2025`, with its own defaults."""

    summary = "CONCORD with its defaults"
    package = "concord"
    distribution = "concord-sc"
    extra = "concord"
    seconds_per_kcell = 8.0

    def __init__(self, *, n_top_genes: int | None = _N_TOP_GENES, **arguments: Any) -> None:
        super().__init__(n_top_genes=n_top_genes)
        self.arguments = arguments

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Train it."""
        import concord
        import torch

        self._select(cells, setting)
        own = self._as_concord(cells)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = concord.Concord(
            adata=own,
            save_dir=None,
            domain_key=self._domain,
            seed=setting.seed % 2**32,
            device=device,
            **self.arguments,
        )
        self.model.fit_transform(output_key="Concord", save_model=False)

    @property
    def _domain(self) -> str | None:
        return None if self.setting.batch_key is None else "batch"

    def _as_concord(self, cells: AnnData) -> AnnData:
        import anndata

        own = anndata.AnnData(self._same(cells))
        own.obs_names = cells.obs_names
        own.var_names = cells.var_names[self.genes]
        if self.setting.batch_key is not None:
            own.obs["batch"] = cells.obs[self.setting.batch_key].astype(str).astype("category")
        return own

    def embed(self, cells: AnnData) -> np.ndarray:
        """Embedding by its encoder, which is not told the batch."""
        own = self._as_concord(cells)
        self.model.predict_adata(own, output_key="Concord")
        return np.asarray(own.obsm["Concord"])


class CellTypist(Method):
    """Logistic regression as celltypist trains it :cite:p:`DominguezConde2022`, on all genes.

    One label against the rest on standardised log-normalised genes, cut at 10, with a penalty of ``C=1``.
    """

    # Not by the package itself, whose release of 2025 calls scikit-learn with an argument it has no more.
    summary = "logistic regression on all genes, standardised, as celltypist trains it"
    uses_labels = True
    labels_cells = True
    embeds = False
    seconds_per_kcell = 10.0

    def __init__(self, *, C: float = 1.0) -> None:
        self.strength = check_number("C", C, "(0, inf)")

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Train it on the labelled cells."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.preprocessing import StandardScaler

        # What CellTypist asks for.
        self.setting = setting = replace(setting, target_sum=1e4)
        labels = cells.obs[KNOWN].astype(str).to_numpy()
        labelled = labels != UNKNOWN
        x = _normalised(cells[labelled], setting)
        # Genes that no labelled cell has say nothing.
        self.genes = np.flatnonzero(x.max(axis=0).toarray().ravel() > 0)
        self.scaler = StandardScaler().fit(x[:, self.genes].toarray())
        one = LogisticRegression(C=self.strength, max_iter=1000)
        self.model = OneVsRestClassifier(one).fit(self._scaled(x), labels[labelled])

    def _scaled(self, x: sparse.csr_matrix) -> np.ndarray:
        return np.minimum(self.scaler.transform(x[:, self.genes].toarray()), 10)

    def embed(self, cells: AnnData) -> np.ndarray:
        """Not offered."""
        raise NotPossible("CellTypist labels cells and has no embedding.")

    def predict(self, cells: AnnData) -> pd.DataFrame:
        """Its probabilities, each of one label against the rest: all are low where none fits."""
        import pandas as pd

        x = self._scaled(_normalised(cells, self.setting))
        # Of two labels scikit-learn has one boundary, and both columns.
        found = np.stack([one.predict_proba(x)[:, 1] for one in self.model.estimators_], axis=1)
        if found.shape[1] < len(self.model.classes_):
            found = np.hstack([1 - found, found])
        return pd.DataFrame(found, index=cells.obs_names, columns=self.model.classes_)


class Given(Method):
    """An embedding that is in ``obsm``. What it was fitted to is not known: it counts as transductive."""

    summary = "an embedding that is there"
    seconds_per_kcell = 0.0

    def __init__(self, key: str) -> None:
        self.key = key

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Nothing to learn."""

    def embed(self, cells: AnnData) -> np.ndarray:
        """What is there."""
        return get_embedding(cells, self.key)


class Registered(Method):
    """A model of scssl, with its own defaults."""

    model: Any
    seconds_per_kcell = 6.0

    def __init__(
        self,
        model: str,
        *,
        untrained: bool = False,
        n_top_genes: int | None = None,
        with_components: int = 0,
        with_modality: bool = False,
        embed_modality: Literal["joint", "rna"] = "joint",
        **arguments: Any,
    ) -> None:
        from scssl.model import get_model_class

        self.model_class: Any = get_model_class(model)
        self.untrained = untrained
        check_choice("embed_modality", embed_modality, ("joint", "rna"))
        if embed_modality == "rna" and not with_modality:
            raise ValueError("`embed_modality='rna'` is of a model of both: `with_modality=True`.")
        self.learns_both = with_modality
        # A model that learned from both may embed a cell by its RNA alone.
        self.with_modality = with_modality and embed_modality == "joint"
        n_comps = check_whole("with_components", with_components, 0)
        self.beside = PCA(n_comps=n_comps) if n_comps else None
        if with_modality and not hasattr(self.model_class, "setup_mudata"):
            raise ValueError(f"{model} embeds one modality: leave `with_modality` out.")
        self.n_top_genes = check_whole("n_top_genes", n_top_genes, none=True)
        if model == "ProteinPredictor":
            raise ValueError(
                "ProteinPredictor starts from a model, and that model is what is compared: name it, and "
                "task 'modality' regresses proteins on its embedding."
            )
        self.uses_labels = self.labels_cells = model == "CellTypeClassifier"
        self.seconds_per_kcell = 0.2 if untrained else type(self).seconds_per_kcell
        # What a classifier starts from: pretrained on the same cells, or nothing.
        self.first: Registered | None = None
        if self.uses_labels and (first := arguments.pop("ssl_model", "MaskedAutoencoder")):
            self.first = Registered(first)
        name = "setup_mudata" if with_modality else "setup_anndata"
        self.setup, self.make, self.train_options = _routed(self.model_class, name, arguments)

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Set up, make and train the model."""
        self.setting = setting
        self.genes = None
        if self.n_top_genes is not None:
            batches = None if setting.batch_key is None else cells.obs[setting.batch_key]
            x = _normalised(cells, setting)
            self.genes = variable_genes(x, batches, self.n_top_genes)
        own = self._own(cells)
        if self.uses_labels:
            labels = own.obs[KNOWN].astype(object)
            own.obs[KNOWN] = labels.where(labels != UNKNOWN, None).astype("category")
        if self.first is not None:
            self.first.fit(own, setting)
            options = {**self.setup, **self.make, "rng": setting.seed}
            self.model = self.model_class.from_ssl_model(self.first.model, own, KNOWN, **options)
        else:
            self.model = self._from_scratch(own)
        if not self.untrained:
            self._train()
        if self.beside is not None:
            self.beside.fit(cells, setting)
            self.scales = spreads([self.beside.embed(cells), self._embedded(cells)])

    def _train(self) -> None:
        self.model.train(rng=self.setting.seed, progress=False, **self.train_options)
        if self.model.training_["stopped_by"] == "interrupt":
            raise KeyboardInterrupt

    def _from_scratch(self, own: AnnData) -> Any:
        setting = self.setting
        if self.learns_both:
            return self._from_both(own)
        setup = {"layer": setting.layer, "input": setting.kind, **self.setup}
        takes = inspect.signature(self.model_class.setup_anndata).parameters
        if "batch_key" in takes:
            setup.setdefault("batch_key", setting.batch_key)
        if self.uses_labels:
            setup["labels_key"] = KNOWN
        self.model_class.setup_anndata(own, **{k: v for k, v in setup.items() if k in takes})
        return self.model_class(own, rng=setting.seed, **self.make)

    def _from_both(self, own: AnnData) -> Any:
        setting, both = self.setting, self._as_mudata(own)
        setup = {
            "rna_layer": setting.layer,
            "input": setting.kind,
            "batch_key": setting.batch_key,
            "protein_normalization": _normalisation(_second(own, setting)),
        }
        self.model_class.setup_mudata(both, **{**setup, **self.setup})
        return self.model_class(both, rng=setting.seed, **self.make)

    def _as_mudata(self, own: AnnData) -> Any:
        import anndata
        import mudata

        values = _second(own, self.setting)
        proteins = anndata.AnnData(values, obs=own.obs[[]])
        proteins.var_names = [f"protein {i}" for i in range(values.shape[1])]
        both = mudata.MuData({"rna": own, "prot": proteins})
        if self.setting.batch_key is not None:
            both.obs[self.setting.batch_key] = own.obs[self.setting.batch_key]
        return both

    def _own(self, cells: AnnData) -> AnnData:
        return cells if self.genes is None else cells[:, self.genes].copy()

    def embed(self, cells: AnnData) -> np.ndarray:
        """Embedding by the model, beside the components where asked."""
        found = self._embedded(cells)
        if self.beside is None:
            return found
        return side_by_side([self.beside.embed(cells), found], self.scales)

    def _embedded(self, cells: AnnData) -> np.ndarray:
        own = self._own(cells)
        if not self.learns_both:
            return np.asarray(self.model.get_latent_representation(own))
        seen = {} if self.with_modality else {"modality": "rna"}
        return np.asarray(self.model.get_latent_representation(self._as_mudata(own), **seen))

    def predict(self, cells: AnnData) -> pd.DataFrame:
        """Probabilities of a classifier."""
        found: pd.DataFrame = self.model.predict(self._own(cells), soft=True)
        return found

    def reconstruct(self, cells: AnnData, genes: np.ndarray) -> np.ndarray:
        """Reconstruction by a model that has one."""
        if not hasattr(self.model, "get_reconstruction"):
            return super().reconstruct(cells, genes)
        if self.genes is not None:
            raise NotPossible("Values are normalised over all genes: leave `n_top_genes` out.")
        names = cells.var_names[genes].tolist()
        return np.asarray(self.model.get_reconstruction(cells, genes=names))


def _routed(
    model_class: Any, setup: str, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Arguments of setting up, of making and of training a model, told apart by name."""
    from scssl.model.base import known_arguments

    routes: tuple[dict[str, Any], ...] = ({}, {}, {})
    known = [
        list(inspect.signature(getattr(model_class, setup)).parameters),
        known_arguments(model_class, "__init__", arguments),
        known_arguments(model_class, "train", arguments),
    ]
    own = {"adata", "mdata", "rng", "progress", "registry", "kwargs", "layer", "rna_layer", "input"}
    for name, value in arguments.items():
        place = next((i for i, names in enumerate(known) if name in names), None)
        if place is None or name in own:
            names = sorted({one for names in known for one in names} - own)
            raise TypeError(no_argument(model_class.__name__, name, value, names))
        routes[place][name] = value
    return routes  # type: ignore[return-value]


#: Methods that are not models of scssl, by the name that is typed.
BASELINES: dict[str, type[Method]] = {
    "genes": Genes,
    "PCA": PCA,
    "Harmony": Harmony,
    "scVI": ScVI,
    "scANVI": ScANVI,
    "JointEmbeddingSCVI": JointEmbeddingSCVI,
    "CONCORD": Concord,
    "CellTypist": CellTypist,
}
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Spec:
    """A method as it was asked for."""

    name: str
    """What it is called in the result."""
    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    is_given: bool = False
    """Whether it is an embedding that is there."""

    def make(self) -> Method:
        """The method; an error if it has no such argument."""
        if self.is_given:
            return Given(self.method, **self.arguments)
        if self.method in BASELINES:
            kind = BASELINES[self.method]
            known = inspect.signature(kind).parameters
            for name, value in self.arguments.items():
                if name not in known and "arguments" not in known:
                    raise TypeError(no_argument(self.method, name, value, list(known)))
            return kind(**self.arguments)
        arguments = dict(self.arguments)
        if self.method != UNTRAINED:
            return Registered(self.method, **arguments)
        return Registered(arguments.pop("model", "MaskedAutoencoder"), untrained=True, **arguments)


def takes_argument(method: str, name: str) -> bool:
    """Whether a method that is not there yet would take an argument."""
    try:
        Spec("", method, {name: None}).make()
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def read_methods(methods: Any, obsm: Sequence[str]) -> list[Spec]:
    """What `methods` asks for: names, or a mapping of names to methods with arguments."""
    if isinstance(methods, str):
        methods = [methods]
    pairs: list[tuple[Any, Any]]
    pairs = list(methods.items()) if isinstance(methods, Mapping) else [(None, m) for m in methods]
    specs: list[Spec] = []
    for name, given in pairs:
        arguments = dict(given) if isinstance(given, Mapping) else {}
        method = given if isinstance(given, str) else arguments.pop("method", name)
        if not isinstance(method, str):
            raise TypeError(
                "`methods` must be names, or a dict of names with a dict of arguments each; found "
                f"{method!r} among them."
            )
        is_given = method not in BASELINES and method in obsm
        if not is_given:
            _check_known(method, obsm)
        sweep = arguments.pop("sweep", None)
        for label, more in _swept(method if name is None else str(name), sweep):
            specs.append(Spec(label, method, {**arguments, **more}, is_given))
            specs[-1].make()
    twice = [spec.name for spec in specs if [s.name for s in specs].count(spec.name) > 1]
    if twice or not specs:
        found = f"{twice[0]!r} is there twice" if twice else "it is empty"
        raise ValueError(f"`methods` must have names, each once: {found}.")
    return specs


def _check_known(method: str, obsm: Sequence[str]) -> None:
    if method in BASELINES or method == UNTRAINED:
        return
    # Late: what it imports takes seconds.
    from scssl.model import list_models

    known = [*BASELINES, UNTRAINED, *list_models()]
    if method not in known:
        close = close_to(method, [*known, *obsm])
        meant = f"Did you mean {close!r}? " if close else ""
        more = f", and obsm has {some(obsm)}" if obsm else ""
        raise ValueError(
            f"There is no method {method!r}. {meant}There are {some(known, len(known))}{more}."
        )


def _swept(name: str, sweep: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every combination of the values of a sweep, with a name that tells it."""
    import itertools

    if not sweep:
        return [(name, {})]
    if not isinstance(sweep, Mapping):
        raise TypeError(f"`sweep` must be a dict of lists, found {sweep!r}.")
    values = [v if isinstance(v, (list, tuple)) else [v] for v in sweep.values()]
    found = []
    for chosen in itertools.product(*values):
        more = dict(zip(sweep, chosen, strict=True))
        text = ", ".join(f"{k}={v}" for k, v in more.items())
        found.append((f"{name} ({text})", more))
    return found
