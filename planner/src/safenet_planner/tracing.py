"""Finding the activations of a network and making them plannable, by torch.fx."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from .activation import ChannelActivation
from .kinds import RELU, index
from .plans import Plan

if TYPE_CHECKING:
    from .calibration import Observation


@dataclass(frozen=True)
class ActivationLayer:
    """What is fixed about an activation layer."""

    name: str
    """Path of the module in the user's network (with _2, _3 ... for its further uses), or the
    name that torch.fx gave to a function's call."""
    channels: int
    positions: int
    """Values of a channel in one image: height x width, or 1."""
    ceiling: float | None
    """What the ReLU is cut off at (6 for ReLU6); None for an ordinary ReLU."""


class PlannedModel(fx.GraphModule):
    """A network of which every activation layer is a `ChannelActivation`.

    Computes what the user's network did until `apply` gives channels other kinds. The user's
    modules, parameters and buffers have the paths they had, so that `weights` and
    `load_weights` exchange them with the original network; only activations are new.
    """

    layers: dict[str, ActivationLayer]
    """The activation layers in order of execution."""

    def __init__(
        self,
        root: nn.Module,
        graph: fx.Graph,
        layers: Mapping[str, ActivationLayer],
        paths: Mapping[str, str],
    ) -> None:
        super().__init__(root, graph, "PlannedModel")
        self.layers = dict(layers)
        self._paths = dict(paths)

    def __deepcopy__(self, memo: dict[int, Any]) -> PlannedModel:
        plain = copy.deepcopy(self._plain(), memo)
        copied = PlannedModel(plain, plain.graph, self.layers, self._paths)
        _set_training(copied, self)
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        flags = {path: module.training for path, module in self.named_modules()}
        return _restore, (self._plain(), self.layers, self._paths, flags)

    def _plain(self) -> fx.GraphModule:
        """The same network, sharing its modules, as torch.fx can copy and save it."""
        return fx.GraphModule(self, copy.deepcopy(self.graph), "PlannedModel")

    def activations(self) -> dict[str, ChannelActivation]:
        """The activation layers' modules by name, in order of execution."""
        found: dict[str, ChannelActivation] = {}
        for name in self.layers:
            module = self.get_submodule(self._paths[name])
            assert isinstance(module, ChannelActivation)
            found[name] = module
        return found

    def current_plan(self) -> Plan:
        """The kinds that the channels have now."""
        return Plan({name: tuple(m.kinds.tolist()) for name, m in self.activations().items()})

    def apply(  # type: ignore[override]
        self,
        plan: Plan | Callable[[nn.Module], Any],
        observations: Mapping[str, Observation] | None = None,
        keep: bool = False,
    ) -> PlannedModel:
        """Give the channels the kinds of `plan`, with ranges and starting coefficients.

        These come from `observations` (see `calibration.observe`). With `keep`, channels
        that have the kind already stay as they are, with their trained coefficients.

        A function in place of the plan is applied to each module, as `torch.nn.Module.apply` does.
        """
        if not isinstance(plan, Plan):
            return super().apply(plan)
        if observations is None:
            raise ValueError("observations: expected those of every layer, got none")
        self.check(plan)
        self._plan(plan, observations, keep)
        return self

    @torch.no_grad()
    def _plan(self, plan: Plan, observations: Mapping[str, Observation], keep: bool) -> None:
        for name, module in self.activations().items():
            if name not in observations:
                raise ValueError(f"observations: layer {name!r} is missing")
            seen = observations[name]
            kinds = torch.tensor(plan.layers[name])
            rows = torch.arange(len(kinds))
            q = seen.fits[rows, torch.tensor([index(k) for k in plan.layers[name]])]
            low, high = seen.low, seen.high
            if keep:
                same = (module.kinds.cpu() == kinds) & (kinds != RELU)
                low = torch.where(same, module.low.cpu().to(low), low)
                high = torch.where(same, module.high.cpu().to(high), high)
                q = torch.where(same[:, None], module.q.detach().cpu().to(q), q)
            module.plan(kinds, low, high, q)

    def check(self, plan: Plan) -> None:
        """Make sure that a plan has this network's layers and numbers of channels."""
        expected = {name: layer.channels for name, layer in self.layers.items()}
        got = {name: len(kinds) for name, kinds in plan.layers.items()}
        if expected != got:
            names = [n for n in {**expected, **got} if expected.get(n) != got.get(n)]
            n = names[0]
            raise ValueError(
                f"plan: layer {n!r}: expected {_channels(expected.get(n))},"
                f" got {_channels(got.get(n))}"
            )

    def _owned(self) -> list[str]:
        """Prefixes of the activations' entries in the state."""
        return [f"{path}." for path in self._paths.values()]

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers of the user's network, with the names that they have there."""
        owned = tuple(self._owned())
        return {k: v for k, v in self.state_dict().items() if not k.startswith(owned)}

    @torch.no_grad()
    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take parameters and buffers from the state of the user's network.

        Entries for parts that the traced network does not use are ignored.
        """
        for name, own in self.weights().items():
            if name not in state:
                raise ValueError(f"weights: expected an entry {name!r}, which is missing")
            if state[name].shape != own.shape:
                raise ValueError(
                    f"weights: {name!r}: expected shape {tuple(own.shape)},"
                    f" got {tuple(state[name].shape)}"
                )
            own.copy_(state[name])


def _channels(number: int | None) -> str:
    return "no such layer" if number is None else f"{number} channels"


def _set_training(model: nn.Module, like: nn.Module) -> None:
    flags = {path: module.training for path, module in like.named_modules()}
    for path, module in model.named_modules():
        module.training = flags.get(path, like.training)


def _restore(
    plain: fx.GraphModule,
    layers: dict[str, ActivationLayer],
    paths: dict[str, str],
    flags: dict[str, bool],
) -> PlannedModel:
    """Undo `PlannedModel.__reduce__`."""
    model = PlannedModel(plain, plain.graph, layers, paths)
    for path, module in model.named_modules():
        module.training = flags.get(path, module.training)
    return model


class _Tracer(fx.Tracer):
    """torch.fx's tracer, which says what it cannot look into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, ChannelActivation):
            return True
        leaf = super().is_leaf_module(m, module_qualified_name)
        if leaf and any(isinstance(child, nn.ReLU | nn.ReLU6) for child in m.children()):
            raise ValueError(
                f"{module_qualified_name}: expected ReLUs outside of PyTorch's composite modules,"
                f" got a {type(m).__name__} with one inside"
            )
        return leaf


