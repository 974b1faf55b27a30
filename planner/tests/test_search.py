"""Searching for plans."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from problems import Small, problem
from safenet_planner import (
    KINDS,
    METHODS,
    RELU,
    WAN,
    Plan,
    Problem,
    Recipe,
    Settings,
    Start,
    Trial,
    cheapest,
)
from safenet_planner.search import Some, differentiable, joint, tree, trials
from safenet_planner.search.budget import choose
from safenet_planner.search.methods import method
from safenet_planner.search.problem import seeded
from safenet_planner.selection import total

QUICK = Settings(steps=4, population=3, generations=2, epochs=1)


def states(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of a model's state."""
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, posed: Problem) -> None:
    """Keeps the budget, leaves the problem as it was, and its plan trains and predicts."""
    before = states(posed.model)
    drawn = torch.get_rng_state()
    budget = 0.7 * posed.relu_s
    found = METHODS[name](posed, budget, QUICK, None)
    assert posed.seconds(found.plan) == found.latency_s <= budget
    assert found.plan != posed.relu_plan
    assert all(torch.equal(before[k], v) for k, v in posed.model.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    model = found.start.model(posed, found.plan)
    assert model.current_plan() == found.plan
    reached = posed.tune(model, 8, 0.02, 0, found.start)
    assert model.current_plan() == found.plan
    assert 0.2 < reached <= 1  # a quarter is chance
    again = METHODS[name](posed, budget, QUICK, None)
    assert (again.plan, again.trials) == (found.plan, found.trials)


@pytest.mark.parametrize("name", METHODS)
def test_budget_out_of_reach(name: str, posed: Problem) -> None:
    """An error that says how much is needed."""
    with pytest.raises(ValueError, match="budget: expected at least 0.0"):
        METHODS[name](posed, 1e-9, QUICK, None)


def test_method_names() -> None:
    """Unknown ones are refused."""
    assert method("selection") is METHODS["selection"]
    with pytest.raises(ValueError, match="expected one of selection, joint, gradual, .*'best'"):
        method("best")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1"),
        ({"rate": 0.0}, "rate: expected a positive number"),
        ({"threshold": 1.5}, "threshold: expected 0 to 1"),
        ({"temperatures": (1.0, 0.0)}, "temperatures"),
        ({"penalty": -1.0}, "penalty: expected at least 0"),
        ({"square": "cube"}, "square"),
    ],
)
def test_settings(changes: dict[str, object], message: str) -> None:
    """Values that make no sense."""
    with pytest.raises(ValueError, match=message):
        Settings(**changes)  # type: ignore[arg-type]


def test_problem_is_checked(posed: Problem) -> None:
    """The network must be all ReLU, observations complete."""
    planned = posed.candidate(Plan.uniform(posed.channels, 2))
    with pytest.raises(ValueError, match="ReLU in every channel"):
        dataclasses.replace(posed, model=planned)
    with pytest.raises(ValueError, match=r"observations: layer 'features\.2' is missing"):
        dataclasses.replace(posed, observations={})


def test_some_batches() -> None:
    """A source that is too short is begun again; an empty one is refused."""
    source = [(torch.tensor([i]), torch.tensor([i])) for i in range(3)]
    assert [int(x) for x, _ in Some(source, 7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [int(x) for x, _ in Some(source, 2)] == [0, 1]
    with pytest.raises(ValueError, match="at least one batch"):
        list(Some([], 2))


def test_seeded() -> None:
    """The same numbers inside, and what was outside goes on."""
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = torch.rand(1)
    with seeded(1):
        one = torch.rand(1)
    with seeded(1):
        assert torch.equal(one, torch.rand(1))
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4])
def test_choice_is_good(share: float, posed: Problem) -> None:
    """No worse than any plan of the additive problem that keeps the budget, at many budgets."""
    budget = share * posed.relu_s
    plan = choose(posed, posed.importance, budget)
    reached = total(posed.importance, plan)
    costs = posed.cost.channel_costs(posed.link)
    tried = 0
    for part in range(1, 60):
        linear = part / 60 * sum(float(table[:, 0].sum()) for table in costs.values())
        other = cheapest(posed.importance, costs, linear)
        if posed.seconds(other) <= budget:
            tried += 1
            assert reached <= total(posed.importance, other) * (1 + 1e-9)
    assert tried > 5


