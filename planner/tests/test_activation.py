"""The activation layer: values, gradients, range."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safenet_planner import RELU, ChannelActivation
from safenet_planner import activation as module
from safenet_planner.activation import EDGE, MAX_SHIFT, MIN_LEADING


def layer(
    kinds: list[int], ceiling: float | None = None, dtype: torch.dtype = torch.float64
) -> ChannelActivation:
    """A layer with ranges and coefficients of its own in every channel."""
    generator = torch.Generator().manual_seed(len(kinds))
    c = len(kinds)
    made = ChannelActivation(c, ceiling).to(dtype)
    low = -1 - torch.rand(c, generator=generator, dtype=torch.float64)
    high = 2 + torch.rand(c, generator=generator, dtype=torch.float64)
    q = torch.randn(c, 4, generator=generator, dtype=torch.float64)
    made.plan(torch.tensor(kinds), low, high, q)
    return made


def reference(made: ChannelActivation, x: Tensor, clip: bool) -> Tensor:
    """What the layer's description says, channel by channel."""
    out = torch.zeros_like(x)
    for c, kind in enumerate(made.kinds.tolist()):
        relu = x[:, c].clamp(0, made.ceiling)
        if kind == RELU:
            out[:, c] = relu
            continue
        low, high = float(made.low[c]), float(made.high[c])
        middle, radius = (low + high) / 2, (high - low) / 2
        t = (x[:, c] - middle) / radius
        t = t.clamp(-1, 1) if clip else t
        y = radius * sum(made.q[c, i] * t**i for i in range(kind + 1))
        out[:, c] = made.blend * y + (1 - made.blend) * relu
    return out


def outer(x: Tensor) -> Tensor:
    """As it is."""
    return x


def inner(x: Tensor) -> Tensor:
    """With channels innermost."""
    return x.contiguous(memory_format=torch.channels_last)


def strange(x: Tensor) -> Tensor:
    """With the images innermost."""
    return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


MIXES = [[RELU, 3, 2, 1, 0, RELU, 3], [2, 1, 0], [1, RELU], [0, 0], [3], [RELU, 0]]


