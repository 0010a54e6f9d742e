"""Augmentations by name, and from what a checkpoint says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._view import Augmentation
from ._view_compose import Compose, RandomApply
from ._view_counts import BinomialThinning, NegativeBinomialNoise, PoissonResample
from ._view_genes import CrossOver, GeneSwap
from ._view_neighbors import MutualNeighborMix, NeighborMix
from ._view_values import Dropout, GaussianNoise, Mask

_CLASSES: dict[str, type[Augmentation]] = {
    str(kind.name): kind
    for kind in (
        Mask,
        Dropout,
        GaussianNoise,
        NegativeBinomialNoise,
        PoissonResample,
        BinomialThinning,
        GeneSwap,
        CrossOver,
        NeighborMix,
        MutualNeighborMix,
    )
}
_PRESETS: dict[str, Callable[[], Augmentation]] = {
    "default": lambda: Mask(0.5, p=1.0, rescale=True),
    "integration": lambda: Compose([MutualNeighborMix(p=0.8), Mask(0.5, p=0.8, rescale=True)]),
    "clear": lambda: Compose([Mask(0.2), GaussianNoise(0.8, 0.2), GeneSwap(0.1), CrossOver(0.25)]),
    "scsslbench": lambda: Compose([Mask(0.5), GaussianNoise(0.3, 0.2), GeneSwap(0.3)]),
}


def augmentation(
    name: str | Augmentation | Sequence[str | Augmentation], **options: Any
) -> Augmentation:
    """Augmentation called ``name``, or ``name`` itself if it is one; a list is applied in order.

    Parameters
    ----------
    name
        A preset, the name of an augmentation, an augmentation, or a list of such. Presets are
        ``"default"``, half of the genes hidden; ``"integration"``, cells mixed with similar ones of
        other batches, by the graphs of ``scssl.pp.cross_batch_neighbors(method="mnn")``, and then
        hidden, which mixed batches best in our comparisons; ``"scsslbench"``, the
        pipeline of :cite:p:`Ovcharenko2025` (mask 50 %, Gaussian noise, gene swap); ``"clear"``, its
        variant of that of :cite:p:`Han2022` (mask 20 %, Gaussian noise, gene swap, crossover). The
        original has noise with a standard deviation of 0.5 in effect, and a fifth step, in which a
        quarter of the genes take their values from other cells, each gene from one of its own.
    **options
        Arguments of the augmentation of this name; presets have none.

    Raises
    ------
    TypeError
        If it is no name and no augmentation.
    ValueError
        If there is none of this name, or it takes no such arguments.

    Examples
    --------
    >>> from scssl.augment import augmentation
    >>> augmentation("mask", rate=0.3)
    Mask(rate=0.3, p=0.5, rescale=False)
    >>> augmentation(["cross_over", "gene_swap"])
    Compose([CrossOver(rate=0.25, within=None, p=0.5), GeneSwap(rate=0.1, p=0.5)])
    """
    if isinstance(name, Sequence) and not isinstance(name, str):
        if options:
            raise ValueError(
                f"A list of augmentations takes no options ({', '.join(options)}): give objects."
            )
        return Compose([augmentation(step) for step in name])
    if isinstance(name, Augmentation):
        if options:
            raise ValueError(f"`augmentation` is {name!r} already: give its arguments there.")
        return name
    if not isinstance(name, str):
        raise TypeError(
            "`augmentation` must be a name, a scssl.augment.Augmentation or a list of them, found "
            f"{type(name).__name__}."
        )
    if name in _PRESETS:
        if options:
            raise ValueError(
                f"The preset {name!r} takes no options ({', '.join(options)}): give a list of "
                f"augmentations instead; the preset is {_PRESETS[name]()!r}."
            )
        return _PRESETS[name]()
    if name not in _CLASSES:
        raise ValueError(
            f"`augmentation` must be one of {', '.join(map(repr, (*_PRESETS, *_CLASSES)))}, a "
            f"scssl.augment.Augmentation or a list of them; found {name!r}."
        )
    try:
        return _CLASSES[name](**options)
    except TypeError as error:
        raise ValueError(
            f"augmentation={name!r} does not take these options ({options}): {error}"
        ) from error


def augmentation_from_config(config: Mapping[str, Any]) -> Augmentation:
    """Augmentation from what ``Augmentation.config()`` gave.

    Parameters
    ----------
    config
        Name and arguments.

    Raises
    ------
    ValueError
        If it is not an augmentation of this package.

    Examples
    --------
    >>> from scssl.augment import GeneSwap, augmentation_from_config
    >>> augmentation_from_config(GeneSwap(0.3).config())
    GeneSwap(rate=0.3, p=0.5)
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name == "compose":
        return Compose([augmentation_from_config(step) for step in arguments["steps"]])
    if name == "random_apply":
        inner = augmentation_from_config(arguments["augmentation"])
        return RandomApply(inner, arguments["p"])
    if name not in _CLASSES:
        known = ", ".join((*_CLASSES, "compose", "random_apply"))
        raise ValueError(
            f"The augmentation {name!r} is not one of scssl ({known}), and nothing that is loaded may "
            "bring code along."
        )
    return _CLASSES[name](**arguments)
