"""Planning a network from start to end."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .activation import Outside
from .calibration import observe
from .cost import LAN, CostModel, Link
from .export import export
from .kinds import KINDS, NAMES, RELU
from .plans import Plan
from .probes import IMAGES, measure
from .safenet import Safenet
from .search.methods import method as find_method
from .search.problem import Found, Problem, Settings, seeded, state_digest
from .search.trials import write_atomically
from .tracing import PlannedModel, instrument
from .training import Epoch, Recipe

if TYPE_CHECKING:
    from .report import Curve

OBSERVED = 2048
"""Training images that importances are estimated on, at most."""

SWEEP = (0.75, 0.6, 0.48, 0.38, 0.3, 0.24, 0.19, 0.15, 0.12, 0.1, 0.07, 0.05)
"""Budgets tried for an accuracy floor, as shares of the all-ReLU network's latency."""

PREVIEW = (0.15, 0.2, 0.3, 0.4, 0.55, 0.75)
"""Budgets, likewise, of the plans whose accuracy before fine-tuning is shown."""

Progress = Callable[[str], None]
"""Called with one line about what is or has been done."""

FORMAT = "safenet-planner run"
VERSION = 1


@dataclass(frozen=True)
class Result:
    """A planned and fine-tuned network."""

    model: PlannedModel
    plan: Plan
    curve: tuple[Curve, ...]
    """Accuracy against predicted latency: of the fine-tuned networks, first; of the trials of the
    search; and of plans by first-order importance before any fine-tuning."""
    accuracy: float
    """On the validation images, 0 to 1."""
    latency_s: float
    """Predicted seconds of an inference, preparing included."""
    outside: Mapping[str, Outside]
    """By layer, values of the validation images beyond the fitted ranges."""
    found: Found
    """What the search found."""
    cost: CostModel
    report_path: Path
    onnx_path: Path


def plan(
    model: nn.Module,
    train_loader: Iterable[tuple[Tensor, Tensor]],
    val_loader: Iterable[tuple[Tensor, Tensor]],
    *,
    budget: float | None = None,
    floor: float | None = None,
    link: Link | str = LAN,
    method: str = "selection",
    epochs: int = 8,
    seed: int | None = None,
    workdir: Path | str = "planned",
    cost: CostModel | None = None,
    safenet: Safenet | Path | str | None = None,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    settings: Settings | None = None,
) -> Result:
    """Choose each channel's activation, fine-tune, and export.

    `model` is a trained classifier, which stays as it is; the loaders give batches (images, labels)
    each time they are iterated over. Either `budget`, the longest time of an inference in
    seconds with preparing included, is given, and the most accurate plan within it is made; or
    `floor`, the least accuracy on validation images from 0 to 1: then budgets are swept from
    large to small (`SWEEP`), each fine-tuned, until one falls below it, and the last one that
    did not is taken.

    `cost` is a `CostModel` of this network; without one it is measured with the `safenet`
    command. `recipe` is that of fine-tuning, with `epochs`; `settings` those of the search.
    `seed` fixes all random choices. Everything is kept in `workdir`: a call that was
    interrupted goes on where it was when it is made again with the same arguments. There are also
    written: `planned.onnx`, `plan.json`, `cost.json`, `curves.json`, `report.html` with its plots.

    Raises ValueError if neither or both goals are given, the network or the loaders are not
    usable, or the goal is out of reach, and SafenetError if costs cannot be measured.
    """
    if (budget is None) == (floor is None):
        raise ValueError("expected a budget or a floor, and not both")
    if budget is not None and not 0 < budget < math.inf:
        raise ValueError(f"budget: expected a positive number of seconds, got {budget}")
    if floor is not None and not 0 <= floor <= 1:
        raise ValueError(f"floor: expected an accuracy from 0 to 1, got {floor}")
    find_method(method)
    _report()
    run = _Run(
        model,
        (train_loader, val_loader),
        Link.parse(link) if isinstance(link, str) else link,
        method,
        replace(recipe or Recipe(), epochs=epochs),
        seed,
        Path(workdir),
        (cost, safenet),
        settings or Settings(),
        progress,
    )
    best = run.within(budget) if budget is not None else run.above(floor or 0.0)
    return run.finish(best, budget)


def _report() -> Any:
    """The module that needs matplotlib; to be missed before hours of training, not after."""
    try:
        from . import report
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reports need matplotlib: pip install 'safenet-planner[report]' ({error})"
        ) from error
    return report


def _check(loader: object, name: str) -> None:
    """Make sure that a loader can be iterated over again and again, and has a length."""
    if not isinstance(loader, Iterable) or iter(loader) is loader:
        raise ValueError(
            f"{name}: expected batches that can be iterated over many times, such as a DataLoader"
            f" or a list, got {type(loader).__name__}"
        )
    if not hasattr(loader, "__len__"):
        raise ValueError(f"{name}: expected a number of batches (len), {type(loader)} has none")
    first = next(iter(loader), None)
    if (
        not isinstance(first, Sequence)
        or len(first) != 2
        or not all(isinstance(part, Tensor) for part in first)
    ):
        raise ValueError(
            f"{name}: expected at least one batch (images, labels) of tensors,"
            f" got {type(first).__name__}"
        )


