"""A small GPT twice: out of single numbers, and out of arrays. Both compute what `model/` computes with the preset `gpt2`.

    x = embed[ids] + embed_positions[0..T-1]
    for each layer:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = norm(x) embed^T

x has a row of numbers for each token of the text (a token is a piece of text with a number, its id): a vector for the token and
one for the place where it stands. Each layer adds to the rows what two networks make of them. attention is the only place where rows meet:
each takes a mean of what it and those before it offer. mlp works on each row alone, four times as wide inside, bent by gelu:

    attention(h):  q = h Wq^T + bq, and k and v likewise;  softmax(q k^T / sqrt(d)) v for each head;  then times Wo^T, plus bo
    mlp(h)         = gelu(h Wup^T + bup) Wdown^T + bdown

A head is a slice of d columns of q, k and v with an attention of its own. The logits are scores of every token that could come
next. `docs/concepts/levels.md` has the whole as a page, `docs/concepts/seq2seq.md` where attention came from.

Weights go by the names of `Transformer.state_dict`, so the same numbers can be put into each of the four levels
(`recipes/levels.py`): scalars, arrays, torch, and torch's fast path.

Source: Radford et al. 2019 (GPT-2); the head shares the embedding's weights (Press and Wolf 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError
from groundup.foundations import functions
from groundup.foundations.modules import parameter
from groundup.foundations.scalar import Value, cross_entropy, dot, total
from groundup.foundations.tensor import Tensor

Weights: TypeAlias = dict[str, NDArray[np.float64]]
Row: TypeAlias = list[Value]
_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class GPTShape:
    """Sizes of a GPT.

    Attributes:
        vocab_size: different tokens.
        hidden_size: numbers of a token's vector, a multiple of the heads.
        num_layers: how often attention and mlp follow each other.
        num_heads: attentions side by side in each layer.
        context: most tokens of a text.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    context: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1 or self.hidden_size % self.num_heads:
            raise UsageError(f"{self} is no GPT: all sizes are 1 or more, and the heads share hidden_size equally")

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight; a matrix is (outputs, inputs), as torch keeps it, so that a row x becomes x W^T."""
        width, inner = self.hidden_size, 4 * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "embed.weight": (self.vocab_size, width),
            "embed_positions.weight": (self.context, width),
        }
        for index in range(self.num_layers):
            name = f"layers.{index}"
            for norm in ("attn_norm", "mlp_norm"):
                shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
            maps = {f"attn.{x}_proj": (width, width) for x in "qkvo"}
            maps |= {"mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
            for part, shape in maps.items():
                shapes |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[:1]}
        return shapes | {"final_norm.weight": (width,), "final_norm.bias": (width,)}


def initial_weights(shape: GPTShape, seed: int = 0, deviation: float = 0.02) -> Weights:
    """Matrices from a normal distribution, norms of ones, biases of zeros, as GPT-2 begins."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, size in shape.weight_shapes().items():
        if len(size) == 2:
            weights[name] = random.standard_normal(size) * deviation
        else:
            weights[name] = np.ones(size) if name.endswith("norm.weight") else np.zeros(size)
    return weights


class ScalarGPT:
    """Every number a `Value`: each addition and product of a language model, one by one.

    Args:
        shape: of the model.
        weights: as `GPTShape.weight_shapes` names them.

    Attributes:
        weights: name -> rows of numbers; a vector is one row.
    """

    def __init__(self, shape: GPTShape, weights: Mapping[str, NDArray[np.float64]]) -> None:
        self.shape = shape
        self.weights: dict[str, list[Row]] = {
            name: [[Value(number) for number in row] for row in np.atleast_2d(values)]
            for name, values in _checked(shape, weights).items()
        }

    def loss(self, ids: Sequence[int]) -> Value:
        """The mean cross-entropy, in nats, of predicting each token from those before it; the first has none and does not count."""
        logits = self.logits(ids[:-1])
        return total(cross_entropy(row, target) for row, target in zip(logits, ids[1:], strict=True)) / len(logits)

    def logits(self, ids: Sequence[int]) -> list[Row]:
        """Scores of every token after each of the ids."""
        _check_ids(self.shape, ids)
        tokens, positions = self.weights["embed.weight"], self.weights["embed_positions.weight"]
        rows = [[a + b for a, b in zip(tokens[id], positions[place], strict=True)] for place, id in enumerate(ids)]
        for index in range(self.shape.num_layers):
            name = f"layers.{index}"
            rows = _added(rows, self._attention(f"{name}.attn", self._norm(f"{name}.attn_norm", rows)))
            rows = _added(rows, self._mlp(f"{name}.mlp", self._norm(f"{name}.mlp_norm", rows)))
        return [[dot(row, token) for token in tokens] for row in self._norm("final_norm", rows)]

    def gradients(self) -> Weights:
        """The derivatives that `backward` left, in the shapes of the weights."""
        shapes = self.shape.weight_shapes()
        return {
            name: np.array([[value.grad for value in row] for row in rows]).reshape(shapes[name])
            for name, rows in self.weights.items()
        }

    def _linear(self, name: str, rows: list[Row]) -> list[Row]:
        matrix, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"][0]
        return [[dot(row, outputs) + b for outputs, b in zip(matrix, bias, strict=True)] for row in rows]

    def _norm(self, name: str, rows: list[Row]) -> list[Row]:
        weight, bias = self.weights[f"{name}.weight"][0], self.weights[f"{name}.bias"][0]
        normed = []
        for row in rows:
            mean = total(row) / len(row)
            centred = [x - mean for x in row]
            inverse = (total(x * x for x in centred) / len(row) + _EPSILON) ** -0.5
            normed.append([x * inverse * w + b for x, w, b in zip(centred, weight, bias, strict=True)])
        return normed

    def _attention(self, name: str, rows: list[Row]) -> list[Row]:
        queries, keys, values = (self._linear(f"{name}.{part}_proj", rows) for part in "qkv")
        size = self.shape.hidden_size // self.shape.num_heads
        mixed: list[Row] = [[] for _ in rows]  # for each position the results of all heads, one after the other
        for head in range(self.shape.num_heads):
            own = slice(head * size, (head + 1) * size)
            for place, query in enumerate(queries):
                # How well each key fits the query, up to the position's own: what comes later must not be seen.
                scores = [dot(query[own], key[own]) * size**-0.5 for key in keys[: place + 1]]
                # The softmax of the scores: shares with the sum 1.
                largest = max(score.data for score in scores)
                powers = [(score - largest).exp() for score in scores]
                inverse = total(powers) ** -1.0
                shares = [power * inverse for power in powers]
                # The mean of the values under these shares, number by number.
                for column in range(own.start, own.stop):
                    mixed[place].append(dot(shares, [value[column] for value in values[: place + 1]]))
        return self._linear(f"{name}.o_proj", mixed)

    def _mlp(self, name: str, rows: list[Row]) -> list[Row]:
        inner = self._linear(f"{name}.up_proj", rows)
        return self._linear(f"{name}.down_proj", [[_gelu(x) for x in row] for row in inner])


