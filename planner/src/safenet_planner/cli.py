"""The `safenet-plan` command."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from safenet_planner.cost import LINKS, CostModel, Link
from safenet_planner.kinds import KINDS, NAMES
from safenet_planner.onnx_module import from_onnx
from safenet_planner.plans import Plan
from safenet_planner.probes import IMAGES, measure
from safenet_planner.safenet import Safenet, SafenetError, Settings
from safenet_planner.search import Settings as SearchSettings
from safenet_planner.search.methods import METHODS
from safenet_planner.tracing import instrument

Loader = Iterable[tuple[Tensor, Tensor]]
Network = tuple[nn.Module, Loader, Loader]


class CommandError(Exception):
    """Something that the user can put right; the text says what."""


NETWORK = """\
NETWORK is one of
  path/to/file.py:function    a function without arguments that returns
  package.module:function     (model, train_loader, val_loader): a trained torch.nn.Module and
                              two iterables of (images, labels) batches
  network.onnx                with --data: a plain feed-forward network and labelled images
"""

DATA = (
    "NumPy archive with the arrays `image` (N, C, H, W; uint8 is divided by 255, as `safenet` does)"
    " and `label` (N)"
)


def parser() -> argparse.ArgumentParser:
    """The command line of `safenet-plan`."""
    top = argparse.ArgumentParser(
        prog="safenet-plan",
        description="Choose which channels of a network keep their ReLU in private inference.",
        epilog="`safenet-plan COMMAND --help` describes a command.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _plan_parser(commands)
    _cost_parser(commands)
    _inspect_parser(commands)
    _compare_parser(commands)
    return top


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], about: str, epilog: str
) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name,
        help=about,
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=run)
    return made


def _network_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("network", metavar="NETWORK", help="what to plan: see below")
    made.add_argument("--data", type=Path, metavar="FILE.npz", help=f"for an ONNX file: {DATA}")
    made.add_argument(
        "--validation",
        type=Path,
        metavar="FILE.npz",
        help="held-out images, as --data [default: the last tenth of --data]",
    )
    made.add_argument(
        "--batch-size", type=_positive, default=128, metavar="N", help="of --data [default: 128]"
    )
    made.add_argument(
        "--safenet",
        type=Path,
        metavar="FILE",
        help="the `safenet` command [default: $SAFENET, or the one in PATH]",
    )


def _link_option(made: argparse.ArgumentParser, default: str | None, what: str) -> None:
    made.add_argument(
        "--link",
        type=_link,
        default=default,
        metavar="LINK",
        help=f"{', '.join(LINKS)}, or RTT_MS,MBIT: {what}",
    )


def _plan_parser(commands: Any) -> None:
    made = _command(
        commands,
        "plan",
        _run_plan,
        "Plan and fine-tune a trained network for a latency budget or an accuracy floor.",
        NETWORK
        + """
Writes to --out: planned.onnx, calibration.npz (the images to compile it with), plan.json,
report.html, and what it goes on from if it is interrupted and started again.

Examples:
  safenet-plan plan nets.py:resnet --budget-ms 150 --out planned
  safenet-plan plan nets.py:resnet --accuracy-floor 0.9 --link wan --seed 1 --out planned
  safenet-plan plan net.onnx --data train.npz --budget-ms 80 --out planned
  safenet compile planned/planned.onnx --calibration planned/calibration.npz -o net.safenet
""",
    )
    _network_options(made)
    goal = made.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--budget-ms",
        type=_positive_real,
        metavar="MS",
        help="longest time of an inference, preparing included; the most accurate plan is made",
    )
    goal.add_argument(
        "--accuracy-floor",
        type=_share,
        metavar="SHARE",
        help="lowest validation accuracy, from 0 to 1; the quickest plan is made",
    )
    _link_option(made, "lan", "the network between client and server [default: lan]")
    made.add_argument(
        "--method",
        default="selection",
        choices=list(METHODS),
        help=f"how to search: {', '.join(METHODS)} [default: selection]",
        metavar="METHOD",
    )
    made.add_argument(
        "--parallel",
        type=_positive,
        default=1,
        metavar="N",
        help="trials of the search that run at the same time; needs Ray [default: 1]",
    )
    made.add_argument(
        "--ray", metavar="ADDRESS", help="Ray cluster that runs them [default: this machine]"
    )
    made.add_argument(
        "--epochs", type=_positive, default=8, metavar="N", help="of fine-tuning [default: 8]"
    )
    made.add_argument("--seed", type=int, metavar="N", help="fix all random choices")
    made.add_argument(
        "--cost",
        type=Path,
        metavar="FILE.json",
        help="costs that `safenet-plan cost` measured [default: measure them]",
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    made.add_argument("--json", action="store_true", help="print a JSON object at the end")


def _cost_parser(commands: Any) -> None:
    made = _command(
        commands,
        "cost",
        _run_cost,
        "Measure what each kind of activation costs in this network, on this machine and link.",
        NETWORK
        + """