_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def instrument(model: nn.Module, example: Tensor) -> PlannedModel:
    """A copy of `model` of which every ReLU is a `ChannelActivation`.

    `example` is a batch of images as the network takes them, (N, C, H, W), by which shapes are
    found and the copy is compared with the original; one image is enough.

    Replaces nn.ReLU, nn.ReLU6, nn.Hardtanh from 0 up, the functions relu and relu6 in all forms,
    and clamp with a minimum of 0 and no or a positive maximum. A module used several times becomes
    as many layers. Other activations stay. Dropout by function becomes a module, so that it
    follows `train()` and `eval()`; other code that asks for `self.training` is traced as in
    evaluation.

    Raises ValueError if torch.fx cannot trace the network, there is nothing to replace, or the
    traced network computes something else.
    """
    if not isinstance(example, Tensor) or example.dim() < 2 or not len(example):
        raise ValueError("example: expected a batch of at least one image as a tensor")
    copied = copy.deepcopy(model)
    training = {path: module.training for path, module in copied.named_modules()}
    copied.eval()
    try:
        graph = _Tracer().trace(copied)
    except (fx.proxy.TraceError, TypeError, RuntimeError, AttributeError, KeyError) as error:
        raise ValueError(
            "expected a network that torch.fx can trace (one tensor in, one out, no branches or"
            f" loops that depend on values), got: {type(error).__name__}: {error}"
        ) from error
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    required = [node for node in inputs if not node.args]
    if len(required) > 1 or not inputs:
        raise ValueError(f"expected a network with one input, got {[n.name for n in inputs]}")
    for node in inputs[1:]:
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        graph.erase_node(node)
    for node in graph.nodes:
        # Annotations may be strings, which torch.fx cannot save.
        node.type = None
    traced = fx.GraphModule(copied, graph, "PlannedModel")
    _replace_dropouts(traced)
    layers, paths = _replace(traced, example)
    if not layers:
        raise ValueError("expected a network with at least one ReLU, found none")
    traced.graph.lint()
    planned = PlannedModel(traced, traced.graph, layers, paths)
    _compare(model, planned, example)
    for path, module in planned.named_modules():
        module.training = training.get(path, model.training)
    return planned


