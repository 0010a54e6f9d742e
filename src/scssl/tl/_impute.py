"""Expression that was not measured, from cells in which it was, with scores on genes that were."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from scssl._checks import (
    check_adata,
    check_choice,
    check_destination,
    check_number,
    check_whole,
    some,
)
from scssl._errors import GeneMismatchError, MissingKeyError, warn
from scssl._random import RNG, as_seed, derive_generator, derive_seed
from scssl._settings import settings
from scssl.data import GeneVocabulary

from ._common import values_of
from ._imputers import METHODS, Options, Task
from ._modality import score_features

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.model import SSLModel

_LOGGER = logging.getLogger("scssl")
Method = Literal["ssl_knn", "cellplm", "spage", "gimvi", "tangram", "pca_knn"]
#: What every method is compared with.
BASELINE: Method = "pca_knn"
SCORES = ("pearson", "spearman", "rmse")
_RANKS = ["pearson", "spearman"]
# Genes that are left to predict from, at least.
_LEAST = 2
# Parts of the genes of which a curve sets one aside.
_FOLDS = 5
# Genes to score at a time: no more of them are dense.
_BLOCK = 256


def impute(
    query: AnnData,
    reference: AnnData,
    genes: Sequence[str] | None = None,
    *,
    method: Method = "ssl_knn",
    model: SSLModel | str | Path | None = None,
    layer: str | None = None,
    target_sum: float | None = None,
    n_neighbors: int = 50,
    n_folds: int = 5,
    keep_measured: bool = True,
    min_overlap: float = 0.5,
    max_epochs: int | None = None,
    key_added: str = "imputed",
    progress: bool = False,
    rng: RNG = 0,
) -> AnnData:
    r"""Predict genes that a panel lacks from cells in which they were measured.

    Genes are matched by name. By those that both data sets have, cells of `query` are compared with cells of
    `reference`, and given what these have of the other genes. Imputed values tell where a gene is likely to
    be high; they are no measurements, and tests on them find what was put in.

    *Normalisation* is one for both, of measured and imputed genes alike: values :math:`x_{ng}` become
    :math:`\log(1 + t\, x_{ng} / \sum_{h} x_{nh})`, the sum over the genes that both have. Logarithms are taken
    back before.

    *Scores* are always there: the shared genes are divided into `n_folds`, each is taken out of the query in
    turn, sums included, and predicted from the others, by `method` and by ``"pca_knn"``. A warning says
    where the method is not the better one.

    What methods do:

    ``"ssl_knn"``
        Means over the nearest cells in an embedding by a self-supervised model; see below.
    ``"pca_knn"``
        The same on 30 principal components of both data sets together.
    ``"spage"``
        Weighted means over the cells that are alike in principal vectors of both sides
        :cite:p:`Abdelaal2020`.
    ``"cellplm"``
        What :class:`scssl.model.CellPLM` decodes :cite:p:`Wen2024`, trained on both.
    ``"gimvi"``
        What gimVI decodes :cite:p:`Lopez2019`, through scvi-tools; counts.
    ``"tangram"``
        Means over the cells that Tangram maps to a place :cite:p:`Biancalani2021`, with the package
        tangram-sc; memory for every pair of cells.

    Parameters
    ----------
    query
        Cells to impute genes of. They are not changed.
    reference
        Cells with these genes, counts or logarithms, as in `query`. They are not changed.
    genes
        Genes to impute, of the reference; by default all that the query lacks. The result is nearly dense: of
        many cells, name the genes you need.
    method
        See above.
    model
        For ``"ssl_knn"``, a trained model, the folder of one or its name on the Hugging Face Hub. By default one
        is trained on the shared genes of both, and anew for the scores of each fold. A model that was trained
        on cells of `query` has seen the genes that are held out for the scores.
    layer
        Layer of both to read; `X` by default.
    target_sum
        The sum :math:`t`; by default the median of the query. On 33 genes 10,000 made the correlation of held-out
        genes .44 where the median made it .51: what is one count in a small panel is then far from none.
    n_neighbors
        Cells to take the mean of, 50 as in :cite:p:`Abdelaal2020`.
    n_folds
        Number of parts of the shared genes for the scores, of which each is a fit of its own.
    keep_measured
        Leave genes that were measured in the query as they are. Otherwise they are replaced by what is predicted
        of them where they are held out.
    min_overlap
        Share of the genes of the query that the reference must have.
    max_epochs
        Passes over the cells at most, where a model is trained; by default those of the model.
    key_added
        Where the result says what was imputed, in `var` and `uns`.
    progress
        Whether to show a bar while a model is trained. One of the folds is shown where they take longer than
        five seconds, unless `scssl.settings.progress` is false.
    rng
        Seed or generator of all random choices.

    Returns
    -------
    AnnData
        A new one, as it has other genes: the cells of `query` with their `obs`, `obsm` and `obsp`, the measured
        genes in their order and then the imputed ones. In

        ``X`` : :class:`scipy.sparse.csr_matrix` (float32)
            Logarithms, measured and imputed on one scale.
        ``var[key_added]`` : :class:`pandas.Series` (bool)
            Whether a gene is imputed.
        ``var[f"{key_added}_pearson"]`` : :class:`pandas.Series` (float)
            Correlation of a shared gene with what is predicted of it where it is held out; NaN for others.
        ``uns[key_added]`` : :class:`dict`
            ``"scores"``, a frame with the mean ``"pearson"``, ``"spearman"`` and ``"rmse"`` over the shared
            genes, a row for `method` and one for ``"pca_knn"``; ``"per_gene"``, the same for each gene, with
            its fold; ``"params"``.

    Raises
    ------
    GeneMismatchError
        If too few genes of the query are in the reference.
    KeyError
        If the reference lacks one of `genes`, or there is no such layer.
    ImportError
        If the package of the method is not installed.
    ValueError
        If there is nothing to impute, or values are not counts or logarithms.

    Warns
    -----
    ScsslWarning
        If the method does not predict held-out genes better than ``"pca_knn"``.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> query, reference = adata[:200, :300].copy(), adata[200:].copy()
    >>> genes = adata.var_names[[400, 500]].tolist()
    >>> imputed = scssl.tl.impute(query, reference, genes, method="pca_knn", n_folds=2)
    >>> imputed.shape, imputed.var_names[imputed.var["imputed"]].tolist() == genes
    ((200, 302), True)
    >>> bool(imputed.uns["imputed"]["scores"]["pearson"][0] > 0.3)
    True
    """
    import anndata
    import pandas as pd

    n_folds = check_whole("n_folds", n_folds, 2)
    check_choice("keep_measured", keep_measured, (True, False))
    check_destination(query, key_added, "query", copy=True)
    options = Options.checked([method], model, n_neighbors, max_epochs, progress)
    pair = _Pair.of(
        query,
        reference,
        genes,
        layer=layer,
        target_sum=target_sum,
        min_overlap=min_overlap,
        seed=as_seed(rng),
        options=options,
    )
    replaced = _replaced_genes(pair, genes, keep_measured=keep_measured)
    compared = list(dict.fromkeys([method, BASELINE]))
    per_gene, held_out = _cross_validated(pair, compared, n_folds, replaced)
    scores = _means_of(per_gene)
    _tell(scores, n_folds)
    wanted = np.arange(pair.n_shared, len(pair.genes))
    task = pair.task(np.arange(pair.n_shared), wanted)
    measured = task.logged(pair.query, task.new)
    if len(replaced):
        measured = measured.tolil()
        measured[:, pair.columns[replaced]] = held_out
    imputed = [sparse.csr_matrix(METHODS[method](task), dtype=np.float32)] if len(wanted) else []
    names = np.concatenate([query.var_names, pair.genes[wanted]])
    is_imputed = np.arange(len(names)) >= query.n_vars
    is_imputed[pair.columns[replaced]] = True
    own = per_gene[per_gene["method"] == method].set_index("gene")["pearson"]
    columns = {key_added: is_imputed, f"{key_added}_pearson": own.reindex(names).to_numpy()}
    result = anndata.AnnData(
        sparse.hstack([measured, *imputed], format="csr"),
        obs=query.obs.copy(),
        var=pd.DataFrame(columns, index=names),
        obsm=dict(query.obsm),
        obsp=dict(query.obsp),
    )
    result.uns[key_added] = {
        "scores": scores,
        "per_gene": per_gene,
        "params": {
            "method": method,
            "n_neighbors": options.n_neighbors,
            "n_folds": n_folds,
            "target_sum": task.scale,
            "n_shared": pair.n_shared,
            "n_reference": reference.n_obs,
            "keep_measured": keep_measured,
            "seed": pair.seed,
        },
    }
    return result


def impute_curve(
    query: AnnData,
    reference: AnnData,
    *,
    methods: Sequence[Method] = ("ssl_knn", BASELINE),
    dropped: Iterable[float] = (0, 0.2, 0.4, 0.6, 0.8),
    n_repeats: int = 3,
    model: SSLModel | str | Path | None = None,
    layer: str | None = None,
    target_sum: float | None = None,
    n_neighbors: int = 50,
    min_overlap: float = 0.5,
    max_epochs: int | None = None,
    progress: bool = False,
    rng: RNG = 0,
) -> pd.DataFrame:
    """Measure how imputation gets worse with fewer genes to impute from.

    A fifth of the genes that both data sets have is set aside and predicted, from all others, and from what
    is left of these when a share of them is dropped. That is repeated with other genes; within a repeat the
    fifth is the same, and what is dropped first stays dropped. :func:`scssl.pl.impute_curve` draws it.

    Parameters
    ----------
    query
        As for :func:`impute`, and so are the following but `methods`, `dropped` and `n_repeats`.
    reference
        Cells with the genes of the query.
    methods
        Methods to compare.
    dropped
        Shares of the genes to drop.
    n_repeats
        Repeats, each with genes and a seed of its own.
    model
        A trained model for ``"ssl_knn"``.
    layer
        Layer of both to read.
    target_sum
        Sum of a cell before the logarithm.
    n_neighbors
        Cells to take the mean of.
    min_overlap
        Share of the genes of the query that the reference must have.
    max_epochs
        Passes over the cells at most, where a model is trained.
    progress
        Whether to show a bar while a model is trained.
    rng
        Seed or generator of all random choices.

    Returns
    -------
    pandas.DataFrame
        A row for each method, share and repeat: ``method``, ``dropped``, ``seed``, ``n_genes`` (left to predict
        from), and the means of ``pearson``, ``spearman`` and ``rmse`` over the genes set aside.

    Raises
    ------
    GeneMismatchError
        If too few genes of the query are in the reference, or are left.
    KeyError
        If there is no such layer.
    ImportError
        If the package of a method is not installed.
    ValueError
        If there is no such method, a share is not in [0, 1), or values are not counts or logarithms.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> query, reference = adata[:200, :100].copy(), adata[200:].copy()
    >>> curve = scssl.tl.impute_curve(
    ...     query, reference, methods=["pca_knn"], dropped=[0, 0.8], n_repeats=2
    ... )
    >>> curve["n_genes"].tolist()
    [80, 16, 80, 16]
    """
    import pandas as pd

    shares = [check_number("dropped", one, "[0, 1)") for one in dropped]
    n_repeats = check_whole("n_repeats", n_repeats)
    options = Options.checked(methods, model, n_neighbors, max_epochs, progress)
    pair = _Pair.of(
        query,
        reference,
        [],
        layer=layer,
        target_sum=target_sum,
        min_overlap=min_overlap,
        seed=as_seed(rng),
        options=options,
    )
    rows = []
    for repeat in range(n_repeats):
        own = replace(pair, seed=derive_seed(pair.seed, "repeat", repeat))
        aside, *others = own.folds(_FOLDS)
        left = derive_generator(own.seed, "dropped").permutation(np.concatenate(others))
        for share in shares:
            n_left = round((1 - share) * len(left))
            if n_left < _LEAST:
                raise GeneMismatchError(
                    f"A share of {share:g} dropped leaves {n_left} of {len(left)} genes to predict from; "
                    f"{_LEAST} are needed."
                )
            task = own.task(np.sort(left[:n_left]), aside)
            tables = [_scored(own, task, name, aside)[0] for name in methods]
            scores = _means_of(pd.concat(tables))
            rows.append(scores.assign(dropped=share, seed=repeat, n_genes=n_left))
    table = pd.concat(rows, ignore_index=True)
    return table[["method", "dropped", "seed", "n_genes", *SCORES]]


@dataclass(frozen=True)
class _Pair:
    """Query and reference by their genes, in what is proportional to counts."""

    query: sparse.csr_matrix
    """Cells by all genes of the query."""
    reference: sparse.csr_matrix
    """Cells by `genes`."""
    genes: np.ndarray
    """First the genes that both have, in the order of the query, then those to impute."""
    columns: np.ndarray
    """Where those that both have are in the query."""
    counts: bool
    """Whether both hold counts."""
    target_sum: float | None
    seed: int
    options: Options

    @classmethod
    def of(
        cls,
        query: AnnData,
        reference: AnnData,
        genes: Sequence[str] | None,
        *,
        layer: str | None,
        target_sum: float | None,
        min_overlap: float,
        seed: int,
        options: Options,
    ) -> _Pair:
        """Match genes by name, and read what is needed; `genes` are to be imputed where the query lacks them."""
        target_sum = check_number("target_sum", target_sum, "(0, inf)", none=True)
        for adata, name in ((query, "query"), (reference, "reference")):
            check_adata(adata, name, matrix=True)
        names = reference.var_names.to_numpy(dtype=object)
        found = GeneVocabulary(query.var_names).align(
            names, min_overlap=min_overlap, var=reference.var, name="reference", of="query"
        )
        shared = np.flatnonzero(found.columns >= 0)
        shared = shared[np.argsort(found.columns[shared])]
        others = found.columns < 0
        if genes is not None:
            others &= np.isin(names, _checked(genes, names))
        order = np.concatenate([shared, np.flatnonzero(others)])
        known, is_counts = _linear(reference, order, layer, "reference")
        new, also = _linear(query, slice(None), layer, "query")
        columns = found.columns[shared]
        return cls(new, known, names[order], columns, is_counts and also, target_sum, seed, options)

    @property
    def n_shared(self) -> int:
        return len(self.columns)

    def task(self, kept: np.ndarray, wanted: np.ndarray) -> Task:
        """Prediction of genes from others, by their numbers among `genes`."""
        return Task(
            self.genes[kept],
            self.genes[wanted],
            self.reference[:, kept],
            self.query[:, self.columns[kept]],
            self.reference[:, wanted],
            self.counts,
            self.target_sum,
            self.seed,
            self.options,
        )

    def folds(self, n_folds: int) -> list[np.ndarray]:
        """Parts of the shared genes, at random."""
        n_left = self.n_shared - -(-self.n_shared // n_folds)
        if n_left < _LEAST:
            raise GeneMismatchError(
                f"`query` and `reference` share {self.n_shared} genes ({some(self.genes[: self.n_shared])}), of "
                f"which {n_left} would be left to predict the others from, for scores; {_LEAST} are needed."
            )
        order = derive_generator(self.seed, "genes").permutation(self.n_shared)
        return [np.sort(part) for part in np.array_split(order, n_folds)]


def _checked(genes: Sequence[str], known: np.ndarray) -> np.ndarray:
    """Names of genes of the reference."""
    if isinstance(genes, str):
        raise TypeError(f"`genes` are a list of names. Pass `genes=[{genes!r}]`.")
    names = np.asarray(list(genes), dtype=object)
    absent = names[~np.isin(names, known)]
    if len(absent):
        raise MissingKeyError(
            f"{len(absent)} of `genes` are not in `reference`: {some(absent)}. Leave them out: "
            f"`genes={[str(one) for one in names if one not in set(absent)]}`"
        )
    return names


def _linear(
    adata: AnnData, columns: Any, layer: str | None, name: str
) -> tuple[sparse.csr_matrix, bool]:
    """Some genes of cells in what is proportional to counts, and whether that is counts."""
    matrix, decision = values_of(adata, layer, name)
    values = sparse.csr_matrix(matrix[:, columns], dtype=np.float32, copy=True)
    if decision.kind != "counts":
        values.data = decision.scale.undo(values.data)
    return values, decision.kind == "counts"


def _replaced_genes(pair: _Pair, genes: Sequence[str] | None, *, keep_measured: bool) -> np.ndarray:
    """Numbers of the shared genes that are to be replaced by what is predicted of them."""
    shared = pair.genes[: pair.n_shared]
    asked = np.arange(pair.n_shared)
    if genes is not None:
        asked = np.flatnonzero(np.isin(shared, list(genes)))
    elif keep_measured and pair.n_shared == len(pair.genes):
        raise ValueError(
            "There is nothing to impute: `query` has all genes of `reference`. To replace what was measured: "
            "`keep_measured=False`"
        )
    if not keep_measured:
        return asked
    if genes is not None and len(asked):
        raise ValueError(
            f"{len(asked)} of `genes` were measured in `query`: {some(shared[asked])}. To replace what was "
            "measured: `keep_measured=False`"
        )
    return np.empty(0, dtype=np.int64)


def _scored(pair: _Pair, task: Task, name: str, wanted: np.ndarray) -> tuple[pd.DataFrame, Any]:
    """Scores of a method on shared genes that it was not given, and its predictions."""
    import pandas as pd

    found: Any = METHODS[name](task)
    tables = []
    for start in range(0, len(wanted), _BLOCK):
        part = slice(start, start + _BLOCK)
        truth = task.logged(pair.query[:, pair.columns[wanted[part]]], task.new).toarray()
        block: Any = found[:, part]
        block = (block.toarray() if sparse.issparse(block) else block).astype(np.float64)
        table = score_features(truth.astype(np.float64), block, list(task.genes[part]))
        # What is the same in all cells is no better than chance, of a gene that is not.
        table.loc[(np.ptp(block, axis=0) == 0) & (np.ptp(truth, axis=0) > 0), _RANKS] = 0.0
        tables.append(table)
    table = pd.concat(tables, ignore_index=True).rename(columns={"feature": "gene"})
    table.insert(0, "method", name)
    return table[["method", "gene", *SCORES]], found


def _cross_validated(
    pair: _Pair, methods: Sequence[str], n_folds: int, replaced: np.ndarray
) -> tuple[pd.DataFrame, sparse.csc_matrix]:
    """Scores of each shared gene where it is held out, and what the first method predicts of some of them."""
    import pandas as pd
    from tqdm.auto import tqdm

    tables, predicted = [], []
    # Each may train a model: who waits sees how many are left.
    folds = tqdm(
        pair.folds(n_folds),
        desc="held-out genes",
        unit="fold",
        delay=5,
        disable=not settings.progress,
    )
    for fold, out in enumerate(folds):
        task = pair.task(np.setdiff1d(np.arange(pair.n_shared), out), out)
        for name in methods:
            table, found = _scored(pair, task, name, out)
            tables.append(table.assign(fold=fold))
            if name == methods[0]:
                here = np.isin(out, replaced)
                predicted.append((out[here], sparse.csc_matrix(found[:, here], dtype=np.float32)))
    order = np.concatenate([out for out, _ in predicted])
    held_out = sparse.hstack([values for _, values in predicted], format="csc")
    return pd.concat(tables, ignore_index=True), held_out[:, np.argsort(order)]


def _means_of(per_gene: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of each method, over the genes that have one."""
    means = per_gene.groupby("method", sort=False)[list(SCORES)].mean()
    return means.reset_index()


def _tell(scores: pd.DataFrame, n_folds: int) -> None:
    """Say how well held-out genes are predicted, and whether that is better than by the baseline."""
    own, *other = scores["pearson"]
    _LOGGER.info("Correlation of held-out genes, in %d folds: %.3f.", n_folds, own)
    if other and not own > other[0]:
        warn(
            f"Genes that are held out are predicted no better by method={scores['method'][0]!r} (mean correlation "
            f"{own:.3f}) than by means of nearest cells in principal components ({other[0]:.3f}). Take these: "
            f'`method="{BASELINE}"`'
        )