Compiles seven plans of the network and runs them privately, client and server on this machine.
Six make the model of costs, the seventh is held against it. Leave the machine alone meanwhile.

Examples:
  safenet-plan cost nets.py:resnet --out cost.json
  safenet-plan cost net.onnx --data train.npz --link 5,1000 --runs 5 --out cost.json
""",
    )
    _network_options(made)
    _link_option(made, "lan", "simulated between client and server [default: lan]")
    made.add_argument(
        "--runs", type=_positive, default=3, metavar="N", help="sessions of each plan [default: 3]"
    )
    settings = Settings()
    made.add_argument(
        "--ot",
        default=settings.ot,
        choices=("silent", "2", "4", "8"),
        help=f"OT extension [default: {settings.ot}]",
    )
    made.add_argument(
        "--batch",
        type=_positive,
        default=settings.batch,
        metavar="N",
        help=f"inferences prepared together [default: {settings.batch}]",
    )
    made.add_argument(
        "--threads",
        type=_positive,
        default=settings.threads,
        metavar="N",
        help=f"of each party [default: {settings.threads}]",
    )
    made.add_argument(
        "--workdir",
        type=Path,
        metavar="DIR",
        help="for networks and measurements [default: OUT without its suffix]",
    )
    made.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="file to write")


def _inspect_parser(commands: Any) -> None:
    made = _command(
        commands,
        "inspect",
        _run_inspect,
        "Print a plan: kinds by layer and, with --cost, what it is predicted to cost.",
        """\
Examples:
  safenet-plan inspect planned/plan.json
  safenet-plan inspect planned/plan.json --cost cost.json --link wan --json
""",
    )
    made.add_argument("plan", type=Path, metavar="PLAN.json", help="a plan that `plan` wrote")
    made.add_argument("--cost", type=Path, metavar="FILE.json", help="costs, as `cost` writes them")
    _link_option(made, None, "of the latencies [default: the one of --cost]")
    made.add_argument("--json", action="store_true", help="print a JSON object")


def _compare_parser(commands: Any) -> None:
    made = _command(
        commands,
        "compare",
        _run_compare,
        "Plot accuracy against latency from several runs, and print the points.",
        """\
Examples:
  safenet-plan compare selection/curves.json delphi/curves.json --out curves.png
  safenet-plan compare */curves.json --reference 0.872 --budget-ms 150 --out curves.png
