"""What a step does to each token by itself: norms, activations, the cap of the logits.

Rows are float32, filled up with zeros to whole vectors; weights are filled up the same way, so the filling stays zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from groundup.core.vectors_numba import (
    add,
    float_from_bits,
    larger,
    load_f32,
    mul,
    multiply_add,
    read_f32,
    read_i64,
    sigmoid,
    splat_f32,
    store_f32,
    sub,
    sum_of,
    tanh,
    write_f32,
)
from groundup.model.ops.step_kernels import GELU, GELU_NEW, LAYER_NORM, PART, RELU, SILU

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


def normalize(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """RMS norm or layer norm of each row, or of each head of it.

    Arguments: source, bytes between its rows, target, bytes between its rows, values of a head, heads, weight, bias
    (zeros where there is none), the bits of epsilon, kind of norm, 1 to add to what the target holds. Items: rows.
    """
    source, source_stride = read_i64(arguments), read_i64(arguments + 8)
    target, target_stride = read_i64(arguments + 16), read_i64(arguments + 24)
    size, heads = read_i64(arguments + 32), read_i64(arguments + 40)
    weight, bias = read_i64(arguments + 48), read_i64(arguments + 56)
    epsilon, kind = float_from_bits(read_i64(arguments + 64)), read_i64(arguments + 72)
    adds = read_i64(arguments + 80)
    whole = size // 16 * 16
    for row in range(start, end):
        for head in range(heads):
            x, y = source + row * source_stride + 4 * head * size, target + row * target_stride + 4 * head * size
            mean = float_from_bits(0)
            if kind == LAYER_NORM:
                sums = splat_f32(0.0)
                for place in range(0, whole, 16):
                    sums = add(sums, load_f32(x + 4 * place))
                total = sum_of(sums)
                for place in range(whole, size):
                    total += read_f32(x + 4 * place)
                mean = total / size
            means, sums = splat_f32(mean), splat_f32(0.0)
            for place in range(0, whole, 16):
                centred = sub(load_f32(x + 4 * place), means)
                sums = multiply_add(centred, centred, sums)
            total = sum_of(sums)
            for place in range(whole, size):
                total += (read_f32(x + 4 * place) - mean) * (read_f32(x + 4 * place) - mean)
            factor = 1.0 / math.sqrt(total / size + epsilon)
            factors = splat_f32(factor)
            for place in range(0, whole, 16):
                scaled = mul(sub(load_f32(x + 4 * place), means), factors)
                scaled = multiply_add(scaled, load_f32(weight + 4 * place), load_f32(bias + 4 * place))
                store_f32(y + 4 * place, add(scaled, load_f32(y + 4 * place)) if adds else scaled)
            for place in range(whole, size):
                number = (read_f32(x + 4 * place) - mean) * factor
                number = number * read_f32(weight + 4 * place) + read_f32(bias + 4 * place)
                write_f32(y + 4 * place, number + read_f32(y + 4 * place) if adds else number)


def activate(KIND: int) -> Callable[[int, int, int, int, int], None]:
    """The kernel of one activation.

    Arguments: gate, bytes between its rows, the other half or 0, result (both with the gate's stride), vectors of a row,
    parts of a row (each of `PART` vectors). Items: parts of all rows.
    """

    def apply(arguments: int, start: int, end: int, state: int, worker: int) -> None:
        gates, stride, ups = read_i64(arguments), read_i64(arguments + 8), read_i64(arguments + 16)
        target, num_vectors, num_parts = read_i64(arguments + 24), read_i64(arguments + 32), read_i64(arguments + 40)
        zero, half, one = splat_f32(0.0), splat_f32(0.5), splat_f32(1.0)
        for item in range(start, end):
            first = item % num_parts * PART
            for vector in range(first, min(first + PART, num_vectors)):
                place = item // num_parts * stride + 64 * vector
                x = load_f32(gates + place)
                if KIND == SILU:
                    y = mul(x, sigmoid(x))
                elif KIND == GELU_NEW:
                    inner = mul(splat_f32(_SQRT_2_OVER_PI), multiply_add(mul(mul(x, x), x), splat_f32(0.044715), x))
                    y = mul(mul(half, x), add(one, tanh(inner)))
                elif KIND == GELU:
                    for lane in range(16):
                        number = read_f32(gates + place + 4 * lane)
                        write_f32(target + place + 4 * lane, 0.5 * number * (1.0 + math.erf(number * math.sqrt(0.5))))
                    y = load_f32(target + place)
                elif KIND == RELU:
                    y = larger(x, zero)
                else:
                    y = mul(larger(x, zero), larger(x, zero))
                if ups:
                    y = mul(y, load_f32(ups + place))
                store_f32(target + place, y)

    return apply


def cap(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """c tanh(x / c) in place.

    Arguments: rows, bytes between them, vectors of a row, the bits of c. Items: vectors of all rows.
    """
    rows, stride, num_vectors = read_i64(arguments), read_i64(arguments + 8), read_i64(arguments + 16)
    limit = float_from_bits(read_i64(arguments + 24))
    limits, inverse = splat_f32(limit), splat_f32(1.0 / limit)
    for item in range(start, end):
        place = rows + item // num_vectors * stride + item % num_vectors * 64
        store_f32(place, mul(limits, tanh(mul(load_f32(place), inverse))))
