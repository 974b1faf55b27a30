"""Running trials: plans that are fine-tuned for a little and measured, one by one or in parallel.

A trial's result depends on the problem, its plan, its seed, what it starts from, and the number
of threads, so that it is the same wherever it runs (on machines of one kind), and a finished one
need not be run again: with a work directory each leaves a JSON file, and its weights beside it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..plans import Plan
from .start import Start

if TYPE_CHECKING:
    from .problem import Problem, Progress, Settings

FORMAT = "safenet-planner trial"
VERSION = 1

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """A plan that was tried."""

    key: str
    plan: Plan
    latency_s: float
    """Predicted."""
    accuracy: float
    """On the validation images after the trial's fine-tuning, 0 to 1; 0 if it diverged."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else is known of it, as JSON values."""


@dataclass(frozen=True)
class Job:
    """A trial to be run."""

    key: str
    plan: Plan
    seed: int
    parent: str | None = None
    """The trial from whose weights this one starts; None: from the original network's."""
    start: Start = field(default_factory=Start)
    details: dict[str, Any] = field(default_factory=dict)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that an interruption leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


class Store:
    """Finished trials, in a folder or, without one, in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.trials: dict[str, Trial] = {}
        self._states: dict[str, bytes] = {}

    def get(self, job: Job) -> Trial | None:
        """The result of a job, if it has been run."""
        if job.key not in self.trials and self.folder is not None:
            path = self.folder / f"{job.key}.json"
            if path.is_file():
                self.trials[job.key] = _read(path)
        found = self.trials.get(job.key)
        if found is not None and found.plan != job.plan:
            raise ValueError(
                f"trial {job.key} in {self.folder}: is of another plan; delete the folder"
            )
        return found

    def put(self, trial: Trial, state: bytes | None) -> None:
        """Keep a result; its weights first, so that a trial with a record is complete."""
        if self.folder is None:
            if state is not None:
                self._states[trial.key] = state
        else:
            if state is not None:
                write_atomically(self.folder / f"{trial.key}.pt", state)
            record = {
                "format": FORMAT,
                "version": VERSION,
                "key": trial.key,
                "plan": {name: list(kinds) for name, kinds in trial.plan.layers.items()},
                "latency_s": trial.latency_s,
                "accuracy": trial.accuracy,
                "details": trial.details,
            }
            text = json.dumps(record) + "\n"
            write_atomically(self.folder / f"{trial.key}.json", text.encode())
        self.trials[trial.key] = trial

    def state(self, key: str) -> bytes | None:
        """The weights that a trial ended with, as `torch.save` writes them; None if it diverged."""
        if self.folder is None:
            return self._states.get(key)
        path = self.folder / f"{key}.pt"
        return path.read_bytes() if path.is_file() else None


def _read(path: Path) -> Trial:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or found["version"] != VERSION:
            raise ValueError(f"expected {FORMAT!r}, version {VERSION}")
        plan = Plan({name: tuple(kinds) for name, kinds in found["plan"].items()})
        return Trial(
            str(found["key"]),
            plan,
            float(found["latency_s"]),
            float(found["accuracy"]),
            dict(found["details"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a finished trial, got {error!r}") from error


def packed(state: State) -> bytes:
    """A state as bytes."""
    stream = io.BytesIO()
    torch.save({name: value.detach().cpu() for name, value in state.items()}, stream)
    return stream.getvalue()


def unpacked(content: bytes) -> dict[str, Tensor]:
    """Undo `packed`."""
    # Only tensors and plain values: a file may be anyone's, and pickles can run code.
    found: dict[str, Tensor] = torch.load(
        io.BytesIO(content), map_location="cpu", weights_only=True
    )
    return found


def perform(
    problem: Problem, job: Job, state: bytes | None, settings: Settings
) -> tuple[float, bytes | None]:
    """Run a trial from its parent's weights: the accuracy, and the weights unless it diverged."""
    if state is None:
        model = job.start.model(problem, job.plan)
    else:
        model = problem.candidate(problem.relu_plan)
        model.load_state_dict(unpacked(state))
        model.apply(job.plan, problem.observations, keep=True)
        job.start.adapt(model)
    try:
        reached = problem.tune(
            model, settings.steps, settings.rate, job.seed, job.start, settings.threads
        )
    except FloatingPointError:
        return 0.0, None
    return reached, packed(model.state_dict())


