"""Registers the pairs of this folder: the cached loop beside the reference, the compiled step beside the modules."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from groundup.core.jit import numba_works
from groundup.core.registry import register
from groundup.core.seeds import seed_for
from groundup.inference.contracts import LanguageModel
from groundup.inference.generate import generate, generate_reference
from groundup.inference.sampling import Sampling
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build
from groundup.model.weights.module_tiles import ModuleTiles

FAMILIES = ("gpt2", "llama3", "qwen3")
VOCAB_SIZE = 97


def tokens_and_logprobs_reference(model: LanguageModel, ids: list[int], sampling: Sampling) -> tuple[list[int], Tensor]:
    """Run the reference loop to its end."""
    steps = list(generate_reference(model, ids, sampling))
    return [step.token for step in steps], torch.tensor([step.logprob for step in steps])


def tokens_and_logprobs(model: LanguageModel, ids: list[int], sampling: Sampling) -> tuple[list[int], Tensor]:
    """Run the cached loop to its end."""
    steps = list(generate(model, ids, sampling))
    return [step.token for step in steps], torch.tensor([step.logprob for step in steps])


def _inputs(seed: int) -> tuple[Any, ...]:
    """A random model of one of three families, a prompt, and greedy or sampled settings."""
    draw = random.Random(seed_for(seed, "inference.generate"))
    config = preset(
        FAMILIES[seed % len(FAMILIES)],
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        # With the published 0.02 a random model is nearly uniform, and its likeliest tokens nearly tie.
        initializer_range=0.3,
    )
    ids = [draw.randrange(VOCAB_SIZE) for _ in range(draw.randint(1, 30))]
    temperature = draw.choice([0.0, 0.8, 1.0])
    sampling = Sampling(temperature=temperature, top_p=0.95, max_new_tokens=16, seed=draw.randrange(1000))
    return build(config, seed=seed), ids, sampling


def logits_reference(model: Transformer, ids: Tensor) -> Tensor:
    """The logits of the modules."""
    with torch.no_grad():
        return model.logits(model(ids))


def logits_compiled(model: Transformer, ids: Tensor) -> Tensor:
    """The logits of the compiled step with the same weights, the text read through a cache in two pieces."""
    from groundup.inference.fast import FastModel
    from groundup.inference.fast_tensors import FastTensors

    step = FastTensors(FastModel(model.config, ModuleTiles(model.state_dict())))
    cache, half = step.new_cache(len(ids), ids.shape[1]), ids.shape[1] // 2
    pieces = [step(piece, cache=cache) for piece in (ids[:, :half], ids[:, half:]) if piece.shape[1]]
    return step.logits(torch.cat(pieces, dim=1))


def _step_inputs(seed: int) -> tuple[Any, ...]:
    model, ids, _ = _inputs(seed)
    return model, torch.tensor([ids, ids[::-1]])


register("inference.generate", tokens_and_logprobs_reference, tokens_and_logprobs, _inputs, 1e-5)
if numba_works():
    register("inference.step", logits_reference, logits_compiled, _step_inputs, 1e-5)