def test_choice_has_allowed_kinds(posed: Problem) -> None:
    """Only what is allowed, and everything if there is time for it."""
    plan = choose(posed, posed.importance, 0.8 * posed.relu_s, (RELU, 2))
    assert {k for kinds in plan.layers.values() for k in kinds} == {RELU, 2}
    assert choose(posed, posed.importance, math.inf) == posed.relu_plan


def test_choice_saves_rounds(network: Small, tmp_path: Path) -> None:
    """Where a round trip is long, whole layers go without the deepest kinds."""
    far = problem(network, tmp_path, WAN)
    plan = choose(far, far.importance, 0.6 * far.relu_s)
    rounds = [far.cost.layers[n].rounds for n in plan.layers]
    deepest = [
        max((r[k] for k in set(kinds) if k), default=0)
        for r, kinds in zip(rounds, plan.layers.values(), strict=True)
    ]
    assert min(deepest) < 2 < max(r[RELU] for r in rounds)
    # What the additive problem alone finds in that time.
    costs = far.cost.channel_costs(WAN)
    highest = sum(float(table[:, 0].sum()) for table in costs.values())
    plans = [cheapest(far.importance, costs, part / 99 * highest) for part in range(100)]
    fitting = [p for p in plans if far.seconds(p) <= 0.6 * far.relu_s]
    least = min(total(far.importance, p) for p in fitting)
    assert total(far.importance, plan) < 0.9 * least


def test_stages_are_kept(posed: Problem, tmp_path: Path) -> None:
    """An interrupted gradual search goes on, to the same end; a spoiled stage is refused."""
    budget, settings = 0.6 * posed.relu_s, dataclasses.replace(QUICK, generations=3)
    whole = METHODS["gradual"](posed, budget, settings, None)
    latencies = [trial.latency_s for trial in whole.trials]
    assert len(latencies) == 3 and latencies == sorted(latencies, reverse=True)
    told: list[str] = []
    kept = dataclasses.replace(settings, workdir=tmp_path)
    METHODS["gradual"](posed, budget, kept, None)
    (folder,) = tmp_path.iterdir()
    (folder / "stage-03.json").unlink()
    again = METHODS["gradual"](posed, budget, kept, told.append)
    assert (again.plan, again.trials) == (whole.plan, whole.trials)
    assert again.start.state is not None and whole.start.state is not None
    assert all(torch.equal(v, again.start.state[k]) for k, v in whole.start.state.items())
    assert [line.split(",")[0] for line in told] == [f"gradual: stage {n} of 3" for n in (1, 2, 3)]
    (folder / "stage-01.json").write_text("{}")
    with pytest.raises(ValueError, match="stage-01.json: expected a finished stage"):
        METHODS["gradual"](posed, budget, kept, None)


def test_start_goes_on_from_a_state(posed: Problem) -> None:
    """Weights and coefficients are taken over; another plan's are refused."""
    plan = Plan.uniform(posed.channels, 2)
    model = posed.candidate(plan)
    posed.tune(model, 2, 0.05, 0)
    start = Start(state=states(model), changes={"ramp": 0.0, "epochs": 3})
    again = start.model(posed, plan)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert start.recipe(Recipe()) == Recipe(ramp=0.0, epochs=3)
    with pytest.raises(ValueError, match="same plan"):
        start.model(posed, posed.relu_plan)


