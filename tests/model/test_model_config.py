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
    DynamicScaling,
    FilePartConfig,
    GatedMLPConfig,
    LayerConfig,
    LayerNormConfig,
    LearnedPositionsConfig,
    LinearScaling,
    Llama3Scaling,
    PoolingConfig,
    RMSNormConfig,
    RotaryConfig,
    TransformerConfig,
    YarnScaling,
    divisors,
)
from groundup.model.counts import count_parameters
from groundup.model.presets import FULL, PRESETS, SLIDING, preset, preset_fields

positive = st.floats(1e-12, 1e12)
norms = st.one_of(
    st.builds(LayerNormConfig, layer_norm_epsilon=positive, bias=st.booleans()),
    st.builds(RMSNormConfig, rms_norm_eps=positive, unit_offset=st.booleans()),
)
factors = st.floats(1, 1e6)
lengths = st.integers(1, 10**6)
scalings = st.one_of(
    st.builds(LinearScaling, factor=factors),
    st.builds(DynamicScaling, factor=factors, original_max_position_embeddings=lengths),
    st.builds(
        YarnScaling,
        factor=factors,
        original_max_position_embeddings=lengths,
        beta_fast=positive,
        beta_slow=positive,
        attention_factor=st.none() | positive,
        truncate=st.booleans(),
    ),
    st.builds(
        Llama3Scaling,
        factor=factors,
        low_freq_factor=st.floats(0.1, 1.9),
        high_freq_factor=st.floats(2, 100),
        original_max_position_embeddings=lengths,
    ),
)


@st.composite
def heads(draw: st.DrawFn, kind: type[Any]) -> Any:
    key_value_heads = draw(st.integers(1, 8))
    values = {
        "num_attention_heads": key_value_heads * draw(st.integers(1, 4)),
        "num_key_value_heads": key_value_heads,
        "head_dim": 8 * draw(st.integers(1, 16)),
        "qk_norm": draw(st.none() | norms),
        "qk_norm_scope": draw(st.sampled_from(["head", "all"])),
        "qkv_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
    }
    if kind is AttentionConfig:
        values["rotary"] = draw(
            st.none()
            | st.builds(
                RotaryConfig,
                rope_theta=st.floats(1.001, 1e12),
                partial_rotary_factor=st.sampled_from([0.5, 0.75, 1.0]),
                scaling=st.none() | scalings,
            )
        )
        values["is_causal"] = draw(st.booleans())
        if values["is_causal"] and draw(st.booleans()):
            values["sliding_window"] = draw(st.integers(1, 10**6))
            values["num_sink_tokens"] = draw(st.integers(0, 100))
        values["sink_logits"] = draw(st.booleans())
        values["query_pre_attn_scalar"] = draw(st.none() | positive)
        values["attn_logit_softcapping"] = draw(st.none() | positive)
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
    placement=st.sampled_from(["pre", "post", "output", "sandwich"]),
    cross_attention=st.none() | heads(CrossAttentionConfig),
)
small_ids = st.none() | st.integers(0, 9)
heads_of_a_model = st.sampled_from(
    [
        {"has_head": True, "tie_word_embeddings": True},
        {"has_head": True, "tie_word_embeddings": False},
        {"has_head": False, "tie_word_embeddings": False},
    ]
)


def with_head(head: dict[str, bool], **fields: Any) -> TransformerConfig:
    return TransformerConfig(**head, **fields)


