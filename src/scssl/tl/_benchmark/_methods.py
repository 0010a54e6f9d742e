"""What is compared: models of scssl by name, embeddings that are there, and what others use today."""

from __future__ import annotations

import functools
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
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

    from scssl.model import SSLModel

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
    predicts_modality: bool = False
    """Whether it learns the second modality of the training part, to predict it itself."""
    embeds: bool = True
    learns_from_query: ClassVar[bool] = False
    smoothing: int = 0
    """Nearest cells of the training part that the embedding of a cell is averaged with."""
    labels_cells: bool = False
    seconds_per_kcell: float = 1.0
    """Measured on one core with the defaults, for estimates of time."""
    of_scssl: ClassVar[bool] = False
    """Whether it runs models of scssl, so that their code is part of what a value depends on."""
    tools: ClassVar[tuple[str, ...]] = ()
    """Files of ``tl`` that a value depends on as well."""
    genes_matched: int | None = None
    """Genes of what it starts from that the data have."""

    @property
    def source(self) -> str:
        """Digest of what it starts from, if not from nothing: part of what a value depends on."""
        return ""

    @property
    def trainable_weights(self) -> int | None:
        """Weights that were trained; `None` where that is not how it learns."""
        return None

    @abstractmethod
    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Learn from cells."""

    @abstractmethod
    def embed(self, cells: AnnData) -> np.ndarray:
        """Embedding of cells, those learned from or others."""

    def meet(self, cells: AnnData) -> None:
        """Be given the cells that it will be asked about, without labels, for methods that learn from them."""
        raise NotImplementedError

    def predict(self, cells: AnnData) -> pd.DataFrame:
        """Probability of each label that was learned, for methods that label cells themselves."""
        raise NotImplementedError

    def predict_modality(self, cells: AnnData) -> np.ndarray:
        """Second modality, counts as log1p, of cells that lack it, for methods that learn it."""
        raise NotImplementedError

    def novelty(self, cells: AnnData) -> np.ndarray | None:
        """Share of known cells that are less unusual than each of these, if it says that of the cells it labels."""
        return None

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
        of = self._classes()
        return sorted({name for one in of for name in inspect.signature(one.__init__).parameters})

    def _classes(self) -> tuple[Any, Any]:
        """The model and its network."""
        import scvi

        return scvi.model.SCVI, scvi.module.VAE

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

    @property
    def trainable_weights(self) -> int:
        """Those of encoder and decoder."""
        return sum(p.numel() for p in self.model.module.parameters() if p.requires_grad)

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

    def _classes(self) -> tuple[Any, Any]:
        from scvi.external import JointEmbeddingSCVI as Model

        return Model, Model._module_cls

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


class TotalVI(_OfScvi):
    """totalVI :cite:p:`Gayoso2021`, which imputes the proteins of cells that it is trained on without them."""

    summary = "totalVI trained on all cells, imputes the proteins that the test part is not given"
    predicts_modality = True
    learns_from_query = True
    embeds = False
    seconds_per_kcell = 150.0

    def _classes(self) -> tuple[Any, Any]:
        import scvi

        return scvi.model.TOTALVI, scvi.module.TOTALVAE

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Keep the cells with proteins until the others are there."""
        values = _second(cells, setting)
        if _normalisation(values) == "none":
            raise NotPossible("totalVI needs counts of proteins, and these are normalised.")
        self.reference = self._prepare(cells, setting)
        self.reference.obsm["protein"] = values

    def meet(self, cells: AnnData) -> None:
        """Train on both. Proteins that are zero in a whole batch are what scvi-tools takes as not measured."""
        import anndata
        import scvi

        query = self._as_scvi(cells)
        n_proteins = self.reference.obsm["protein"].shape[1]
        query.obsm["protein"] = np.zeros((query.n_obs, n_proteins), dtype=np.float32)
        both = anndata.concat([self.reference, query])
        # A batch of its own for what lacks proteins, whatever batch it is of.
        batches = both.obs["batch"].to_numpy() if "batch" in both.obs else np.repeat("", both.n_obs)
        lacks = np.arange(both.n_obs) >= self.reference.n_obs
        both.obs["batch"] = np.where(lacks, "lacks proteins ", "") + batches.astype(object)
        scvi.settings.seed = self.setting.seed % 2**32
        scvi.model.TOTALVI.setup_anndata(both, "protein", batch_key="batch")
        self.model = scvi.model.TOTALVI(both, **self.arguments)
        self.model.train(**self._fit_options())
        measured = sorted(set(both.obs["batch"][~lacks]))
        scvi.settings.seed = self.setting.seed % 2**32
        _, found = self.model.get_normalized_expression(
            both,
            indices=np.flatnonzero(lacks),
            transform_batch=measured,
            n_samples=25,
            include_protein_background=True,
            return_numpy=True,
        )
        self.found = np.log1p(found)
        self.adapted, self.asked = True, query.obs_names

    def predict_modality(self, cells: AnnData) -> np.ndarray:
        """Expected counts, background included, as they would be in the batches with proteins."""
        return np.asarray(self.found[self.asked.get_indexer(cells.obs_names)])


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


