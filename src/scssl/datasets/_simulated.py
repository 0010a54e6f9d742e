"""Cells that are made up, where no real ones are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scssl._checks import check_integers
from scssl._random import RNG, as_seed

if TYPE_CHECKING:
    from anndata import AnnData

_N_LAYERS = 3


def simulated(
    n_cells: int = 600,
    n_genes: int = 200,
    *,
    n_types: int = 5,
    n_batches: int = 2,
    n_proteins: int = 0,
    rng: RNG = 0,
) -> AnnData:
    """Counts of cells of several types in several batches of a tissue, made up.

    A type has a rate for each gene, gamma distributed, a batch a factor for each gene and a cell one for
    all of its genes, both log-normal; counts are Poisson. Cells lie in three layers of a tissue, in which
    types have shares of their own; each batch is a section. Proteins follow a gene each and are counted
    with noise. Good to try code on; what is found out about methods here holds nowhere else.

    Parameters
    ----------
    n_cells
        Cells of all batches together.
    n_genes
        Genes.
    n_types
        Types of cells; the smallest is about a third of the largest.
    n_batches
        Batches.
    n_proteins
        Proteins; none by default.
    rng
        Seed or generator.

    Returns
    -------
    anndata.AnnData
        Counts in ``X``, sparse; ``obs`` has ``cell_type``, ``batch`` and ``region`` (the layers),
        ``obsm["spatial"]`` places in micrometres, ``obsm["protein"]`` counts of proteins.

    Raises
    ------
    ValueError
        If a number is below one, or there are more proteins than genes.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.simulated(n_proteins=4)
    >>> adata.shape, adata.obsm["protein"].shape
    ((600, 200), (600, 4))
    """
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    check_integers(
        n_cells=(n_cells, 1), n_genes=(n_genes, 1), n_types=(n_types, 1), n_batches=(n_batches, 1)
    )
    check_integers(n_proteins=(n_proteins, 0))
    if n_proteins > n_genes:
        raise ValueError(
            f"Every protein follows a gene: {n_proteins} need as many genes, found {n_genes}. Pass "
            f"`n_proteins={n_genes}`."
        )
    draw = np.random.default_rng(as_seed(rng))
    batch = np.arange(n_cells) * n_batches // n_cells
    places = draw.uniform(size=(n_cells, 2)) * [1000, 600]
    layer = np.minimum(
        (places[:, 0] + 60 * np.sin(places[:, 1] / 100)).clip(0, 999) * _N_LAYERS // 1000,
        _N_LAYERS - 1,
    ).astype(int)
    shares = np.linspace(1, 3, n_types) * draw.gamma(2.0, 1.0, (_N_LAYERS, n_types))
    edges = (shares / shares.sum(axis=1, keepdims=True)).cumsum(axis=1)
    kind = (draw.uniform(size=(n_cells, 1)) > edges[layer, :-1]).sum(axis=1)
    rates = draw.gamma(0.4, 1.5, (n_types, n_genes))
    factors = draw.lognormal(0, 0.3, (n_batches, n_genes))
    depth = draw.lognormal(0, 0.3, (n_cells, 1))
    counts = draw.poisson(rates[kind] * factors[batch] * depth).astype(np.float32)
    # A cell without any count could not be normalised.
    counts[counts.sum(axis=1) == 0, 0] = 1
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(kind, [f"type {i + 1}" for i in range(n_types)]),
            "batch": pd.Categorical.from_codes(batch, [f"batch {i + 1}" for i in range(n_batches)]),
            "region": pd.Categorical.from_codes(layer, ["upper", "middle", "deep"]),
        },
        index=[f"cell{i + 1}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{i + 1}" for i in range(n_genes)])
    cells = AnnData(sparse.csr_matrix(counts), obs=obs, var=var, obsm={"spatial": places})
    if n_proteins:
        # Proteins are of genes that types differ in.
        chosen = np.argsort(-rates.std(axis=0), kind="stable")[:n_proteins]
        mean = 20 * rates[kind][:, chosen] * draw.lognormal(0, 0.3, (n_cells, n_proteins))
        names = [f"protein{i + 1}" for i in range(n_proteins)]
        proteins = draw.poisson(mean + 1).astype(np.float32)
        cells.obsm["protein"] = pd.DataFrame(proteins, cells.obs_names, names)
    cells.uns["source"] = "simulated by scssl.datasets.simulated"
    return cells