def test_tree_of_ranges() -> None:
    """Halves of halves, level by level, down to every single layer."""
    assert tree.nodes(1) == [(0, 1)]
    assert tree.nodes(5) == [
        (0, 5), (0, 3), (3, 5), (0, 2), (2, 3), (3, 4), (4, 5), (0, 1), (1, 2)
    ]  # fmt: skip
    for layers in range(1, 12):
        found = tree.nodes(layers)
        assert len(found) == 2 * layers - 1
        assert {(i, i + 1) for i in range(layers)} <= set(found)


def test_tree_plans_least_important_channels(posed: Problem) -> None:
    """A ratio of a layer's channels, those that its degree harms least."""
    space = tree._Space(posed, math.inf)
    dead = space.plan(tree.Candidate((8,) * 4, (0,) * 4))
    assert all(sorted(kinds)[-2:] == [0, 1] for kinds in dead.layers.values())
    plan = space.plan(tree.Candidate((4, 0, 8, 2), (2, 3, 1, 0)))
    for (name, kinds), degree, count in zip(
        plan.layers.items(), (2, 3, 1, 0), (3, 0, 6, 2), strict=True
    ):
        assert kinds.count(degree) == count
        assert kinds.count(RELU) == len(kinds) - count
        values = posed.importance[name][:, KINDS.index(degree)]
        chosen = torch.tensor([k == degree for k in kinds])
        if 0 < count < len(kinds):
            assert values[chosen].max() <= values[~chosen].min()


def test_tree_result(posed: Problem) -> None:
    """Ratios, degrees, score and accuracy are those of the best trial, whose weights are given."""
    budget = 0.7 * posed.relu_s
    found = METHODS["tree"](posed, budget, QUICK, None)
    details = found.details
    assert len(details["ratios"]) == len(details["degrees"]) == 4
    scores = [tree.score(posed, budget, trial, None) for trial in found.trials]
    assert details["score"] == max(scores)
    assert max(scores) <= details["accuracy"] * (1 + 0.3 + 1e-9)
    assert posed.accuracy(found.start.model(posed, found.plan)) == details["accuracy"]
    for kinds, ratio, degree in zip(
        found.plan.layers.values(), details["ratios"], details["degrees"], strict=True
    ):
        assert kinds.count(degree) == math.floor(ratio * len(kinds) + 0.5)
    assert any(trial.details["parent"] is not None for trial in found.trials)


def test_tree_of_small_budget(posed: Problem) -> None:
    """Where no degree shared by all layers is quick enough, degrees differ from the start."""
    budget = 0.7 * posed.seconds(Plan.uniform(posed.channels, 1))
    root = tree._Space(posed, budget).root(4)
    assert len(root) > 1
    assert any(len(set(candidate.beta)) > 1 for candidate in root)
    found = METHODS["tree"](posed, budget, QUICK, None)
    assert found.latency_s <= budget
    assert all(set(kinds) != {0} for kinds in found.plan.layers.values())


def test_tree_threshold(posed: Problem) -> None:
    """Without a budget the threshold limits what is saved; trials below it lose."""
    assert tree.score(posed, math.inf, Trial("", posed.relu_plan, 1e-9, 0.8), 0.9) < 0
    assert tree.score(posed, math.inf, Trial("", posed.relu_plan, posed.relu_s, 0.9), 0.9) == 0.9
    settings = dataclasses.replace(QUICK, threshold=0.8, steps=8)
    found = METHODS["tree"](posed, math.inf, settings, None)
    assert found.details["accuracy"] >= 0.8
    assert found.latency_s < posed.relu_s
    with pytest.raises(ValueError, match="neither"):
        METHODS["tree"](posed, math.inf, QUICK, None)


