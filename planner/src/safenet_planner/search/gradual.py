"""Selection by importance in stages, the network adapting in between.

Importances hold for one channel at a time and for the network as it is: that each of two channels
can do without its ReLU says little of both together. As in pruning, where many small steps with
training in between keep more accuracy than a large one (Han, Pool, Tran and Dally, *Learning both
Weights and Connections for Efficient Neural Networks*, NIPS 2015, section 3.3), the budget is
lowered stage by stage, in equal ratios. Each stage observes the network that the last one left,
so that importances are those of changes from there and in both directions (a channel may get its
ReLU back), chooses within its budget, and fine-tunes for a little.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

from ..calibration import Observation, observe
from ..plans import Plan
from .budget import choose
from .problem import Found, Problem, Progress, Settings, seeded
from .start import Start
from .trials import State, Trial, packed, unpacked, write_atomically

OBSERVED = 2_000
"""Images on which a stage observes, at most."""


def search(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """As many stages as `Settings.generations`, each fine-tuned for `Settings.steps` batches.

    Training goes on from the last stage's weights.
    """
    folder = problem.folder("gradual", budget_s, settings)
    state: State | None = None
    trials: list[Trial] = []
    for stage in range(1, settings.generations + 1):
        path = None if folder is None else folder / f"stage-{stage:02d}.json"
        if path is not None and path.is_file():
            trial, state = _restore(path)
        else:
            within = problem.relu_s * (budget_s / problem.relu_s) ** (stage / settings.generations)
            trial, state = _stage(problem, state, stage, min(problem.relu_s, within), settings)
            if path is not None:
                _save(path, trial, state)
        trials.append(trial)
        if progress is not None:
            progress(
                f"gradual: stage {stage} of {settings.generations},"
                f" {1e3 * trial.latency_s:.1f} ms, accuracy {trial.accuracy:.2%}"
            )
    last = trials[-1]
    start = Start(state=state, changes={"ramp": 0.0})
    return Found(last.plan, last.latency_s, start, tuple(trials))


def _stage(
    problem: Problem, before: State | None, stage: int, budget_s: float, settings: Settings
) -> tuple[Trial, State]:
    """Observe, choose and fine-tune."""
    seed = settings.seed * 1_000_003 + stage
    model = copy.deepcopy(problem.model)
    seen: dict[str, Observation] = dict(problem.observations)
    if before is not None:
        model.load_state_dict(dict(before))
        with seeded(seed):
            seen = observe(model, problem.training, OBSERVED, seed=seed)
    plan = choose(problem, {name: layer.importance for name, layer in seen.items()}, budget_s)
    model.apply(plan, seen, keep=True)
    reached = problem.tune(model, settings.steps, settings.rate, seed, threads=settings.threads)
    trial = Trial(f"stage-{stage:02d}", plan, problem.seconds(plan), reached)
    return trial, model.state_dict()


def _save(path: Path, trial: Trial, state: State) -> None:
    """Keep a stage: its weights, and then the record that says that they are there."""
    write_atomically(path.with_suffix(".weights"), packed(state))
    record = {
        "key": trial.key,
        "plan": {name: list(kinds) for name, kinds in trial.plan.layers.items()},
        "latency_s": trial.latency_s,
        "accuracy": trial.accuracy,
    }
    write_atomically(path, (json.dumps(record) + "\n").encode())


def _restore(path: Path) -> tuple[Trial, State]:
    """What an earlier run kept."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan({name: tuple(kinds) for name, kinds in found["plan"].items()})
        trial = Trial(found["key"], plan, float(found["latency_s"]), float(found["accuracy"]))
        return trial, unpacked(path.with_suffix(".weights").read_bytes())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a finished stage, got {error!r}") from error
