"""Muon: momentum whose matrices are made orthogonal, one matrix at a time or all of a shape at once.

An update that is orthogonal moves every direction of a matrix by the same amount, where the gradient itself is carried
by a few. Only the matrices inside of layers are updated so; embeddings, heads, norms and biases take AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.registry import register

#: Coefficients of the quintic iteration: the steepest slope at zero, at the price that singular values end between 0.7
#: and 1.2 instead of at 1 (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
_EPSILON = 1e-7


def orthogonalize(matrix: Float[Tensor, "M N"], iterations: int = NUM_ITERATIONS) -> Float[Tensor, "M N"]:
    """The nearest orthogonal matrix, nearly: U V^T of the singular value decomposition U S V^T.

    Newton-Schulz: X <- a X + (b X X^T + c (X X^T)^2) X, begun with the matrix at length one.

    Args:
        matrix: of any shape; the iteration runs on the wider orientation, whose X X^T is the smaller one.
        iterations: each brings singular values nearer to 1: after 5 those from a thousandth of the length on are between
            0.5 and 1.2, after 3 those from a hundredth on.
    """
    a, b, c = COEFFICIENTS
    x: Tensor = _lying(matrix)
    x = x / torch.linalg.matrix_norm(x).clamp(min=_EPSILON)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


def orthogonalize_each(matrices: Sequence[Tensor], *, iterations: int = NUM_ITERATIONS) -> list[Tensor]:
    """`orthogonalize` of each matrix; it defines what `orthogonalize_together` returns."""
    return [orthogonalize(matrix, iterations) for matrix in matrices]


def orthogonalize_together(
    matrices: Sequence[Tensor], dtype: torch.dtype | None = None, *, iterations: int = NUM_ITERATIONS
) -> list[Tensor]:
    """The same with one product for all matrices of a shape, tall ones lying down: fewer and larger products.

    Args:
        matrices: of any shapes.
        dtype: of the products; by default that of the matrices. bfloat16, as in torch's Muon, is exact enough for an
            update (the iteration itself leaves singular values between 0.7 and 1.2).
        iterations: as in `orthogonalize`.
    """
    a, b, c = COEFFICIENTS
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, matrix in enumerate(matrices):
        rows, columns = sorted(matrix.shape)
        by_shape.setdefault((rows, columns), []).append(index)
    results: list[Tensor] = list(matrices)
    for indices in by_shape.values():
        wide = [_lying(matrices[index]) for index in indices]
        x = torch.stack(wide)  # n M N
        x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=_EPSILON)
        x = x.to(dtype or x.dtype)
        for _ in range(iterations):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        for index, row in zip(indices, x.to(matrices[indices[0]].dtype), strict=True):
            results[index] = row.mT if matrices[index].shape[0] > matrices[index].shape[1] else row
    return results


def _lying(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def update_scale(shape: Sequence[int]) -> float:
    """What brings an orthogonal update to the size of AdamW's, so that both take one learning rate.

    AdamW's updates have a root mean square of 0.2 to 0.4, an orthogonal matrix one of 1 / sqrt(max(M, N)) (Liu et al.
    2025, Muon is scalable for LLM training, arXiv:2502.16982, eq. 4).
    """
    return float(0.2 * max(shape) ** 0.5)


def muon_directions(
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    momentum: float,
) -> list[Tensor]:
    """Move the running means towards the gradients and return Nesterov's look-ahead of each.

    Args:
        gradients: one for each matrix.
        momenta: running means, changed in place.
        momentum: share that stays.
    """
    torch._foreach_lerp_(list(momenta), list(gradients), 1 - momentum)
    return list(torch._foreach_lerp(list(gradients), list(momenta), momentum))


def _example(seed: int) -> tuple[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(12, 20), (20, 12), (12, 20), (7, 7), (3, 40), (1, 5)]
    return ([torch.randn(shape, generator=generator) * 10.0 ** (index - 3) for index, shape in enumerate(shapes)],)


def _flat(function: Callable[[Sequence[Tensor]], list[Tensor]]) -> Callable[[list[Tensor]], Tensor]:
    return lambda matrices: torch.cat([result.flatten() for result in function(matrices)])


register("train.orthogonalize", _flat(orthogonalize_each), _flat(orthogonalize_together), _example, tolerance=1e-5)
