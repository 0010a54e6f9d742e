from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scssl.nn import FlowAttention, SoftmaxAttention

EPS = 1e-6
# Several sequences, of one cell too, and neighbours of one length, which are computed in one call.
LENGTHS = [[40], [13, 13, 14], [20, 1, 1, 18], [1] * 40, [5, 5, 30]]


def flow_of_a_head(q, k, v):
    """Flow attention from its formulas, each as it is written."""
    n = len(q)
    incoming = 1 / ((q + EPS) * (k.sum(0) + EPS)).sum(1)
    outgoing = 1 / ((k + EPS) * (q.sum(0) + EPS)).sum(1)
    sink = ((q + EPS) * ((k * outgoing[:, None]).sum(0) + EPS)).sum(1)
    source = ((k + EPS) * ((q * incoming[:, None]).sum(0) + EPS)).sum(1)
    allocation = torch.sigmoid(sink)
    competition = n * torch.softmax(source.clamp(-1, 1), dim=0)
    passed = torch.einsum("jd,je->de", k, competition[:, None] * v)
    return allocation[:, None] * torch.einsum("id,de->ie", q * incoming[:, None], passed)


def direct(attention, x, lengths, head=flow_of_a_head, positive=True):
    """Any attention, head by head and sequence by sequence, put together at the end."""
    rows = []
    for part in x.split(lengths):
        q, k, v = (layer(part) for layer in (attention.query, attention.key, attention.value))
        if positive:
            q, k = torch.sigmoid(q), torch.sigmoid(k)
        width = attention.n_hidden // attention.n_heads
        heads = zip(q.split(width, 1), k.split(width, 1), v.split(width, 1), strict=True)
        rows.append(torch.cat([head(*columns) for columns in heads], dim=1))
    return attention.out(torch.cat(rows))


def softmax_of_a_head(q, k, v):
    return torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1) @ v


def cells(n=40, n_hidden=12, dtype=torch.float64, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_hidden, dtype=torch.float64, generator=generator).to(dtype) * scale


def make(n_hidden=12, n_heads=3, dtype=torch.float64, kind=FlowAttention, **options):
    torch.manual_seed(1)
    return kind(n_hidden, n_heads, **options).to(dtype)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("n_heads", [1, 3, 12])
