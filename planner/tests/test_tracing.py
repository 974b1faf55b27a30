"""Finding and replacing activations."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Plain, Residual, Tangled, images, mixed, settled
from safenet_planner import RELU, Plan, instrument, observe


def test_finds_every_relu() -> None:
    """All forms are found, in order of execution, with their shapes and names."""
    model = settled(Tangled(), images(8))
    planned = instrument(model, images(1))
    got = [(layer.channels, layer.positions, layer.ceiling) for layer in planned.layers.values()]
    ceilings = [None, None, None, 6.0, None, 6.0, None, None, 2.0]
    assert got == [(8, 64, ceiling) for ceiling in ceilings]
    names = list(planned.layers)
    assert [names[0], names[2], names[5]] == ["act", "act_2", "six"]
    assert [name == layer.name for name, layer in planned.layers.items()] == [True] * 9
    assert len(set(names)) == 9
    assert planned.current_plan() == Plan.uniform({name: 8 for name in names}, RELU)
    # No ReLU is left.
    assert not any(isinstance(m, nn.ReLU | nn.ReLU6) for m in planned.modules())
    functions = {n.target for n in planned.graph.nodes if n.op in ("call_function", "call_method")}
    assert not functions & {torch.relu, F.relu, F.relu6, torch.clamp, "relu", "clamp"}


@pytest.mark.parametrize("network", [Plain, Tangled, Residual])
def test_computes_the_same(network: type[nn.Module]) -> None:
    """The result, and in training the gradients, are exactly the network's."""
    torch.manual_seed(0)
    model = settled(network(), images(8))
    planned = instrument(model, images(1))
    assert planned.training is False
    x = images(6, seed=3)
    assert torch.equal(planned(x), model(x))
    grads = []
    for net in (model, planned):
        net.train()
        torch.manual_seed(7)
        net(x).square().sum().backward()
        grads.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert set(grads[0]) == set(grads[1])
    for name, grad in grads[0].items():
        assert torch.allclose(grads[1][name], grad, rtol=1e-5, atol=1e-6), name


def test_dropout_follows_the_mode() -> None:
    """Dropout by function is active in training mode only, though traced once."""
    planned = instrument(settled(Tangled(), images(8)), images(1))
    x = images(4)
    planned.eval()
    assert torch.equal(planned(x), planned(x))
    planned.train()
    assert not torch.equal(planned(x), planned(x))


