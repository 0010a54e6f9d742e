"""Random decisions, cheap ones and ones by position.

To exchange entries between two sparse cells, both need the same decision for the same gene. A hash
of the position gives it at stored entries only, without a random number per gene.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

# Odd constants of SplitMix64, as signed integers: PyTorch has 64-bit integers with a sign only.
_FIRST = -0x40A7B892E31B1A47
_SECOND = -0x6B2FB644ECCEEE15
_LOW = 0xFFFFFFFF


def scramble(key: Tensor) -> Tensor:
    """Hash of int64 keys, uniform over all int64; overwrites ``key``."""
    key *= _FIRST
    key ^= (key >> 32) & _LOW
    key *= _SECOND
    key ^= (key >> 32) & _LOW
    key *= _FIRST
    return key


def bernoulli(key: Tensor, seed: Tensor | int, probability: float) -> Tensor:
    """Decision of each key, true with the given probability.

    Parameters
    ----------
    key
        Positions, int64.
    seed
        Another seed gives other decisions.
    probability
        Between 0 and 1.
    """
    if probability >= 1:
        return torch.ones_like(key, dtype=torch.bool)
    # The hash is compared as an integer: no step to floats, and all of its bits count.
    return scramble(key + seed) < round((probability - 0.5) * 2**64)


def coins(shape: torch.Size | tuple[int, ...], probability: float, rng: torch.Generator) -> Tensor:
    """Independent decisions, four for each random number.

    Parameters
    ----------
    shape
        Shape of the result.
    probability
        Probability to be true, realised to within 1/65,536.
    rng
        Generator on the device of the result.
    """
    n = math.prod(shape)
    if probability >= 1:
        return torch.ones(shape, dtype=torch.bool, device=rng.device)
    draws = torch.empty(-(-n // 4), dtype=torch.int64, device=rng.device)
    draws.random_(-(2**63), None, generator=rng)
    # The greatest 16-bit integer is the most that 16-bit integers can be compared with.
    bound = min(round((probability - 0.5) * 2**16), 2**15 - 1)
    return (draws.view(torch.int16)[:n] < bound).view(shape)


def draw_seed(rng: torch.Generator, device: torch.device) -> Tensor:
    """Seed for :func:`bernoulli`, which stays on the device; int64, shape ``(1,)``."""
    return torch.randint(2**62, (1,), generator=rng, device=device)


def key_of_names(seed: int, *names: str) -> int:
    """Seed for the consumer of these names.

    Seeds that follow each other give unrelated results, so that a position and the next seed do
    not stand for the next position and the seed.
    """
    key = seed % 2**62
    for name in ("", *names):
        key = int(scramble(torch.tensor([key ^ zlib.crc32(name.encode())]))[0]) % 2**62
    return key