@pytest.mark.parametrize(
    ("kind", "head", "positive"),
    [(FlowAttention, flow_of_a_head, True), (SoftmaxAttention, softmax_of_a_head, False)],
)
def test_equals_the_formulas(kind, head, positive, lengths, n_heads):
    attention, x = make(n_heads=n_heads, kind=kind), cells().requires_grad_()
    inputs = [x, *attention.parameters()]
    expected = direct(attention, x, lengths, head, positive)
    found = attention(x, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    weights = cells(seed=3)
    for found_grad, expected_grad in zip(
        torch.autograd.grad(found, inputs, weights),
        torch.autograd.grad(expected, inputs, weights),
        strict=True,
    ):
        torch.testing.assert_close(found_grad, expected_grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("lengths", [[7], [4, 1, 2], [3, 3, 1]])
def test_gradients_are_those_of_finite_differences(lengths):
    attention = make(4, 2)
    names = [name for name, _ in attention.named_parameters()]

    def call(x, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(attention, named, (x, lengths))

    inputs = [cells(7, 4).requires_grad_(), *attention.parameters()]
    assert torch.autograd.gradcheck(call, inputs)


def test_the_cut_at_one_is_met_and_has_no_gradient():
    # Else the test of gradients would say nothing about it.
    attention, x = make(), cells()
    q, k = torch.sigmoid(attention.query(x)), torch.sigmoid(attention.key(x))
    flow = k[:, :4] @ (q[:, :4] / (q[:, :4] @ k[:, :4].sum(0))[:, None]).sum(0)
    assert (flow > 1).any()
    assert (flow < 1).any()


@pytest.mark.parametrize("which", ["x", "query.weight", "value.bias"])
def test_gradient_of_one_input_alone(which):
    attention, x = make(), cells()
    attention.requires_grad_(False)
    inputs = {"x": x, **dict(attention.named_parameters())}
    inputs[which].requires_grad_()
    (found,) = torch.autograd.grad(attention(x, [30, 10]).sum(), inputs[which])
    (expected,) = torch.autograd.grad(direct(attention, x, [30, 10]).sum(), inputs[which])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("chunk_size", [1, 7, 20, 39, 40, 1000])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_chunk_size_makes_no_difference(chunk_size, lengths):
    attention, x = make(chunk_size=chunk_size), cells()
    with torch.no_grad():
        torch.testing.assert_close(
            attention(x, lengths), direct(attention, x, lengths), rtol=1e-9, atol=1e-12
        )
    # In single precision.
    whole, x = make(dtype=torch.float32), cells(dtype=torch.float32)
    chunked = make(dtype=torch.float32, chunk_size=chunk_size)
    with torch.no_grad():
        torch.testing.assert_close(chunked(x, lengths), whole(x, lengths), rtol=1e-5, atol=1e-6)


def test_long_sequence_in_single_precision():
    x = cells(20_000, 16, torch.float32)
    attention = make(16, 2, torch.float32)
    double = make(16, 2)
    double.load_state_dict(attention.state_dict())
    with torch.no_grad():
        streamed, expected = attention(x), direct(double, x.double(), [len(x)])
    for y in (streamed, attention(x)):
        # The row-wise part of the output is small beside the common part; that too must be right.
        error = (y.double() - expected).norm() / (expected - expected.mean(0)).norm()
        assert error < 1e-5


class Sizes(TorchDispatchMode):
    """Elements of the largest tensor that an operation made, views and concatenations left out."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.cat.default:
            given = {t.untyped_storage().data_ptr() for t in tensors([args, kwargs])}
            made = [t for t in tensors(out) if t.untyped_storage().data_ptr() not in given]
            self.largest = max([self.largest, *(t.numel() for t in made)])
        return out


def tensors(tree):
    return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


def test_no_tensor_is_larger_than_the_cells():
    attention, x = make(32, 4, torch.float32), cells(3000, 32, torch.float32).requires_grad_()
    with Sizes() as sizes:
        attention(x, [2000, 1000]).square().sum().backward()
    # Not 3000 x 3000 and not 3000 x 32 x 8, forward and backward.
    assert sizes.largest == 3000 * 32
    attention.chunk_size = 100
    with Sizes() as sizes, torch.no_grad():
        attention(x, [2000, 1000])
    # Streamed: a chunk at a time.
    assert sizes.largest == 100 * 32


@pytest.mark.parametrize("kind", [FlowAttention, SoftmaxAttention])
@pytest.mark.parametrize("grad", [True, False])
def test_order_of_cells_makes_no_difference(kind, grad):
    attention, x = make(kind=kind), cells()
    if kind is FlowAttention:
        attention.chunk_size = 9
    order = torch.cat([torch.randperm(25), 25 + torch.randperm(15)])
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(
            attention(x[order], [25, 15]), attention(x, [25, 15])[order], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("kind", [FlowAttention, SoftmaxAttention])
@pytest.mark.parametrize("lengths", [[15, 25], [20, 20], [10, 10, 10, 10]])
def test_sequences_know_nothing_of_each_other(kind, lengths):
    attention, x = make(kind=kind), cells().requires_grad_()
    first = slice(0, lengths[0])
    y = attention(x, lengths)
    (grad,) = torch.autograd.grad(y[first].square().sum(), x)
    assert (grad[first] != 0).all()
    assert (grad[lengths[0] :] == 0).all()
    other = x.detach().clone()
    other[lengths[0] :] = cells(seed=9)[lengths[0] :]
    changed = attention(other, lengths)
    torch.testing.assert_close(changed[first], y[first], rtol=1e-12, atol=0)
    assert not torch.allclose(changed[lengths[0] :], y[lengths[0] :], atol=1e-3)
    # Whereas within a sequence every cell matters to every other.
    (grad,) = torch.autograd.grad(attention(x, lengths)[0].sum(), x)
    assert (grad[first] != 0).all()


def test_one_cell_takes_its_own_value():
    attention, x = make(), cells(1)
    q, k = torch.sigmoid(attention.query(x)), torch.sigmoid(attention.key(x))
    # All of the flow goes from the cell to itself, so that the share is the logistic of about one.
    taken = attention.value(x) * torch.sigmoid(torch.ones(1, dtype=x.dtype))
    torch.testing.assert_close(attention(x), attention.out(taken), rtol=1e-4, atol=1e-4)
    assert q.shape == k.shape == (1, 12)


def identity(attention):
    with torch.no_grad():
        attention.out.weight.copy_(torch.eye(attention.n_hidden))
        attention.out.bias.zero_()
    return attention


@pytest.mark.parametrize("grad", [True, False])
def test_sums_are_exact_under_autocast(grad):
    attention, x, found = make(16, 2, torch.float32), cells(5000, 16, torch.float32), []
    attention.out.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
        assert attention(x).dtype == torch.bfloat16
        q, k, v = (layer(x) for layer in (attention.query, attention.key, attention.value))
    assert q.dtype == torch.bfloat16
    heads = [t.double().split(8, 1) for t in (q.double().sigmoid(), k.double().sigmoid(), v)]
    expected = torch.cat([flow_of_a_head(*columns) for columns in zip(*heads, strict=True)], dim=1)
    # Queries, keys and values are rounded to eight bits, and nothing from there to the output layer.
    torch.testing.assert_close(torch.cat(found).double(), expected, rtol=1e-5, atol=1e-6)


def test_gradients_under_autocast():
    attention, x = make(16, 2, torch.float32), cells(500, 16, torch.float32).requires_grad_()
    inputs, weights = [x, *attention.parameters()], cells(500, 16, torch.float32, seed=4)
    expected = torch.autograd.grad(attention(x, [200, 300]), inputs, weights)
    with torch.autocast("cpu", torch.bfloat16):
        y = attention(x, [200, 300])
    # A bias of keys or queries has next to no gradient: by its own size it is all rounding.
    size = max(g.norm() for g in expected[1:])
    for found, right in zip(
        torch.autograd.grad(y, inputs, weights.bfloat16()), expected, strict=True
    ):
        assert found.dtype == torch.float32
        assert (found - right).norm() < 0.03 * (size if found is not x else right.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad", [True, False])
def test_weights_in_half_precision(dtype, grad):
    attention, x = make(16, 2, torch.float32), cells(300, 16, torch.float32)
    expected = attention(x)
    attention.to(dtype).chunk_size = 100
    with torch.set_grad_enabled(grad):
        y = attention(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", [FlowAttention, SoftmaxAttention])
@pytest.mark.parametrize("grad", [True, False])
def test_out_dropout(kind, grad):
    attention, x = (
        make(kind=kind, dtype=torch.float32, out_dropout=0.25),
        cells(dtype=torch.float32),
    )
    if kind is FlowAttention:
        attention.chunk_size = 16
    with torch.set_grad_enabled(grad):
        y, full = attention.train()(x, [30, 10]), attention.eval()(x, [30, 10])
    kept = y != 0
    assert 0.6 < kept.float().mean() < 0.9
    torch.testing.assert_close(y[kept], full[kept] / 0.75, rtol=1e-4, atol=1e-6)
    assert torch.equal(attention(x, [30, 10]), attention(x, [30, 10]))


@pytest.mark.parametrize("grad", [True, False])
def test_dropout_of_flow_attention_is_of_what_the_heads_find(grad):
    attention = identity(make(dtype=torch.float32, dropout=0.5, chunk_size=16))
    x = cells(dtype=torch.float32)
    with torch.set_grad_enabled(grad):
        y, full = attention.train()(x), attention.eval()(x)
    kept = y != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(y[kept], full[kept] * 2, rtol=1e-4, atol=1e-6)


def test_dropout_of_softmax_attention_is_of_weights():
    attention, x = make(kind=SoftmaxAttention, dropout=0.5), cells()
    assert torch.equal(attention.eval()(x), attention(x))
    y = torch.stack([attention.train()(x) for _ in range(400)])
    assert y.std(0).min() > 0
    # Unbiased before and, being linear, after the output layer.
    error = (y.mean(0) - attention.eval()(x)).abs() / (y.std(0) / 20)
    assert error.mean() < 1.5


@pytest.mark.parametrize("kind", [FlowAttention, SoftmaxAttention])
def test_layers(kind):
    attention = make(kind=kind)
    names = {
        f"{layer}.{p}" for layer in ("query", "key", "value", "out") for p in ("weight", "bias")
    }
    assert set(attention.state_dict()) == names
    assert isinstance(attention.query, nn.Linear)
    again = pickle.loads(pickle.dumps(attention))
    assert torch.equal(again(cells()), attention(cells()))
    assert "n_hidden=12, n_heads=3" in repr(attention)


@pytest.mark.parametrize("kind", [FlowAttention, SoftmaxAttention])
def test_no_cells(kind):
    attention = make(kind=kind)
    assert attention(cells(0)).shape == (0, 12)
    assert attention(cells(0), []).shape == (0, 12)


@pytest.mark.parametrize("kind", [FlowAttention, SoftmaxAttention])
@pytest.mark.parametrize("lengths", [[39], [40, 1], [40, 0], [41, -1], []])
def test_lengths_that_do_not_fit(kind, lengths):
    with pytest.raises(ValueError, match=r"add up to the number of rows of `x`, 40; found"):
        make(kind=kind)(cells(), lengths)


@pytest.mark.parametrize("kind", [FlowAttention, SoftmaxAttention])
@pytest.mark.parametrize("n_heads", [5, 0, -1])
def test_heads_that_do_not_fit(kind, n_heads):
    with pytest.raises(ValueError, match=rf"found n_hidden=12 and n_heads={n_heads}"):
        kind(12, n_heads)


def test_chunk_size_must_be_positive():
    with pytest.raises(
        ValueError, match="`chunk_size` must be a whole number of at least 1, found 0"
    ):
        FlowAttention(12, 3, chunk_size=0)