class Recommended(Method):
    """What :func:`scssl.tl.embed` without a model and, of batches, :func:`scssl.tl.integrate` take."""

    summary = "what tl.embed and, of batches, tl.integrate take by themselves"
    of_scssl = True
    tools = ("tl/_integrate.py", "tl/_recommended.py")
    seconds_per_kcell = 8.0
    moved: np.ndarray | None = None
    """Embedding of the cells it was fitted to, where there is no model that could embed others."""

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Choose by what is known of the cells, and train."""
        from scssl.tl._integrate import embedded_by
        from scssl.tl._recommended import AUTO, MNN, of_variable_genes, plan_for

        self.setting, key = setting, setting.batch_key
        n_batches = 1 if key is None else cells.obs[key].nunique()
        plan = plan_for(AUTO, cells.n_obs, n_batches)
        own, kind = of_variable_genes(cells, setting.layer, key)
        fit: Any = {"max_epochs": None, "progress": False}
        if plan.method != MNN:
            told = key if n_batches > 1 else None
            self.model = plan.trained(own, told, kind, setting.seed, **fit)
            return
        if not setting.is_all:
            raise NotPossible(
                "Batches of so few cells are brought together by moving their components, which embeds only "
                "the cells that are moved; it is compared where all are fitted to (transductive)."
            )
        assert key is not None
        self.moved = embedded_by(plan, own, key, kind, setting.seed, **fit)
        self.names = cells.obs_names

    def embed(self, cells: AnnData) -> np.ndarray:
        """By the model, or rows of the cells that were moved."""
        from scssl.tl._recommended import of_variable_genes

        if self.moved is not None:
            return np.asarray(self.moved[self.names.get_indexer(cells.obs_names)])
        own, _ = of_variable_genes(cells, self.setting.layer, self.setting.batch_key)
        return np.asarray(self.model.get_latent_representation(own))


class Annotate(Method):
    """What :func:`scssl.tl.annotate` does without a model: one is trained on both, without labels."""

    summary = "tl.annotate, which trains on reference and query"
    of_scssl = True
    tools = (
        *Recommended.tools,
        "tl/_annotate.py",
        "tl/_common_axes.py",
        "tl/_label_transfer.py",
    )
    uses_labels = True
    labels_cells = True
    embeds = False
    learns_from_query = True
    seconds_per_kcell = 8.0

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Keep the labelled cells; without a query there is nothing to learn."""
        is_known = (cells.obs[KNOWN].astype(str) != UNKNOWN).to_numpy()
        self.setting, self.rest = setting, cells[~is_known]
        self.reference = cells[is_known].copy()

    def meet(self, cells: AnnData) -> None:
        """Label these cells, and those of the training part without a label."""
        import anndata

        from scssl.tl._annotate import annotate

        new = self.rest[~self.rest.obs_names.isin(cells.obs_names)]
        query = anndata.concat([cells, new]) if new.n_obs else cells
        setting = self.setting
        annotate(
            self.reference,
            query,
            KNOWN,
            batch_key=setting.batch_key,
            layer=setting.layer,
            rng=setting.seed,
        )
        self.adapted, self.found = True, query.obs

    def embed(self, cells: AnnData) -> np.ndarray:
        """Not offered."""
        raise NotPossible("annotate labels cells; what it embeds them by is `recommended`.")

    def predict(self, cells: AnnData) -> pd.DataFrame:
        """Its confidence in the label of each cell; what the other labels share is not told."""
        import pandas as pd

        found = self.found.loc[cells.obs_names]
        labels = pd.get_dummies(found["ssl_label"].astype(str), dtype=float)
        # So that a label without any confidence is still the one that was given.
        confidence = np.maximum(found["ssl_label_confidence"].to_numpy(), np.finfo(float).tiny)
        return labels * confidence[:, None]

    def novelty(self, cells: AnnData) -> np.ndarray:
        """As :func:`scssl.tl.label_transfer` writes it."""
        found: np.ndarray = self.found.loc[cells.obs_names, "ssl_label_novelty"].to_numpy()
        return found


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
    of_scssl = True
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
            raise ValueError("`embed_modality` is of a model of both: give `with_modality` too.")
        self.learns_both = with_modality
        # A model that learned from both may embed a cell by its RNA alone.
        self.with_modality = with_modality and embed_modality == "joint"
        n_comps = check_whole("with_components", with_components, 0)
        self.beside = PCA(n_comps=n_comps) if n_comps else None
        if with_modality and not hasattr(self.model_class, "setup_mudata"):
            raise ValueError(f"{model} embeds one modality: leave `with_modality` out.")
        self.n_top_genes = check_whole("n_top_genes", n_top_genes, none=True)
        self.uses_labels = self.labels_cells = model == "CellTypeClassifier"
        self.predicts_modality = model == "ProteinPredictor"
        self.seconds_per_kcell = 0.2 if untrained else type(self).seconds_per_kcell
        # What fine-tuning starts from: pretrained on the same cells, or nothing.
        self.first: Registered | None = None
        finetunes = self.uses_labels or self.predicts_modality
        if finetunes and (first := arguments.pop("ssl_model", "MaskedAutoencoder")):
            self.first = Registered(first)
        name = "setup_mudata" if with_modality else "setup_anndata"
        self.setup, self.make, self.train_options = _routed(self.model_class, name, arguments)

    @property
    def trainable_weights(self) -> int:
        """Those of the whole model."""
        return 0 if self.untrained else int(self.model.n_trainable)

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
        if self.predicts_modality and setting.modality_key is None:
            raise NotPossible("It learns a second modality: `modality_key`.")
        if self.first is not None:
            self.first.fit(own, setting)
            options = {**self.setup, **self.make, "rng": setting.seed}
            learned = KNOWN if self.uses_labels else setting.modality_key
            self.model = self.model_class.from_ssl_model(self.first.model, own, learned, **options)
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
        if self.predicts_modality:
            setup["protein_obsm"] = setting.modality_key
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

    def predict_modality(self, cells: AnnData) -> np.ndarray:
        """Proteins by a predictor."""
        return np.asarray(self.model.predict(self._own(cells)))

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


