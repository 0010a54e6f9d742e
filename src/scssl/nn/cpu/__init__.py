"""All compiled kernels of the CPU, and the one place that says whether they are used.

Each does in one pass over the rows what takes PyTorch several, or what it has no quick operation for.
Everything that has a kernel asks :func:`enabled` first and does the same with PyTorch's operations where the
answer is no. Of kernels nothing is imported before: :mod:`numba` takes a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

_HAS_NUMBA = find_spec("numba") is not None
_disabled = False


def enabled(*tensors: Tensor | None) -> bool:
    """Whether compiled kernels take these tensors: float32 on the CPU, and not through a compiler.

    Set the environment variable ``SCSSL_NO_KERNELS=1`` to do without.
    """
    return (
        # Compilers look into PyTorch's operations, not into these.
        not torch.compiler.is_compiling()
        and all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in tensors)
        and not _disabled
        and os.environ.get("SCSSL_NO_KERNELS", "0") in ("", "0")
        and _HAS_NUMBA
    )


@contextmanager
def disabled() -> Iterator[None]:
    """Do without compiled kernels within this context."""
    global _disabled
    before, _disabled = _disabled, True
    try:
        yield
    finally:
        _disabled = before
