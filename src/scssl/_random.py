"""Randomness: every stochastic choice in scssl derives from one integer seed.

Sub-seeds are derived by *name* (``derive_seed(seed, "mask", epoch)``), never by call order, so that
resuming a run or changing one consumer of randomness does not shift any other.
"""

from __future__ import annotations

import zlib

import numpy as np

RNG = int | np.random.Generator | None


def as_seed(rng: RNG) -> int:
    """Integer seed of ``rng``: itself, a draw from a generator, or fresh entropy for ``None``."""
    if rng is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint32)[0])
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**32, dtype=np.uint64))
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, (int, np.integer)):
        raise TypeError(
            f"`rng` must be an int, a numpy.random.Generator or None, found {type(rng).__name__}."
        )
    if rng < 0:
        raise ValueError(f"`rng` must be non-negative, found {rng}.")
    return int(rng)


def derive_seed(seed: int, *names: int | str) -> int:
    """Independent 63-bit sub-seed of ``seed`` for the consumer called ``names``."""
    keys = [zlib.crc32(name.encode()) if isinstance(name, str) else int(name) for name in names]
    state = np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def derive_generator(seed: int, *names: int | str) -> np.random.Generator:
    """NumPy generator on the sub-seed of ``names``."""
    return np.random.default_rng(derive_seed(seed, *names))
