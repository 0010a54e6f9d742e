from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from scssl.nn import MemoryBank


def test_starts_with_random_directions_of_the_seed():
    a, b, c = MemoryBank(200, 5, rng=1), MemoryBank(200, 5, rng=1), MemoryBank(200, 5, rng=2)
    assert torch.equal(a.values, b.values)
    assert not torch.isclose(a.values, c.values).any()
    torch.testing.assert_close(a.values.norm(dim=1), torch.ones(200))
    assert a.values.mean(0).abs().max() < 0.15
    given = MemoryBank(200, 5, rng=torch.Generator().manual_seed(1))
    assert torch.equal(given.values, a.values)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    MemoryBank(10, 3)
    assert torch.equal(torch.rand(1), expected)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(0, 21), min_size=1, max_size=8))
def test_holds_the_latest_embeddings(size, batches):
    bank = MemoryBank(size, 3, rng=0)
    ring, at = [row.clone() for row in bank.values], 0
    generator = torch.Generator().manual_seed(sum(batches))
    for n in batches:
        z = 5 * torch.randn(n, 3, generator=generator)
        bank.enqueue(z)
        for row in z:
            ring[at] = row / row.norm()
            at = (at + 1) % size
    torch.testing.assert_close(bank.values, torch.stack(ring))
    assert int(bank.pointer) == at


def test_wraps_around_without_a_gap():
    """lightly drops what does not fit behind the end of the ring; here nothing is lost."""
    bank = MemoryBank(5, 5, rng=0)
    bank.enqueue(torch.eye(5)[[0, 1, 2]])
    bank.enqueue(torch.eye(5)[[3, 4, 0]])
    torch.testing.assert_close(bank.values, torch.eye(5)[[0, 1, 2, 3, 4]])
    assert int(bank.pointer) == 1


def test_equals_lightly_where_batches_fit():
    modules = pytest.importorskip("lightly.models.modules")
    ours, theirs = MemoryBank(20, 6, rng=0), modules.NNMemoryBankModule(size=(20, 6))
    theirs.bank.copy_(ours.values)
    generator = torch.Generator().manual_seed(0)
    for _ in range(9):
        # Five to a round: the last fills the ring to its end.
        z = torch.randn(4, 6, generator=generator)
        # Of any length there, of length 1 here.
        near = theirs(z, update=True)
        torch.testing.assert_close(ours.nearest(z), normalize(near, dim=1))
        ours.enqueue(z)
        torch.testing.assert_close(ours.values, normalize(theirs.bank, dim=1))
        assert int(ours.pointer) == int(theirs.bank_ptr)


def test_nearest_is_by_angle():
    bank = MemoryBank(30, 4, rng=0)
    z = torch.randn(8, 4) * torch.rand(8, 1) * 20
    near = bank.nearest(z)
    for row, found in zip(z.numpy(), near.numpy(), strict=True):
        angles = [float(v @ row / np.linalg.norm(row)) for v in bank.values.numpy()]
        np.testing.assert_array_equal(found, bank.values[int(np.argmax(angles))].numpy())


def test_neither_way_has_a_gradient():
    bank = MemoryBank(6, 4)
    z = torch.randn(3, 4, requires_grad=True)
    assert not bank.nearest(z).requires_grad
    bank.enqueue(z)
    assert not bank.values.requires_grad
    assert not list(bank.parameters())


def test_what_was_nearest_does_not_change_with_the_bank():
    bank = MemoryBank(6, 4)
    z = torch.randn(6, 4)
    near = bank.nearest(z)
    before = near.clone()
    bank.enqueue(z)
    assert torch.equal(near, before)


def test_is_part_of_the_saved_state():
    """Public code kept queues out of checkpoints: a resumed run started from noise."""
    bank, other = MemoryBank(6, 4, rng=0), MemoryBank(6, 4, rng=1)
    bank.enqueue(torch.randn(4, 4))
    other.load_state_dict(bank.state_dict())
    z = torch.randn(4, 4)
    for b in (bank, other):
        b.enqueue(z)
    assert torch.equal(bank.values, other.values)
    assert torch.equal(bank.pointer, other.pointer)


def test_a_tensor_of_another_width_is_refused():
    """Public code: queue as wide as one modality, queries of both concatenated."""
    bank = MemoryBank(2048, 64)
    wanted = r"of width 64; found \(5, 128\).*MemoryBank\(2048, 128\)"
    for method in (bank.enqueue, bank.nearest):
        with pytest.raises(ValueError, match=wanted):
            method(torch.randn(5, 128))
    MemoryBank(2048, 128).enqueue(torch.randn(5, 128))


def test_banks_share_nothing():
    """Public code: one bank for RNA and protein, so a protein's neighbour was an RNA profile."""
    rna, protein = MemoryBank(8, 4, rng=0), MemoryBank(8, 4, rng=0)
    generator = torch.Generator().manual_seed(0)
    z_rna, z_protein = torch.randn(2, 8, 4, generator=generator)
    rna.enqueue(z_rna)
    protein.enqueue(z_protein)
    torch.testing.assert_close(rna.nearest(z_rna), normalize(z_rna, dim=1))
    torch.testing.assert_close(protein.nearest(z_protein), normalize(z_protein, dim=1))
    found = (protein.nearest(z_rna)[:, None] == normalize(z_protein, dim=1)[None]).all(2)
    assert found.any(1).all()


def test_half_precision_comes_in_and_single_is_kept():
    bank = MemoryBank(6, 4)
    z = torch.randn(3, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        bank.enqueue(z)
        near = bank.nearest(z)
    assert bank.values.dtype == near.dtype == torch.float32
    torch.testing.assert_close(near, normalize(z.float(), dim=1))


@pytest.mark.parametrize(("size", "dim"), [(0, 4), (4, 0)])
def test_sizes_must_be_positive(size, dim):
    with pytest.raises(ValueError, match="`(size|dim)` must be an integer of at least 1, found 0"):
        MemoryBank(size, dim)
