"""What `tl.leave_one_dataset_out` holds out, pretrains on, learns from and tests on."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import ScsslWarning

from ._checks import check_integers, whole_numbers
from ._protocol import Protocol, make_protocol

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.data import Datasets

_LOGGER = logging.getLogger("scssl")
ALL = "all"


def listed(value: Any, name: str, kind: type | tuple[type, ...], what: str) -> list[Any]:
    """The values of argument `name`, each once, where one alone may stand for a list of one."""
    values = [value] if isinstance(value, kind) else value
    try:
        found = list(values)
    except TypeError:
        found = [value]
    wrong = [one for one in found if not isinstance(one, kind)]
    if wrong:
        raise TypeError(f"`{name}` must be {what} or a list of them, found {wrong[0]!r}.")
    if not found:
        raise ValueError(f"`{name}` is empty: there is nothing to do.")
    twice = [one for one in dict.fromkeys(found) if found.count(one) > 1]
    if twice:
        raise ValueError(f"`{name}` has {twice[0]!r} more than once.")
    return found


def budgets_of(n_labels_per_class: Any) -> list[int | None]:
    """Numbers of labels per class; `None` for all."""
    what = "a whole number, None for all cells"
    found = listed(n_labels_per_class, "n_labels_per_class", (int, np.integer, type(None)), what)
    for number in found:
        if number is not None:
            check_integers(n_labels_per_class=(number, 1))
    return found


def as_category(budgets: Sequence[Any]) -> pd.Categorical:
    """Numbers of labels in order, all of them last."""
    import pandas as pd

    numbers = sorted({one for one in budgets if one != ALL})
    names = [*numbers, *([ALL] if ALL in budgets else [])]
    return pd.Categorical(budgets, categories=pd.Index(names, dtype=object), ordered=True)


def groups_of(datasets: Datasets, groups: Mapping[str, str] | None) -> dict[str, str]:
    """Group of each data set."""
    names = [name for name, _ in datasets.items()]
    given = {} if groups is None else groups
    if not isinstance(given, Mapping):
        raise TypeError(
            f"`groups` must be a dict of groups by data set, found {type(groups).__name__}."
        )
    strange = [name for name in given if name not in names]
    if strange:
        # What is misspelt would be pretrained on, though it belongs to what is held out.
        raise KeyError(f"`groups` names {strange[0]!r}, which is no data set; there are {names}.")
    return {name: given.get(name, name) for name in names}


def without(datasets: Datasets, name: str, group_of: Mapping[str, str]) -> dict[str, AnnData]:
    """All data sets that are not of the group of one."""
    kept = {n: a for n, a in datasets.items() if group_of[n] != group_of[name]}
    if not kept:
        raise ValueError(f"There is nothing left to pretrain on without {name!r} and its group.")
    return kept


def held_out(
    datasets: Datasets,
    label_key: str,
    hold_out: str | Sequence[str] | None,
    budgets: Sequence[int | None],
    max_labels: int | None,
    test_size: float,
    min_train: int,
) -> list[str]:
    """Names of the data sets to hold out, all of which can be scored with all numbers of labels."""
    known = dict(datasets.items())
    labelled = [name for name, adata in known.items() if label_key in adata.obs]
    if not labelled:
        raise KeyError(f"No data set has a column {label_key!r} in obs.")
    names = labelled if hold_out is None else listed(hold_out, "hold_out", str, "a name")
    kept, reasons = [], {}
    for name in names:
        if name not in labelled:
            raise KeyError(
                f"There is no data set {name!r} with labels {label_key!r}; there are {labelled}."
            )
        try:
            for budget in budgets:
                # Sizes of the parts are the same with any seed.
                found = protocol_of(known[name], label_key, budget, max_labels, test_size, 0)
                if len(found.train) < min_train:
                    raise ValueError(
                        f"with n_labels_per_class={budget} there are {len(found.train)} cells of "
                        f"{len(found.names)} labels to learn from, and a network needs {min_train}."
                    )
        except ValueError as error:
            if hold_out is not None:
                raise ValueError(f"Data set {name!r} cannot be held out: {error}") from error
            reasons[name] = str(error)
        else:
            kept.append(name)
    if not kept:
        raise ValueError(
            f"No data set can be held out. {' '.join(f'{n!r}: {r}' for n, r in reasons.items())}"
        )
    for name, reason in reasons.items():
        _LOGGER.warning("Data set %r is only pretrained on, not held out: %s", name, reason)
    return kept


def protocol_of(
    adata: AnnData,
    key: str,
    budget: int | None,
    max_labels: int | None,
    test_size: float,
    seed: int,
) -> Protocol:
    """Cells to learn from and to test on."""
    rows = np.flatnonzero(adata.obs[key].notna())
    labels = whole_numbers(adata.obs[key].iloc[rows])
    n_scored = int((labels.astype(str).value_counts() > 1).sum())
    if n_scored < 2:
        raise ValueError(
            f"obs[{key!r}] has {n_scored} labels of two cells and more, one to learn from and one to "
            "test on, and at least two such labels are needed."
        )
    if max_labels is not None:
        test_size = max(test_size, 1 - max_labels / len(rows))
    with warnings.catch_warnings():
        # Labels with too few cells to learn from are left out of all arms alike.
        warnings.simplefilter("ignore", ScsslWarning)
        found = make_protocol(
            adata,
            labels,
            label_key=key,
            split=None,
            test_size=test_size,
            n_labels_per_class=budget,
            seed=seed,
        )
    codes = np.full(adata.n_obs, -1)
    codes[rows] = found.codes
    pool, train, test = (rows[part] for part in (found.pool, found.train, found.test))
    return Protocol(found.names, pool, train, test, codes, found.left_out)


def digest(protocol: Protocol) -> str:
    """The same for the same cells."""
    made = hashlib.sha256()
    for rows in (protocol.pool, protocol.train, protocol.test):
        made.update(np.ascontiguousarray(rows, dtype=np.int64).data)
    return made.hexdigest()[:12]
