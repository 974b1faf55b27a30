"""Activation layers in which some channels keep their ReLU and others are polynomials near it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

DOMAIN = "safenet"
FUNCTION = "ChannelActivation"
DEFINITION = Path(__file__).resolve().parent.parent / "mnist-mixed.onnx"
"""A model that carries the function's definition."""
RELU = -1
"""Stands for the exact ReLU where a degree is expected."""


def function() -> onnx.FunctionProto:
    """The function that `Plan.fit` makes arguments for, in standard operators."""
    return next(f for f in onnx.load(str(DEFINITION)).functions if f.name == FUNCTION)


@dataclass(frozen=True)
class Plan:
    """Shares of a layer's channels that become polynomials of degree 2, 1 and 0."""

    square: float = 0
    linear: float = 0
    constant: float = 0

    def fit(
        self, values: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Each channel's degree, -1 for a ReLU, and coefficients c0 to c3, of shape (C, 4).

        `values` are those that the layer gets. Each polynomial is the least-squares fit to the
        channel's ReLU on them. Constants go to the channels that they fit best, then lines to
        the best of what is left, then squares; the worst keep their ReLU.
        """
        channels = values.shape[1]
        samples = np.moveaxis(values, 1, 0).reshape(channels, -1).astype(np.float64)
        degrees = np.full(channels, RELU)
        chosen = np.zeros((channels, 4))
        for degree, share in ((0, self.constant), (1, self.linear), (2, self.square)):
            fits = [_fit(x, degree) for x in samples]
            errors = np.array([error for _, error in fits])
            errors[degrees != RELU] = np.inf
            for channel in np.argsort(errors, kind="stable")[: round(share * channels)]:
                degrees[channel] = degree
                chosen[channel, : degree + 1] = fits[channel][0]
        return degrees, chosen.astype(np.float32)


ALL_RELU = Plan()


def _fit(x: npt.NDArray[np.float64], degree: int) -> tuple[npt.NDArray[np.float64], float]:
    """Coefficients, lowest first, of the polynomial nearest to max(x, 0); its mean square error."""
    target = np.maximum(x, 0)
    polynomial = np.polynomial.Polynomial.fit(x, target, degree)
    coefficients = polynomial.convert().coef
    error = float(np.mean((polynomial(x) - target) ** 2))
    return np.pad(coefficients, (0, degree + 1 - len(coefficients))), error
