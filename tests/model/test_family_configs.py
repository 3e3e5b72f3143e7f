"""The config.json of published models, of families that are not known here, and of files that mean harm."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.families import CASES
from groundup.core.errors import ModelError
from groundup.model.config import (
    AttentionConfig,
    LayerConfig,
    Llama3Scaling,
    RMSNormConfig,
    TransformerConfig,
    YarnScaling,
)
from groundup.model.counts import count_parameters
from groundup.model.hf_config import from_hf, model_type, to_hf
from groundup.model.hf_families import FAMILIES
from groundup.model.ops.rotary_angles import scaled_frequencies
from groundup.model.presets import preset

_LLAMA = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "model_type": "llama", "use_cache": True}
_MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
#: Repository -> (content of its config.json, number of parameters). Facts of the published files; the count of
#: all-MiniLM-L6-v2 is without the pooler, which its encoder does not use.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "meta-llama/Llama-3.2-1B": (
        {
            **_LLAMA,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
            "head_dim": 64,
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 16,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.45.0.dev0",
            "vocab_size": 128256,
        },
        1_235_814_400,
    ),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (
        {
            **_LLAMA,
            "attention_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 5632,
            "max_position_embeddings": 2048,
            "num_attention_heads": 32,
            "num_hidden_layers": 22,
            "num_key_value_heads": 4,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.35.0",
            "vocab_size": 32000,
        },
        1_100_048_384,
    ),
    "HuggingFaceTB/SmolLM2-135M": (
        {
            **_LLAMA,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_size": 576,
            "initializer_range": 0.041666666666666664,
            "intermediate_size": 1536,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.40.1",
            "vocab_size": 49152,
        },
        134_515_008,
    ),
    "mistralai/Mistral-7B-v0.1": (
        {
            **_MISTRAL,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "transformers_version": "4.34.0.dev0",
            "vocab_size": 32000,
        },
        7_241_732_096,
    ),
    "mistralai/Mistral-7B-v0.3": (
        {
            **_MISTRAL,
            "attention_dropout": 0.0,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "transformers_version": "4.42.0.dev0",
            "vocab_size": 32768,
        },
        7_248_023_552,
    ),
    "Qwen/Qwen2.5-0.5B": (
        {
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": 151643,
            "hidden_act": "silu",
            "hidden_size": 896,
            "initializer_range": 0.02,
            "intermediate_size": 4864,
            "max_position_embeddings": 32768,
            "max_window_layers": 24,
            "model_type": "qwen2",
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.40.1",
            "use_cache": True,
            "use_mrope": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        494_032_768,
    ),
    "Qwen/Qwen3-0.6B": (
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 1024,
            "initializer_range": 0.02,
            "intermediate_size": 3072,
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "model_type": "qwen3",
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.51.0",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        596_049_920,
    ),
    "google/gemma-2-2b": (
        {
            "architectures": ["Gemma2ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": 50.0,
            "bos_token_id": 2,
            "cache_implementation": "hybrid",
            "eos_token_id": 1,
            "final_logit_softcapping": 30.0,
            "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 2304,
            "initializer_range": 0.02,
            "intermediate_size": 9216,
            "max_position_embeddings": 8192,
            "model_type": "gemma2",
            "num_attention_heads": 8,
            "num_hidden_layers": 26,
            "num_key_value_heads": 4,
            "pad_token_id": 0,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "torch_dtype": "float32",
            "transformers_version": "4.42.4",
            "use_cache": True,
            "vocab_size": 256000,
        },
        2_614_341_888,
    ),
    "google/gemma-3-1b-it": (
        {
            "architectures": ["Gemma3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": None,
            "bos_token_id": 2,
            "cache_implementation": "hybrid",
            "eos_token_id": [1, 106],
            "final_logit_softcapping": None,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "initializer_range": 0.02,
            "intermediate_size": 6912,
            "max_position_embeddings": 32768,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "pad_token_id": 0,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0",
            "use_cache": True,
            "vocab_size": 262144,
        },
        999_885_952,
    ),
    "HuggingFaceTB/SmolLM3-3B": (
        {
            "architectures": ["SmolLM3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 128000,
            "eos_token_id": 128012,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 11008,
            "layer_types": ["full_attention"] * 36,
            "max_position_embeddings": 65536,
            "max_window_layers": 28,
            "mlp_bias": False,
            "model_type": "smollm3",
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0] * 9,
            "num_attention_heads": 16,
            "num_hidden_layers": 36,
            "num_key_value_heads": 4,
            "pad_token_id": 128004,
            "pretraining_tp": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 5000000.0,
            "sliding_window": None,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.54.0.dev0",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": 128256,
        },
        3_075_098_624,
    ),
    "allenai/OLMo-2-0425-1B": (
        {
            "architectures": ["Olmo2ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "eos_token_id": 100257,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 8192,
            "max_position_embeddings": 4096,
            "model_type": "olmo2",
            "num_attention_heads": 16,
            "num_hidden_layers": 16,
            "num_key_value_heads": 16,
            "pad_token_id": 100277,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 500000,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.50.0",
            "use_cache": True,
            "vocab_size": 100352,
        },
        1_484_916_736,
    ),
    "sentence-transformers/all-MiniLM-L6-v2": (
        {
            "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
            "architectures": ["BertModel"],
            "attention_probs_dropout_prob": 0.1,
            "gradient_checkpointing": False,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": 384,
            "initializer_range": 0.02,
            "intermediate_size": 1536,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "model_type": "bert",
            "num_attention_heads": 12,
            "num_hidden_layers": 6,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "transformers_version": "4.8.2",
            "type_vocab_size": 2,
            "use_cache": True,
            "vocab_size": 30522,
        },
        22_713_216 - 384 * 384 - 384,
    ),
    "openai-community/gpt2": (
        {
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1,
            "bos_token_id": 50256,
            "embd_pdrop": 0.1,
            "eos_token_id": 50256,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "model_type": "gpt2",
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "resid_pdrop": 0.1,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "vocab_size": 50257,
        },
        124_439_808,
    ),
}


def first(config: TransformerConfig) -> tuple[LayerConfig, AttentionConfig]:
    layer = config.layers()[0]
    assert isinstance(layer.mixer, AttentionConfig)
    return layer, layer.mixer


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str, caplog: pytest.LogCaptureFixture) -> None:
    values, parameters = PUBLISHED[name]
    config = from_hf(values)
    assert not caplog.records
    assert count_parameters(config).total == parameters
    # Mistral without a window is what Llama computes.
    assert model_type(config) == (values["model_type"] if name != "mistralai/Mistral-7B-v0.3" else "llama")
    written = json.loads(json.dumps(to_hf(config)))
    assert from_hf(written) == config
    assert not caplog.records
    for key, value in values.items():
        if key in written and value is not None and key not in ("architectures", "torch_dtype", "model_type"):
            if "dropout" in key or key.endswith("pdrop"):
                continue
            if key in ("sliding_window", "max_window_layers") and not values.get("use_sliding_window", True):
                continue
            if isinstance(value, dict):
                assert written[key].items() >= value.items(), key
            else:
                assert written[key] == value, key


def test_published_details() -> None:
    _, llama = first(from_hf(PUBLISHED["meta-llama/Llama-3.2-1B"][0]))
    assert llama.rotary is not None and llama.rotary.scaling == Llama3Scaling(
        factor=32, low_freq_factor=1, high_freq_factor=4, original_max_position_embeddings=8192
    )
    layer, gemma = first(from_hf(PUBLISHED["google/gemma-2-2b"][0]))
    assert layer.norm == RMSNormConfig(rms_norm_eps=1e-6, unit_offset=True) and layer.placement == "sandwich"
    assert (gemma.sliding_window, gemma.attn_logit_softcapping, gemma.query_pre_attn_scalar) == (4096, 50, 256)
    config = from_hf(PUBLISHED["google/gemma-3-1b-it"][0])
    assert config.eos_token_ids() == (1, 106) and config.embedding_multiplier == math.sqrt(1152)
    assert [times for times, _ in config.stack] == [5, 1] * 4 + [2]
    minilm = from_hf(PUBLISHED["sentence-transformers/all-MiniLM-L6-v2"][0])
    assert not minilm.has_head and not first(minilm)[1].is_causal


def test_every_family_has_a_published_config() -> None:
    assert {values["model_type"] for values, _ in PUBLISHED.values()} == set(FAMILIES)
    assert {values["model_type"] for values in CASES.values()} == set(FAMILIES)


# What is not known -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "missing here: a mixture-of-experts MLP"),
        ({"model_type": "qwen3_moe", "num_experts": 128}, "a mixture-of-experts MLP"),
        (
            {"model_type": "deepseek_v3", "n_routed_experts": 256, "kv_lora_rank": 512},
            "missing here: a mixture-of-experts MLP, multi-head latent attention",
        ),
        ({"model_type": "mamba2", "state_size": 128}, "a state-space mixer"),
        (
            {"model_type": "t5", "is_encoder_decoder": True, "relative_attention_num_buckets": 32},
            "an encoder beside the decoder, relative position biases",
        ),
        ({"model_type": "gpt_neox", "use_parallel_residual": True}, "attention and MLP side by side"),
        ({"model_type": "falcon", "alibi": False, "new_decoder_architecture": True}, "side by side"),
        (
            {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "vision_config": {}},
            "its text part alone can be read if it is known: model_type 'gemma3_text'",
        ),
        ({"model_type": "qwen2_audio", "audio_config": {"d_model": 1280}}, "an audio encoder"),
        ({"model_type": "roberta"}, r"a preset and a name table add it"),
        ({}, "model_type None is not known here"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\] is not known here"),
    ],
)
def test_unknown_types_are_named_with_what_is_missing(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        from_hf({"vocab_size": 10, "hidden_size": 8, **values})
    assert f"known: {', '.join([*FAMILIES, 'groundup'])}" in str(error.value)


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "longrope"}},
            r"rope_type 'longrope'.*default, linear, dynamic, yarn",
        ),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_type 'linear' needs a factor; it has type"),
        ("llama", {"rope_scaling": {"type": "llama3", "factor": 0.5}}, r"factor.*got 0\.5"),
        ("llama", {"rope_scaling": 4.0}, r"rope_scaling is 4\.0: it holds a rope_type"),
        ("llama", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor = 0\.5 is not known here.*1\.0"),
        ("llama", {"num_key_value_heads": 4}, r"num_attention_heads \(6\).*num_key_value_heads \(4\)"),
        (
            "llama",
            {"final_logit_softcapping": 30.0},
            r"final_logit_softcapping = 30\.0 is not known here \(known: None\)",
        ),
        ("llama", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config: quant_method = None is not known here"),
        (
            "mistral",
            {"layer_types": ["full_attention"] * 3},
            "layer_types has full_attention, which .* 'mistral' has not",
        ),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers names 2 layers, layer 2 is not among them"),
        ("smollm3", {"no_rope_layer_interval": 0}, "does not describe a model"),
        ("smollm3", {"use_sliding_window": True}, "use_sliding_window = True is not known here for .* 'smollm3'"),
        ("qwen2", {"use_mrope": True}, "use_mrope = True is not known here"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "names 2 layers, num_hidden_layers is 3"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "sliding_attention, and use_sliding_window is false"),
        ("gemma2", {"layer_types": ["linear_attention"] * 3}, "layer_types has linear_attention"),
        ("gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0: .* 1 or more"),
        (
            "gemma3",
            {"attn_logit_softcapping": 50.0},
            r"attn_logit_softcapping = 50\.0 .* 'gemma3_text' \(known: None\)",
        ),
        (
            "gemma3",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
            "rope_parameters has rope_theta, rope_type: this model_type gives them under full_attention",
        ),
        (
            "gemma3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_type 'linear' of sliding_attention is not known here",
        ),
        ("gemma3", {"query_pre_attn_scalar": 20.5}, "asks for what transformers does not compute"),
        ("gemma2", {"hidden_size": 50}, "asks for what transformers does not compute"),
        ("bert", {"is_decoder": True}, "is_decoder = True is not known here for model_type 'bert'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ("bert", {"type_vocab_size": 0}, "asks for what transformers does not compute"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ("gpt2", {"activation_function": "mish"}, r"activation 'mish' is not known here \(known: gelu_new,"),
        ("gpt2", {"activation_function": ["silu"]}, "activation"),
        ("gpt2", {"n_embd": "wide"}, r"(?s)does not describe a model.*wide"),
        ("gpt2", {"n_layer": 10**9}, "num_hidden_layers is 1000000000"),
        ("qwen2", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000: at most 10000 layers"),
    ],
)
def test_what_is_not_implemented_is_refused(case: str, change: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in CASES[case].items() if key not in ("rope_theta", "rope_local_base_freq")}
    with pytest.raises(ModelError, match=message):
        from_hf(values | change)


def test_missing_and_unknown_keys(caplog: pytest.LogCaptureFixture) -> None:
    values = dict(CASES["llama"])
    del values["hidden_size"], values["vocab_size"]
    with pytest.raises(ModelError, match="lacks vocab_size, hidden_size"):
        from_hf(values)
    from_hf(CASES["llama"] | {"logit_softcapping": None})
    assert not caplog.records
    from_hf(CASES["llama"] | {"logit_softcapping": 30.0})
    assert "'logit_softcapping' (30.0) is not known here and was left out" in caplog.text
    from_hf(CASES["llama"] | {"sliding_window": 5})
    assert "'sliding_window' (5) is not known here and was left out" in caplog.text


def test_ids_that_no_token_can_have_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    # transformers writes GPT-2's 50256 beside a vocabulary of any size.
    config = from_hf(CASES["gpt2"] | {"bos_token_id": 50256, "eos_token_id": [2, 50256], "pad_token_id": 96})
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, (2,), 96)
    assert "bos_token_id (50256) is outside of the vocabulary of 97 tokens" in caplog.text


def test_what_counts_where_a_file_says_it_twice() -> None:
    transformers = pytest.importorskip("transformers")
    rotary_class = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
    beside = CASES["llama-3.1"] | {"original_max_position_embeddings": 16}
    both = CASES["llama-linear"] | {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    for values in (beside, both):
        theirs = rotary_class(transformers.AutoConfig.for_model(**json.loads(json.dumps(values))))
        mixer = first(from_hf(values))[1]
        assert mixer.rotary is not None
        ours, _ = scaled_frequencies(mixer.rotary, mixer.head_dim, torch.tensor([[1]]), torch)
        assert torch.allclose(ours[0, 0], theirs.inv_freq, rtol=1e-6)
    once = from_hf(CASES["llama-3.1"]), from_hf(CASES["llama-linear"])
    assert from_hf(beside) != once[0] and from_hf(both) == once[1]


# Hostile files ---------------------------------------------------------------------------------------------------

odd_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["linear", "yarn", "llama3", "dynamic", "full_attention", "sliding_attention"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rope_type", "type", "factor", "rope_theta", "full_attention", "sliding_attention", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=4,
)
KEYS = sorted(
    {key for values in CASES.values() for key in values}
    | {key for values, _ in PUBLISHED.values() for key in values}
    | {"rope_parameters", "rope_scaling", "layer_types", "original_max_position_embeddings", "text_config"}
)


@settings(max_examples=150, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)),
    changes=st.dictionaries(st.sampled_from(KEYS), odd_values, min_size=1, max_size=3),
)
def test_odd_values_never_end_in_another_error(case: str, changes: dict[str, Any]) -> None:
    logging.disable(logging.WARNING)  # each unknown key says so
    try:
        config = from_hf(CASES[case] | changes)
    except ModelError:
        return
    finally:
        logging.disable(logging.NOTSET)
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config, "what is read can be written and read again"


def test_ids_that_no_token_has_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Old conversions of Llama 1 carry -1 for "no padding"."""
    values = to_hf(preset("llama3", vocab_size=100, hidden_size=64, num_attention_heads=4, num_key_value_heads=2))
    config = from_hf({**values, "pad_token_id": -1, "bos_token_id": 1, "eos_token_id": [2, 100]})
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, (2,), None)
    assert "pad_token_id (-1)" in caplog.text


def test_a_yarn_without_a_factor_stretches_to_the_longest_text() -> None:
    values = to_hf(preset("qwen2", vocab_size=100, hidden_size=64, num_attention_heads=4, num_key_value_heads=2))
    scaling = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 8192}
    config = from_hf({**values, "max_position_embeddings": 32768, "rope_scaling": scaling})
    mixer = config.layers()[0].mixer
    assert isinstance(mixer, AttentionConfig) and mixer.rotary is not None
    assert mixer.rotary.scaling == YarnScaling(factor=4.0, original_max_position_embeddings=8192)