@pytest.mark.parametrize("name", ["tree", "delphi", "differentiable"])
def test_searches_go_on(
    name: str, posed: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interruption nothing finished is run again, and the result is the same."""
    budget = 0.7 * posed.relu_s
    settings = dataclasses.replace(QUICK, epochs=3, workdir=tmp_path)
    whole = METHODS[name](posed, budget, dataclasses.replace(settings, workdir=None), None)
    assert len(whole.trials) >= 3
    calls = []

    def stop(text: str) -> None:
        calls.append(text)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        METHODS[name](posed, budget, settings, stop)
    lines: list[str] = []
    again = METHODS[name](posed, budget, settings, lines.append)
    assert (again.plan, again.trials, again.details) == (whole.plan, whole.trials, whole.details)
    finished = len(whole.trials)
    ran = [x for x in lines if x.startswith(("trial", "differentiable"))]
    assert len(ran) == finished - 2
    if whole.start.state is not None:
        assert again.start.state is not None
        assert all(torch.equal(v, again.start.state[k]) for k, v in whole.start.state.items())
    monkeypatch.setattr(trials, "perform", None)  # must not be needed
    assert METHODS[name](posed, budget, settings, None).trials == whole.trials


def test_diverged_trials(posed: Problem) -> None:
    """They have no weights, and nothing starts from them."""
    settings = dataclasses.replace(QUICK, rate=1e30)
    with pytest.raises(FloatingPointError, match="every trial diverged"):
        METHODS["tree"](posed, 0.7 * posed.relu_s, settings, None)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "x", "version": 1}'])
def test_damaged_trials(content: str, posed: Problem, tmp_path: Path) -> None:
    """Files that are no trials are named."""
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json: expected a finished trial"):
        trials.Store(tmp_path).get(trials.Job("a", posed.relu_plan, 0))


def test_stored_trials(posed: Problem, tmp_path: Path) -> None:
    """What is put in a folder comes out of it, and not for another plan."""
    trial = Trial("a", posed.relu_plan, 0.5, 0.75, {"node": [0, 3]})
    trials.Store(tmp_path).put(trial, b"weights")
    store = trials.Store(tmp_path)
    assert store.get(trials.Job("a", posed.relu_plan, 0)) == trial
    assert store.state("a") == b"weights"
    assert store.get(trials.Job("b", posed.relu_plan, 0)) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.pt"]
    with pytest.raises(ValueError, match="another plan"):
        store.get(trials.Job("a", Plan.uniform(posed.channels, 1), 0))
    assert json.loads((tmp_path / "a.json").read_text())["accuracy"] == 0.75


def test_parallel_trials_are_the_same(posed: Problem) -> None:
    """Ray Tune's processes find what this one does, here and on a cluster."""
    pytest.importorskip("ray.tune")
    from ray.cluster_utils import Cluster

    budget = 0.7 * posed.relu_s
    settings = dataclasses.replace(QUICK, population=2, generations=1)
    expected = METHODS["delphi"](posed, budget, settings, None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        for place in ({"address": cluster.address}, {"parallel": 2}):
            lines: list[str] = []
            elsewhere = dataclasses.replace(settings, **place)  # type: ignore[arg-type]
            found = METHODS["delphi"](posed, budget, elsewhere, lines.append)
            assert len(lines) == len(found.trials) == 2
            assert found.trials == expected.trials
            assert found.start.state is not None and expected.start.state is not None
            for name, value in expected.start.state.items():
                assert torch.equal(value, found.start.state[name])
    finally:
        cluster.shutdown()


@pytest.mark.parametrize("ceiling", [None, 0.7])
def test_mixture_gradients(ceiling: float | None) -> None:
    """The mixture's derivatives, by differences."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, dtype=torch.float64) * 0.5
    share = torch.rand(4, dtype=torch.float64)
    w = torch.randn(4, 4, dtype=torch.float64)
    middle, radius = torch.zeros(4).double() + 0.1, torch.full((4,), 3.0).double()
    for value in (x, share, w):
        value.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, s, w: differentiable._Mixed.apply(x, s, w, middle, radius, ceiling), (x, share, w)
    )


def test_mixture_of_one_kind(posed: Problem) -> None:
    """With all probability at a kind the network is the one that has it everywhere."""
    x = posed.validation[0][0]
    for kind in KINDS:
        plan = Plan.uniform(posed.channels, kind)
        relaxed = differentiable._Relaxed(posed)
        relaxed.begin(plan)
        for mixture in relaxed.mixtures.values():
            mixture.temperature = 1e-3
        model = copy.deepcopy(posed.candidate(plan))
        # Inside the ranges, where clipping makes no difference.
        for module in model.activations().values():
            module.train()
        assert torch.allclose(relaxed.model(x), model(x), atol=1e-4)
        expected = differentiable._Expected(relaxed, plan)
        assert float(expected.seconds()) == pytest.approx(posed.seconds(plan))


def test_differentiable_learns(posed: Problem) -> None:
    """It keeps the budget, and mends a choice by importances that are the wrong way round."""
    seen = {
        name: dataclasses.replace(x, importance=1 / (x.importance + 1e-3))
        for name, x in posed.observations.items()
    }
    misled = dataclasses.replace(posed, observations=seen)
    budget = 0.5 * posed.relu_s
    first = choose(misled, misled.importance, budget)
    settings = dataclasses.replace(QUICK, epochs=12, logit_rate=0.1)
    found = METHODS["differentiable"](misled, budget, settings, None)
    assert float(found.trials[-1].details["expected_s"]) <= 1.1 * budget
    x = torch.cat([x for x, _ in posed.validation])
    with torch.no_grad():
        ours, theirs = (
            float(differentiable._distance(posed.candidate(p).eval(), posed, x))
            for p in (found.plan, first)
        )
    assert ours < 0.5 * theirs


def test_joint_values(posed: Problem) -> None:
    """What a channel's kinds are said to be worth is what they change of the loss."""
    descent = joint._Descent(posed, 0)
    assert descent.loss() == 0
    descent.settle(30 * descent.least())
    assert len(set(descent.kinds)) > 2
    for c in range(len(descent.kinds)):
        values, corrections, others = descent._values(c)
        start = descent.state()
        losses = []
        for k in range(len(KINDS)):
            descent._give(c, k, corrections, others)
            losses.append(descent.loss())
            # No other correction of this channel is better.
            change = 1e-3 * torch.randn(5, generator=torch.Generator().manual_seed(c)).double()
            free = torch.tensor([j in joint.FREE[KINDS[k]] for j in range(5)])
            kinds, coefficients = descent.state()
            coefficients[c] += torch.where(free, change, 0.0)
            descent.restore((kinds, coefficients))
            assert descent.loss() >= losses[-1] - 1e-7
            descent.restore(start)
        relative = torch.tensor(losses).double() - losses[0]
        assert torch.allclose(relative, values - values[0], atol=1e-5)


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_joint_is_better(share: float, posed: Problem) -> None:
    """Its plan loses less together than one whose channels were chosen each for itself."""
    budget = share * posed.relu_s
    descent = joint._Descent(posed, 0)
    losses = []
    for name in ("joint", "selection"):
        plan = METHODS[name](posed, budget, QUICK, None).plan
        kinds = [KINDS.index(k) for row in plan.layers.values() for k in row]
        given = descent.given[torch.arange(len(kinds)), torch.tensor(kinds)]
        descent.restore((kinds, given.clone()))
        for _ in range(200):
            for c, kind in enumerate(kinds):
                _, corrections, others = descent._values(c)
                descent._give(c, kind, corrections, others)
        losses.append(descent.loss())
    assert losses[0] < losses[1]


def test_no_layer_of_constants(posed: Problem) -> None:
    """However little single channels are minded, something of the image passes every layer."""
    free = {name: torch.full_like(t, 1e-9) for name, t in posed.importance.items()}
    for table in free.values():
        table[:, 0] = 0
    plan = choose(posed, free, 0.5 * posed.relu_s)
    assert all(set(kinds) != {0} for kinds in plan.layers.values())