@dataclass(frozen=True)
class Saved:
    """A model in a folder that is not the user's, called by what it is."""

    folder: str
    name: str

    def __str__(self) -> str:
        return self.name


def saved_model(model: SSLModel | str | Path, folder: Path) -> tuple[str | Saved, int]:
    """What :class:`Transfer` is told of a model, which is written to `folder` where it is none yet; its width."""
    from scssl.model.base import backbone_of, resolve

    found = resolve(model)
    # Which warns of one that is not trained.
    width = backbone_of(found).n_latent
    if isinstance(model, (str, Path)):
        return str(model), width
    found.save(folder)
    return Saved(str(folder), f"{type(found).__name__} {found.encoder_hash}"), width


@functools.lru_cache(maxsize=4)
def _read_model(place: str, _changed: int) -> Any:
    from scssl.model import SSLModel

    return SSLModel.from_pretrained(place)


class Transfer(Method):
    """An encoder that was trained on other cells: as it is, or trained further, in part or as a whole.

    Arms of a study differ in what is `trainable` and whether `weights` are those of pretraining: dropout,
    schedule, stopping and the start of the head are the same.
    """

    summary = "an encoder that was trained on other cells"
    of_scssl = True
    # Not the classifier's own defaults: these differ by whether the encoder was pretrained, and so would the arms.
    _MAKE: ClassVar[dict[str, Any]] = {
        "n_components": 0,
        "unit_length": False,
        "head_start": "random",
    }
    _TRAIN: ClassVar[dict[str, Any]] = {"max_epochs": 100, "lr": 1e-3}
    _OWN = ("model", "adata", "labels_key", "unlabeled_category", "freeze", "min_overlap", "rng")

    def __init__(
        self,
        *,
        model: str | Path | Saved | None = None,
        trainable: Literal["none", "head", "all"] | int = "none",
        weights: Literal["pretrained", "new"] = "pretrained",
        min_overlap: float = 0.5,
        **arguments: Any,
    ) -> None:
        from scssl.model import CellTypeClassifier
        from scssl.model.base import known_arguments

        if not isinstance(trainable, int) or isinstance(trainable, bool):
            check_choice("trainable", trainable, ("none", "head", "all"))
        elif trainable < 1:
            raise ValueError(f"`trainable` must be 1 layer or more, or 'head', found {trainable}.")
        self.trainable = trainable
        self.weights = check_choice("weights", weights, ("pretrained", "new"))
        self.min_overlap = check_number("min_overlap", min_overlap, "[0, 1]")
        self.uses_labels = self.labels_cells = trainable != "none"
        self.seconds_per_kcell = 6.0 if self.uses_labels else 0.2
        makes = inspect.signature(CellTypeClassifier.from_ssl_model).parameters.keys() - {
            *self._OWN
        }
        trains = set(known_arguments(CellTypeClassifier, "train", {})) - {"rng", "progress"}
        for name, value in arguments.items():
            if name not in makes | trains:
                known = sorted({"model", "trainable", "weights", "min_overlap", *makes, *trains})
                raise TypeError(no_argument("transfer", name, value, known))
        self.make = self._MAKE | {k: v for k, v in arguments.items() if k in makes}
        self.train_options = self._TRAIN | {k: v for k, v in arguments.items() if k in trains}
        # A pretrained encoder would have a tenth of it.
        self.train_options.setdefault("backbone_lr", self.train_options["lr"])
        self.place = model

    @property
    def pretrained(self) -> Any:
        """The model to start from."""
        if self.place is None:
            raise ValueError(
                "transfer starts from a model: give `model`, its folder or its name on the Hugging Face Hub."
            )
        place = self.place.folder if isinstance(self.place, Saved) else str(self.place)
        config = Path(place).expanduser() / "config.json"
        # A folder that was written anew is read anew.
        return _read_model(place, config.stat().st_mtime_ns if config.exists() else 0)

    @property
    def source(self) -> str:
        """Digest of the encoder and its genes."""
        return f"{self.pretrained.encoder_hash} {self.pretrained.genes.hash}"

    @property
    def trainable_weights(self) -> int:
        """Those of the layers that are trained and of the head."""
        return int(self.model.n_trainable) if self.uses_labels else 0

    def fit(self, cells: AnnData, setting: Setting) -> None:
        """Take the encoder, or one like it with new weights, and train what is to be trained."""
        from scssl.model import CellTypeClassifier

        self.setting, model = setting, self.pretrained
        self.layer = model.setup.layer
        self.genes_matched = len(model.align(cells).matched)
        self.model = model if self.weights == "pretrained" else model.untrained(setting.seed)
        if not self.uses_labels:
            return
        own = self._own(cells)
        labels = own.obs[KNOWN].astype(object)
        own.obs[KNOWN] = labels.where(labels != UNKNOWN, None).astype("category")
        self.model = CellTypeClassifier.from_ssl_model(
            self.model,
            own,
            KNOWN,
            freeze=self._frozen(),
            min_overlap=self.min_overlap,
            rng=setting.seed,
            **self.make,
        )
        self.model.train(rng=setting.seed, progress=False, **self.train_options)
        if self.model.training_["stopped_by"] == "interrupt":
            raise KeyboardInterrupt

    def _frozen(self) -> Literal["none", "encoder"] | int:
        """What the classifier calls the layers that are not trained."""
        if self.trainable == "all":
            return "none"
        if self.trainable == "head":
            return "encoder"
        n_layers, last = len(self.pretrained.module.encoder_parts()), int(self.trainable)
        if last > n_layers:
            raise NotPossible(
                f"The encoder has {n_layers} layers, and the last {last} are to be trained."
            )
        return n_layers - last

    def _own(self, cells: AnnData) -> AnnData:
        """Cells with the matrix where the model reads it."""
        if self.layer != self.setting.layer:
            matrix = _matrix(cells, self.setting)
            if self.layer is None:
                cells.X = matrix
            else:
                cells.layers[self.layer] = matrix
        return cells

    def embed(self, cells: AnnData) -> np.ndarray:
        """Embedding by the encoder as it then is."""
        own = self._own(cells)
        return np.asarray(self.model.get_latent_representation(own, min_overlap=self.min_overlap))

    def predict(self, cells: AnnData) -> pd.DataFrame:
        """Probabilities of the head."""
        own = self._own(cells)
        found: pd.DataFrame = self.model.predict(own, soft=True, min_overlap=self.min_overlap)
        return found


