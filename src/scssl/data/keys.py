"""Keys of a batch: what each tensor of it is called, for all floors alike.

A batch is a dict of tensors with a row for each of its ``n`` cells, unless said otherwise.
"""

from __future__ import annotations

#: Normalised expression, sparse CSR float32, ``(n, n_genes)``.
X = "X"
#: Sum of each cell before normalisation, float32, ``(n, 1)``.
LIBRARY = "library"
#: Row numbers in the source, int64, ``(n,)``.
INDICES = "indices"
#: Counts at the places of the values of :data:`X`, float32, ``(n_stored,)``.
COUNTS = "counts"

#: Place of a cell in the batch of all processes, int64, ``(n, 1)``, ascending; where there are several.
PLACES = "places"
#: Number of the sequence that a cell is in, ascending from 0.
SEQUENCE = "sequence"
#: 1 where a cell was asked for, 0 where it is only seen by others.
TARGET = "target"
#: Place of a cell in its sample, NaN where it has none.
POSITION = "position"

#: Number of neighbours of a cell, itself among them, in or out of the batch.
DEGREE = "degree"
#: Links of a graph, int64, ``(n_links, 2)``: positions in the batch of a cell and of its neighbour, ascending.
LINKS = "links"

#: Which modalities each cell has, int64, ``(n, n_modalities)``.
PRESENT = "modalities"
#: Code of the set of genes that was measured in a cell.
PANEL = "panel"
#: Code of the label of a cell, negative where it has none.
LABELS = "labels"
#: Proteins of a cell, float32, ``(n, n_proteins)``.
PROTEINS = "proteins"
#: Cluster of a cell in each partition.
CLUSTERS = "clusters"
#: Code of the data set of a cell.
DATASET = "dataset"
#: Continuous covariates, float32, ``(n, n_covariates)``.
CONTINUOUS = "covariates:continuous"

Walk = tuple[str, ...]


def category_key(column: str) -> str:
    """Key of a categorical column; no column can be called like a key of the loader."""
    return f"category:{column}"


def partner_key(view: int, walk: Walk) -> str:
    """Key in a batch of the cells at the end of a walk.

    Parameters
    ----------
    view
        Number of the view.
    walk
        Names of the graphs, in order.

    Examples
    --------
    >>> from scssl.data.keys import partner_key
    >>> partner_key(1, ("mnn", "mnn_within"))
    'partner:1:mnn/mnn_within'
    """
    return f"partner:{view}:{'/'.join(walk)}"


def partner_obs_key(name: str, key: str) -> str:
    """Key in a batch of what the array ``name`` of ``obs`` says of the partners of a key.

    >>> from scssl.data.keys import partner_obs_key
    >>> partner_obs_key("modalities", "partner:1:mnn")
    'modalities@partner:1:mnn'
    """
    return f"{name}@{key}"


def walk_of_key(key: str) -> tuple[int, Walk] | None:
    """View and walk of a key that :func:`partner_key` made; `None` for other keys of a batch.

    >>> from scssl.data.keys import walk_of_key
    >>> walk_of_key("partner:1:mnn/mnn_within"), walk_of_key("library")
    ((1, ('mnn', 'mnn_within')), None)
    """
    kind, _, rest = key.partition(":")
    view, _, walk = rest.partition(":")
    return (int(view), tuple(walk.split("/"))) if kind == "partner" else None
