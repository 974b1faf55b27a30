"""What a plan costs in private inference: seconds, bytes and round trips, foretold.

The parts of the model, all measured on the user's own network (`probes.measure`):

- Each activation layer: bytes and round trips by kind, and the elementary activations that the
  compiler makes of a channel of each kind (its *work*: how many ReLUs, cubics, squares and lines).
- The whole network: seconds for each unit of work, and with them what the parties compute for all
  layers together (oblivious transfers, ciphertexts of products); a start that is paid once if
  there are ReLUs at all (of the silent OT extension); and a fixed rest.
- Each linear layer: seconds and bytes, and how they fall with the share of input and output
  channels that are live, that is, not constants.
- Two numbers for how the parties' work overlaps, in preparing and online (`Overlap`).

Round trips of a layer are those of its deepest kind (docs/protocol.md, section 8).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from safenet_planner.channels import Atom, Channels
from safenet_planner.kinds import KINDS, RELU
from safenet_planner.plans import Plan
from safenet_planner.safenet import Settings

Array = npt.NDArray[np.float64]

OPERATIONS = ("relu", "cubic", "square", "linear")
"""Elementary activations, by the names that `safenet inspect` has for them."""

PARTS = ("fixed", "start", *OPERATIONS)
"""Columns of `CostModel.parts`: what is there once, once if there are ReLUs, and for each value of
each operation."""

QUANTITIES = (
    *("client_prepare_s", "server_prepare_s", "online_s"),
    *("prepare_up", "prepare_down", "online_up", "online_down"),
)
"""Rows of `CostModel.parts`: seconds that a party computes, and bytes; `up` is to the server."""

SINGLE_OTS = (2, 2, 2, 1)
WIDE_OTS = (4, 0, 0, 0)
"""Oblivious transfers that the server receives for each value of `OPERATIONS`
(docs/parameters.md; of a ReLU of 12 to 16 bits)."""

SINGLE_START = 86_314
WIDE_START = 97_821
"""From so many on, the silent OT extension begins (docs/protocol.md, section 9)."""

FORMAT = "safenet-planner cost model"
VERSION = 1


@dataclass(frozen=True)
class Link:
    """A network between client and server."""

    rtt_s: float = 0.0
    """Round-trip time in seconds, half of it each way."""
    bits_per_s: float = math.inf
    """Rate each way."""
    name: str = ""

    def __post_init__(self) -> None:
        if not (self.rtt_s >= 0 and math.isfinite(self.rtt_s)):
            raise ValueError(f"expected a round-trip time of at least 0 s, got {self.rtt_s}")
        if not self.bits_per_s > 0:
            raise ValueError(f"expected a positive rate in bits per second, got {self.bits_per_s}")

    def __str__(self) -> str:
        rate = f"{self.bits_per_s / 1e6:g} Mbit/s" if math.isfinite(self.bits_per_s) else "no limit"
        return f"{self.name or 'link'} ({self.rtt_s * 1e3:g} ms, {rate})"

    def seconds(self, count: float) -> float:
        """Time that so many bytes take to leave."""
        return 8 * count / self.bits_per_s

    @classmethod
    def parse(cls, text: str) -> Link:
        """A preset's name, or `RTT_MS,MBIT` such as `20,100`."""
        if text in LINKS:
            return LINKS[text]
        try:
            rtt, mbit = (float(part) for part in text.split(","))
            return cls(rtt / 1e3, mbit * 1e6, text)
        except ValueError:
            raise ValueError(
                f"expected a link, one of {', '.join(LINKS)}, or RTT_MS,MBIT with a round-trip time"
                f" of at least 0 and a positive rate, such as 20,100; got {text!r}"
            ) from None


LOOPBACK = Link(0.0, math.inf, "loopback")
LAN = Link(0.3e-3, 3e9, "lan")
BROADBAND = Link(20e-3, 100e6, "broadband")
WAN = Link(40e-3, 350e6, "wan")
LINKS = {link.name: link for link in (LOOPBACK, LAN, BROADBAND, WAN)}
"""The networks that `safenet bench --network` simulates, and none."""


