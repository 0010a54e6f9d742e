"""Masks and augmentations by name, and from what a checkpoint says of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scssl._checks import either

from ._mask import GeneProgramMask, GPToGPMask, GPToTFMask, Masking, PanelMask, RandomMask
from ._programs import GenePrograms
from ._view import Augmentation, Compose, RandomApply
from ._view_mixes import CrossOver, GeneSwap, MutualNeighborMix, NeighborMix
from ._view_values import (
    BinomialThinning,
    Dropout,
    GaussianNoise,
    Mask,
    NegativeBinomialNoise,
    PoissonResample,
)

_MASKS: dict[str, type[Masking]] = {
    "random": RandomMask,
    "gene_program": GeneProgramMask,
    "gp_to_gp": GPToGPMask,
    "gp_to_tf": GPToTFMask,
    "panel": PanelMask,
}
# Rates of the paper; isolated masks have none.
_RATES = {"random": 0.5, "gene_program": 0.25, "panel": 0.5}


def mask_needs(name: str | Masking) -> str | None:
    """``"programs"`` or ``"targets"`` where a named mask cannot do without gene programmes; else `None`.

    Parameters
    ----------
    name
        Name of a mask, or a mask.

    Raises
    ------
    ValueError
        If there is no mask of this name.
    """
    if isinstance(name, Masking):
        return None
    if name not in _MASKS:
        raise ValueError(
            f"`masking` must be {either(_MASKS)} or a scssl.augment.Masking, found {name!r}."
        )
    if name in ("random", "panel"):
        return None
    return "targets" if name == "gp_to_tf" else "programs"


def masking(
    name: str | Masking,
    *,
    rate: float | None = None,
    programs: GenePrograms | None = None,
    **options: Any,
) -> Masking:
    """Mask called ``name``, or ``name`` itself if it is one.

    Parameters
    ----------
    name
        ``"random"``, ``"gene_program"``, ``"gp_to_gp"``, ``"gp_to_tf"``, ``"panel"`` or a :class:`Masking`.
    rate
        Share to hide, where a name is given and its mask has a rate; by default 0.5 of the entries
        (random) or 0.25 of the programmes.
    programs
        Gene programmes of the masks that need them, or the panels that are known.
    **options
        Further arguments of the mask.

    Raises
    ------
    ValueError
        If there is no such mask, or it takes no such arguments.

    Examples
    --------
    >>> from scssl.augment import masking
    >>> masking("random", rate=0.3)
    RandomMask(rate=0.3)
    """
    if isinstance(name, Masking):
        if options or rate is not None or programs is not None:
            raise ValueError(f"`masking` is {name!r} already: give its arguments there.")
        return name
    needs = mask_needs(name)
    arguments: dict[str, Any] = dict(options)
    if needs is not None:
        if programs is None:
            raise ValueError(
                f"masking={name!r} needs gene programmes: give scssl.augment.GenePrograms as `programs`."
            )
    if needs is not None or name == "panel":
        arguments["programs"] = programs
    if name in _RATES:
        arguments["rate"] = _RATES[name] if rate is None else rate
    elif rate is not None:
        raise ValueError(f"masking={name!r} has no `mask_rate`; found {rate}.")
    known = [
        option
        for option in inspect.signature(_MASKS[name]).parameters
        if option not in ("rate", "programs")
    ]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"masking={name!r} does not have the option {unknown[0]!r}: "
            + (f"`mask_options` can have {', '.join(known)}." if known else "it has none.")
        )
    return _MASKS[name](**arguments)


def is_own_mask(mask: Masking) -> bool:
    """Whether it is a mask of this package, which can be built again from its config."""
    return any(type(mask) is known for known in _MASKS.values())


def remade(
    mask: Masking,
    *,
    programs: GenePrograms | None = None,
    rate: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Masking:
    """A mask of this package once more, with other programmes, rate or further arguments."""
    arguments: dict[str, Any] = dict(mask.config())
    name = arguments.pop("name")
    known = arguments.pop("programs", None)
    if programs is None and known is not None:
        programs = GenePrograms.from_dict(known)
    rate = arguments.pop("rate", None) if rate is None else rate
    arguments.pop("rate", None)
    return masking(name, rate=rate, programs=programs, **{**arguments, **(options or {})})


def masking_from_config(config: Mapping[str, Any]) -> Masking:
    """Mask from what ``Masking.config()`` gave.

    Parameters
    ----------
    config
        Name and arguments.

    Raises
    ------
    ValueError
        If it is not a mask of this package.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in _MASKS:
        raise _foreign("mask", name, _MASKS)
    if "programs" in arguments:
        arguments["programs"] = GenePrograms.from_dict(arguments["programs"])
    return _MASKS[name](**arguments)


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
            f"`augmentation` must be {either((*_PRESETS, *_CLASSES))}, a scssl.augment.Augmentation or a "
            f"list of them, found {name!r}."
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
        raise _foreign("augmentation", name, (*_CLASSES, "compose", "random_apply"))
    return _CLASSES[name](**arguments)


def _foreign(what: str, name: Any, known: Iterable[str]) -> ValueError:
    return ValueError(
        f"The {what} {name!r} is not one of scssl ({', '.join(known)}), and nothing that is loaded may "
        "bring code along."
    )