configs = st.builds(
    with_head,
    heads_of_a_model,
    vocab_size=st.integers(10, 10**6),
    hidden_size=st.integers(1, 10**4),
    max_position_embeddings=st.integers(1, 10**6),
    stack=st.lists(st.tuples(st.integers(1, 50), layers), min_size=1, max_size=3).map(tuple),
    positions=st.none() | st.builds(LearnedPositionsConfig),
    final_norm=st.none() | norms,
    embedding_multiplier=st.none() | positive,
    embedding_norm=st.none() | norms,
    type_vocab_size=st.integers(0, 3),
    final_logit_softcapping=st.none() | positive,
    pooling=st.none()
    | st.builds(PoolingConfig, kind=st.sampled_from(["mean", "cls", "last"]), normalize=st.booleans()),
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
    with pytest.raises(ConfigError, match=r"low_freq_factor \(4\.0\) must be below high_freq_factor \(2\.0\)"):
        Llama3Scaling(factor=8, low_freq_factor=4, high_freq_factor=2, original_max_position_embeddings=8192)
    with pytest.raises(ConfigError, match=r"factor.*got 0\.5"):
        LinearScaling(factor=0.5)
    with pytest.raises(ConfigError, match=r"rope_theta.*got 1\.0"):
        RotaryConfig(rope_theta=1.0)


def attention(**fields: Any) -> AttentionConfig:
    return AttentionConfig(**{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rotary": {"partial_rotary_factor": 0.4}},
            r"partial_rotary_factor \(0\.4\) of head_dim \(8\) turns 3 values.*even",
        ),
        ({"rotary": {"partial_rotary_factor": 0.1}}, r"\(0\.1\) of head_dim \(8\) turns 0 values"),
        (
            {
                "head_dim": 2,
                "rotary": {"scaling": {"kind": "dynamic", "factor": 2, "original_max_position_embeddings": 8}},
            },
            "dynamic scaling.*at least 4",
        ),
        ({"num_sink_tokens": 4}, r"num_sink_tokens \(4\) needs a sliding_window"),
        ({"sliding_window": 4, "is_causal": False}, r"sliding_window \(4\) needs is_causal"),
        ({"sliding_window": 0}, r"sliding_window.*got 0"),
        ({"attn_logit_softcapping": 0}, r"attn_logit_softcapping.*got 0"),
        ({"num_attention_heads": 10**18, "num_key_value_heads": 7}, r"num_attention_heads.*got 1000000000000000000"),
    ],
)
def test_attention_refuses_what_contradicts(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attention(**fields)


def test_a_whole_model_refuses_what_contradicts() -> None:
    config = preset("gpt2")
    with pytest.raises(ConfigError, match="tie_word_embeddings says what the head is, and has_head is false"):
        config.replace(has_head=False)
    with pytest.raises(ConfigError, match="num_hidden_layers is 10001: at most 10000 layers are taken"):
        config.replace(stack=[[10_001, config.layers()[0].to_dict()]])
    with pytest.raises(ConfigError, match="num_hidden_layers is 1000000000"):
        preset("llama3", num_hidden_layers=10**9)
    with pytest.raises(
        ConfigError, match=r"layer_types has dense; known here are full_attention and sliding_attention"
    ):
        preset("gemma2", num_hidden_layers=1, layer_types=("dense",))
    with pytest.raises(ConfigError, match=r"layer_types has sliding_attention, and sliding_window is not given"):
        preset("qwen3", num_hidden_layers=1, layer_types=(SLIDING,))
    with pytest.raises(ConfigError, match=r"layer_types names 1 layers, layer 1 is not among them"):
        preset("gemma3", num_hidden_layers=2, layer_types=(FULL,))
    with pytest.raises(ConfigError, match=r"no_rope_layers names 2 layers, layer 2 is not among them"):
        preset("smollm3", num_hidden_layers=3, no_rope_layers=(1, 0))


def test_preset_refuses_what_the_family_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"no preset named 'qwen' \(did you mean 'qwen3'"):
        preset("qwen")
    with pytest.raises(ConfigError, match="the preset 'gpt2' has no field 'rope_theta'"):
        preset("gpt2", rope_theta=1e4)
    for name in ("gpt2", "bert"):
        with pytest.raises(ConfigError, match=r"hidden_size \(100\) must be a multiple of num_attention_heads \(12\)"):
            preset(name, hidden_size=100)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2", 124_439_808),  # GPT-2 124M
        ("llama3", 1_235_814_400),  # Llama 3.2 1B
        ("mistral", 7_241_732_096),  # Mistral 7B v0.1
        ("qwen2", 494_032_768),  # Qwen2.5 0.5B
        ("qwen3", 596_049_920),  # Qwen3 0.6B
        ("gemma2", 2_614_341_888),  # Gemma 2 2B
        ("gemma3", 999_885_952),  # Gemma 3 1B
        ("smollm3", 3_075_098_624),  # SmolLM3 3B
        ("olmo2", 1_484_916_736),  # OLMo 2 1B
        ("bert", 22_565_376),  # all-MiniLM-L6-v2, whose 22,713,216 count the pooler that its encoder leaves out
    ],
)
def test_presets_have_the_published_shapes(name: str, published: int) -> None:
    assert count_parameters(preset(name)).total == published


def test_every_preset_is_compared_with_its_published_size() -> None:
    (mark,) = (mark for mark in test_presets_have_the_published_shapes.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == set(PRESETS)


def test_heads_without_key_value_heads_are_as_many() -> None:
    for name in PRESETS:
        if "num_key_value_heads" in preset_fields(PRESETS[name]):
            mixer = preset(name, hidden_size=64, num_attention_heads=4).layers()[0].mixer
            assert isinstance(mixer, AttentionConfig) and mixer.num_key_value_heads == 4, name


def test_which_layers_have_a_window() -> None:
    def windows(name: str, **fields: Any) -> list[int | None]:
        layers = preset(name, **fields).layers()
        return [layer.mixer.sliding_window for layer in layers if isinstance(layer.mixer, AttentionConfig)]

    assert windows("mistral") == [4096] * 32
    assert windows("mistral", sliding_window=None) == [None] * 32
    assert windows("gemma2") == [4096, None] * 13
    assert windows("gemma3", num_hidden_layers=13) == ([512] * 5 + [None]) * 2 + [512]
    assert windows("qwen2") == [None] * 24
    assert windows("qwen3", num_hidden_layers=2, layer_types=(FULL, SLIDING), sliding_window=9) == [None, 9]
    thetas = [layer.mixer.rotary.rope_theta for layer in preset("gemma3").layers()[4:6]]  # type: ignore[union-attr]
    assert thetas == [10_000, 1_000_000]


def test_config_modules_do_not_import_torch() -> None:
    code = (
        "import sys, groundup.model.config, groundup.model.presets, groundup.model.hf_config, groundup.model.counts;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
