"""Plans of one network by several methods at equal latency: training, private runs, tables.

    experiments/teacher.py                      train the network (once)
    experiments/compare.py cost                 measure what kinds cost (on an idle machine)
    experiments/compare.py train relu 1         the network as it was trained, to compare with
    experiments/compare.py train relu-tuned 1   the same after fine-tuning like that of plans
    experiments/compare.py train METHOD SHARE   plan at a share of the all-ReLU latency, fine-tune
    experiments/compare.py train continued SHARE --after RUN --epochs N
                                                the same from a fine-tuned plan (METHOD-SHARE-N)
    experiments/compare.py measure              private runs of all plans (on an idle machine)
    experiments/compare.py report               tables and plots for docs/planner.md

Everything is kept under target/planner; each step goes on from what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import images
import teacher
from networks import minionn
from safenet_planner.baselines import delphi_start
from safenet_planner.calibration import Observation, observe
from safenet_planner.cost import LAN, CostModel
from safenet_planner.export import export
from safenet_planner.kinds import KINDS, NAMES, RELU
from safenet_planner.onnx_module import from_onnx
from safenet_planner.plans import Plan
from safenet_planner.probes import measure
from safenet_planner.report import Curve, Outcome, plot_curves, plot_kinds, save
from safenet_planner.safenet import Safenet
from safenet_planner.search.budget import choose
from safenet_planner.search.methods import METHODS, method
from safenet_planner.search.problem import Found, Problem, Settings, seeded
from safenet_planner.search.start import Start
from safenet_planner.tracing import PlannedModel, instrument
from safenet_planner.training import Recipe, accuracy, read_checkpoint

TESTED = 1_000
"""Test images that are classified in fixed point."""

OBSERVED = 2_000
"""Training images on which importances are estimated."""

CALIBRATION = 256
"""Training images that the compiler calibrates on."""

ALL_RELU = "relu"

TUNED = "relu-tuned"
"""ReLU everywhere, trained as long as the plans."""

CONTINUED = "continued"
"""From a network that was fine-tuned with a plan for a larger budget."""


@dataclass(frozen=True)
class Study:
    """One network, and where its files are."""

    name: str
    load: Callable[[], nn.Module]
    """The trained network, ReLU everywhere."""
    seed: int

    @property
    def folder(self) -> Path:
        """Of everything that is kept."""
        return teacher.TARGET / self.name

    def network(self) -> PlannedModel:
        """The trained network, ready to be planned."""
        return instrument(self.load().eval(), torch.zeros(1, 3, 32, 32)).eval()

    def observations(self, model: PlannedModel, source: images.Augmented) -> dict[str, Observation]:
        """What the activations receive, from an earlier run if there was one."""
        path = self.folder / "observations.pt"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with seeded(self.seed):
                seen = observe(model, source, OBSERVED, seed=self.seed)
            torch.save({name: vars(layer) for name, layer in seen.items()}, path)
        return {
            name: Observation(**layer)
            for name, layer in torch.load(path, weights_only=True).items()
        }

    def cost(self, model: PlannedModel, source: images.Plain, safenet: Safenet) -> CostModel:
        """What kinds cost over a local network."""
        path = self.folder / "cost.json"
        if not path.is_file():
            batch, _ = next(iter(source))
            folder = self.folder / "cost"
            found = measure(model, batch, LAN, safenet, folder, runs=5, progress=_say)
            found.to_json(path)
        return CostModel.from_json(path)


def trained_minionn(width: int, epochs: int) -> nn.Module:
    """What teacher.py trained."""
    path = teacher.checkpoint(width, epochs)
    if not path.is_file():
        raise ValueError(f"{path} is missing: train the network with teacher.py")
    about, state = read_checkpoint(path)
    done = len(about["epochs"])
    if done != epochs:
        raise ValueError(f"{path}: expected {epochs} epochs, got {done}")
    model = minionn(width)
    model.load_state_dict(state["model"])
    return model


def trained_resnet20() -> nn.Module:
    """The network that comes with the repository."""
    return from_onnx(images.ROOT / "models" / "cifar10-resnet20.onnx")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def problem(study: Study, safenet: Safenet) -> Problem:
    """The network with what is known of it, and its data."""
    cifar10 = images.load()
    model = study.network()
    training = images.Augmented(cifar10.train)
    seen = study.observations(model, training)
    cost = study.cost(model, images.Plain(cifar10.train[:CALIBRATION]), safenet)
    return Problem(model, seen, cost, LAN, training, images.Plain(cifar10.validation))


def continued(task: Problem, study: Study, run: str, budget_s: float) -> Found:
    """A plan for a smaller budget, from a network that was fine-tuned with another one.

    As a stage of `gradual`: importances are of changes from what that network computes.
    """
    model = task.candidate(Plan.from_json(study.folder / f"{run}.plan.json"))
    model.load_state_dict(read_checkpoint(study.folder / f"{run}.pt")[1]["model"])
    with seeded(study.seed):
        seen = observe(model, task.training, OBSERVED, seed=study.seed)
    plan = choose(task, {layer: known.importance for layer, known in seen.items()}, budget_s)
    start = Start(state=model.apply(plan, seen, keep=True).state_dict(), changes={"ramp": 0.0})
    return Found(plan, task.seconds(plan), start)


def train(
    study: Study, safenet: Safenet, name: str, share: float, recipe: Recipe, after: str | None
) -> None:
    """Find a plan, fine-tune it, and keep the network and its accuracies."""
    task = problem(study, safenet)
    epochs = recipe.epochs
    run = ALL_RELU if name == ALL_RELU else f"{name}-{share:g}-{epochs}"
    out = study.folder / f"{run}.json"
    if out.is_file():
        _say(f"{out} is there")
        return
    settings = Settings(seed=study.seed, workdir=study.folder / "search", generations=3)
    if name in (ALL_RELU, TUNED):
        found = Found(task.relu_plan, task.relu_s)
    elif name == CONTINUED:
        if after is None:
            raise ValueError("--after: expected the run to go on from, got none")
        found = continued(task, study, after, share * task.relu_s)
    elif name == "delphi":
        # Its own choice of layers needs a training for each; here they are those whose importance
        # is least, and trained as Delphi trains.
        found = method("layerwise")(task, share * task.relu_s, settings, _say)
        found = replace(found, start=delphi_start(task, found.plan, settings))
    else:
        found = method(name)(task, share * task.relu_s, settings, _say)
    shares = ", ".join(f"{NAMES[k]} {found.plan.share(k):.0%}" for k in KINDS)
    _say(f"{run}: {found.latency_s * 1e3:.1f} of {task.relu_s * 1e3:.1f} ms; {shares}")
    with seeded(study.seed):
        planned = found.start.model(task, found.plan)
        if name != ALL_RELU:
            found.start.train(
                planned,
                task.training,
                task.validation,
                recipe,
                teacher=task.model if found.start.recipe(recipe).distil > 0 else None,
                checkpoint=study.folder / f"{run}.pt",
                progress=teacher.show,
            )
    validation = task.accuracy(planned)
    export(planned, study.folder / f"{run}.onnx", torch.zeros(1, 3, 32, 32))
    found.plan.to_json(study.folder / f"{run}.plan.json")
    for layer in planned.activations().values():
        layer.counting = True
    test = accuracy(planned, images.Plain(images.load().test))
    outside = {n: vars(layer.outside) for n, layer in planned.activations().items()}
    result = {
        "method": name,
        "share": share,
        "epochs": epochs,
        "predicted_s": found.latency_s,
        "validation": validation,
        "test": test,
        "outside": outside,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    _say(f"{run}: test {test:.2%}")


def _archive(path: Path, pictures: images.data.Pictures) -> Path:
    """Images as the `safenet` command takes them."""
    if not path.is_file():
        shown = np.ascontiguousarray(pictures.images.transpose(0, 3, 1, 2))
        np.savez_compressed(path, image=shown, label=pictures.labels)
    return path


def measured(study: Study, safenet: Safenet, passes: int) -> None:
    """Compile every trained plan and run it privately.

    The machine's speed drifts, so all plans are run one after the other, again and again; of each
    the pass with the median time counts.
    """
    cifar10 = images.load()
    calibration = _archive(study.folder / "calibration.npz", cifar10.train[:CALIBRATION])
    test = _archive(study.folder / "test.npz", cifar10.test[:TESTED])
    runs = [path.name.removesuffix(".plan.json") for path in study.folder.glob("*.plan.json")]
    right, seen = {}, {run: list[dict[str, Any]]() for run in sorted(runs)}
    for run in seen:
        _say(f"{run}: compiling")
        compiled = study.folder / f"{run}.safenet"
        safenet.compile(study.folder / f"{run}.onnx", calibration, compiled)
        right[run] = safenet.accuracy(compiled, test)
    for number in range(passes):
        _say(f"pass {number + 1} of {passes}")
        for run, found in seen.items():
            found.append(safenet.bench(study.folder / f"{run}.safenet", LAN, 3, images=test))
    for run, found in seen.items():
        found.sort(key=lambda pass_: pass_["prepare_s"] + pass_["online_s"])
        result = {"fixed_point": right[run], "lan": found[passes // 2]}
        (study.folder / f"{run}.measured.json").write_text(json.dumps(result, indent=1) + "\n")


ACTIVATIONS = {"activation", "maximum"}


def _activations(bench: dict[str, Any]) -> tuple[float, float]:
    """Seconds that both parties compute for activations, and their bytes.

    What no layer can be charged with (oblivious transfers, products) is the activations', too.
    """
    rows = [row for row in bench["layers"] if row["kind"] in {*ACTIVATIONS, "shared"}]
    keys = [f"{p}_{phase}_s" for p in ("client", "server") for phase in ("prepare", "online")]
    seconds = sum(row[key] for row in rows for key in keys)
    sides = [f"{phase}_bytes_{way}" for phase in ("prepare", "online") for way in ("up", "down")]
    return seconds, sum(row[side] for row in rows for side in sides)


def report(study: Study, plots: Path, shown: str | None) -> None:
    """Print a table in Markdown and write plots: all plans, and the kinds of the one `shown`."""
    rows = []
    for path in sorted(study.folder.glob("*.measured.json")):
        run = path.name.removesuffix(".measured.json")
        trained = json.loads((study.folder / f"{run}.json").read_text())
        found = json.loads(path.read_text())
        plan = Plan.from_json(study.folder / f"{run}.plan.json")
        rows.append((run, trained, found, plan))
    order = [ALL_RELU, TUNED, *METHODS, CONTINUED]
    rows.sort(key=lambda row: (order.index(row[1]["method"]), -row[2]["lan"]["prepare_s"]))
    whole = {run: found["lan"]["prepare_s"] + found["lan"]["online_s"] for run, _, found, _ in rows}
    base_s, base_bytes = _activations(next(f for r, _, f, _ in rows if r == ALL_RELU)["lan"])
    heads = [
        "method", "epochs", "ReLU", "3", "2", "1", "0", "test", f"fixed point, {TESTED:,}",
        "prepare + online", "against all ReLU", "predicted", "activations: time", "bytes", "online",
    ]  # fmt: skip
    print("| " + " | ".join(heads) + " |")
    print("| " + " | ".join(["---"] * len(heads)) + " |")
    for run, trained, found, plan in rows:
        lan = found["lan"]
        seconds, size = _activations(lan)
        cells = [
            trained["method"],
            f"{trained['epochs']}" if trained["method"] != ALL_RELU else "",
            *(f"{plan.share(k):.0%}" for k in (RELU, 3, 2, 1, 0)),
            f"{trained['test']:.2%}",
            f"{found['fixed_point']['accuracy']:.2%}",
            f"{whole[run] * 1e3:.1f} ms",
            f"{whole[run] / whole[ALL_RELU] - 1:+.0%}",
            f"{trained['predicted_s'] * 1e3:.1f} ms",
            f"{seconds / base_s - 1:+.0%}",
            f"{size / base_bytes - 1:+.0%}",
            f"{lan['online_s'] * 1e3:.1f} ms",
        ]
        print("| " + " | ".join(cells) + " |")
    curves = []
    for name, epochs in dict.fromkeys((t["method"], t["epochs"]) for _, t, _, _ in rows):
        points = [
            Outcome(whole[r], t["test"])
            for r, t, _, _ in rows
            if (t["method"], t["epochs"]) == (name, epochs)
        ]
        label = "all ReLU" if name == ALL_RELU else f"{name}, {epochs} epochs"
        curves.append(Curve(label, tuple(points)))
    reference = next(t["test"] for r, t, _, _ in rows if r == ALL_RELU)
    save(plot_curves(curves, reference=reference), plots / f"planner-{study.name}.png")
    if shown is not None:
        plan = Plan.from_json(study.folder / f"{shown}.plan.json")
        save(plot_kinds(plan), plots / f"planner-{study.name}-kinds.png")


def main() -> int:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = ("minionn", "resnet20")
    parser.add_argument("--network", choices=networks, default="minionn", help="(minionn)")
    parser.add_argument("--width", type=int, default=32, help="channels of minionn (32)")
    parser.add_argument("--teacher-epochs", type=int, default=20, help="of minionn (20)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("cost", help="measure what kinds cost")
    one = steps.add_parser("train", help="plan and fine-tune")
    one.add_argument("method", choices=[ALL_RELU, TUNED, *METHODS, CONTINUED])
    one.add_argument("share", type=float, help="of the all-ReLU latency, 0 to 1")
    one.add_argument("--epochs", type=int, default=6, help="of fine-tuning (6)")
    one.add_argument("--rate", type=float, default=0.05, help="highest learning rate (0.05)")
    one.add_argument("--after", metavar="RUN", help="of `continued`: what it goes on from")
    many = steps.add_parser("measure", help="run all trained plans privately")
    many.add_argument("--passes", type=int, default=7, help="of 3 sessions of each (7)")
    told = steps.add_parser("report", help="print the table, write plots")
    told.add_argument("--kinds", metavar="RUN", help="plan whose kinds are plotted, by layer")
    told.add_argument("--plots", type=Path, default=images.ROOT / "docs" / "plots")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.network == "minionn":
        load = partial(trained_minionn, args.width, args.teacher_epochs)
        study = Study(f"minionn{args.width}", load, args.seed)
    else:
        study = Study(args.network, trained_resnet20, args.seed)
    safenet = Safenet(images.ROOT / "target" / "release" / "safenet")
    todo: dict[str, Callable[[], object]] = {
        "cost": lambda: problem(study, safenet),
        "train": lambda: train(
            study,
            safenet,
            args.method,
            args.share,
            Recipe(epochs=args.epochs, rate=args.rate),
            args.after,
        ),
        "measure": lambda: measured(study, safenet, args.passes),
        "report": lambda: report(study, args.plots, args.kinds),
    }
    try:
        todo[args.step]()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
