"""What a model on new data takes over from another one: by name, and only where it means the same."""

from __future__ import annotations

import logging

from torch import Tensor

from scssl.model.base import DataSetup

_LOGGER = logging.getLogger("scssl")


def covariate_columns(setup: DataSetup) -> list[tuple[str, str | None]]:
    """Column of ``obs`` and category of each input that tells covariates; `None` for a number."""
    keys = dict.fromkeys(setup.covariate_keys())
    told: list[tuple[str, str | None]] = [(k, name) for k in keys for name in setup.categories[k]]
    return told + [(key, None) for key in setup.continuous_keys]


def carry_covariates(weight: Tensor, there: DataSetup, here: DataSetup) -> tuple[Tensor, Tensor]:
    """Weights of covariates for a model that is told others, and what goes into the bias.

    Categories that both know keep their weights, continuous covariates too. All others have 0, and
    then 0 has to be the mean over the categories that the other model knows: without it a new
    category would be far from all of them.

    Parameters
    ----------
    weight
        Those of the other model, a column per covariate.
    there, here
        How the other model and this one read data.
    """
    place = {name: i for i, name in enumerate(covariate_columns(here))}
    columns = weight.new_zeros(len(weight), len(place))
    offset = weight.new_zeros(len(weight))
    start = 0
    for key in dict.fromkeys(there.covariate_keys()):
        names = there.categories[key]
        part = weight[:, start : start + len(names)]
        start += len(names)
        ours = here.categories[key] if key in here.covariate_keys() else None
        if ours is None or not set(ours) <= set(names):
            mean = part.mean(1)
            offset += mean
            part = part - mean[:, None]
        for i, name in enumerate(names):
            if (key, name) in place:
                columns[:, place[key, name]] = part[:, i]
    for i, key in enumerate(there.continuous_keys, start):
        if (key, None) in place:
            columns[:, place[key, None]] = weight[:, i]
    return columns, offset


def log_untold(there: DataSetup, here: DataSetup) -> None:
    """Say which covariates of the other model this one is not told."""
    ours = {key for key, _ in covariate_columns(here)}
    for key in dict.fromkeys(there.covariate_keys()):
        if key not in ours:
            _LOGGER.info(
                "The model is not told %r, which the other one was: it starts at the mean over its %d "
                "categories.",
                key,
                len(there.categories[key]),
            )
        elif new := sorted(set(here.categories[key]) - set(there.categories[key])):
            _LOGGER.info(
                "%d categories of %r are new, such as %r: they start at the mean over the others.",
                len(new),
                key,
                new[0],
            )
    for key in there.continuous_keys:
        if key not in ours:
            _LOGGER.info("The model is not told %r, which the other one was: taken as 0.", key)