@pytest.mark.parametrize("kinds", MIXES)
@pytest.mark.parametrize("arrange", [outer, inner, strange])
@pytest.mark.parametrize("ceiling", [None, 1.5])
@pytest.mark.parametrize("blend", [1.0, 0.3])
def test_values_and_gradients(
    kinds: list[int],
    arrange: Callable[[Tensor], Tensor],
    ceiling: float | None,
    blend: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In training within the range, and in evaluation everywhere, both are those of the formula.

    Small blocks, so that there are several of them and rows that remain.
    """
    monkeypatch.setattr(module, "BLOCK", 40)
    monkeypatch.setattr(module, "ROW", 16)
    made = layer(kinds, ceiling)
    made.blend = blend
    generator = torch.Generator().manual_seed(1)
    for training, spread in ((True, 0.85), (False, 3.0)):
        made.train(training)
        x = torch.rand(5, len(kinds), 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
        shape = (1, -1, 1, 1)
        middle, radius = (made.low + made.high) / 2, (made.high - made.low) / 2
        x = arrange(spread * x * radius.view(shape) + middle.view(shape)).requires_grad_()
        g = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        y = made(x)
        if arrange is inner:
            assert y.is_contiguous(memory_format=torch.channels_last)
        else:
            assert y.is_contiguous()
        got = torch.autograd.grad(y, [x, made.q], g)
        made.zero_grad()
        right = reference(made, x, clip=False)
        wanted = torch.autograd.grad(right, [x, made.q], g, allow_unused=True)
        assert torch.allclose(y, right, rtol=1e-12, atol=1e-12)
        assert torch.allclose(got[0], wanted[0], rtol=1e-12, atol=1e-12)
        if wanted[1] is not None:
            assert torch.allclose(got[1], wanted[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kinds", MIXES)
def test_gradcheck(kinds: list[int]) -> None:
    """Numerical differentiation agrees, of the excess too."""
    made = layer(kinds)
    made.train()
    q = made.q.detach().clone().requires_grad_()
    del made._parameters["q"]
    u = torch.linspace(-0.99, 0.98, 8 * len(kinds), dtype=torch.float64)
    u = u.view(2, 4, len(kinds)).transpose(1, 2)
    middle, radius = (made.low + made.high) / 2, (made.high - made.low) / 2
    x = (middle[:, None] + radius[:, None] * u).contiguous().requires_grad_()

    def run(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        made.q = q
        y = made(x)
        assert made.excess is not None
        return y, made.excess

    assert torch.autograd.gradcheck(run, (x, q))
    if max(kinds) > 0:
        assert float(run(x, q)[1].detach()) > 0


def test_dense() -> None:
    """Values of shape (N, C), and of none at all."""
    made = layer([RELU, 3, 2, 1, 0]).eval()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    y = made(x)
    assert torch.allclose(y, reference(made, x, clip=False), atol=1e-12)
    assert made(x[:0]).shape == (0, 5)
    made.train()
    made(x[:0]).sum().backward()
    with pytest.raises(ValueError, match=r"\(N, 5, ...\), got \(7, 4\)"):
        made(x[:, :4])


def test_relu_exact() -> None:
    """ReLU channels give what ReLU gives, bit for bit, alone and beside polynomials."""
    x = torch.randn(4, 6, 5, 5)
    assert torch.equal(ChannelActivation(6)(x), F.relu(x))
    assert torch.equal(ChannelActivation(6, 6.0)(4 * x), F.relu6(4 * x))
    for ceiling in (None, 0.5):
        made = layer([RELU, 2, RELU, 3, 0, RELU], ceiling, torch.float32)
        for training in (True, False):
            y = made.train(training)(x)
            assert torch.equal(y[:, ::5], x[:, ::5].clamp(0, ceiling))


def test_beyond_the_range() -> None:
    """In training, values are clipped, the gradient is the tangent's, and the excess pulls back."""
    made = layer([3, RELU, 0])
    made.train()
    high, low = float(made.high[0]), float(made.low[0])
    x = torch.tensor([[high + 1, 9.0, 9.0], [low - 1, 9.0, 9.0]], dtype=torch.float64)
    x.requires_grad_()
    ends = torch.tensor([[high, 9.0, 9.0], [low, 9.0, 9.0]], dtype=torch.float64)
    ends.requires_grad_()
    y = made(x)
    (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert torch.allclose(y, reference(made, ends, clip=False))
    (tangent,) = torch.autograd.grad(reference(made, ends, clip=False).sum(), ends)
    assert torch.allclose(slope, tangent)
    radius = (high - low) / 2
    assert made.excess is not None
    over = 1 + 1 / radius - EDGE
    assert float(made.excess) == pytest.approx(over**2)
    (pull,) = torch.autograd.grad(made.excess, x)
    assert float(pull[0, 0]) == pytest.approx(over / radius)
    assert float(pull[1, 0]) == pytest.approx(-over / radius)
    assert not pull[:, 1:].any()
    # Nothing is clipped in evaluation.
    made.eval()
    assert torch.allclose(made(x), reference(made, x, clip=False))
    assert made.excess is None


def test_counting() -> None:
    """Values outside of the range are counted in evaluation when asked for."""
    made = ChannelActivation(3)
    made.plan(torch.tensor([2, RELU, 0]), torch.full((3,), -1.0), torch.ones(3), torch.ones(3, 4))
    made.eval()
    x = torch.zeros(4, 3, 2, 2)
    x[0, 0, 0, 0], x[1, 0, 1, 1], x[2, 1:] = 1.5, -3.0, 100.0
    made(x)
    assert made.outside.total == 0
    made.counting = True
    made(x)
    made(x[:1])
    assert (made.outside.count, made.outside.total) == (3, 20)
    assert made.outside.share == 0.15
    assert made.outside.farthest == 3
    made.train()(x)
    assert made.outside.total == 20


def test_projection() -> None:
    """Leading coefficients keep their distance from zero, and what is conditioned stays."""
    made = ChannelActivation(4)
    q = torch.tensor([[1, 2, 0.01, 9], [1, 5, -0.2, 9], [1, 2, 3, -0.001], [0.5, 0.4, 0.3, 0.2]])
    made.plan(torch.tensor([2, 2, 3, 3]), torch.full((4,), -1.0), torch.ones(4), q)
    lead2, lead3 = MIN_LEADING[2], MIN_LEADING[3]
    expected = [
        [1, MAX_SHIFT[2] * 2 * lead2, lead2, 0],
        [1, MAX_SHIFT[2] * 2 * 0.2, -0.2, 0],
        [1, 2, MAX_SHIFT[3] * 3 * lead3, lead3],
        [0.5, 0.4, 0.3, 0.2],
    ]
    assert torch.allclose(made.q.detach(), torch.tensor(expected))


def test_coefficients() -> None:
    """The coefficients in x give the same polynomial."""
    made = layer([3, 2, 1, 0, RELU]).eval()
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)
    c = made.coefficients()
    y = made(x[:, None].expand(-1, 5))
    for channel in range(4):
        value = sum(c[channel, i] * x**i for i in range(4))
        assert torch.allclose(value, y[:, channel], atol=1e-12)
    assert not c[4].any()


def test_copies() -> None:
    """A layer can be copied and saved after a pass in training mode."""
    made = layer([3, RELU]).train()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    y = made(x)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other.excess is None
        assert torch.equal(other(x), y)
    assert made.excess is not None


def test_follows_changes() -> None:
    """Whatever is changed counts at the next pass."""
    made = layer([3, RELU, 1]).eval()
    x = torch.randn(4, 3, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(made(x), reference(made, x, clip=False))
    made.train()
    assert torch.allclose(made(x), reference(made, x, clip=True))
    made(x).sum().backward()
    made.eval()
    made.high.mul_(2)
    assert torch.allclose(made(x), reference(made, x, clip=False))
    made.blend = 0.5
    assert torch.allclose(made(x), reference(made, x, clip=False))
    made.ceiling = 0.2
    assert torch.allclose(made(x), reference(made, x, clip=False))
    made.load_state_dict(layer([RELU, 2, 0]).state_dict())
    assert torch.allclose(made(x), reference(made, x, clip=False))
    assert torch.allclose(made.float()(x.float()).double(), reference(made, x, clip=False))


def test_half_precision() -> None:
    """Half-precision values are worked on in single precision."""
    made = layer([3, RELU, 1], dtype=torch.float32).eval()
    x = torch.randn(4, 3, 2, 2).bfloat16()
    y = made(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, made(x.float()).bfloat16())


def test_refuses() -> None:
    """Wrong arguments are named."""
    made = ChannelActivation(2)
    kinds, low, high, q = torch.tensor([2, RELU]), -torch.ones(2), torch.ones(2), torch.ones(2, 4)
    with pytest.raises(ValueError, match="low < high"):
        made.plan(kinds, high, low, q)
    with pytest.raises(ValueError, match="low < high"):
        made.plan(kinds, low, high * torch.inf, q)
    with pytest.raises(ValueError, match="finite coefficients"):
        made.plan(kinds, low, high, q * torch.nan)
    with pytest.raises(ValueError, match=r"kinds: expected values of .*, got 4"):
        made.plan(kinds + 2, low, high, q)
    with pytest.raises(ValueError, match=r"q: expected shape \(2, 4\)"):
        made.plan(kinds, low, high, q[:, :3])
    with pytest.raises(ValueError, match="ceiling"):
        ChannelActivation(2, 0)
    with pytest.raises(ValueError, match="channels"):
        ChannelActivation(0)