@dataclass(frozen=True)
class _Tuned:
    """A fine-tuned plan."""

    found: Found
    model: PlannedModel
    epochs: list[Epoch]
    accuracy: float


class _Run:
    """The steps of `plan`."""

    def __init__(
        self,
        model: nn.Module,
        loaders: tuple[Any, Any],
        link: Link,
        method: str,
        recipe: Recipe,
        seed: int | None,
        workdir: Path,
        costs: tuple[CostModel | None, Safenet | Path | str | None],
        settings: Settings,
        progress: Progress | None,
    ) -> None:
        for loader, name in zip(loaders, ("train_loader", "val_loader"), strict=True):
            _check(loader, name)
        self.link, self.recipe, self.method = link, recipe, method
        self.workdir, self.progress = workdir, progress
        workdir.mkdir(parents=True, exist_ok=True)
        self.seed = self._seed(seed)
        self.settings = replace(
            settings,
            seed=self.seed,
            workdir=settings.workdir or workdir / "search",
        )
        self.loaders = loaders
        with seeded(self.seed):
            self.images = _images(loaders[0], IMAGES)
        planned = instrument(model, self.images[:1]).eval()
        self.model = planned
        observations = self._observe(planned)
        cost, safenet = costs
        if cost is None:
            self._say("measuring costs")
            cost = measure(planned, self.images, link, safenet, workdir / "cost", progress=progress)
        cost.to_json(workdir / "cost.json")
        self.cost = cost
        self.problem = Problem(planned, observations, cost, link, *loaders)
        self.reference = self._once("reference", self._reference, [])
        self.tuned: list[_Tuned] = []

    def _say(self, text: str) -> None:
        if self.progress is not None:
            self.progress(text)

    def _seed(self, seed: int | None) -> int:
        """The seed asked for, or a random one, kept with the run."""
        path = self.workdir / "run.json"
        if seed is not None:
            return seed
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                if found["format"] != FORMAT or found["version"] != VERSION:
                    raise ValueError(f"expected {FORMAT!r}, version {VERSION}")
                return int(found["seed"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: expected what an earlier run left, {error!r}") from error
        with torch.random.fork_rng(devices=[]):
            made = torch.seed() % 2**31
        record = {"format": FORMAT, "version": VERSION, "seed": made}
        write_atomically(path, (json.dumps(record) + "\n").encode())
        return made

    def _observe(self, planned: PlannedModel) -> Any:
        """Observations of the network, seen with augmentations as the training has them."""
        shown = [-1]

        def tell(what: str, done: int, of: int) -> None:
            tenth = 10 * done // of
            if tenth != shown[0]:
                shown[0] = tenth
                self._say(f"observing {what}: {done} of {of} images")

        with seeded(self.seed):
            return observe(planned, self.loaders[0], OBSERVED, tell, seed=self.seed)

    def _once(self, name: str, work: Callable[[], float], key: list[Any]) -> float:
        """A number that is computed once, and kept for the next run."""
        text = json.dumps([self.problem.digest, key], sort_keys=True)
        path = self.workdir / "values" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if path.is_file():
            try:
                return float(json.loads(path.read_text(encoding="utf-8"))["value"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: expected a number kept by an earlier run") from error
        value = work()
        write_atomically(path, (json.dumps({"value": value}) + "\n").encode())
        return value

    def _reference(self) -> float:
        return self.problem.accuracy(self.problem.candidate(self.problem.relu_plan))

    def within(self, budget_s: float) -> _Tuned:
        """Search at a budget, and fine-tune."""
        ms = 1e3 * budget_s
        self._say(f"searching by {self.method!r} for {ms:.1f} ms over {self.link}")
        found = find_method(self.method)(self.problem, budget_s, self.settings, self.progress)
        shares = ", ".join(f"{100 * found.plan.share(k):.0f} % {NAMES[k]}" for k in KINDS)
        self._say(f"found {1e3 * found.latency_s:.1f} ms: {shares}")
        tuned = self._tune(found)
        self.tuned.append(tuned)
        return tuned

    def above(self, floor: float) -> _Tuned:
        """Search at smaller and smaller budgets while the accuracy is kept."""
        if self.reference < floor:
            raise ValueError(
                f"floor: expected at most {self.reference:.4f}, the accuracy of the network itself"
                f" on the validation images, got {floor:g}"
            )
        best: _Tuned | None = None
        for share in SWEEP:
            try:
                tuned = self.within(share * self.problem.relu_s)
            except ValueError as error:
                if best is None and share == SWEEP[0]:
                    raise
                self._say(f"no quicker plan: {error}")
                break
            if tuned.accuracy < floor:
                break
            best = tuned
        if best is not None:
            return best
        relu = self.problem.relu_plan
        self._say("no plan keeps the accuracy: every channel keeps its ReLU")
        found = Found(relu, self.problem.relu_s)
        return _Tuned(found, self.problem.candidate(relu), [], self.reference)

    def _tune(self, found: Found) -> _Tuned:
        """Fine-tune with the original network as the teacher, or go on with it."""
        start, problem = found.start, self.problem
        model = start.model(problem, found.plan)
        recipe = start.recipe(self.recipe)
        rows = [found.plan.layers, asdict(recipe), self.method, self.settings.key()]
        rows.append(None if start.state is None else state_digest(start.state))
        key = json.dumps([problem.digest, *rows], sort_keys=True)
        path = self.workdir / f"tuning-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"

        def tell(epoch: Epoch) -> None:
            self._say(
                f"fine-tuning: epoch {epoch.number} of {epoch.of}, loss {epoch.loss:.4f},"
                f" validation {epoch.accuracy:.2%}, {epoch.seconds:.0f} s"
            )

        with seeded(self.seed):
            history = start.train(
                model,
                problem.training,
                problem.validation,
                self.recipe,
                teacher=problem.model if recipe.distil > 0 else None,
                checkpoint=path,
                progress=tell,
            )
        return _Tuned(found, model, history.epochs, history.accuracy)

    def finish(self, best: _Tuned, budget_s: float | None) -> Result:
        """Check ranges, export, and report."""
        report = _report()
        workdir = self.workdir
        outside = self._outside(best.model)
        onnx_path = workdir / "planned.onnx"
        export(best.model, onnx_path, self.images[:1])
        best.found.plan.to_json(workdir / "plan.json")
        curves = self._curves(report)
        report.write_curves(workdir / "curves.json", curves)
        path = report.Report(
            title="Planned network",
            plan=best.found.plan,
            facts=self._facts(best, budget_s, outside),
            cost=self.cost,
            link=self.link,
            curves=curves,
            chosen=report.Outcome(best.found.latency_s, best.accuracy),
            reference=self.reference,
            budget_s=budget_s,
            epochs=best.epochs,
            outside=outside,
        ).write(workdir)
        return Result(
            best.model,
            best.found.plan,
            curves,
            best.accuracy,
            best.found.latency_s,
            outside,
            best.found,
            self.cost,
            path,
            onnx_path,
        )

    def _outside(self, model: PlannedModel) -> dict[str, Outside]:
        """Values of the validation images beyond the fitted ranges, by layer."""
        modules = model.activations()
        for module in modules.values():
            module.counting, module.outside = True, Outside()
        try:
            self.problem.accuracy(model)
        finally:
            for module in modules.values():
                module.counting = False
        return {name: module.outside for name, module in modules.items()}

    def _curves(self, report: Any) -> tuple[Curve, ...]:
        """The curves that `Result` describes."""
        problem = self.problem
        relu = report.Outcome(problem.relu_s, self.reference)
        tuned = [report.Outcome(t.found.latency_s, t.accuracy) for t in self.tuned]
        curves = [report.Curve(self.method, (*tuned, relu))]
        trials = [trial for t in self.tuned for trial in t.found.trials]
        if trials:
            points = tuple(report.Outcome(t.latency_s, t.accuracy) for t in trials)
            curves.append(report.Curve(f"{self.method}, trials", points))
        points = []
        for share in PREVIEW:
            budget_s = share * problem.relu_s
            try:
                found = find_method("selection")(problem, budget_s, self.settings, None)
            except ValueError:
                continue
            self._say(f"accuracy before fine-tuning at {1e3 * budget_s:.1f} ms")
            layers = found.plan.layers
            reached = self._once(
                "untuned",
                lambda plan=found.plan: problem.accuracy(problem.candidate(plan)),  # type: ignore
                [layers],
            )
            points.append(report.Outcome(found.latency_s, reached))
        curves.append(report.Curve("selection, before fine-tuning", (*points, relu)))
        return tuple(curves)

    def _facts(
        self, best: _Tuned, budget_s: float | None, outside: Mapping[str, Outside]
    ) -> dict[str, str]:
        """The report's summary."""
        relu_s, latency_s = self.problem.relu_s, best.found.latency_s
        share = 1 - latency_s / relu_s
        positions = {name: layer.positions for name, layer in self.problem.layers.items()}
        total = self.problem.relu_plan.relus(positions)
        met = sum(o.total for o in outside.values())
        beyond = sum(o.count for o in outside.values())
        facts = {
            "method": self.method,
            "link": str(self.link),
            "predicted latency": f"{1e3 * latency_s:.1f} ms, {share:.1%} less than all ReLU"
            f" ({1e3 * relu_s:.1f} ms)",
            "validation accuracy": f"{best.accuracy:.2%}, all ReLU {self.reference:.2%}",
            "ReLUs of an image": f"{best.found.plan.relus(positions):,} of {total:,}",
            "channels with ReLU": f"{best.found.plan.share(RELU):.1%}",
            "held-out values outside of fitted ranges": f"{beyond:,} of {met:,}",
            "seed": str(self.seed),
        }
        if budget_s is not None:
            facts["budget"] = f"{1e3 * budget_s:.1f} ms"
        return facts


def _images(loader: Iterable[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """The first images of a loader."""
    found: list[Tensor] = []
    for images, _ in loader:
        found.append(images)
        if sum(len(part) for part in found) >= count:
            break
    return torch.cat(found)[:count].float()