def _constant(value: Any) -> float | None:
    """A plain number as float, else None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain else None


def _argument(node: fx.Node, position: int, *names: str) -> Any:
    """An argument of a call by position or any of its names, None if absent."""
    for name in names:
        if name in node.kwargs:
            return node.kwargs[name]
    return node.args[position] if position < len(node.args) else None


def _ceiling(node: fx.Node, modules: Mapping[str, nn.Module]) -> float | None:
    """What the ReLU that `node` computes is cut off at: infinite if not, None if it is no ReLU."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, nn.ReLU):
            return math.inf
        if isinstance(module, nn.Hardtanh):  # nn.ReLU6 is one
            return float(module.max_val) if module.min_val == 0 < module.max_val else None
        return None
    if node.op not in ("call_function", "call_method"):
        return None
    target = node.target
    if target in (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"):
        return math.inf
    if target is F.relu6:
        return 6.0
    if target in (F.hardtanh, F.hardtanh_):
        low = _constant(_argument(node, 1, "min_val"))
        high = _constant(_argument(node, 2, "max_val"))
        high = 1.0 if high is None else high
        return high if low == 0 < high else None
    clamps = (torch.clamp, torch.clamp_, torch.clip, torch.clip_, torch.clamp_min)
    if target in (*clamps, "clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_"):
        if _constant(_argument(node, 1, "min")) != 0:
            return None
        high = _argument(node, 2, "max")
        if high is None:
            return math.inf
        number = _constant(high)
        return number if number is not None and number > 0 else None
    return None


def _in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether an activation overwrites its input."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if isinstance(node.target, str):
        return node.target.endswith("_")
    if getattr(node.target, "__name__", "").endswith("_"):
        return True
    return bool(node.kwargs.get("inplace", False)) or any(a is True for a in node.args[1:])


def _replace_dropouts(traced: fx.GraphModule) -> None:
    """Turn dropout by function, inactive when traced, into modules."""
    for node in list(traced.graph.nodes):
        kind = _DROPOUTS.get(node.target) if node.op == "call_function" else None
        if kind is None or _argument(node, 2, "training") is not False:
            continue
        rate = _argument(node, 1, "p")
        path = _free(traced, node.name)
        traced.add_submodule(path, kind(0.5 if rate is None else rate))
        with traced.graph.inserting_before(node):
            new = traced.graph.call_module(path, (_argument(node, 0, "input"),))
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)


def _free(root: nn.Module, path: str) -> str:
    """A path near `path` at which `root` has nothing."""
    candidate, count = path, 1
    while _taken(root, candidate):
        count += 1
        candidate = f"{path}_{count}"
    return candidate


def _taken(root: nn.Module, path: str) -> bool:
    try:
        operator.attrgetter(path)(root)
    except AttributeError:
        return False
    return True


def _replace(
    traced: fx.GraphModule, example: Tensor
) -> tuple[dict[str, ActivationLayer], dict[str, str]]:
    """Replace the activations of `traced`: their descriptions, and their modules' paths."""
    graph = traced.graph
    try:
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except Exception as error:
        raise ValueError(
            f"expected a network that takes an input of shape {tuple(example.shape)},"
            f" got: {type(error).__name__}: {error}"
        ) from error
    modules = dict(traced.named_modules())
    found = [
        (node, ceiling)
        for node in graph.nodes
        if (ceiling := _ceiling(node, modules)) is not None
        and (node.users or _in_place(node, modules))
    ]
    order = {node: i for i, node in enumerate(graph.nodes)}
    used: dict[str, int] = {}
    layers: dict[str, ActivationLayer] = {}
    paths: dict[str, str] = {}
    for node, ceiling in found:
        shape = tuple(node.meta["tensor_meta"].shape)
        if len(shape) < 2:
            raise ValueError(
                f"activation {node.name!r}: expected a result of shape (batch, channels, ...),"
                f" got {shape}"
            )
        limit = ceiling if math.isfinite(ceiling) else None
        if node.op == "call_module":
            base = str(node.target)
            used[base] = used.get(base, 0) + 1
            name = base if used[base] == 1 else f"{base}_{used[base]}"
            # The first use takes the module's own place.
            path = name if used[base] == 1 else _free(traced, name)
        else:
            base, name = node.name, node.name
            path = _free(traced, name)
        count = 1
        while name in layers:
            count += 1
            name = f"{base}_{count}"
        parameter = next(traced.parameters(), example)
        activation = ChannelActivation(shape[1], limit).to(parameter.device)
        traced.add_submodule(path, activation)
        source = _argument(node, 0, "input", "self")
        later = list(source.users) if _in_place(node, modules) else []
        with graph.inserting_before(node):
            new = graph.call_module(path, (source,))
        new.meta = dict(node.meta)
        for user in later:
            if order.get(user, -1) > order[node]:
                user.replace_input_with(source, new)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        paths[name] = path
        layers[name] = ActivationLayer(name, shape[1], math.prod(shape[2:]), limit)
    traced.recompile()
    return layers, paths


@torch.no_grad()
def _compare(model: nn.Module, planned: PlannedModel, example: Tensor) -> None:
    """Make sure that both networks compute the same in evaluation mode."""
    original = copy.deepcopy(model).eval()
    planned.eval()
    expected, got = original(example.clone()), planned(example.clone())
    if not isinstance(expected, Tensor):
        raise ValueError(f"expected a network with one tensor as output, got {type(expected)}")
    if not torch.equal(torch.nan_to_num(expected), torch.nan_to_num(got)):
        difference = float((expected - got).abs().max())
        raise ValueError(
            "expected the traced network to compute what the original does, got results that differ"
            f" by {difference}: does it overwrite tensors in place, or draw at random?"
        )
