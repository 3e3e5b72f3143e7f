"""The compiled step on real and made weights, bit for bit beside its numpy twin."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.core.errors import MissingExtraError
from groundup.core.jit import numba_works, target_features
from groundup.inference.generate import generate
from groundup.inference.sampling import Sampling
from groundup.model.ops.rotary_angles import rotary_tables_numpy
from groundup.model.presets import preset
from groundup.model.sources import locate_model
from groundup.model.transformer import build
from groundup.model.weights.gguf_model import save_gguf
from groundup.model.weights.gguf_read import open_gguf
from groundup.model.weights.tile_source import GgufTiles
from groundup.tokenizer import ByteBPE
from groundup.tokenizer.gguf_vocabulary import tokenizer_from_gguf

if not numba_works() or not ({"fma"} & target_features() or "neon" in target_features()):
    pytest.skip("needs numba, and a processor that adds a product with one rounding", allow_module_level=True)

from groundup.inference.fast import FastModel
from groundup.inference.fast_tensors import FastTensors

sys.path.insert(0, str(Path(__file__).parent))
import exact_twin

PROMPTS = (
    "The history of the city of Rome begins with",
    "def fibonacci(n):",
    "Once upon a time there was a",
)


def twin_logits(weights: GgufTiles, ids: list[int], cache_type: str) -> torch.Tensor:
    mixer = weights.config.layers()[0].mixer
    places = np.arange(len(ids))
    cos, sin = rotary_tables_numpy(places, mixer.head_dim, mixer.rotary, places + 1)  # type: ignore[union-attr, arg-type]
    return torch.from_numpy(exact_twin.logits(weights, ids, cos, sin, rounds_cache=cache_type == "bfloat16"))


@pytest.mark.parametrize("cache_type", ["float32", "bfloat16"])
@pytest.mark.parametrize("type", ["Q4_1", "Q8_0"])
def test_made_weights(tmp_path: Path, type: str, cache_type: str) -> None:
    config = preset(
        "llama3",
        vocab_size=256,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=160,
        max_position_embeddings=800,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    save_gguf(tmp_path / "m.gguf", build(config, seed=2), ByteBPE.from_merges([], special_tokens=()), type=type)
    with open_gguf(tmp_path / "m.gguf") as file:
        weights = GgufTiles(file)
    # Past a segment of attention, and no multiple of a block.
    ids = np.random.default_rng(0).integers(0, 256, 603).tolist()
    model = FastTensors(FastModel(weights.config, weights, cache_type=cache_type))
    assert torch.equal(model.logits(model(torch.tensor([ids])))[0], twin_logits(weights, ids, cache_type))


@pytest.mark.slow
@pytest.mark.parametrize("cache_type", ["float32", "bfloat16"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_five_hundred_greedy_tokens_of_a_real_model(prompt: str, cache_type: str) -> None:
    """What was generated token by token is what the twin, reading the whole text at once, finds likeliest at each place."""
    try:
        path = locate_model("smollm2-135m")
    except MissingExtraError as error:
        pytest.skip(str(error))
    with open_gguf(path) as file:
        weights, tokenizer = GgufTiles(file), tokenizer_from_gguf(file.metadata)
    model = FastTensors(FastModel(weights.config, weights, cache_type=cache_type))
    ids = tokenizer.encode(prompt)
    made = [step.token for step in generate(model.model, ids, Sampling(temperature=0.0, max_new_tokens=500))]
    assert len(made) == 500
    expected = twin_logits(weights, [*ids, *made[:-1]], cache_type)
    assert expected[len(ids) - 1 :].argmax(-1).tolist() == made
    assert torch.equal(model.logits(model(torch.tensor([[*ids, *made[:-1]]])))[0], expected)