@dataclass(frozen=True)
class Cost:
    """What an inference, or a part of it, costs. Costs add up, and can be multiplied."""

    ahead_s: float = 0.0
    """Preparing: the client's computing before the server can begin to answer."""
    client_s: float = 0.0
    """Preparing: the client's other computing; meanwhile the server computes, too."""
    server_s: float = 0.0
    """Preparing: the server's computing."""
    online_s: float = 0.0
    """Online: both parties' computing, one after the other, and being woken after each wait."""
    prepare_up: float = 0.0
    """Bytes from client to server."""
    prepare_down: float = 0.0
    online_up: float = 0.0
    online_down: float = 0.0
    prepare_rounds: float = 0.0
    online_rounds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(factor * getattr(self, f.name) for f in fields(Cost)))

    __rmul__ = __mul__

    @property
    def prepare_s(self) -> float:
        """Seconds of computing in preparing, as the parties overlap."""
        return self.ahead_s + max(self.client_s, self.server_s)

    @property
    def prepare_bytes(self) -> float:
        """Bytes of preparing, both ways."""
        return self.prepare_up + self.prepare_down

    @property
    def online_bytes(self) -> float:
        """Bytes online, both ways."""
        return self.online_up + self.online_down

    def prepare_latency(self, link: Link) -> float:
        """Seconds that preparing takes over `link`.

        The client computes and sends its requests; then the server's computing, its answers on
        their way and the client's rest go on side by side, so the longest of them counts.
        """
        answers = max(self.client_s, self.server_s, link.seconds(self.prepare_down))
        asking = self.ahead_s + link.seconds(self.prepare_up)
        return self.prepare_rounds * link.rtt_s + asking + answers

    def online_latency(self, link: Link) -> float:
        """Seconds that the inference takes over `link` once prepared; nothing overlaps."""
        return self.online_rounds * link.rtt_s + self.online_s + link.seconds(self.online_bytes)

    def latency(self, link: Link) -> float:
        """Seconds from nothing to the answer: preparing and online."""
        return self.prepare_latency(link) + self.online_latency(link)


@dataclass(frozen=True)
class Overlap:
    """How the parties' times join to that of the whole."""

    ahead: float = 0.0
    """Share of the client's computing in preparing that the server has to wait for, 0 to 1."""
    wait_s: float = 0.0
    """Seconds lost at each online round trip beside the link's: processes fall asleep and wake."""


@dataclass(frozen=True)
class LayerCost:
    """What one channel of an activation layer costs, for each kind but constants."""

    channels: int
    work: Mapping[int, tuple[float, ...]]
    """By kind: values of each of `OPERATIONS` that a channel of this kind comes to."""
    traffic: Mapping[int, tuple[float, ...]]
    """By kind: bytes of a channel, preparing up and down, online up and down."""
    rounds: Mapping[int, float]
    """By kind: online round trips of the layer if this is its deepest kind."""


@dataclass(frozen=True)
class LinearCost:
    """What a convolution or dense layer costs."""

    reads: Channels
    makes: Channels
    client_s: float
    """The client's seconds in preparing with all channels live."""
    server_s: float
    online_s: float
    """The server's seconds online; the client has none."""
    up: float
    """Bytes of preparing to the server with all channels live."""
    down: float
    up_live: float
    """Those of `up` that fall in proportion to the live input channels."""
    down_live: float
    """Those of `down` that fall in proportion to the live output channels."""


@dataclass(frozen=True)
class Check:
    """The model held against the measurement of a plan that it was not fitted on; seconds."""

    predicted_prepare_s: float
    predicted_online_s: float
    measured_prepare_s: float
    measured_online_s: float

    @property
    def error(self) -> float:
        """What the predicted latency of both phases exceeds the measured one by, relative to it."""
        measured = self.measured_prepare_s + self.measured_online_s
        return (self.predicted_prepare_s + self.predicted_online_s) / measured - 1


