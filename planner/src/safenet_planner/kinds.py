"""The kinds of activation that a channel may have."""

from __future__ import annotations

RELU = -1
"""The kind of a channel that keeps the exact ReLU; 0 to 3 are degrees of polynomials."""

KINDS = (RELU, 3, 2, 1, 0)
"""Every kind, in the order of each table by kind: the *kind index* is the position here."""

NAMES = {RELU: "ReLU", 3: "degree 3", 2: "degree 2", 1: "degree 1", 0: "degree 0"}
"""What each kind is called in reports and messages."""


def index(kind: int) -> int:
    """The kind index of `kind`, from 0 (ReLU) to 4 (constant)."""
    if kind not in KINDS:
        raise ValueError(f"kind of activation: expected one of {KINDS}, got {kind!r}")
    return KINDS.index(kind)
