from __future__ import annotations

import torch

from scssl.nn import GeneDecoder
from scssl.train import RowAdamW


def test_dense_gradients_are_torchs_adamw():
    torch.manual_seed(0)
    a = torch.nn.Parameter(torch.randn(5, 3))
    b = torch.nn.Parameter(a.detach().clone())
    ours, theirs = RowAdamW([a], lr=0.01), torch.optim.AdamW([b], lr=0.01, fused=True)
    for _ in range(5):
        gradient = torch.randn(5, 3)
        a.grad, b.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    assert torch.equal(a, b)


def test_a_row_is_updated_as_if_only_its_own_steps_happened():
    """Each row against torch's AdamW on that row alone, stepped only when the row was drawn."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 4))
    alone = [torch.nn.Parameter(weight[i].detach().clone()) for i in range(6)]
    ours = RowAdamW([weight], lr=0.01, weight_decay=0.1)
    theirs = [torch.optim.AdamW([p], lr=0.01, weight_decay=0.1) for p in alone]
    for step in range(12):
        rows = torch.tensor([[0, 1, 2], [2, 5, 3], [0, 2, 4]][step % 3]).sort().values
        values = torch.randn(3, 4)
        weight.grad = torch.sparse_coo_tensor(rows[None], values, (6, 4), check_invariants=True)
        ours.step()
        for row, value in zip(rows.tolist(), values, strict=True):
            alone[row].grad = value
            theirs[row].step()
    torch.testing.assert_close(weight, torch.stack(list(alone)))


def test_untouched_rows_stay():
    decoder = GeneDecoder(3, 8)
    before = decoder.weight.detach().clone()
    optimizer = RowAdamW(decoder.parameters(), lr=0.1, weight_decay=0.5)
    genes = torch.tensor([2, 6])
    decoder(torch.randn(4, 3), genes).sum().backward()
    optimizer.step()
    changed = (decoder.weight != before).any(1)
    assert changed.nonzero().squeeze(1).tolist() == [2, 6]


def test_state_survives_a_round_trip():
    def run(reload_at):
        torch.manual_seed(0)
        decoder, x = GeneDecoder(3, 8), torch.randn(4, 3)
        optimizer = RowAdamW(decoder.parameters(), lr=0.1)
        for step in range(6):
            if step == reload_at:
                state = optimizer.state_dict()
                optimizer = RowAdamW(decoder.parameters(), lr=0.1)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            decoder(x, torch.tensor([step % 3, 5])).square().sum().backward()
            optimizer.step()
        return decoder.weight.detach()

    assert torch.equal(run(None), run(3))
