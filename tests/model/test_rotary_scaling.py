"""Rotary embeddings of every kind against the functions of `transformers`, and what each is made for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness import relative_difference
from groundup.model.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    RotaryConfig,
    RotaryScaling,
    YarnScaling,
)
from groundup.model.ops.rotary import rotary_fast, rotary_reference, rotary_tables
from groundup.model.ops.rotary_angles import (
    rotary_frequencies,
    rotary_tables_numpy,
    scaled_frequencies,
    yarn_attention_factor,
)
from groundup.model.parts import Context, count_positions

HEAD_DIM = 32
factors, lengths = st.floats(1, 64), st.integers(2, 4096)
scalings = st.one_of(
    st.builds(LinearScaling, factor=factors),
    st.builds(DynamicScaling, factor=factors, original_max_position_embeddings=lengths),
    st.builds(
        YarnScaling,
        factor=factors,
        original_max_position_embeddings=lengths,
        beta_fast=st.floats(1, 64),
        beta_slow=st.floats(0.1, 2),
        attention_factor=st.none() | st.floats(0.5, 2),
        truncate=st.booleans(),
    ),
    st.builds(
        Llama3Scaling,
        factor=factors,
        low_freq_factor=st.floats(0.5, 1.9),
        high_freq_factor=st.floats(2, 8),
        original_max_position_embeddings=lengths,
    ),
)


def theirs(rotary: RotaryConfig, length: int) -> tuple[torch.Tensor, float]:
    """Frequencies and factor of the function of `transformers` for this config."""
    transformers = pytest.importorskip("transformers")
    scaling = rotary.scaling
    assert scaling is not None
    values = {key: value for key, value in scaling.to_dict().items() if value is not None}
    kind, trained = values.pop("kind"), values.get("original_max_position_embeddings", 8)
    config = transformers.LlamaConfig(
        hidden_size=2 * HEAD_DIM, num_attention_heads=2, head_dim=HEAD_DIM, max_position_embeddings=trained
    )
    config.rope_parameters = {
        "rope_type": kind,
        "rope_theta": rotary.rope_theta,
        "partial_rotary_factor": rotary.partial_rotary_factor,
        **values,
    }
    found: tuple[torch.Tensor, float] = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind](
        config, torch.device("cpu"), seq_len=length
    )
    return found


@settings(max_examples=150, deadline=None)
@given(
    scaling=scalings,
    rope_theta=st.sampled_from([50.0, 1e4, 5e5, 1e6]),
    share=st.sampled_from([0.25, 0.5, 1.0]),
    length=st.integers(1, 9000),
)
def test_scaled_frequencies(scaling: RotaryScaling, rope_theta: float, share: float, length: int) -> None:
    rotary = RotaryConfig(rope_theta=rope_theta, partial_rotary_factor=share, scaling=scaling)
    ours, factor = scaled_frequencies(rotary, rotary.rotary_dim(HEAD_DIM), torch.tensor([[length]]), torch)
    expected, their_factor = theirs(rotary, length)
    assert factor == pytest.approx(their_factor, rel=1e-6)
    assert ours.shape == (1, 1, *expected.shape)
    assert torch.allclose(ours[0, 0], expected, rtol=2e-5, atol=0)


@settings(max_examples=100, deadline=None)
@given(
    scaling=st.none() | scalings,
    rope_theta=st.sampled_from([50.0, 1e4, 5e5, 1e6]),
    share=st.sampled_from([0.25, 0.5, 1.0]),
    start=st.integers(0, 9000),
)
def test_tables_of_numpy_are_those_of_torch(
    scaling: RotaryScaling | None, rope_theta: float, share: float, start: int
) -> None:
    rotary = RotaryConfig(rope_theta=rope_theta, partial_rotary_factor=share, scaling=scaling)
    positions = torch.arange(start, start + 5)[None]
    lengths = positions + 1
    ours = rotary_tables_numpy(positions[0].numpy(), HEAD_DIM, rotary, lengths[0].numpy())
    theirs = rotary_tables(positions, HEAD_DIM, rotary, torch.float32, lengths)
    # Frequencies differ in the last bits, by which the angle grows apart as it does from that of exact arithmetic.
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == np.float32
        assert np.abs(own - other[0].numpy()).max() <= 5e-7 * (start + 5)


@pytest.mark.parametrize("share", [0.2, 0.4, 1.0])
def test_partial_rotary_is_that_of_gpt_neox(share: float) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding, apply_rotary_pos_emb

    head_dim, generator = 20, torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, 7, head_dim, generator=generator) for _ in range(2))
    positions = torch.tensor([[0, 1, 2, 3, 9, 50, 51], [5, 6, 7, 8, 9, 10, 11]])
    config = transformers.GPTNeoXConfig(
        hidden_size=3 * head_dim,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": share},
    )
    expected = apply_rotary_pos_emb(query, key, *GPTNeoXRotaryEmbedding(config)(query, positions))
    rotary = RotaryConfig(rope_theta=500.0, partial_rotary_factor=share)
    cos, sin = rotary_tables(positions, head_dim, rotary, torch.float32)
    for function in (rotary_reference, rotary_fast):
        for x, other in zip((query, key), expected, strict=True):
            got = function(x, cos, sin)
            assert relative_difference(got, other) < 1e-6
            assert torch.equal(got[..., int(share * head_dim) :], x[..., int(share * head_dim) :])


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_gradients_of_a_partial_rotation(share: float) -> None:
    x = torch.randn(1, 2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rotary = RotaryConfig(rope_theta=50.0, partial_rotary_factor=share)
    cos, sin = rotary_tables(torch.arange(3)[None] + 4, 8, rotary, torch.float64)
    assert torch.autograd.gradcheck(lambda y: rotary_fast(y, cos, sin), (x,))


def frequencies(scaling: RotaryScaling | None, *, length: int = 1) -> torch.Tensor:
    return scaled_frequencies(RotaryConfig(scaling=scaling), HEAD_DIM, torch.tensor([[length]]), torch)[0][0, 0]


def test_what_each_scaling_does_to_fast_and_slow_pairs() -> None:
    plain = frequencies(None)
    assert torch.equal(plain, rotary_frequencies(HEAD_DIM, 1e4, torch))
    assert torch.allclose(frequencies(LinearScaling(factor=4)), plain / 4)
    for scaling in (
        YarnScaling(factor=4, original_max_position_embeddings=4096),
        Llama3Scaling(factor=4, original_max_position_embeddings=4096),
    ):
        ratio = frequencies(scaling) / plain
        assert float(ratio[0]) == pytest.approx(1) and float(ratio[-1]) == pytest.approx(0.25)
        assert (ratio.diff() <= 1e-6).all(), "the slower a pair, the more it is stretched"
    dynamic = DynamicScaling(factor=4, original_max_position_embeddings=64)
    assert torch.equal(frequencies(dynamic, length=64), plain), "within the trained length nothing changes"
    longer = frequencies(dynamic, length=256) / plain
    assert float(longer[0]) == 1.0 and float(longer[-1]) == pytest.approx(1 / (4 * 256 / 64 - 3), rel=1e-5)


def test_a_factor_of_one_is_no_scaling() -> None:
    plain = frequencies(None)
    for scaling in (
        LinearScaling(factor=1),
        YarnScaling(factor=1, original_max_position_embeddings=64),
        Llama3Scaling(factor=1, original_max_position_embeddings=64),
        DynamicScaling(factor=1, original_max_position_embeddings=64),
    ):
        assert torch.allclose(frequencies(scaling, length=64), plain, rtol=1e-6)
    assert yarn_attention_factor(YarnScaling(factor=1, original_max_position_embeddings=8)) == 1.0
    assert yarn_attention_factor(YarnScaling(factor=math.e, original_max_position_embeddings=8)) == pytest.approx(1.1)


def test_dynamic_scaling_reads_each_row_and_each_packed_text_by_its_own_length() -> None:
    rotary = RotaryConfig(scaling=DynamicScaling(factor=4, original_max_position_embeddings=4))
    lengths = (3, 9, 6)
    segments = torch.repeat_interleave(torch.tensor([4, 0, 2]), torch.tensor(lengths))[None]

    def tables(length: int, **fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
        options: dict[str, Any] = {"mask": None, "segments": None, **fields}
        rows = 1 if options["mask"] is None else len(options["mask"])
        positions = count_positions((rows, length), length=0, device=torch.device("cpu"), **options)
        return Context(positions, **options).rotary(HEAD_DIM, rotary, torch.float32, "one")

    packed, _ = tables(sum(lengths), segments=segments)
    alone = [tables(length)[0] for length in lengths]
    assert torch.equal(packed, torch.cat(alone, dim=1))
    mask = torch.tensor([[False] * 6 + [True] * 3, [True] * 9])
    padded, _ = tables(9, mask=mask)
    assert torch.equal(padded[0, 6:], alone[0][0]) and torch.equal(padded[1], alone[1][0])
