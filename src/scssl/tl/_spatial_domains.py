"""Spatial domains: parts of a tissue in which the neighbourhoods of cells are alike."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from scssl._checks import (
    check_adata,
    check_choice,
    check_destination,
    check_number,
    check_whole,
    get_embedding,
)
from scssl._errors import warn
from scssl._places import graph_of, sample_codes
from scssl._random import RNG, as_seed, derive_generator, derive_seed
from scssl._scores import agreement_of
from scssl._settings import settings

from ._common import to_be_written
from ._domain_scores import same_domain
from ._tied_mixture import tied_mixture

if TYPE_CHECKING:
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")

Method = Literal["neighborhood", "mixture"]
Covariance = Literal["tied", "full", "diag"]
# Added to variances, which are 1 in the mean: no domain can shrink to a point.
_LEAST_VARIANCE = 1e-4
_MAX_ITER = 200
# Cells that are drawn to compare numbers of domains, where there are more.
_MOST_CELLS = 20_000
# Kappa of the domains of neighbours below which they are no parts of a tissue.
_CONNECTED = 0.3
# NMI of domains and sections from which one is taken for the other.
_SAME = 0.8


def spatial_domains(
    adata: AnnData,
    n_domains: int | None = None,
    *,
    use_rep: str = "X_ssl",
    method: Method = "neighborhood",
    sample_key: str | None = None,
    center: bool = True,
    connectivity_key: str = "spatial_connectivities",
    n_hops: int = 3,
    include_self: bool = True,
    n_components: int = 16,
    whitening: float = 0.5,
    covariance: Covariance = "tied",
    n_init: int = 5,
    n_smooth: int = 0,
    key_added: str = "spatial_domain",
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Divide a tissue into domains by what its cells and their neighbours are.

    ``"neighborhood"``, the idea of CellCharter :cite:p:`Varrone2024`: beside the embedding of a cell stand
    its means over the cells that are one, two, ... `n_hops` steps away in the graph of neighbours, and a
    Gaussian mixture divides the cells by all of them together. Sections of one `sample_key` are divided
    jointly: a domain may be in several. ``"mixture"`` is the mixture alone, for embeddings of models that
    look at the neighbours themselves.

    Before that the embedding is reduced to its first `n_components` principal components, each divided by
    its standard deviation to the power of `whitening`. How many hops, how many components and which
    covariance matter as much as the embedding does; the defaults are those that are good on five
    annotated data sets, as the user guide shows (:doc:`/user_guide/tissue`).

    Parameters
    ----------
    adata
        Cells with an embedding and, for ``"neighborhood"``, a graph of their neighbours in space.
    n_domains
        Number of domains. By default the most stable from 2 to 15, as by :func:`n_domains`; give it where
        the anatomy is known.
    use_rep
        Entry of `adata.obsm` with the embedding.
    method
        ``"neighborhood"`` or ``"mixture"``.
    sample_key
        Column of `adata.obs` with the section of each cell; without it all are of one.
    center
        Subtract the mean of each section from its embeddings. Otherwise sections that differ as a whole, such
        as those of patients, become domains; but leave it out where sections are of different tissues.
    connectivity_key
        Entry of `adata.obsp` with the neighbours of each cell, as :func:`scssl.pp.spatial_neighbors` or
        squidpy writes it. Weights are not used.
    n_hops
        Steps in the graph up to which cells count.
    include_self
        Whether a cell counts itself. For spots it must. Of single cells of types that differ sharply the mixture
        may divide the types, and not the tissue; a warning says so.
    n_components
        Principal components of the embedding to use; all where it has fewer dimensions.
    whitening
        From 0, components as they are, where the first ones decide, to 1, all of one variance, where noise
        decides as well.
    covariance
        Of the mixture: ``"tied"``, the same for all domains; ``"full"``, one of each; or ``"diag"``, of each
        one without correlations.
    n_init
        Starts of the mixture, each from k-means, of which the likeliest is kept.
    n_smooth
        Times that each cell is given the domain that most of its neighbours and itself have, as a way of the
        refinement of :cite:t:`Long2023`. The share of same-domain neighbours then means nothing.
    key_added
        Where the results go in `adata.obs` and `adata.uns`.
    rng
        Seed or generator of the mixture.
    copy
        Leave `adata` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.obs[key_added]`` : categorical :class:`pandas.Series`
            Domain of each cell, ``"0"`` the one with most cells.
        ``adata.obs[f"{key_added}_probability"]`` : :class:`pandas.Series` (float)
            Probability of that domain by the mixture.
        ``adata.uns[key_added]`` : :class:`dict`
            ``n_domains``, ``params``, and where the number was not given what :func:`n_domains` writes.

    Raises
    ------
    KeyError
        If the embedding, the graph or the column of sections is not in `adata`.
    ValueError
        If an argument is out of range, the embedding is not finite or has fewer different rows than
        domains, or neighbours are of different sections.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> adata.obsm["spatial"] = adata.obsm["X_pca"][:, :2]
    >>> scssl.pp.spatial_neighbors(adata)
    >>> scssl.tl.spatial_domains(adata, 4, use_rep="X_pca")
    >>> adata.obs["spatial_domain"].cat.categories.tolist()
    ['0', '1', '2', '3']
    """
    import pandas as pd

    check_adata(adata)
    check_destination(adata, key_added, copy=copy)
    n_domains = check_whole("n_domains", n_domains, 2, none=True)
    n_init = check_whole("n_init", n_init)
    n_smooth = check_whole("n_smooth", n_smooth, 0)
    seed = as_seed(rng)
    space = _Space.of(
        adata,
        use_rep=use_rep,
        method=method,
        sample_key=sample_key,
        center=center,
        connectivity_key=connectivity_key,
        n_hops=n_hops,
        include_self=include_self,
        n_components=n_components,
        whitening=whitening,
        covariance=covariance,
    )
    graph = space.graph
    if n_smooth and graph is None:
        graph = graph_of(adata, connectivity_key, sample_key, space.samples)
    found: dict[str, Any] = {}
    if n_domains is None:
        found = space.numbers(range(2, 16), 5, seed)
        n_domains = found["n_domains"]
    codes, probabilities = space.divide(n_domains, derive_seed(seed, "domains"), n_init)
    if space.graph is not None and n_hops and include_self:
        _warn_of_types(codes, space.graph)
    for _ in range(n_smooth):
        codes = _majority(graph, codes, n_domains)
    if sample_key is not None and not center:
        _warn_of_sections(codes, space.samples, sample_key)

    # The largest first; of two that are as large the one whose first cell comes first.
    sizes = np.bincount(codes, minlength=n_domains)
    first = np.array([np.argmax(codes == code) for code in range(n_domains)])
    order = np.lexsort((first, -sizes))
    order = order[sizes[order] > 0]
    rank = np.empty(n_domains, dtype=np.intp)
    rank[order] = np.arange(len(order))
    if len(order) < n_domains:
        warn(
            f"Of {n_domains} domains {len(order)} have cells: there is not more that is different."
        )
    adata = to_be_written(adata, copy=copy)
    names = [str(i) for i in range(len(order))]
    adata.obs[key_added] = pd.Categorical.from_codes(rank[codes], names)
    adata.obs[f"{key_added}_probability"] = probabilities[np.arange(len(codes)), codes]
    params = {**space.params, "n_init": n_init, "n_smooth": n_smooth, "seed": seed}
    adata.uns[key_added] = {**found, "n_domains": n_domains, "params": params}
    return adata if copy else None