#: Methods that are not models of scssl by name, by the name that is typed.
BASELINES: dict[str, type[Method]] = {
    "genes": Genes,
    "PCA": PCA,
    "Harmony": Harmony,
    "scVI": ScVI,
    "scANVI": ScANVI,
    "JointEmbeddingSCVI": JointEmbeddingSCVI,
    "totalVI": TotalVI,
    "CONCORD": Concord,
    "CellTypist": CellTypist,
    "recommended": Recommended,
    "annotate": Annotate,
    "transfer": Transfer,
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
        arguments = dict(self.arguments)
        smoothing = check_whole("smoothing", arguments.pop("smoothing", 0), 0)
        method = self._made(arguments)
        if smoothing:
            if not method.embeds:
                raise ValueError(f"{self.method} has no embedding: leave `smoothing` out.")
            method.smoothing = smoothing
        return method

    def _made(self, arguments: dict[str, Any]) -> Method:
        if self.is_given:
            return Given(self.method, **arguments)
        if self.method in BASELINES:
            kind = BASELINES[self.method]
            known = inspect.signature(kind).parameters
            for name, value in arguments.items():
                if name not in known and "arguments" not in known:
                    raise TypeError(no_argument(self.method, name, value, [*known, "smoothing"]))
            return kind(**arguments)
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
