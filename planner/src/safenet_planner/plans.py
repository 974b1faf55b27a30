"""Plans: which kind of activation each channel of each layer has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from .kinds import KINDS

FORMAT = "safenet-plan"
VERSION = 1


@dataclass(frozen=True)
class Plan:
    """The kind of activation of every channel.

    `layers` maps the name of an activation layer to the kinds of its channels, in order:
    -1 for the exact ReLU, 0 to 3 for a polynomial of that degree.
    """

    layers: dict[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        for name, kinds in self.layers.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"plan: expected names of layers, got {name!r}")
            if not isinstance(kinds, tuple) or not kinds:
                raise ValueError(
                    f"plan, layer {name!r}: expected a tuple of at least one kind, got {kinds!r}"
                )
            for channel, kind in enumerate(kinds):
                if isinstance(kind, bool) or not isinstance(kind, int) or kind not in KINDS:
                    raise ValueError(
                        f"plan, layer {name!r}, channel {channel}:"
                        f" expected a kind of {KINDS}, got {kind!r}"
                    )

    def __hash__(self) -> int:
        return hash(tuple(self.layers.items()))

    @classmethod
    def uniform(cls, layers: Mapping[str, int], kind: int) -> Plan:
        """The plan that gives every channel the same kind; `layers` has numbers of channels."""
        return cls({name: (kind,) * channels for name, channels in layers.items()})

    @property
    def channels(self) -> int:
        """Channels of all layers together."""
        return sum(len(kinds) for kinds in self.layers.values())

    def counts(self) -> dict[str, dict[int, int]]:
        """For each layer, how many channels have each kind; kinds in the order of `KINDS`."""
        return {
            name: {kind: kinds.count(kind) for kind in KINDS} for name, kinds in self.layers.items()
        }

    def share(self, kind: int) -> float:
        """The share of all channels that have this kind, 0 to 1."""
        found = sum(kinds.count(kind) for kinds in self.layers.values())
        return found / self.channels if self.layers else 0.0

    def relus(self, positions: Mapping[str, int]) -> int:
        """Exact ReLUs that one image passes; `positions` are the values of a channel, by layer."""
        missing = [name for name in self.layers if name not in positions]
        if missing:
            raise ValueError(f"positions: expected those of every layer, {missing} are missing")
        return sum(kinds.count(-1) * positions[name] for name, kinds in self.layers.items())

    def to_json(self, path: str | PathLike[str]) -> None:
        """Write the plan to a file that `from_json` reads."""
        head = f'{{"format": "{FORMAT}", "version": {VERSION}, "layers": {{'
        rows = (f"{json.dumps(name)}: {list(kinds)}" for name, kinds in self.layers.items())
        Path(path).write_text(head + "\n " + ",\n ".join(rows) + "\n}}\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | PathLike[str]) -> Plan:
        """Read a plan that `to_json` wrote.

        Raises ValueError, naming the file and what is wrong in it.
        """
        try:
            data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}: expected a plan as JSON, got {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f'{path}: expected an object with "format": "{FORMAT}"')
        if data.get("version") != VERSION:
            raise ValueError(f"{path}: expected version {VERSION}, got {data.get('version')!r}")
        layers = data.get("layers")
        if not isinstance(layers, dict):
            raise ValueError(f'{path}: expected an object "layers", got {layers!r}')
        for name, kinds in layers.items():
            if not isinstance(kinds, list):
                raise ValueError(f"{path}: layer {name!r}: expected a list, got {kinds!r}")
        try:
            return cls({name: tuple(kinds) for name, kinds in layers.items()})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