class TensorGPT:
    """The same with an array for each weight, and a batch of texts at a time.

    Args:
        shape: of the model.
        weights: as `GPTShape.weight_shapes` names them; their type is that of the computation.
    """

    def __init__(self, shape: GPTShape, weights: Mapping[str, NDArray[np.floating]]) -> None:
        self.shape = shape
        self.weights: dict[str, Tensor] = {name: parameter(values) for name, values in _checked(shape, weights).items()}

    def loss(self, ids: NDArray[np.int64]) -> Tensor:
        """Mean cross-entropy, in nats, of each token but the first; ids are (B, T)."""
        return functions.cross_entropy(self.logits(ids[:, :-1]), ids[:, 1:])

    def logits(self, ids: NDArray[np.int64]) -> Tensor:
        """Scores of every token after each of the ids (B, T): (B, T, V)."""
        _check_ids(self.shape, ids[0])
        weights = self.weights
        x = functions.embedding(weights["embed.weight"], ids) + weights["embed_positions.weight"][: ids.shape[1]]
        for index in range(self.shape.num_layers):
            name = f"layers.{index}"
            x = x + self._attention(f"{name}.attn", self._norm(f"{name}.attn_norm", x))
            inner = functions.gelu(self._linear(f"{name}.mlp.up_proj", self._norm(f"{name}.mlp_norm", x)))
            x = x + self._linear(f"{name}.mlp.down_proj", inner)
        return self._norm("final_norm", x) @ weights["embed.weight"].T

    def gradients(self) -> Weights:
        """The derivatives that `backward` left."""
        return {
            name: np.zeros(weight.shape) if weight.grad is None else weight.grad
            for name, weight in self.weights.items()
        }

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return functions.layer_norm(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], _EPSILON)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        heads = self.shape.num_heads

        def split(part: str) -> Tensor:
            projected = self._linear(f"{name}.{part}_proj", x)
            return projected.reshape(batch, count, heads, width // heads).swapaxes(1, 2)  # (B, H, T, d)

        mixed = functions.attention(split("q"), split("k"), split("v"))
        return self._linear(f"{name}.o_proj", mixed.swapaxes(1, 2).reshape(batch, count, width))


def _added(rows: list[Row], others: list[Row]) -> list[Row]:
    return [[a + b for a, b in zip(row, other, strict=True)] for row, other in zip(rows, others, strict=True)]


def _gelu(x: Value) -> Value:
    return x * 0.5 * (((x + x**3.0 * 0.044715) * math.sqrt(2 / math.pi)).tanh() + 1.0)


def _checked(shape: GPTShape, weights: Mapping[str, NDArray[np.floating]]) -> Mapping[str, NDArray[np.floating]]:
    expected, found = shape.weight_shapes(), {name: values.shape for name, values in weights.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name))
        raise UsageError(f"weights that do not fit {shape}: {', '.join(wrong[:5])}")
    return weights


def _check_ids(shape: GPTShape, ids: Sequence[int] | NDArray[np.int64]) -> None:
    if not 1 <= len(ids) <= shape.context or not all(0 <= id < shape.vocab_size for id in ids):
        raise UsageError(
            f"1 to {shape.context} ids from 0 to {shape.vocab_size - 1} can be read, not {len(ids)} such as {list(ids[:5])}"
        )
