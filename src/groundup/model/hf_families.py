"""The families that transformers knows, one entry for each: its class, its preset, and what its files leave out.

A new family is a preset in `model/presets.py` and an entry here (docs/how-to/add-a-family.md). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from groundup.model.config import TransformerConfig, YarnScaling
from groundup.model.presets import (
    bert,
    gemma2,
    gemma3,
    gpt2,
    llama3,
    mistral,
    olmo2,
    qwen2,
    qwen3,
    smollm3,
)

# Keys that change nothing in what the families compute: dropout (used in training only), the history of the file,
# generation defaults of old files, settings of heads that are not the language model's, and how often a pattern of
# layers repeats where `layer_types` says it outright.
INERT = frozenset(
    [
        "architectures",
        "model_type",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "_name_or_path",
        "name_or_path",
        "attention_dropout",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
        "task_specific_params",
        "n_ctx",
        "gradient_checkpointing",
        "reorder_and_upcast_attn",
        "pretraining_tp",
        "max_window_layers",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "cache_implementation",
        "id2label",
        "label2id",
        "problem_type",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "chunk_size_feed_forward",
        "_attn_implementation",
        "max_length",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "is_llama_config",
        "transformers.js_config",
        "unsloth_version",
        "unsloth_fixed",
    ]
)
# Keys that would change the result, and the only values this reader implements.
FIXED: dict[str, tuple[Any, ...]] = {
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "use_bidirectional_attention": (False, None),
    "position_embedding_type": ("absolute",),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    # Where these are settings of a family, they are fields of its preset.
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
}


@dataclass(frozen=True)
class Family:
    """One architecture that transformers knows.

    Attributes:
        architecture: class name in transformers.
        preset: from fields to composition.
        absent: what transformers assumes where a file leaves a field out; our presets' defaults are those of a
            published model.
        required: keys without which the file is not of this family.
        names: our field name -> Hugging Face's, where they differ.
        extra: keys that are always written.
        takes: whether transformers computes what the preset makes of the fields, where the preset goes further.
        fixed: keys that would change the result, and the only value that is implemented.
    """

    architecture: str
    preset: Callable[..., TransformerConfig]
    absent: dict[str, Any]
    required: tuple[str, ...]
    names: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    takes: Callable[[dict[str, Any]], bool] = lambda fields: True
    fixed: dict[str, Any] = field(default_factory=dict)


def _has_whole_heads(fields: dict[str, Any]) -> bool:
    # Checked there whatever the head_dim.
    return bool(fields["hidden_size"] % fields["num_attention_heads"] == 0)


def _is_gemma2(fields: dict[str, Any]) -> bool:
    scalar = fields["query_pre_attn_scalar"]  # an integer there
    return _has_whole_heads(fields) and scalar is not None and float(scalar).is_integer()


def _is_gemma3(fields: dict[str, Any]) -> bool:
    # transformers 5 has a cap in this family's config and does not apply it, and looks for YaRN's truncate elsewhere.
    scaling = fields.get("rope_scaling")
    truncates = not isinstance(scaling, YarnScaling) or scaling.truncate
    return _is_gemma2(fields) and fields["attn_logit_softcapping"] is None and truncates


_DIMENSIONS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
}
_PLAIN = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "head_dim": None}
_PLAIN |= {"num_key_value_heads": None}
_GEMMA_NAMES = {"hidden_act": "hidden_activation"}
_GEMMA = {**_PLAIN, "tie_word_embeddings": True, "head_dim": 256, "num_key_value_heads": 4, "sliding_window": 4096}
_NO_DROPOUT = {"attention_dropout": 0.0}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        gpt2,
        {"tie_word_embeddings": True, "hidden_act": "gelu_new", "layer_norm_epsilon": 1e-5},
        ("vocab_size", "n_embd", "n_layer", "n_head"),
        _GPT2_NAMES,
        {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    ),
    "llama": Family(
        "LlamaForCausalLM",
        llama3,
        {**_PLAIN, "max_position_embeddings": 2048},
        _DIMENSIONS,
        extra=_NO_DROPOUT,
        takes=_has_whole_heads,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        mistral,
        {**_PLAIN, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        _DIMENSIONS,
        extra=_NO_DROPOUT,
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        qwen2,
        {**_PLAIN, "num_key_value_heads": 32, "max_position_embeddings": 32768},
        _DIMENSIONS,
        extra=_NO_DROPOUT,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        qwen3,
        {**_PLAIN, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768},
        _DIMENSIONS,
        extra=_NO_DROPOUT,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        gemma2,
        {**_GEMMA, "max_position_embeddings": 8192, "hidden_act": "gelu_new"},
        _DIMENSIONS,
        _GEMMA_NAMES,
        _NO_DROPOUT,
        _is_gemma2,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        gemma3,
        {**_GEMMA, "max_position_embeddings": 131072, "hidden_act": "gelu_new", "rope_theta": 1e6},
        _DIMENSIONS,
        _GEMMA_NAMES,
        _NO_DROPOUT,
        _is_gemma3,
        {"attn_logit_softcapping": None},
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        olmo2,
        {**_PLAIN, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
        _DIMENSIONS,
        extra=_NO_DROPOUT,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        smollm3,
        {
            **_PLAIN,
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 2e6,
        },
        _DIMENSIONS,
        extra=_NO_DROPOUT,
        fixed={"use_sliding_window": False},
    ),
    "bert": Family(
        "BertModel",
        bert,
        {"max_position_embeddings": 512, "layer_norm_eps": 1e-12, "type_vocab_size": 2, "hidden_act": "gelu"},
        _DIMENSIONS,
        extra={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "position_embedding_type": "absolute"},
        takes=lambda fields: bool(fields["type_vocab_size"]),
        fixed={"is_decoder": False},
    ),
}
ALIASES = {"gelu_pytorch_tanh": "gelu_new", "gelu_python": "gelu", "swish": "silu"}
# Key of a config.json -> the part that a model with it needs and that is not here.
MISSING_PARTS = {
    "num_experts": "a mixture-of-experts MLP",
    "num_local_experts": "a mixture-of-experts MLP",
    "n_routed_experts": "a mixture-of-experts MLP",
    "kv_lora_rank": "multi-head latent attention",
    "state_size": "a state-space mixer",
    "mamba_d_state": "a state-space mixer",
    "linear_num_value_heads": "a linear-attention mixer",
    "alibi": "attention biases by distance (ALiBi)",
    "relative_attention_num_buckets": "relative position biases",
    "new_decoder_architecture": "attention and MLP side by side",
    "use_parallel_residual": "attention and MLP side by side",
    "residual_multiplier": "a multiplier of each branch",
    "logits_scaling": "a multiplier of the logits",
    "logit_scale": "a multiplier of the logits",
    "vision_config": "an image encoder",
    "audio_config": "an audio encoder",
    "is_encoder_decoder": "an encoder beside the decoder",
}