def test_leaves_the_model_alone() -> None:
    """The user's model, its weights and its modes do not change."""
    model = Residual()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    planned = instrument(model, images(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert isinstance(model.relu, nn.ReLU)
    assert (model.training, model.norm.training) == (True, False)
    assert (planned.training, planned.get_submodule("norm").training) == (True, False)


def test_weights_are_exchanged() -> None:
    """Names are those of the user's network, both ways."""
    torch.manual_seed(0)
    model, other = settled(Residual(), images(8)), settled(Residual(), images(8))
    planned = instrument(model, images(1))
    assert set(planned.weights()) == set(model.state_dict())
    planned.load_weights(other.state_dict())
    x = images(3)
    assert torch.equal(planned.eval()(x), other(x))
    model.load_state_dict(planned.weights())
    assert torch.equal(model(x), other(x))
    state = other.state_dict()
    state["last.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"'last.weight': expected shape \(5, 10\), got \(1,\)"):
        planned.load_weights(state)
    del state["last.weight"]
    with pytest.raises(ValueError, match="'last.weight', which is missing"):
        planned.load_weights(state)


@pytest.mark.parametrize("network", [Plain, Tangled])
def test_copies(network: type[nn.Module]) -> None:
    """Copies and saved models are planned models with the same results, on their own."""
    torch.manual_seed(0)
    planned = instrument(settled(network(), images(8)), images(1))
    seen = observe(planned, [images(16)], 16)
    planned.apply(mixed(planned), seen).eval()
    planned.get_submodule("six" if network is Tangled else "activation").train()
    x = images(3)
    y = planned(x)
    for other in (copy.deepcopy(planned), pickle.loads(pickle.dumps(planned))):
        assert type(other).__mro__[1] is type(planned).__mro__[1]
        assert other.layers == planned.layers
        assert other.current_plan() == planned.current_plan()
        assert [m.training for m in other.activations().values()] == [
            m.training for m in planned.activations().values()
        ]
        assert torch.equal(other(x), y)
        assert set(other.weights()) == set(planned.weights())
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert torch.equal(planned(x), y)


def test_apply() -> None:
    """A plan sets kinds, ranges and coefficients; `keep` leaves trained channels alone."""
    torch.manual_seed(0)
    planned = instrument(settled(Plain(), images(16)), images(1))
    seen = observe(planned, [images(16)], 16)
    plan = mixed(planned)
    assert planned.apply(plan, seen) is planned
    assert planned.current_plan() == plan
    for name, activation in planned.activations().items():
        assert torch.allclose(activation.low.double(), seen[name].low)
        for channel, kind in enumerate(plan.layers[name]):
            if kind != RELU:
                row = seen[name].fits[channel, [-1, 3, 2, 1, 0].index(kind)]
                assert torch.allclose(activation.q[channel].detach().double(), row, atol=1e-6)
    first = planned.activations()["features.2"]
    with torch.no_grad():
        first.q += 1
    first.project()
    trained = first.q.detach().clone()
    kinds = list(plan.layers["features.2"])
    changed = kinds.index(2)
    kinds[changed] = 1
    planned.apply(Plan({**plan.layers, "features.2": tuple(kinds)}), seen, keep=True)
    same = [c for c in range(10) if c != changed]
    assert torch.equal(first.q[same].detach(), trained[same])
    assert torch.allclose(first.q[changed].detach().double(), seen["features.2"].fits[changed, 3])
    planned.apply(plan, seen)
    assert not torch.equal(first.q[same].detach(), trained[same])
    # The method of PyTorch is still there.
    visited: list[nn.Module] = []
    planned.apply(visited.append)
    assert planned in visited

    with pytest.raises(ValueError, match="'dense': expected no such layer, got 3 channels"):
        planned.apply(Plan({**plan.layers, "dense": (1, 1, 1)}), seen)
    with pytest.raises(ValueError, match="'activation': expected 15 channels, got 3 channels"):
        planned.apply(Plan({**plan.layers, "activation": (1, 1, 1)}), seen)
    with pytest.raises(ValueError, match="observations"):
        planned.apply(plan)
    with pytest.raises(ValueError, match="'activation' is missing"):
        planned.apply(plan, {k: v for k, v in seen.items() if k != "activation"})


class Branching(nn.Module):
    """What it does depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        """Cannot be traced."""
        return torch.relu(x) if x.sum() > 0 else x


class Overwriting(nn.Module):
    """Overwrites a tensor of which it reads a view."""

    def forward(self, x: Tensor) -> Tensor:
        """The view changes with the tensor."""
        y = x * 1 - 0.5
        view = y.view(y.size(0), -1)
        torch.relu_(y)
        return view


class Two(nn.Module):
    """Has two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both alike."""
        return torch.relu(x), x


class Inside(nn.Module):
    """Has a ReLU inside a module of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(8, 1, 8, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Attention."""
        return self.inner(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), "that torch.fx can trace"),
        (Overwriting(), "compute what the original does"),
        (Two(), "one tensor as output"),
        (nn.Conv2d(3, 3, 1), "at least one ReLU"),
        (nn.Sequential(nn.Linear(5, 5), nn.ReLU()), r"input of shape \(1, 3, 8, 8\)"),
    ],
)
def test_refuses(model: nn.Module, message: str) -> None:
    """What cannot be planned is refused with the reason."""
    with pytest.raises(ValueError, match=message):
        instrument(model, images(1))


def test_refuses_examples() -> None:
    """An example has to be a batch."""
    with pytest.raises(ValueError, match="at least one image"):
        instrument(Plain(), images(1)[:0])