class Runner:
    """Runs jobs, each one once, in this process or by Ray Tune; to be used in a `with`."""

    def __init__(
        self, problem: Problem, store: Store, settings: Settings, progress: Progress | None = None
    ) -> None:
        self.problem = problem
        self.store = store
        self.settings = settings
        self.progress = progress
        self.started = False
        self._shared: tuple[Any, Any] | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.started:
            import ray

            ray.shutdown()
            self.started = False

    def run(self, jobs: Sequence[Job]) -> list[Trial]:
        """The trials of independent jobs, in their order."""
        todo = [job for job in jobs if self.store.get(job) is None]
        parallel = self.settings.parallel > 1 or self.settings.address is not None
        if len(todo) > 1 and parallel and _have_ray(self.settings):
            self._by_ray(todo)
        else:
            for job in todo:
                self._keep(job, *perform(self.problem, job, self._parent(job), self.settings))
        found = [self.store.get(job) for job in jobs]
        return [trial for trial in found if trial is not None]

    def _parent(self, job: Job) -> bytes | None:
        return None if job.parent is None else self.store.state(job.parent)

    def _keep(self, job: Job, accuracy: float, state: bytes | None) -> None:
        latency = self.problem.seconds(job.plan)
        details = job.details if state is not None else {**job.details, "diverged": True}
        self.store.put(Trial(job.key, job.plan, latency, accuracy, details), state)
        if self.progress is not None:
            self.progress(
                f"trial {job.key}: {1e3 * latency:.1f} ms predicted, accuracy {accuracy:.2%}"
            )

    def _by_ray(self, jobs: list[Job]) -> None:
        # Tune's other reporter ignores that it should be silent.
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        import ray
        from ray import tune

        settings = self.settings
        if not ray.is_initialized():
            ray.init(**_connection(settings), log_to_driver=False, configure_logging=False)
            self.started = True
        if self._shared is None:
            self._shared = (ray.put(self.problem), ray.remote(num_cpus=0)(_Mailbox).remote())
        problem, mailbox = self._shared
        states = ray.put([self._parent(job) for job in jobs])

        def trial(config: dict[str, Any]) -> dict[str, float]:
            index = config["index"]
            reached, state = perform(
                ray.get(problem), jobs[index], ray.get(states)[index], settings
            )
            ray.get(mailbox.put.remote(index, reached, state))
            return {"accuracy": reached}

        def collect() -> None:
            for index, (reached, state) in sorted(ray.get(mailbox.take.remote()).items()):
                self._keep(jobs[index], reached, state)

        class Collector(tune.Callback):
            """Keeps results as they come; Tune saves callbacks, but not what this one calls."""

            def __init__(self, call: Callable[[], None] | None = None) -> None:
                self.call = call

            def __getstate__(self) -> dict[str, Any]:
                return {"call": None}

            def on_trial_complete(self, *_: Any, **__: Any) -> None:
                if self.call is not None:
                    self.call()

        run_config = getattr(tune, "RunConfig", None)
        if run_config is None:
            from ray.train import RunConfig as run_config
        # A cluster runs what it has processors for, unless it is asked to run less.
        most = settings.parallel if settings.parallel > 1 else None
        with tempfile.TemporaryDirectory(prefix="safenet-planner-") as folder:
            tuner = tune.Tuner(
                tune.with_resources(trial, {"cpu": settings.threads}),
                param_space={"index": tune.grid_search(list(range(len(jobs))))},
                tune_config=tune.TuneConfig(max_concurrent_trials=most),
                run_config=run_config(
                    storage_path=folder, verbose=0, callbacks=[Collector(collect)]
                ),
            )
            results = tuner.fit()
        if results.errors:
            raise RuntimeError(f"a trial failed: {results.errors[0]}") from results.errors[0]
        collect()


def _connection(settings: Settings) -> dict[str, Any]:
    """How Ray is started on this machine, or a cluster joined.

    Processes on this machine find the modules that this one does. A cluster is sent this package;
    what else the network and its batches need must be installed there.
    """
    if settings.address is None:
        paths = os.pathsep.join(str(Path(p).resolve()) for p in sys.path)
        return {
            "address": "local",
            "num_cpus": settings.parallel * settings.threads,
            "include_dashboard": False,
            "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
        }
    package = str(Path(__file__).resolve().parents[1])
    return {"address": settings.address, "runtime_env": {"py_modules": [package]}}


class _Mailbox:
    """An actor that the trials of a cluster give their results to: they share no files."""

    def __init__(self) -> None:
        self.results: dict[int, tuple[float, bytes | None]] = {}

    def put(self, index: int, accuracy: float, state: bytes | None) -> None:
        self.results[index] = (accuracy, state)

    def take(self) -> dict[int, tuple[float, bytes | None]]:
        """All results since the last time."""
        found, self.results = self.results, {}
        return found


def _have_ray(settings: Settings) -> bool:
    """Whether Ray Tune is installed, which a cluster cannot do without."""
    try:
        import ray.tune  # noqa: F401
    except ModuleNotFoundError as error:
        if settings.address is not None:
            raise ModuleNotFoundError(
                f"a Ray cluster needs Ray: pip install 'safenet-planner[search]' ({error})"
            ) from error
        return False
    return True
