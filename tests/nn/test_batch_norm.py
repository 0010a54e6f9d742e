"""Batch normalisation equals PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scssl.nn._batch_norm import BatchNorm


def pair(width, **kwargs):
    torch.manual_seed(0)
    ours, theirs = BatchNorm(width, **kwargs), nn.BatchNorm1d(width, **kwargs)
    if kwargs.get("affine", True):
        nn.init.normal_(theirs.weight)
        nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 3), (7, 5), (256, 64), (2048, 65)])
def test_equals_that_of_pytorch(shape, affine):
    ours, theirs = pair(shape[1], affine=affine)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(shape, generator=generator) * 3 + 5
        weight = torch.randn(shape, generator=generator)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(value) for layer, value in zip((ours, theirs), inputs, strict=True)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        for output in outputs:
            (output * weight).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-3, atol=1e-4)
    for (name, value), other in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=name)
    for value, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, rtol=1e-3, atol=1e-3)
    ours.eval(), theirs.eval()
    x = torch.randn(4, shape[1])
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_gradient_of_double_precision_is_checked_numerically():
    from scssl.nn._batch_norm import _Normalised

    x, weight, bias = (
        torch.randn(*s, dtype=torch.double, requires_grad=True) for s in ((6, 3), (3,), (3,))
    )
    assert torch.autograd.gradcheck(lambda *a: _Normalised.apply(*a, 1e-5)[0], (x, weight, bias))
    assert torch.autograd.gradcheck(lambda a: _Normalised.apply(a, None, None, 1e-5)[0], (x,))


def test_kernels_equal_the_formula_in_double_precision():
    from scssl.nn import _batch_norm

    x, grad = (torch.randn(300, 17, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    # Not contiguous, and a column that does not vary.
    x, grad = x.t().contiguous().t(), grad.t().contiguous().t()
    x[:, 3] = 2.0
    weight, bias = torch.randn(17), torch.randn(17)
    assert _batch_norm._has_kernel(x, weight)
    results = []
    for dtype in (torch.float, torch.double):
        leaves = [t.to(dtype).requires_grad_() for t in (x.clone(), weight.clone(), bias.clone())]
        outputs = _batch_norm._Normalised.apply(*leaves, 1e-3)
        gradients = torch.autograd.grad(outputs[0], leaves, grad.to(dtype))
        results.append([t.detach().double() for t in (*outputs, *gradients)])
    for single, double in zip(*results, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-4)


def test_what_is_compiled_has_no_kernels():
    layer = BatchNorm(5)
    x = torch.randn(20, 5)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    found = torch.compile(layer, backend=backend)(x)
    assert len(graphs) == 1
    torch.testing.assert_close(found, nn.BatchNorm1d(5)(x), rtol=1e-4, atol=1e-5)


def test_one_cell_is_refused_as_by_pytorch():
    with pytest.raises(ValueError, match="more than 1 value"):
        BatchNorm(3)(torch.ones(1, 3))


def test_it_is_a_batch_norm_for_those_who_look_for_one():
    net = nn.Sequential(nn.Linear(3, 3), BatchNorm(3))
    assert isinstance(net[1], nn.BatchNorm1d)
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(net)[1], nn.SyncBatchNorm)
