"""Observing a network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Plain, Residual, Tangled, images, mixed, settled
from safenet_planner import KINDS, RELU, calibration, fit, instrument, observe
from safenet_planner.calibration import BINS
from safenet_planner.fitting import fitted_range
from safenet_planner.search.joint import _functions


@pytest.mark.parametrize("plan", [False, True])
@pytest.mark.parametrize("network", [Plain, Tangled, Residual])
def test_importance_is_what_it_says(network: type[nn.Module], plan: bool) -> None:
    """Equal to the effect of each function computed on its own, from gradients kept."""
    torch.manual_seed(0)
    planned = instrument(settled(network(), images(16)), images(1)).eval()
    x = images(24, seed=1)
    if plan:
        planned.apply(mixed(planned), observe(planned, [x], 24))
    observed = observe(planned, [(x[:16], None), (x[16:], None)], 24, temperature=3.0, seed=5)

    kept: dict[str, tuple[Tensor, Tensor]] = {}
    for name, activation in planned.activations().items():

        def keep(_: object, inputs: tuple[Tensor], y: Tensor, name: str = name) -> Tensor:
            y.retain_grad()
            kept[name] = (inputs[0].detach().clone(), y)
            return y.clone()

        activation.register_forward_hook(keep)
    generator = torch.Generator().manual_seed(5)
    effects: dict[str, list[Tensor]] = {name: [] for name in planned.layers}
    values: dict[str, list[Tensor]] = {name: [] for name in planned.layers}
    for batch in (x[:16], x[16:]):
        scores = planned(batch) / 3.0
        labels = torch.multinomial(scores.detach().softmax(1), 1, generator=generator)[:, 0]
        F.cross_entropy(scores, labels, reduction="sum").backward()
        for name, (inputs, y) in kept.items():
            seen, activation = observed[name], planned.activations()[name]
            assert y.grad is not None
            shape = (*y.shape[:2], -1)
            v, g = inputs.double().reshape(shape), y.grad.double().reshape(shape)
            u = (v - ((seen.low + seen.high) / 2)[:, None]) / ((seen.high - seen.low) / 2)[:, None]
            radius = ((seen.high - seen.low) / 2)[:, None, None]
            relu = v.clamp(0, activation.ceiling)[:, :, None]
            polynomials = sum(seen.fits[:, :, i, None] * u[:, :, None] ** i for i in range(4))
            functions = torch.where(
                torch.tensor(KINDS)[:, None] == RELU, relu, radius * polynomials
            )
            change = functions - y.detach().double().reshape(shape)[:, :, None]
            effects[name].append((g[:, :, None] * change).sum(3))
            values[name].append(v)
    for name, seen in observed.items():
        v = torch.cat(values[name]).transpose(0, 1).flatten(1)
        low, high = fitted_range(v.amin(1), v.amax(1))
        assert torch.allclose(seen.low, low, rtol=1e-6, atol=1e-6)
        assert torch.allclose(seen.high, high, rtol=1e-6, atol=1e-6)
        assert seen.histogram.shape == (len(low), BINS)
        assert (seen.histogram.sum(1) == v.shape[1]).all()
        direct = torch.cat(effects[name]).square().mean(0)
        if not plan:
            changes = torch.einsum("ncj,ckj->nck", seen.effects.double(), _functions(seen))
            assert torch.allclose(changes, torch.cat(effects[name]), rtol=1e-3, atol=1e-5), name
        has = planned.activations()[name].kinds[:, None] == torch.tensor(KINDS)
        assert not seen.importance[has].any()
        assert torch.allclose(seen.importance[~has], direct[~has], rtol=2e-3, atol=1e-9), name
        assert (seen.importance[~has].sum() > 0) and not seen.fits[:, 0].any()
        ceiling = planned.activations()[name].ceiling
        for i, kind in enumerate(KINDS):
            if kind != RELU:
                own = fit(seen.histogram, seen.low, seen.high, kind, ceiling)
                assert torch.equal(seen.fits[:, i], own)


def test_predicts_small_changes() -> None:
    """The importance of a change so small that first order is all there is.

    A channel's polynomial is ReLU's line on its right side, up to a small constant: its effect
    on the loss, measured by running the network, is the one that the gradient predicts.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].bias += 4
    x = torch.rand(64, 6)
    planned = instrument(model.double(), x[:1].double())
    x = x.double()
    seen = observe(planned, [x], 64, temperature=1.0, seed=3)["1"]
    generator = torch.Generator().manual_seed(3)
    labels = torch.multinomial(planned(x).detach().softmax(1), 1, generator=generator)[:, 0]
    before = F.cross_entropy(planned(x), labels, reduction="none")
    activation = planned.activations()["1"]
    for channel in range(4):
        kinds = torch.full((4,), RELU)
        kinds[channel] = 2
        activation.plan(kinds, seen.low, seen.high, seen.fits[:, 2])
        after = F.cross_entropy(planned(x), labels, reduction="none")
        measured = float((after - before).square().mean())
        assert float(seen.importance[channel, 2]) == pytest.approx(measured, rel=0.1)


