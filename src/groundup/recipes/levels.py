"""One GPT at four levels, from the same weights on the same text: single numbers, arrays, plain torch, the fast path.

The loss and the gradients are the same; time and memory are not. `groundup first levels` shows the table.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundup.core.execution import ExecutionPlan, available_cpus
from groundup.data.batch import Batch
from groundup.foundations.gpt import GPTShape, ScalarGPT, TensorGPT, Weights, initial_weights
from groundup.foundations.scalar import Value, total
from groundup.model.plain_gpt import TorchGPT
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build
from groundup.train.environment import autocast, planned_environment
from groundup.train.objectives import next_token_loss
from groundup.train.probe import describe, probe

#: Name -> what it is.
LEVELS = {
    "scalars": "a Value for each number (foundations/scalar.py)",
    "arrays": "a Tensor for each weight (foundations/tensor.py)",
    "arrays, float32": "the same in half the bytes",
    "torch": "plain torch (model/plain_gpt.py)",
    "fast": "the model that is trained, as a probe of this machine chooses (model/transformer.py)",
}
#: Timed passes go on for so long, and there are at least MIN_PASSES of them, as far as PATIENCE_S goes.
TIMED_S = 1.0
MIN_PASSES = 3
PATIENCE_S = 20.0
#: Micro-batches that the probe may choose from, as multiples of the given one.
_MULTIPLES = (1, 4, 16)


@dataclass(frozen=True)
class LevelCost:
    """What forward and backward pass cost at one level.

    Attributes:
        level: key of `LEVELS`.
        loss: mean cross-entropy, in nats.
        seconds_per_token: median of the passes.
        bytes_per_token: what the graph keeps between the passes, beside the weights, over the tokens.
        note: how it ran, where that was chosen.
    """

    level: str
    loss: float
    seconds_per_token: float
    bytes_per_token: float
    note: str = ""


def trained_model(shape: GPTShape, weights: Weights, dtype: torch.dtype = torch.float32) -> Transformer:
    """The model that is trained, with the weights of the other levels."""
    config = preset(
        "gpt2",
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=shape.context,
    )
    model = build(config, seed=0).to(dtype)
    model.load_state_dict({name: torch.tensor(values) for name, values in weights.items()})
    return model


def losses_and_gradients(shape: GPTShape, weights: Weights, ids: NDArray[np.int64]) -> dict[str, tuple[float, Weights]]:
    """Loss and all gradients of one text at each level, in float64.

    Args:
        ids: (1, T).
    """
    found: dict[str, tuple[float, Weights]] = {}
    scalars, arrays, plain = ScalarGPT(shape, weights), TensorGPT(shape, weights), TorchGPT(shape, weights)
    value = scalars.loss(ids[0].tolist())
    value.backward()
    found["scalars"] = value.data, scalars.gradients()
    array = arrays.loss(ids)
    array.backward()
    found["arrays"] = array.item(), arrays.gradients()
    tensor = plain.loss(torch.tensor(ids))
    tensor.backward()  # type: ignore[no-untyped-call]
    found["torch"] = tensor.item(), plain.gradients()
    model = trained_model(shape, weights, torch.float64)
    summed = next_token_loss(model, _batch(ids))
    (summed.total / summed.count).backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    found["fast"] = summed.total.item() / summed.count, gradients
    return found


def measure_level(level: str, shape: GPTShape, rows: int, *, seed: int = 0, timed_s: float = TIMED_S) -> LevelCost:
    """Time and memory of a token at one level.

    Args:
        level: key of `LEVELS`.
        shape: of the model; texts are as long as its context.
        rows: texts in a pass (the fast path may take more at a time).
        seed: of weights and texts.
        timed_s: seconds of passes, of which the median counts.
    """
    weights = initial_weights(shape, seed)
    ids = np.random.default_rng(seed).integers(0, shape.vocab_size, (rows, shape.context + 1))
    tokens = rows * shape.context
    if level == "scalars":
        scalars = ScalarGPT(shape, weights)
        return _measure(level, lambda: total(map(scalars.loss, ids.tolist())) / rows, _traced_bytes, tokens, timed_s)
    if level.startswith("arrays"):
        dtype = np.float32 if "float32" in level else np.float64
        arrays = TensorGPT(shape, {name: values.astype(dtype) for name, values in weights.items()})
        return _measure(level, lambda: arrays.loss(ids), _traced_bytes, tokens, timed_s)
    if level == "torch":
        plain, tensor = TorchGPT(shape, weights, torch.float32), torch.tensor(ids)
        known = list(plain.weights.values())
        return _measure(level, lambda: plain.loss(tensor), partial(_saved_bytes, known=known), tokens, timed_s)
    return _measure_trained(shape, weights, ids, timed_s)


def _measure_trained(shape: GPTShape, weights: Weights, ids: NDArray[np.int64], timed_s: float) -> LevelCost:
    """The model that is trained, in the precision, with the kernels and on as many rows as a probe finds fastest."""
    model = trained_model(shape, weights)

    def repeated(rows: int) -> Batch:
        return _batch(np.resize(ids, (rows, ids.shape[1])))

    plan = ExecutionPlan(threads=available_cpus())
    plan = probe(
        model, next_token_loss, repeated, plan, micro_batches=[len(ids) * multiple for multiple in _MULTIPLES]
    ).plan
    batch = repeated(plan.micro_batch)

    def forward() -> torch.Tensor:
        with autocast(plan):
            loss = next_token_loss(model, batch)
        return loss.total / loss.count

    with planned_environment(plan):
        saved = partial(_saved_bytes, known=list(model.parameters()))
        return _measure("fast", forward, saved, batch.num_targets(), timed_s, describe(plan))


def _measure(
    level: str,
    forward: Callable[[], Any],
    kept_bytes: Callable[[Callable[[], Any]], int],
    tokens: int,
    timed_s: float,
    note: str = "",
) -> LevelCost:
    memory = kept_bytes(forward)
    times: list[float] = []
    while len(times) < MIN_PASSES or sum(times) < timed_s:
        begun = time.perf_counter()
        loss = forward()
        loss.backward()
        times.append(time.perf_counter() - begun)
        if sum(times) > PATIENCE_S:
            break
    value = loss.data if isinstance(loss, Value) else loss.item()
    return LevelCost(level, value, statistics.median(times) / tokens, memory / tokens, note)


def _traced_bytes(forward: Callable[[], Any]) -> int:
    """What Python and numpy have allocated and not freed while the result stands."""
    tracemalloc.start()
    try:
        result = forward()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    del result
    return kept


def _saved_bytes(forward: Callable[[], Any], known: Sequence[torch.Tensor]) -> int:
    """The storages that torch saves for the backward pass, each once, and none of those that are known."""
    apart = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, int] = {}
    # What is saved stays alive until the end, so that no address is used twice.
    alive: list[torch.Tensor] = []

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def _batch(ids: NDArray[np.int64]) -> Batch:
    tokens = torch.tensor(ids)
    return Batch(tokens[:, :-1], tokens[:, 1:])