@dataclass(frozen=True)
class CostModel:
    """Foretells what any plan of one network costs."""

    link: Link
    """The link over which it was measured."""
    settings: Settings
    layers: Mapping[str, LayerCost]
    linear: Mapping[str, LinearCost]
    parts: Array
    """(len(QUANTITIES), len(PARTS)), nothing negative: what cannot be told from layer to layer.
    Bytes here are those beside the layers' own."""
    product: tuple[float, float]
    """Share of the client's and of the server's seconds in linear layers that goes with pairs of
    live input and output channels; the rest goes with the channels of either side, half each."""
    overlap: Overlap
    prepare_rounds: float
    """Round trips of preparing, but for the one that the silent OT extension begins with."""
    online_rounds: float
    """Round trips online that are there whatever the plan."""
    check: Check | None = field(default=None, compare=False)

    def predict(self, plan: Plan) -> Cost:
        """The cost of one inference of the network planned so."""
        self._fits(plan)
        counts = plan.counts()
        work = np.zeros(len(OPERATIONS))
        traffic = np.zeros(4)
        rounds = self.online_rounds
        for name, layer in self.layers.items():
            present = {k: counts[name].get(k, 0) for k in layer.work}
            for kind, count in present.items():
                work += count * np.asarray(layer.work[kind])
                traffic += count * np.asarray(layer.traffic[kind])
            rounds += max((layer.rounds[k] for k, count in present.items() if count), default=0)
        start = float(work[0] > 0)
        total = self.parts @ np.concatenate([[1.0, start], work])
        total[3:] += traffic
        for linear, reads, makes in self._sides(plan):
            share = [self._share(party, reads, makes) for party in (0, 1)]
            total[0] += linear.client_s * share[0]
            total[1] += linear.server_s * share[1]
            total[2] += linear.online_s * share[1]
            total[3] += linear.up - linear.up_live * (1 - reads)
            total[4] += linear.down - linear.down_live * (1 - makes)
        begin = silent_starts(work, self.settings) / self.settings.batch
        return self._cost(total, self.prepare_rounds + begin, rounds)

    def channel_costs(
        self, link: Link | None = None, prepare: float = 1.0, online: float = 1.0,
        at: Plan | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Seconds that each channel of each layer costs as each kind: (C, kinds) by layer.

        Seconds are `prepare` times those of preparing plus `online` times those online. The
        model is linearised at the plan `at` (all ReLU unless given). A channel that is no constant
        is charged with its part of the linear layers before and after it; where several
        activation channels keep a channel alive together, as in residual sums, they share it
        evenly. Degree 0 costs nothing. Round trips are not included (`round_costs`), nor is what
        every plan pays.
        """
        link = link or self.link
        at = at or Plan.uniform({n: layer.channels for n, layer in self.layers.items()}, RELU)
        here = self.predict(at)
        longest = np.argmax([here.client_s, here.server_s, link.seconds(here.prepare_down)])
        per_byte = link.seconds(1)
        client = self.overlap.ahead + (1 - self.overlap.ahead) * (longest == 0)
        down = per_byte * (longest == 2)
        busy = prepare * np.array([client, float(longest == 1), 0, per_byte, down, 0, 0])
        price = busy + online * np.array([0, 0, 1, 0, 0, per_byte, per_byte])
        result = {}
        for name, layer in self.layers.items():
            costs = torch.zeros(layer.channels, len(KINDS), dtype=torch.float64)
            for index, kind in enumerate(KINDS):
                if kind in layer.work:
                    seconds = price @ self.parts[:, 2:] @ np.asarray(layer.work[kind])
                    costs[:, index] = float(seconds + price[3:] @ np.asarray(layer.traffic[kind]))
            result[name] = costs
        for linear, reads, makes in self._sides(at):
            base = price[:3] * np.array([linear.client_s, linear.server_s, linear.online_s])
            for side, other, rate in (
                (linear.reads, makes, price[3] * linear.up_live),
                (linear.makes, reads, price[4] * linear.down_live),
            ):
                slope = np.array([self._slope(party, other) for party in (0, 1, 1)])
                value = float(base @ slope + rate)
                for atoms, share in side.shares.items():
                    for layer_name, channel in atoms:
                        result[layer_name][channel, :-1] += value * share / len(atoms)
        return result

    def round_costs(self, link: Link | None = None) -> dict[str, Tensor]:
        """Seconds of round trips of each layer if its deepest kind is this: (kinds,) by layer."""
        each = (link or self.link).rtt_s + self.overlap.wait_s
        return {
            name: torch.tensor([each * layer.rounds.get(k, 0) for k in KINDS], dtype=torch.float64)
            for name, layer in self.layers.items()
        }

    def layer_cost(self, plan: Plan, name: str) -> Cost:
        """The part of `predict(plan)` that the activations of one layer have, start left out."""
        self._fits(plan)
        layer, counts = self.layers[name], plan.counts()[name]
        present = {k: counts.get(k, 0) for k in layer.work}
        work = sum((n * np.asarray(layer.work[k]) for k, n in present.items()), np.zeros(4))
        total = self.parts[:, 2:] @ work
        total[3:] += sum((n * np.asarray(layer.traffic[k]) for k, n in present.items()), 0.0)
        rounds = max((layer.rounds[k] for k, count in present.items() if count), default=0)
        return self._cost(total, 0, rounds)

    def _fits(self, plan: Plan) -> None:
        """Fail unless `plan` is one of this network."""
        expected = {name: layer.channels for name, layer in self.layers.items()}
        got = {name: len(kinds) for name, kinds in plan.layers.items()}
        if expected != got:
            differing = sorted(n for n in {*expected, *got} if expected.get(n) != got.get(n))
            parts = (f"{n}: {expected.get(n, 0)} and {got.get(n, 0)}" for n in differing)
            raise ValueError(
                f"the plan is of another network: channels expected and got, {', '.join(parts)}"
            )

    def _sides(self, plan: Plan) -> list[tuple[LinearCost, float, float]]:
        """Each linear layer with its shares of live input and output channels."""
        constant = {name: [k == 0 for k in kinds] for name, kinds in plan.layers.items()}
        return [(x, x.reads.live(constant), x.makes.live(constant)) for x in self.linear.values()]

    def _share(self, party: int, reads: float, makes: float) -> float:
        """What is left of a linear layer's seconds with so many channels live."""
        if not reads or not makes:
            return 0.0
        return pair_share(self.product[party], reads, makes)

    def _slope(self, party: int, other: float) -> float:
        """Derivative of `_share` by one side's share while the other's is `other`."""
        return self.product[party] * other + (1 - self.product[party]) / 2

    def _cost(self, total: Array, prepare_rounds: float, online_rounds: float) -> Cost:
        """A cost from the rows of `QUANTITIES`."""
        client, server, online, *traffic = (float(x) for x in total)
        return Cost(
            self.overlap.ahead * client,
            (1 - self.overlap.ahead) * client,
            server,
            online + self.overlap.wait_s * online_rounds,
            *traffic,
            prepare_rounds,
            online_rounds,
        )

    def to_json(self, path: Path | str) -> None:
        """Write the model; `from_json` reads it."""
        Path(path).write_text(json.dumps(self.as_dict(), indent=1) + "\n")

    def as_dict(self) -> dict[str, Any]:
        """The model as JSON values."""
        unlimited = math.isinf(self.link.bits_per_s)
        return {
            "format": FORMAT,
            "version": VERSION,
            "link": asdict(self.link) | ({"bits_per_s": None} if unlimited else {}),
            "settings": asdict(self.settings),
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "linear": {
                name: {f.name: getattr(layer, f.name) for f in fields(LinearCost)[2:]}
                | {"reads": _channels_out(layer.reads), "makes": _channels_out(layer.makes)}
                for name, layer in self.linear.items()
            },
            "parts": {
                quantity: dict(zip(PARTS, row, strict=True))
                for quantity, row in zip(QUANTITIES, self.parts.tolist(), strict=True)
            },
            "product": list(self.product),
            "overlap": asdict(self.overlap),
            "prepare_rounds": self.prepare_rounds,
            "online_rounds": self.online_rounds,
            "check": asdict(self.check) if self.check else None,
        }

    @classmethod
    def from_json(cls, path: Path | str) -> CostModel:
        """Read what `to_json` wrote."""
        try:
            found = json.loads(Path(path).read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected a cost model in JSON, {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            kind = found.get("format") if isinstance(found, dict) else type(found).__name__
            raise ValueError(f"{path}: expected an object of format {FORMAT!r}, got {kind!r}")
        if found.get("version") != VERSION:
            raise ValueError(f"{path}: expected version {VERSION}, got {found.get('version')!r}")
        try:
            return cls._from_dict(found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}: not a valid cost model: {what}") from error

    @classmethod
    def _from_dict(cls, found: Mapping[str, Any]) -> CostModel:
        link = found["link"]
        rate = math.inf if link["bits_per_s"] is None else _number(link["bits_per_s"])
        layers = {name: _layer_in(name, value) for name, value in found["layers"].items()}
        linear = {}
        for name, value in found["linear"].items():
            sides = [_channels_in(value[side], layers) for side in ("reads", "makes")]
            rest = {f.name: _number(value[f.name]) for f in fields(LinearCost)[2:]}
            linear[name] = LinearCost(*sides, **rest)
        parts = [[_number(found["parts"][q][p]) for p in PARTS] for q in QUANTITIES]
        client, server = (_number(x) for x in found["product"])
        settings, check = found["settings"], found["check"]
        return cls(
            Link(_number(link["rtt_s"]), rate, str(link["name"])),
            Settings(str(settings["ot"]), int(settings["batch"]), int(settings["threads"])),
            layers,
            linear,
            np.array(parts),
            (min(client, 1.0), min(server, 1.0)),
            Overlap(
                min(_number(found["overlap"]["ahead"]), 1.0), _number(found["overlap"]["wait_s"])
            ),
            _number(found["prepare_rounds"]),
            _number(found["online_rounds"]),
            Check(*(_number(check[f.name]) for f in fields(Check))) if check else None,
        )


def silent_starts(work: Array, settings: Settings) -> bool:
    """Whether the server, as the receiver, begins a silent OT extension: one round trip more.

    `work` has values of each of `OPERATIONS`, of one inference.
    """
    if settings.ot != "silent":
        return False
    singles, wides = (settings.batch * float(work @ ots) for ots in (SINGLE_OTS, WIDE_OTS))
    return singles >= SINGLE_START or wides >= WIDE_START


def pair_share(product: float, reads: float, makes: float) -> float:
    """What is left of a linear layer's seconds with these shares of live channels.

    `product` of the seconds go with pairs of channels, the rest with those of either side.
    """
    return product * reads * makes + (1 - product) * (reads + makes) / 2


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r}")
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"expected a finite number of at least 0, got {value!r}")
    return float(value)


def _layer_in(name: str, value: Mapping[str, Any]) -> LayerCost:
    def by_kind(table: Mapping[str, Any], length: int) -> dict[int, tuple[float, ...]]:
        expected = {str(k) for k in KINDS if k}
        if set(table) != expected:
            raise ValueError(f"{name}: expected kinds {sorted(expected)}, got {sorted(table)}")
        rows = {int(k): tuple(_number(x) for x in row) for k, row in table.items()}
        for kind, row in rows.items():
            if len(row) != length:
                raise ValueError(f"{name}, kind {kind}: expected {length} numbers, got {len(row)}")
        return rows

    channels = value["channels"]
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(f"{name}: expected at least 1 channel, got {channels!r}")
    rounds = by_kind({k: [x] for k, x in value["rounds"].items()}, 1)
    return LayerCost(
        channels,
        by_kind(value["work"], len(OPERATIONS)),
        by_kind(value["traffic"], 4),
        {kind: row[0] for kind, row in rounds.items()},
    )


def _channels_out(side: Channels) -> list[Any]:
    return [[share, *(list(atom) for atom in sorted(a))] for a, share in side.shares.items()]


def _channels_in(rows: Sequence[Any], layers: Mapping[str, LayerCost]) -> Channels:
    shares = {}
    for share, *atoms in rows:
        pairs: set[Atom] = set()
        for layer, channel in atoms:
            if layer not in layers:
                raise ValueError(f"expected an activation layer, got {layer!r}")
            if not isinstance(channel, int) or not 0 <= channel < layers[layer].channels:
                raise ValueError(
                    f"{layer}: expected a channel below {layers[layer].channels}, got {channel!r}"
                )
            pairs.add((layer, channel))
        shares[frozenset(pairs)] = _number(share)
    return Channels(shares)