""",
    )
    made.add_argument("curves", type=Path, nargs="+", metavar="FILE.json", help="files of curves")
    made.add_argument(
        "--reference", type=_share, metavar="SHARE", help="accuracy of the unplanned network"
    )
    made.add_argument("--budget-ms", type=_positive_real, metavar="MS", help="budget to mark")
    made.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="plot to write")


def _run_plan(arguments: argparse.Namespace) -> None:
    from safenet_planner.api import plan

    out: Path = arguments.out
    if arguments.seed is not None:
        torch.manual_seed(arguments.seed)
    cost = CostModel.from_json(arguments.cost) if arguments.cost else None
    model, training, validation = load(arguments)
    images = _images(training, IMAGES)
    budget = arguments.budget_ms
    result = plan(
        model,
        training,
        validation,
        budget=None if budget is None else budget / 1e3,
        floor=arguments.accuracy_floor,
        link=arguments.link,
        method=arguments.method,
        epochs=arguments.epochs,
        seed=arguments.seed,
        workdir=out,
        cost=cost,
        safenet=arguments.safenet,
        progress=_progress,
        settings=SearchSettings(parallel=arguments.parallel, address=arguments.ray),
    )
    np.savez(out / "calibration.npz", image=images.numpy())
    if arguments.json:
        found = {
            "latency_s": result.latency_s,
            "accuracy": result.accuracy,
            "layers": _counts(result.plan),
            "outside": {name: asdict(beyond) for name, beyond in result.outside.items()},
            "onnx": str(result.onnx_path),
            "calibration": str(out / "calibration.npz"),
            "report": str(result.report_path),
        }
        print(json.dumps(found, indent=1))
        return
    _print_kinds(result.plan)
    print(f"\nreport: {result.report_path}")
    print(
        f"next:   safenet compile {result.onnx_path} --calibration {out / 'calibration.npz'}"
        f" -o {out / 'planned.safenet'}"
    )


def _run_cost(arguments: argparse.Namespace) -> None:
    model, _, validation = load(arguments)
    images = _images(validation, IMAGES)
    out: Path = arguments.out
    cost = measure(
        instrument(model, images[:1]),
        images,
        arguments.link,
        Safenet(arguments.safenet),
        arguments.workdir or out.with_suffix(""),
        runs=arguments.runs,
        settings=Settings(arguments.ot, arguments.batch, arguments.threads),
        progress=_progress,
    )
    cost.to_json(out)
    check = cost.check
    assert check is not None
    print(
        f"a plan it was not fitted on: {1e3 * check.predicted_prepare_s:.1f} +"
        f" {1e3 * check.predicted_online_s:.1f} ms predicted, {1e3 * check.measured_prepare_s:.1f}"
        f" + {1e3 * check.measured_online_s:.1f} ms measured (preparing + online),"
        f" {100 * check.error:+.1f} %"
    )


def _run_inspect(arguments: argparse.Namespace) -> None:
    plan = Plan.from_json(arguments.plan)
    model = CostModel.from_json(arguments.cost) if arguments.cost else None
    cost = model.predict(plan) if model else None
    link = arguments.link or (model.link if model else None)
    if arguments.json:
        found: dict[str, Any] = {
            "channels": plan.channels,
            "layers": _counts(plan),
        }
        if cost:
            found["link"] = str(link)
            found["cost"] = asdict(cost)
            found["prepare_s"] = cost.prepare_latency(link)
            found["online_s"] = cost.online_latency(link)
        print(json.dumps(found, indent=1))
        return
    _print_kinds(plan)
    if cost:
        print(f"\npredicted over {link}:")
        for phase, seconds, count, rounds in (
            ("prepare", cost.prepare_latency(link), cost.prepare_bytes, cost.prepare_rounds),
            ("online", cost.online_latency(link), cost.online_bytes, cost.online_rounds),
        ):
            print(
                f"{phase:8} {1e3 * seconds:10.1f} ms {count / 1e6:9.3f} MB"
                f" {rounds:4.0f} round trips"
            )


def _run_compare(arguments: argparse.Namespace) -> None:
    try:
        from safenet_planner.report import plot_curves, read_curves, save
    except ModuleNotFoundError as error:
        raise CommandError(
            f"plots need matplotlib: pip install 'safenet-planner[report]' ({error})"
        ) from error

    curves = [curve for path in arguments.curves for curve in read_curves(path)]
    if not any(curve.points for curve in curves):
        raise CommandError("expected at least one point in the files of curves, got none")
    budget = arguments.budget_ms
    figure = plot_curves(
        curves,
        reference=arguments.reference,
        budget_s=None if budget is None else budget / 1e3,
    )
    save(figure, arguments.out)
    width = max(len(curve.name) for curve in curves)
    print(f"{'method':{width}}  latency, ms  accuracy, %")
    for curve in curves:
        for point in sorted(curve.points, key=lambda p: p.latency_s):
            latency, accuracy = 1e3 * point.latency_s, 100 * point.accuracy
            print(f"{curve.name:{width}} {latency:12.1f} {accuracy:12.2f}")


def _counts(plan: Plan) -> dict[str, dict[str, int]]:
    """Channels of each kind by layer, as JSON has them."""
    return {
        name: {str(kind): count for kind, count in counts.items()}
        for name, counts in plan.counts().items()
    }


def _print_kinds(plan: Plan) -> None:
    counts = plan.counts()
    width = max(len(name) for name in [*counts, "layer"])
    print(f"{'layer':{width}}  channels" + "".join(f"{NAMES[kind]:>10}" for kind in KINDS))
    for name, by_kind in counts.items():
        cells = "".join(f"{by_kind[kind]:10}" for kind in KINDS)
        print(f"{name:{width}}  {sum(by_kind.values()):8}{cells}")
    shares = "".join(f"{100 * plan.share(kind):8.1f} %" for kind in KINDS)
    print(f"{'all':{width}}  {plan.channels:8}{shares}")


def _progress(event: object) -> None:
    print(event, file=sys.stderr, flush=True)


def load(arguments: argparse.Namespace) -> Network:
    """The network and its data that the command line names."""
    target: str = arguments.network
    if target.endswith(".onnx"):
        if arguments.data is None:
            raise CommandError(f"{target}: expected --data FILE.npz with labelled images")
        return from_onnx(target), *_loaders(arguments)
    if arguments.data or arguments.validation:
        raise CommandError("--data and --validation are for ONNX files: the function returns data")
    return _call(target)


def _loaders(arguments: argparse.Namespace) -> tuple[Loader, Loader]:
    """Training and validation batches of .npz files."""
    images, labels = read_data(arguments.data)
    if arguments.validation:
        held_images, held_labels = read_data(arguments.validation)
    else:
        held = max(1, len(images) // 10)
        if len(images) <= held:
            raise CommandError(f"{arguments.data}: expected more than {len(images)} image")
        held_images, held_labels = images[-held:], labels[-held:]
        images, labels = images[:-held], labels[:-held]
    size = arguments.batch_size
    return (
        DataLoader(TensorDataset(images, labels), size, shuffle=True),
        DataLoader(TensorDataset(held_images, held_labels), size),
    )


def read_data(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, ...) as float32 and labels (N) as int64 of an .npz file.

    Bytes are divided by 255, as the `safenet` command does.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise CommandError(f"{path}: expected a NumPy archive (.npz), got a single array")
        with archive:
            if not {"image", "label"} <= set(archive.files):
                raise CommandError(
                    f"{path}: expected the arrays image and label, got"
                    f" {', '.join(archive.files) or 'none'}"
                )
            images, labels = archive["image"], archive["label"]
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CommandError(f"{path}: not a NumPy archive (.npz) of numbers: {error}") from error
    if images.dtype.kind not in "fiu" or labels.dtype.kind not in "iu":
        raise CommandError(
            f"{path}: expected numbers in image and whole numbers in label, got {images.dtype} and"
            f" {labels.dtype}"
        )
    if images.ndim < 2 or labels.shape != images.shape[:1] or not len(labels):
        raise CommandError(
            f"{path}: expected image (N, ...) and label (N) with N of at least 1, got"
            f" {images.shape} and {labels.shape}"
        )
    scale = 255 if images.dtype == np.uint8 else 1
    return (
        torch.from_numpy(images.astype(np.float32) / scale),
        torch.from_numpy(labels.astype(np.int64)),
    )


def _call(target: str) -> Network:
    """What the function named by PLACE:FUNCTION returns."""
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name:
        raise CommandError(
            f"expected path.py:function, package.module:function or a file .onnx, got {target!r}"
        )
    module = _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise CommandError(f"{place}: expected a function {name}, found none")
    try:
        found = function()
    except Exception as error:
        traceback.print_exc()
        raise CommandError(f"{target} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise CommandError(
            f"{target}: expected (model, train_loader, val_loader), got {type(found).__name__}"
        )
    model, training, validation = found
    if not isinstance(model, nn.Module):
        raise CommandError(f"{target}: expected a torch.nn.Module, got {type(model).__name__}")
    for loader in (training, validation):
        if not isinstance(loader, Iterable):
            raise CommandError(
                f"{target}: expected iterables of batches, got {type(loader).__name__}"
            )
    return model, training, validation


def _module(place: str) -> ModuleType:
    """Import a file or a module; what stands beside the file can be imported by it."""
    path = Path(place)
    try:
        if path.suffix != ".py":
            sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(place)
        if not path.is_file():
            raise CommandError(f"{place}: no such file")
        sys.path.insert(0, str(path.resolve().parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    except CommandError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise CommandError(f"{place}: cannot be imported: {error}") from error


def _images(loader: Loader, count: int) -> Tensor:
    """The first images of a loader."""
    found: list[Tensor] = []
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise CommandError(
                f"expected batches (images, labels) of the loader, got {type(batch).__name__}"
            )
        found.append(batch[0])
        if sum(len(images) for images in found) >= count:
            break
    if not found:
        raise CommandError("expected at least one batch of the loader, got none")
    return torch.cat(found)[:count].float()


def _link(text: str) -> Link:
    try:
        return Link.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def _positive_real(text: str) -> float:
    value = _real(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _share(text: str) -> float:
    value = _real(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text!r}")
    return value


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    arguments = parser().parse_args(words)
    try:
        arguments.run(arguments)
    except (CommandError, SafenetError, ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
