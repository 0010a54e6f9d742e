"""The contract once more as other devices than the CPU fulfil it: with PyTorch's operations alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scssl.nn import cpu

from .test_contract import (  # noqa: F401 - collected here again
    test_deterministic_embedding,
    test_embedding,
    test_embedding_does_not_depend_on_the_batch_size,
    test_gene_order_makes_no_difference,
    test_history,
    test_indices,
    test_missing_genes_are_zero,
    test_resumed_run_equals_the_straight_one,
    test_same_seed_same_bits,
    test_save_and_load,
    test_training_improves_the_loss,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_kernels")]


@pytest.fixture
def without_kernels() -> Iterator[None]:
    with cpu.disabled():
        yield