def n_domains(
    adata: AnnData,
    candidates: Iterable[int] = range(2, 16),
    *,
    use_rep: str = "X_ssl",
    method: Method = "neighborhood",
    sample_key: str | None = None,
    center: bool = True,
    connectivity_key: str = "spatial_connectivities",
    n_hops: int = 3,
    include_self: bool = True,
    n_components: int = 16,
    whitening: float = 0.5,
    covariance: Covariance = "tied",
    n_repeats: int = 5,
    key_added: str = "n_domains",
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    """Find the number of spatial domains at which they are most stable.

    Domains are made `n_repeats` times for each number, each time from one start of the mixture. How far two runs agree is the
    Rand index adjusted for chance (ARI :cite:p:`Hubert1985`), averaged over all pairs of runs. Of more than
    20,000 cells as many are drawn, once. What is
    stable is not what is true: look at :func:`scssl.pl.n_domains`, where several numbers may be as good.

    Parameters
    ----------
    adata
        As for :func:`spatial_domains`, and so are the following but `candidates` and `n_repeats`.
    candidates
        Numbers of domains to try.
    use_rep
        Entry of `adata.obsm` with the embedding.
    method
        ``"neighborhood"`` or ``"mixture"``.
    sample_key
        Column of `adata.obs` with the section of each cell.
    center
        Subtract the mean of each section from its embeddings.
    connectivity_key
        Entry of `adata.obsp` with the neighbours of each cell.
    n_hops
        Steps in the graph up to which cells count.
    include_self
        Whether a cell counts itself.
    n_components
        Principal components of the embedding to use.
    whitening
        From 0, components as they are, to 1, all of one variance.
    covariance
        ``"tied"``, ``"full"`` or ``"diag"``.
    n_repeats
        Runs for each number, at least two.
    key_added
        Where the result goes in `adata.uns`.
    rng
        Seed or generator of the mixtures.
    copy
        Leave `adata` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets ``adata.uns[key_added]``: ``n_domains``, the most
        stable number; ``stability``, a frame with ``n_domains``, the mean ``stability`` and ``sd`` over pairs
        of runs; and ``params``.

    Raises
    ------
    KeyError
        If the embedding, the graph or the column of sections is not in `adata`.
    ValueError
        As for :func:`spatial_domains`, or if `candidates` are no whole numbers of at least 2.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> scssl.tl.n_domains(adata, [2, 5, 8], use_rep="X_pca", method="mixture", n_repeats=3)
    >>> adata.uns["n_domains"]["stability"]["n_domains"].tolist()
    [2, 5, 8]
    """
    check_adata(adata)
    check_destination(adata, key_added, copy=copy)
    numbers = sorted({check_whole("candidates", one, 2) for one in candidates})
    if not numbers:
        raise ValueError("`candidates` is empty: there is no number of domains to try.")
    n_repeats = check_whole("n_repeats", n_repeats, 2)
    seed = as_seed(rng)
    space = _Space.of(
        adata,
        use_rep=use_rep,
        method=method,
        sample_key=sample_key,
        center=center,
        connectivity_key=connectivity_key,
        n_hops=n_hops,
        include_self=include_self,
        n_components=n_components,
        whitening=whitening,
        covariance=covariance,
    )
    found = space.numbers(numbers, n_repeats, seed)
    params = {**space.params, "n_repeats": n_repeats, "seed": seed}
    adata = to_be_written(adata, copy=copy)
    adata.uns[key_added] = {**found, "params": params}
    return adata if copy else None


@dataclass
class _Space:
    """What cells are divided by, and how."""

    values: np.ndarray
    graph: sparse.csr_matrix | None
    samples: np.ndarray
    params: dict[str, Any]

    @classmethod
    def of(cls, adata: AnnData, **params: Any) -> _Space:
        """Embedding of each cell and of its neighbours, from the arguments of :func:`spatial_domains`."""
        check_choice("method", params["method"], ("neighborhood", "mixture"))
        check_choice("covariance", params["covariance"], ("tied", "full", "diag"))
        for name in ("center", "include_self"):
            check_choice(name, params[name], (True, False))
        n_components = check_whole("n_components", params["n_components"])
        whitening = check_number("whitening", params["whitening"], "[0, 1]")
        n_hops = check_whole("n_hops", params["n_hops"], 0 if params["include_self"] else 1)
        key = params["sample_key"]
        samples = sample_codes(adata, key)
        values = get_embedding(adata, params["use_rep"]).astype(np.float64)
        graph = None
        if params["method"] == "neighborhood":
            graph = graph_of(adata, params["connectivity_key"], key, samples)
        if params["center"]:
            values -= _means(values, samples)[samples]
        values = _components(values, n_components, whitening)
        if graph is not None:
            hops = list(_hops(values, graph, n_hops))
            values = np.hstack(hops if params["include_self"] else hops[1:])
        # Files have no None.
        params = {name: value for name, value in params.items() if value is not None}
        return cls(values / values.std(), graph, samples, params)

    def divide(self, n_domains: int, seed: int, n_init: int, rows: Any = slice(None)) -> Any:
        """Domain of every cell, or of some `rows`, and the probability of each domain."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        values = self.values[rows]
        if n_domains > len(values):
            raise ValueError(f"{n_domains} domains are more than the {len(values):,} cells.")
        options: Any = {"n_init": n_init, "max_iter": _MAX_ITER}
        covariance = self.params["covariance"]
        with warnings.catch_warnings():
            # After so many steps what still moves is a few cells; and empty domains are told of.
            warnings.simplefilter("ignore", ConvergenceWarning)
            if covariance == "tied":
                probabilities = tied_mixture(
                    values, n_domains, least_variance=_LEAST_VARIANCE, seed=seed % 2**32, **options
                )
            else:
                mixture = GaussianMixture(
                    n_domains,
                    covariance_type=covariance,
                    reg_covar=_LEAST_VARIANCE,
                    random_state=seed % 2**32,
                    **options,
                )
                probabilities = mixture.fit(values).predict_proba(values)
        return probabilities.argmax(axis=1), probabilities

    def numbers(self, candidates: Iterable[int], n_repeats: int, seed: int) -> dict[str, Any]:
        """Agreement of runs for each number of domains, and the number of the largest."""
        import pandas as pd
        from tqdm.auto import tqdm

        rows: Any = slice(None)
        if len(self.values) > _MOST_CELLS:
            generator = derive_generator(seed, "cells")
            rows = np.sort(generator.choice(len(self.values), _MOST_CELLS, replace=False))
        table = []
        # Of some thousand cells it is done before a bar would be read.
        tried = tqdm(
            candidates,
            desc="numbers of domains",
            unit="number",
            delay=5,
            disable=not settings.progress,
        )
        for n in tried:
            seeds = [derive_seed(seed, "stability", n, i) for i in range(n_repeats)]
            runs = [self.divide(n, one, 1, rows)[0] for one in seeds]
            pairs = [agreement_of(one, other)["ari"] for one, other in combinations(runs, 2)]
            table.append({"n_domains": n, "stability": np.mean(pairs), "sd": np.std(pairs)})
        stability = pd.DataFrame(table)
        best = int(stability["n_domains"][stability["stability"].idxmax()])
        _LOGGER.info("%d domains are the most stable: see `scssl.pl.n_domains`.", best)
        return {"n_domains": best, "stability": stability}


def _means(values: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Mean of each section."""
    sums = np.zeros((samples.max() + 1, values.shape[1]))
    np.add.at(sums, samples, values)
    return sums / np.bincount(samples)[:, None]


def _components(values: np.ndarray, n_components: int, whitening: float) -> np.ndarray:
    """First principal components, of which those without variance are left out."""
    values = values - values.mean(axis=0)
    variances, axes = np.linalg.eigh(values.T @ values / len(values))
    variances, axes = variances[::-1][:n_components], axes[:, ::-1][:, :n_components]
    kept = variances > 1e-12 * max(variances[0], np.finfo(np.float64).tiny)
    if not kept.any():
        raise ValueError("The embedding is the same in all cells.")
    scores: np.ndarray = values @ axes[:, kept] / variances[kept] ** (whitening / 2)
    return scores


def _hops(values: np.ndarray, graph: sparse.csr_matrix, n_hops: int) -> Iterable[np.ndarray]:
    """Values of each cell, then means over the cells that are 1, 2, ... steps away, and no fewer.

    Where there are none, what stands for the step before.
    """
    own = values
    yield own
    step = graph.astype(bool)
    hop, seen = step, step + sparse.identity(len(values), dtype=bool, format="csr")
    for i in range(n_hops):
        if i:
            reached = hop @ step
            hop = reached > reached.multiply(seen)
            seen = seen + hop
        n = hop.getnnz(axis=1)
        means = hop.astype(np.float64) @ own / np.maximum(n, 1)[:, None]
        values = np.where((n > 0)[:, None], means, values)
        yield values


def _majority(graph: sparse.csr_matrix, codes: np.ndarray, n: int) -> np.ndarray:
    """The domain that most of the neighbours of each cell and itself have; its own if it is one of them."""
    own = np.eye(n)[codes]
    votes = graph @ own + own
    # Half a vote more decides between equals.
    return np.argmax(votes + own / 2, axis=1)


def _warn_of_types(codes: np.ndarray, graph: sparse.csr_matrix) -> None:
    """What neighbours are of no more often than by chance is no part of a tissue."""
    same = float(np.nanmean(same_domain(graph, codes)))
    chance = float(np.square(np.bincount(codes) / len(codes)).sum())
    if same - chance < _CONNECTED * (1 - chance):
        warn(
            f"Neighbours are of one domain in {same:.0%} of cases, and by chance in {chance:.0%}: domains are "
            "kinds of cells rather than parts of the tissue. Do not count the cell itself: "
            "`include_self=False`"
        )


def _warn_of_sections(codes: np.ndarray, samples: np.ndarray, sample_key: str) -> None:
    nmi = agreement_of(samples, codes)["nmi"]
    if nmi > _SAME:
        warn(
            f'Domains are the sections of adata.obs["{sample_key}"] (NMI {nmi:.2f}), which differ as a '
            "whole. Subtract their means: `center=True`"
        )