def test_effects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept of as many images as there is memory for; importances are of all."""
    torch.manual_seed(0)
    planned = instrument(settled(Plain(), images(16)), images(1)).eval()
    channels = sum(layer.channels for layer in planned.layers.values())
    x = [images(8, seed=1), images(8, seed=2)]
    whole = observe(planned, x, 16)
    monkeypatch.setattr(calibration, "EFFECTS", 10 * 20 * channels)
    part = observe(planned, x, 16)
    for name, seen in part.items():
        assert seen.effects.shape == (10, planned.layers[name].channels, 5)
        assert torch.equal(seen.effects, whole[name].effects[:10])
        assert torch.equal(seen.importance, whole[name].importance)


def test_nothing_changes() -> None:
    """Weights, gradients, modes and the random state are as before; progress is told."""
    planned = instrument(settled(Tangled(), images(8)), images(1))
    planned.train()
    planned.get_submodule("norm").eval()
    planned.get_parameter("last.weight").requires_grad_(False)
    next(planned.parameters()).grad = torch.ones(8, 3, 3, 3)
    state = copy.deepcopy(planned.state_dict())
    flags = [m.training for m in planned.modules()]
    wanted = [p.requires_grad for p in planned.parameters()]
    random = torch.get_rng_state()
    told: list[tuple[str, int, int]] = []
    observe(planned, [images(8), images(8)], 12, lambda *now: told.append(now))
    assert told == [(what, n, 12) for what in ("ranges", "importance") for n in (8, 12)]
    assert all(torch.equal(value, state[name]) for name, value in planned.state_dict().items())
    assert [m.training for m in planned.modules()] == flags
    assert [p.requires_grad for p in planned.parameters()] == wanted
    assert torch.equal(torch.get_rng_state(), random)
    grads = [p.grad for p in planned.parameters()]
    assert torch.equal(grads[0], torch.ones(8, 3, 3, 3)) and not any(
        g is not None for g in grads[1:]
    )
    assert not any(m._forward_hooks for m in planned.modules())


def test_planned_networks() -> None:
    """A network with polynomials can be observed; ranges do not depend on its first layer."""
    torch.manual_seed(0)
    planned = instrument(settled(Plain(), images(16)), images(1))
    before = observe(planned, [images(16)], 16)
    planned.apply(mixed(planned), before)
    after = observe(planned, [images(16)], 16)
    assert torch.equal(after["features.2"].low, before["features.2"].low)
    assert not torch.equal(after["features.6"].low, before["features.6"].low)


def test_refuses() -> None:
    """Wrong arguments and networks are refused."""
    planned = instrument(settled(Plain(), images(8)), images(1))
    with pytest.raises(ValueError, match="images: expected at least 1"):
        observe(planned, [images(8)], 0)
    with pytest.raises(ValueError, match="at least one image"):
        observe(planned, [], 8)
    with pytest.raises(ValueError, match="batches of images"):
        observe(planned, [["a"]], 8)
    with pytest.raises(ValueError, match="finite values"):
        observe(planned, [images(8) * torch.nan], 8)
    flat = instrument(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), images(1))
    with pytest.raises(ValueError, match=r"scores of shape \(batch, classes\)"):
        observe(flat, [images(8)], 8)
