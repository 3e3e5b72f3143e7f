"""The typed composition: round trips, refusals with values, presets."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ConfigError
from groundup.model.config import (
    AttentionConfig,
    CrossAttentionConfig,
    DenseMLPConfig,
    FilePartConfig,
    GatedMLPConfig,
    LayerConfig,
    LayerNormConfig,
    LearnedPositionsConfig,
    RMSNormConfig,
    RotaryConfig,
    TransformerConfig,
    divisors,
)
from groundup.model.presets import PRESETS, preset

positive = st.floats(1e-12, 1e12)
norms = st.one_of(
    st.builds(LayerNormConfig, layer_norm_epsilon=positive, bias=st.booleans()),
    st.builds(RMSNormConfig, rms_norm_eps=positive),
)


@st.composite
def heads(draw: st.DrawFn, kind: type[Any]) -> Any:
    key_value_heads = draw(st.integers(1, 8))
    values = {
        "num_attention_heads": key_value_heads * draw(st.integers(1, 4)),
        "num_key_value_heads": key_value_heads,
        "head_dim": 2 * draw(st.integers(1, 64)),
        "qk_norm": draw(st.none() | norms),
        "qkv_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
    }
    if kind is AttentionConfig:
        values["rotary"] = draw(st.none() | st.builds(RotaryConfig, rope_theta=positive))
        values["is_causal"] = draw(st.booleans())
    else:
        values["memory_size"] = draw(st.none() | st.integers(1, 512))
    return kind(**values)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
file_parts = st.builds(
    FilePartConfig,
    path=st.text(),
    name=st.text(),
    options=st.dictionaries(st.text(max_size=5), json_values, max_size=3),
)
activations = st.sampled_from(["gelu_new", "gelu", "relu", "relu2", "silu"])
mlps = st.one_of(
    *(
        st.builds(kind, intermediate_size=st.integers(1, 512), activation=activations, bias=st.booleans())
        for kind in (DenseMLPConfig, GatedMLPConfig)
    )
)
layers = st.builds(
    LayerConfig,
    mixer=heads(AttentionConfig) | file_parts,
    mlp=mlps,
    norm=norms,
    placement=st.sampled_from(["pre", "post"]),
    cross_attention=st.none() | heads(CrossAttentionConfig),
)
small_ids = st.none() | st.integers(0, 9)
configs = st.builds(
    TransformerConfig,
    vocab_size=st.integers(10, 10**6),
    hidden_size=st.integers(1, 10**4),
    max_position_embeddings=st.integers(1, 10**6),
    stack=st.lists(st.tuples(st.integers(1, 50), layers), min_size=1, max_size=3).map(tuple),
    positions=st.none() | st.builds(LearnedPositionsConfig),
    final_norm=st.none() | norms,
    tie_word_embeddings=st.booleans(),
    bos_token_id=small_ids,
    eos_token_id=small_ids | st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    pad_token_id=small_ids,
    initializer_range=st.floats(0, 1),
)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_json_round_trip(config: TransformerConfig) -> None:
    again = TransformerConfig.from_json(config.to_json())
    assert again == config
    assert again.to_json() == config.to_json()
    assert again.num_hidden_layers == len(again.layers()) == sum(times for times, _ in config.stack)


def test_heads_that_do_not_divide_name_every_number_that_does() -> None:
    with pytest.raises(ConfigError) as error:
        AttentionConfig(num_attention_heads=30, num_key_value_heads=8, head_dim=64)
    assert str(error.value) == (
        "num_attention_heads (30) must be a multiple of num_key_value_heads (8): use 1, 2, 3, 5, 6, 10, 15 or 30"
    )


@given(st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_divisors(number: int) -> None:
    assert divisors(number) == [n for n in range(1, number + 1) if number % n == 0]


def test_refusals_carry_the_values() -> None:
    with pytest.raises(ConfigError, match=r"head_dim \(7\) must be even.*use 6 or 8"):
        AttentionConfig(num_attention_heads=2, num_key_value_heads=1, head_dim=7, rotary=RotaryConfig())
    with pytest.raises(ConfigError, match=r"eos_token_id \(97\) must be below vocab_size \(97\).*96"):
        preset("gpt2", vocab_size=97, eos_token_id=(3, 97))
    with pytest.raises(ConfigError, match=r"no field 'rms_norm_epsilon' \(did you mean 'rms_norm_eps'"):
        RMSNormConfig(rms_norm_epsilon=1e-5)
    with pytest.raises(ConfigError, match="tag 'linear'"):
        LayerConfig(mixer={"kind": "linear"}, mlp=GatedMLPConfig(intermediate_size=8), norm={"kind": "rms_norm"})
    with pytest.raises(ConfigError, match="stack"):
        TransformerConfig(vocab_size=5, hidden_size=4, max_position_embeddings=8, stack=())
    with pytest.raises(ConfigError, match=r"intermediate_size.*got 0"):
        GatedMLPConfig(intermediate_size=0)


def test_preset_refuses_what_the_family_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"no preset named 'qwen' \(did you mean 'qwen3'"):
        preset("qwen")
    with pytest.raises(ConfigError, match="the preset 'gpt2' has no field 'rope_theta'"):
        preset("gpt2", rope_theta=1e4)
    with pytest.raises(ConfigError, match=r"hidden_size \(100\) must be a multiple of num_attention_heads \(12\)"):
        preset("gpt2", hidden_size=100)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_shapes(name: str) -> None:
    from groundup.model.counts import count_parameters

    # Numbers of parameters of GPT-2 124M, Llama 3.2 1B and Qwen3 0.6B as published.
    published = {"gpt2": 124_439_808, "llama3": 1_235_814_400, "qwen3": 596_049_920}
    grouped: dict[str, Any] = {} if name == "gpt2" else {"num_key_value_heads": 8}
    assert count_parameters(preset(name, **grouped)).total == published[name]


def test_config_modules_do_not_import_torch() -> None:
    code = (
        "import sys, groundup.model.config, groundup.model.presets, groundup.model.hf_config, groundup.model.counts;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
