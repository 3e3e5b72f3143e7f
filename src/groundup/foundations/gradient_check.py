"""Derivatives compared with what a small step to both sides gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from groundup.core.errors import UsageError
from groundup.foundations.tensor import Tensor, no_grad


def numeric_gradient(function: Callable[[], Tensor], parameter: Tensor, step: float = 1e-6) -> np.ndarray:
    """The derivative of one number by each element of a parameter: (f(x + h) - f(x - h)) / 2h.

    A smaller h makes the formula better, its error falls with h squared, and the difference worse, since f is rounded in its last
    bits and that is divided by 2h. In float64 the two together are least, near 1e-10 of f, for an h of about 1e-5 or 1e-6.

    Args:
        function: computes the number anew from the parameter's data.
        parameter: float64, as float32 has too few digits for a difference.
        step: h.
    """
    if parameter.dtype != np.float64:
        raise UsageError(f"a numeric gradient needs float64 and not {parameter.dtype}: the differences are tiny")
    given = parameter.data.copy()
    result = np.zeros_like(given)
    try:
        for place in np.ndindex(given.shape):
            values = []
            for direction in (1, -1):
                moved = given.copy()
                moved[place] += direction * step
                parameter.data = moved
                with no_grad():
                    values.append(function().item())
            result[place] = (values[0] - values[1]) / (2 * step)
    finally:
        parameter.data = given
    return result


def check_gradients(
    function: Callable[[], Tensor], parameters: Sequence[Tensor], *, step: float = 1e-6, tolerance: float = 1e-6
) -> float:
    """Compare `backward` with numeric gradients.

    Args:
        function: computes one number from the parameters.
        parameters: float64 tensors that require gradients.
        step, tolerance: of the differences, and what may be between both, relative to the larger of 1 and the gradient.

    Returns:
        the largest relative difference.

    Raises:
        UsageError: naming the parameter and the place where they differ by more.
    """
    for parameter in parameters:
        parameter.grad = None
    function().backward()
    worst = 0.0
    for index, parameter in enumerate(parameters):
        ours = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad
        numeric = numeric_gradient(function, parameter, step)
        if not parameter.size:
            continue
        apart = np.abs(ours - numeric) / np.maximum(1, np.maximum(np.abs(ours), np.abs(numeric)))
        place = np.unravel_index(int(apart.argmax()), apart.shape)
        # argmax finds what is not a number, but max would drop it: nan > 0 is false.
        largest = float(apart[place])
        if not largest <= tolerance:
            raise UsageError(
                f"parameter {index}, element {tuple(int(i) for i in place)}: backward gives {ours[place]:.8g}, a step of "
                f"{step:g} to both sides {numeric[place]:.8g}"
            )
        worst = max(worst, largest)
    return worst
