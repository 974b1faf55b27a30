"""Running the `safenet` command."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from safenet_planner.cost import BROADBAND, LOOPBACK, Link
from safenet_planner.safenet import (
    ENVIRONMENT,
    LAYER_FIGURES,
    WHOLE_FIGURES,
    Safenet,
    SafenetError,
    Settings,
    find,
    link_options,
)

LAYER = {"name": "a", "kind": "activation", **dict.fromkeys(LAYER_FIGURES, 1)}
BENCH = {**dict.fromkeys(WHOLE_FIGURES, 1), "layers": [LAYER]}


def script(folder: Path, text: str) -> Path:
    """A program that runs this Python text."""
    path = folder / "safenet"
    path.write_text(f"#!{sys.executable}\nimport json, sys\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, in the environment, in PATH, nowhere."""
    path = script(tmp_path, "")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(SafenetError, match="was not found"):
        find()
    assert find(path) == path.resolve()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find() == path.resolve()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(ENVIRONMENT, str(path))
    assert find() == path.resolve()
    with pytest.raises(SafenetError, match=r"no program at .*missing"):
        find(tmp_path / "missing")
    path.chmod(0o600)
    with pytest.raises(SafenetError, match="no program at"):
        find()


def test_arguments(tmp_path: Path) -> None:
    """What the command is called with."""
    text = f"json.dump({{**{BENCH!r}, 'total': {{}}, 'arguments': sys.argv[1:]}}, sys.stdout)"
    command = Safenet(script(tmp_path, text))
    settings = Settings("4", 2, 3)
    measured = command.bench(Path("m"), BROADBAND, 5, settings, Path("i.npz"))
    assert (
        measured["arguments"]
        == (
            "bench m --rtt-ms 20 --mbit 100 --runs 5 --ot 4 --batch 2 --threads 3"
            " --images i.npz --json"
        ).split()
    )
    assert "--rtt-ms" not in command.bench(Path("m"), LOOPBACK, 1)["arguments"]
    assert command.compile(Path("n"), Path("c"), Path("o"), ["--margin", "4"])["arguments"] == (
        "compile n --calibration c --output o --margin 4 --json".split()
    )
    assert command.inspect(Path("m"), settings)["arguments"] == "inspect m --ot 4 --json".split()
    assert command.accuracy(Path("m"), Path("d"))["arguments"] == "accuracy m d --json".split()
    assert link_options(Link(0.0, 1e9)) == ["--mbit", "1000"]
    assert link_options(Link(0.0003)) == ["--rtt-ms", "0.3"]


def test_failure(tmp_path: Path) -> None:
    """The command's own words are in the error."""
    text = "print('note', file=sys.stderr); sys.exit('safenet: no room')"
    with pytest.raises(SafenetError, match="status 1: note; safenet: no room"):
        Safenet(script(tmp_path, text)).inspect(Path("m"))
    with pytest.raises(SafenetError, match="printed no reason"):
        Safenet(script(tmp_path, "sys.exit(3)")).inspect(Path("m"))


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("hello", "printed no JSON object"),
        ("[]", "expected an object, got list"),
        ("{}", "lacks layers, prepare_s"),
        (json.dumps({**BENCH, "layers": 5}), "expected a list of layers, got int"),
        (json.dumps({**BENCH, "layers": [5]}), "layer 0 lacks"),
        (json.dumps({**BENCH, "layers": [{**LAYER, "name": None}]}), "layer 0 lacks"),
        (json.dumps({**BENCH, "layers": [{**LAYER, "rounds_online": "1"}]}), "got '1'"),
        (json.dumps({**BENCH, "prepare_s": -1}), "at least 0, got -1"),
        (json.dumps({**BENCH, "online_s": float("nan")}), "got nan"),
        (json.dumps({**BENCH, "online_s": True}), "got True"),
    ],
)
def test_unexpected_output(tmp_path: Path, printed: str, message: str) -> None:
    """What is not a measurement is refused."""
    command = Safenet(script(tmp_path, f"print({printed!r})"))
    with pytest.raises(SafenetError) as error:
        command.bench(Path("m"), LOOPBACK, 1)
    assert message in str(error.value)
