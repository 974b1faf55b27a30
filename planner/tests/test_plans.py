"""Plans and their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from safenet_planner import KINDS, RELU, Plan
from safenet_planner.kinds import index


def test_counts() -> None:
    """Numbers of channels, shares and ReLUs of a plan."""
    plan = Plan({"a": (RELU, 3, 3, 0), "b": (RELU, RELU)})
    assert plan.counts()["a"] == {RELU: 1, 3: 2, 2: 0, 1: 0, 0: 1}
    assert plan.channels == 6
    assert plan.share(RELU) == 0.5
    assert plan.share(2) == 0
    assert plan.relus({"a": 100, "b": 1}) == 102
    with pytest.raises(ValueError, match="'b'"):
        plan.relus({"a": 100})
    assert Plan.uniform({"a": 2, "b": 3}, 2) == Plan({"a": (2, 2), "b": (2, 2, 2)})
    assert len({plan, Plan(dict(plan.layers)), Plan({"a": (0,)})}) == 2
    assert [index(kind) for kind in KINDS] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kinds", [(4,), (-2,), (1.0,), (True,), ("1",), (), [1], (None,)])
def test_refuses_kinds(kinds: object) -> None:
    """Anything but a tuple of kinds is refused, with the layer's name."""
    with pytest.raises(ValueError, match="layer 'x'"):
        Plan({"x": kinds})  # type: ignore[dict-item]


def test_file(tmp_path: Path) -> None:
    """What is written is read."""
    plan = Plan({'layer "1".ä': (RELU, 3, 2, 1, 0), "b": (0,)})
    plan.to_json(tmp_path / "plan.json")
    assert Plan.from_json(tmp_path / "plan.json") == plan
    empty = Plan({})
    empty.to_json(tmp_path / "empty.json")
    assert Plan.from_json(tmp_path / "empty.json") == empty


HEAD = '{"format": "safenet-plan", "version": 1, '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "as JSON"),
        ("\udcff", "as JSON"),
        ("[" * 100_000, "as JSON"),
        ("[]", "format"),
        ('{"format": "other"}', "format"),
        ('{"format": "safenet-plan", "version": 2, "layers": {}}', "version 1, got 2"),
        (HEAD + '"layers": []}', "layers"),
        (HEAD + '"layers": {"a": 3}}', "'a': expected a list"),
        (HEAD + '"layers": {"a": [7]}}', "got 7"),
        (HEAD + '"layers": {"a": []}}', "at least one"),
        (HEAD + '"layers": {"": [1]}}', "names"),
    ],
)
def test_refuses_files(tmp_path: Path, text: str, message: str) -> None:
    """Wrong files are refused with the file's name and what is wrong."""
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        Plan.from_json(path)
    assert str(path) in str(caught.value)
