"""Masks by name, and from what a checkpoint says of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ._mask import Masking, RandomMask
from ._program_masks import GeneProgramMask, GPToGPMask, GPToTFMask
from ._programs import GenePrograms

_MASKS: dict[str, type[Masking]] = {
    "random": RandomMask,
    "gene_program": GeneProgramMask,
    "gp_to_gp": GPToGPMask,
    "gp_to_tf": GPToTFMask,
}
# Rates of the paper; isolated masks have none.
_RATES = {"random": 0.5, "gene_program": 0.25}


def mask_needs(name: str | Masking) -> str | None:
    """``"programs"`` or ``"targets"`` where a named mask needs gene programmes; else `None`.

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
            f"`masking` must be one of {', '.join(map(repr, _MASKS))} or a scssl.augment.Masking; "
            f"found {name!r}."
        )
    if name == "random":
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
        ``"random"``, ``"gene_program"``, ``"gp_to_gp"``, ``"gp_to_tf"`` or a :class:`Masking`.
    rate
        Share to hide, where a name is given and its mask has a rate; by default 0.5 of the entries
        (random) or 0.25 of the programmes.
    programs
        Gene programmes of the masks that need them.
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
            raise ValueError(f"masking={name!r} needs gene programmes: programs=GenePrograms(...).")
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
    """A mask of this package once more, with other programmes or arguments.

    Parameters
    ----------
    mask
        The mask.
    programs, rate
        Those of the new mask, where they differ.
    options
        Further arguments that differ.
    """
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
        raise ValueError(
            f"The mask {name!r} is not one of scssl ({', '.join(_MASKS)}), and nothing that is loaded "
            "may bring code along."
        )
    if "programs" in arguments:
        arguments["programs"] = GenePrograms.from_dict(arguments["programs"])
    return _MASKS[name](**arguments)
