"""Figures."""

from __future__ import annotations

import pandas as pd

from . import case
from ._data import cells, set_up, small

CHAPTER = "Figures"


@case(CHAPTER, "There is no history")
def no_history():
    names = {"model": small("MaskedAutoencoder", set_up("MaskedAutoencoder"))}
    return names, "scssl.pl.history(model, show=False)"


@case(CHAPTER, "Several panels do not fit in one axes")
def panels_in_one_axes():
    from matplotlib.figure import Figure

    names = {"adata": cells(), "ax": Figure().subplots()}
    return names, 'scssl.pl.augmentations(adata, "mask", ax=ax, show=False)'


def _scores(**columns: list) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"macro_f1": [0.1 * i for i in range(n)], **columns})


_SCATTER = 'scssl.pl.paired_scatter(scores, "macro_f1", x="a", y="b", show=False)'


@case(CHAPTER, "Several rows are of one data set and arm")
def rows_of_one_arm():
    arms, datasets = ["a", "a", "b", "b"] * 2, ["one"] * 4 + ["two"] * 4
    return {"scores": _scores(arm=arms, dataset=datasets, n=["few", "all"] * 4)}, _SCATTER


@case(CHAPTER, "A data set lacks one of the arms")
def arm_is_lacking():
    return {"scores": _scores(arm=["a", "b", "a"], dataset=["one", "one", "two"])}, _SCATTER


@case(CHAPTER, "Nothing was calibrated")
def no_calibration():
    names = {"reference": cells(90), "adata": cells(seed=1), "label_key": "type"}
    return names, 'scssl.pl.calibration(adata, pred_key="labels", show=False)'


@case(CHAPTER, "No labels were transferred")
def no_label_transfer():
    names = {"reference": cells(90), "adata": cells(seed=1), "label_key": "type"}
    return names, 'scssl.pl.label_transfer(adata, "labels", show=False)'


@case(CHAPTER, "Mixing was scored without the types")
def mixing_without_types():
    scores = pd.DataFrame({"use_rep": ["X_ssl"], "mixed": [0.5], "types_kept": [float("nan")]})
    names = {"adata": cells(), "scores": scores, "batch_key": "batch", "label_key": "type"}
    return names, "scssl.pl.batch_mixing(scores, show=False)"
