"""A family is chosen only where `transformers` computes the same: random compositions there, random files here.

A composition near a preset is written with a family's model_type or as `groundup`; in the first case `transformers`
must load the directory and give our numbers. A random config.json of a family, contradictions and old keys included,
is refused here or read so that both sides give the same numbers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from benchmarks import families
from benchmarks.harness import relative_difference
from groundup.core.errors import ConfigError, ModelError
from groundup.model.config import TransformerConfig, stack_of
from groundup.model.hf_config import OWN_TYPE, from_hf, model_type, to_hf
from groundup.model.hf_families import FAMILIES
from groundup.model.presets import FULL, PRESETS, SLIDING, preset, preset_fields
from groundup.model.transformer import assemble, build
from groundup.model.weights.files import load_weights

transformers = pytest.importorskip("transformers")

# Some of the random models are ill-conditioned; an option that is computed otherwise changes results by more.
TOLERANCE = 1e-3
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
few = settings(max_examples=40, deadline=None, suppress_health_check=CHECKS)
# Each example takes some 30 ms, so shrinking would take minutes.
many = settings(few, max_examples=1500, phases=[Phase.explicit, Phase.reuse, Phase.generate])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What the random settings are warned of is not the question here."""
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    logging.disable(logging.NOTSET)
    transformers.logging.set_verbosity_warning()
    transformers.logging.enable_progress_bar()


# Compositions ----------------------------------------------------------------------------------------------------

one_of = st.sampled_from
scalings = st.one_of(
    st.none(),
    st.builds(lambda factor: {"kind": "linear", "factor": factor}, one_of([1.0, 2.0, 3.5])),
    st.builds(
        lambda factor, trained: {"kind": "dynamic", "factor": factor, "original_max_position_embeddings": trained},
        one_of([1.0, 2.0, 4.0]),
        one_of([8, 16]),
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("yarn"),
            "factor": one_of([1.0, 2.0, 4.0]),
            "original_max_position_embeddings": one_of([8, 16, 64]),
        },
        optional={
            "beta_fast": one_of([2.0, 16.0]),
            "beta_slow": one_of([0.5, 2.0]),
            "attention_factor": one_of([1.0, 1.3]),
            "truncate": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("llama3"),
            "factor": one_of([1.0, 8.0]),
            "low_freq_factor": one_of([0.5, 1.0]),
            "high_freq_factor": one_of([1.5, 4.0]),
            "original_max_position_embeddings": one_of([16, 32]),
        }
    ),
)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "tie_word_embeddings": st.booleans(),
    "num_key_value_heads": one_of([1, 2]),
    "head_dim": one_of([2, 4, 10]),
    "hidden_act": one_of(["gelu_new", "gelu", "relu", "relu2", "silu"]),
    "rms_norm_eps": one_of([1e-2, 0.5]),
    "layer_norm_eps": one_of([1e-6, 1e-2]),
    "layer_norm_epsilon": one_of([1e-6, 1e-2]),
    "rope_theta": one_of([10.0, 1e4, 5e5]),
    "rope_scaling": scalings,
    "rope_local_base_freq": one_of([10.0, 1e4, 5e5]),
    "attention_bias": st.booleans(),
    "mlp_bias": st.booleans(),
    "qk_norm": st.booleans(),
    "sliding_window": one_of([1, 3, 6, 100]),
    "attn_logit_softcapping": one_of([None, 1.0, 3.0]),
    "final_logit_softcapping": one_of([None, 1.0, 30.0]),
    "query_pre_attn_scalar": one_of([1, 7, 2.5]),
    "type_vocab_size": one_of([0, 1, 3]),
    "eos_token_id": one_of([None, 2, (2, 3), (5,)]),
    "pad_token_id": one_of([None, 0]),
}
MIXER_CHANGES = [
    {"query_pre_attn_scalar": None},
    {"query_pre_attn_scalar": 9.0},
    {"attn_logit_softcapping": 2.0},
    {"sliding_window": None},
    {"sliding_window": 4},
    {"sliding_window": 4, "num_sink_tokens": 2},
    {"sink_logits": True},
    {"qkv_bias": True},
    {"output_bias": True},
    {"qkv_bias": False, "output_bias": False},
    {"qk_norm": None},
    {"qk_norm": {"kind": "rms_norm", "rms_norm_eps": 1e-2}},
    {"qk_norm_scope": "all"},
    {"is_causal": False},
    {"rotary": None},
    {"rotary": {"kind": "rotary", "rope_theta": 77.0}},
    {"rotary": {"kind": "rotary", "partial_rotary_factor": 0.5}},
]
LAYER_CHANGES: list[dict[str, Any]] = [
    *({"placement": placement} for placement in ("pre", "post", "output", "sandwich")),
    {"norm": {"kind": "rms_norm", "unit_offset": True}},
    {"norm": {"kind": "layer_norm"}},
    {"mlp": {"kind": "gated", "intermediate_size": 5}},
    {"mlp": {"kind": "dense", "intermediate_size": 5}},
    {"mlp": {"bias": True}},
    {"mlp": {"activation": "relu"}},
]
WHOLE_CHANGES: list[dict[str, Any]] = [
    {"positions": None},
    {"positions": {"kind": "learned"}},
    {"final_norm": None},
    {"embedding_multiplier": None},
    {"embedding_multiplier": 3.0},
    {"embedding_norm": {"kind": "layer_norm"}},
    {"type_vocab_size": 2},
    {"final_logit_softcapping": 2.0},
    {"pooling": {"kind": "cls"}},
    {"has_head": False, "tie_word_embeddings": False},
    {"max_position_embeddings": 77},
]


KNOWN = {name: preset_fields(make) for name, make in PRESETS.items()}


@st.composite
def compositions(draw: st.DrawFn) -> tuple[str, dict[str, Any], list[tuple[str, dict[str, Any], set[int]]]]:
    """A preset's name, random fields for it, and up to two changes in chosen layers that no preset knows of."""
    name = draw(one_of(sorted(PRESETS)))
    known = KNOWN[name]
    heads, layers = draw(one_of([1, 2, 4])), draw(st.integers(1, 3))
    width = heads * draw(one_of([4, 8])) if draw(st.booleans()) or "head_dim" not in known else 18
    options = {key: strategy for key, strategy in OPTIONS.items() if key in known}
    fields = draw(st.fixed_dictionaries({}, optional=options))
    if "layer_types" in known and "sliding_window" in fields:
        fields["layer_types"] = draw(st.lists(one_of([FULL, SLIDING]), min_size=layers, max_size=layers))
    if "no_rope_layers" in known:
        fields["no_rope_layers"] = draw(st.lists(one_of([0, 1]), min_size=layers, max_size=layers))
    scaling = fields.get("rope_scaling") or {}
    is_dynamic = scaling.get("kind") == "dynamic" and draw(st.booleans())
    stretched = int(scaling.get("factor", 1) * scaling.get("original_max_position_embeddings", 0))
    fields |= {
        "vocab_size": 31,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": draw(one_of([5, 16])),
        "max_position_embeddings": stretched if is_dynamic else 64,
        "initializer_range": 0.3,
    }
    changes = st.one_of(
        st.tuples(st.just("mixer"), one_of(MIXER_CHANGES), st.sets(st.integers(0, layers - 1), min_size=1)),
        st.tuples(st.just("layer"), one_of(LAYER_CHANGES), st.sets(st.integers(0, layers - 1), min_size=1)),
        st.tuples(st.just("whole"), one_of(WHOLE_CHANGES), st.just(set())),
    )
    return name, fields, draw(st.lists(changes, max_size=draw(one_of([0, 0, 1, 2]))))


def make_config(
    name: str, fields: dict[str, Any], changes: list[tuple[str, dict[str, Any], set[int]]]
) -> TransformerConfig:
    config = preset(name, **fields)
    for kind, change, chosen in changes:
        if kind == "whole":
            config = config.replace(**change)
            continue
        change = {"mixer": change} if kind == "mixer" else change
        layers = [layer.replace(**change) if index in chosen else layer for index, layer in enumerate(config.layers())]
        config = config.model_copy(update={"stack": stack_of(layers)})
    return config


def check_composition(config: TransformerConfig) -> str:
    """Compare what the composition is written as, with `transformers` where that is a family; return the model_type."""
    kind = model_type(config)
    again = from_hf(json.loads(json.dumps(to_hf(config))), pooling=config.pooling)
    assert again.layers() == config.layers() and again == config.model_copy(update={"stack": again.stack})
    if kind == OWN_TYPE:
        return kind
    ours = build(config, seed=1).eval()
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(31, (2, min(30, config.max_position_embeddings)), generator=generator)
    with TemporaryDirectory() as folder, torch.no_grad():
        for parameter in ours.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        theirs, problems = families.reload_in_transformers(ours, Path(folder))
        assert problems == []
        difference = relative_difference(families.our_scores(ours, ids), families.their_scores(theirs, ids))
    assert difference < TOLERANCE
    return kind


def check_random_composition(drawn: tuple[str, dict[str, Any], list[Any]]) -> None:
    try:
        config = make_config(*drawn)
    except ConfigError:
        event("refused")
    else:
        event(check_composition(config))


@few
@given(compositions())
def test_a_family_is_chosen_only_where_transformers_computes_the_same(drawn: Any) -> None:
    check_random_composition(drawn)


@pytest.mark.slow
@many
@given(compositions())
def test_a_family_is_chosen_only_where_transformers_computes_the_same_at_length(drawn: Any) -> None:
    check_random_composition(drawn)


# Each of these was written with a family's model_type once, and computed otherwise or not at all there.
TRAPS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a scale that is no whole number": ("gemma2", {"query_pre_attn_scalar": 2.5}, {}),
    "a scale that is not given": ("gemma3", {}, {"query_pre_attn_scalar": None}),
    "a cap that Gemma 3 has in its config and never applies": ("gemma3", {"attn_logit_softcapping": 2.0}, {}),
    "YaRN's truncate, looked for elsewhere in Gemma 3": (
        "gemma3",
        {
            "rope_scaling": {
                "kind": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 8,
                "truncate": False,
            },
            "layer_types": (FULL, SLIDING),
        },
        {},
    ),
    "an encoder without kinds of text": ("bert", {"type_vocab_size": 0}, {}),
    "a longest text that dynamic scaling does not give": (
        "llama3",
        {"rope_scaling": {"kind": "dynamic", "factor": 2.0, "original_max_position_embeddings": 8}},
        {},
    ),
    "a width that is no multiple of the heads": ("gemma2", {"hidden_size": 18, "head_dim": 8}, {}),
}
SMALL: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_transformers_would_compute_otherwise_is_written_as_our_own(trap: str) -> None:
    name, fields, mixer = TRAPS[trap]
    config = preset(name, **{**SMALL, **fields}).with_layers(lambda layer: layer.replace(mixer=mixer))
    assert model_type(config) == OWN_TYPE
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config


@pytest.mark.parametrize(
    ("name", "fields", "kind"),
    [
        ("llama3", {"qk_norm": True}, "qwen3"),
        ("smollm3", {"no_rope_layers": (1, 1)}, "llama"),
        ("smollm3", {"no_rope_layers": (0, 0)}, "smollm3"),
        ("llama3", {"hidden_size": 18, "head_dim": 8}, "mistral"),
        ("mistral", {"sliding_window": None}, "llama"),
        ("qwen2", {"sliding_window": 3, "layer_types": (FULL, FULL)}, "qwen2"),
    ],
)
def test_another_family_that_computes_the_same(name: str, fields: dict[str, Any], kind: str) -> None:
    assert check_composition(preset(name, **{**SMALL, **fields})) == kind


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gemma2", {"layer_types": (FULL, FULL)}),  # a window that no layer uses
        ("gemma3", {"layer_types": (SLIDING, SLIDING), "rope_local_base_freq": 500.0, "sliding_window": 3}),
        ("gemma3", {"layer_types": (FULL, SLIDING), "rope_local_base_freq": 7.0, "rope_theta": 7.0}),
        ("qwen3", {"layer_types": (SLIDING, FULL), "sliding_window": 3, "head_dim": 6}),
        ("mistral", {"hidden_size": 18, "head_dim": 4}),
        ("olmo2", {"hidden_size": 18, "head_dim": 4}),
    ],
)
def test_compositions_that_are_easily_written_wrong(name: str, fields: dict[str, Any]) -> None:
    config = preset(name, **{**SMALL, **fields})
    assert check_composition(config) != OWN_TYPE


# Files -----------------------------------------------------------------------------------------------------------

rope_settings = st.one_of(
    st.fixed_dictionaries({"rope_type": st.just("default")}, optional={"rope_theta": one_of([100.0, 1e4])}),
    st.fixed_dictionaries(
        {"rope_type": one_of(["linear", "dynamic"]), "factor": one_of([1.0, 2.0, 4])},
        optional={"rope_theta": one_of([100.0, 1e4]), "partial_rotary_factor": one_of([1.0, 0.5])},
    ),
    st.fixed_dictionaries(
        {"rope_type": st.just("yarn"), "factor": one_of([1.0, 2.0, 4])},
        optional={
            "original_max_position_embeddings": one_of([8, 16]),
            "rope_theta": one_of([100.0, 1e4]),
            "attention_factor": st.just(1.2),
            "beta_fast": st.just(16),
            "truncate": st.booleans(),
            "mscale": one_of([0.7, 1.0]),
            "mscale_all_dim": one_of([0.5, 1.0]),
        },
    ),
    st.fixed_dictionaries(
        {
            "rope_type": st.just("llama3"),
            "factor": one_of([2.0, 8.0]),
            "original_max_position_embeddings": one_of([8, 16]),
            "low_freq_factor": st.just(1.0),
            "high_freq_factor": st.just(4.0),
        },
        optional={"rope_theta": one_of([100.0, 1e4])},
    ),
)
FILE_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "hidden_act": one_of(["gelu_new", "gelu", "relu", "gelu_pytorch_tanh", "silu"]),
    "activation_function": one_of(["gelu_new", "gelu", "relu", "silu"]),
    "hidden_activation": one_of(["gelu_pytorch_tanh", "silu"]),
    "tie_word_embeddings": st.booleans(),
    "rms_norm_eps": one_of([1e-2, 0.5]),
    "layer_norm_eps": st.just(1e-2),
    "n_inner": one_of([None, 20]),
    "attention_bias": st.booleans(),
    "mlp_bias": st.booleans(),
    "rope_theta": one_of([50.0, 1e5]),
    "rope_scaling": st.none() | rope_settings,
    "rope_parameters": rope_settings,
    "rope_local_base_freq": one_of([30.0, 1e4]),
    "sliding_window": one_of([None, 3, 7]),
    "use_sliding_window": st.booleans(),
    "max_window_layers": one_of([0, 1, 2, 28]),
    "sliding_window_pattern": one_of([1, 2, 3]),
    "head_dim": one_of([4, 16]),
    "query_pre_attn_scalar": one_of([5, 64]),
    "attn_logit_softcapping": one_of([None, 2.0]),
    "final_logit_softcapping": one_of([None, 2.0]),
    "original_max_position_embeddings": one_of([8, 16]),
    "type_vocab_size": one_of([1, 2]),
    "no_rope_layer_interval": one_of([1, 2, 4]),
}


FILE_KNOWN = {kind: preset_fields(family.preset) for kind, family in FAMILIES.items()}


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """The content of a config.json of some family, with keys of others among them."""
    kind, layers = draw(one_of(sorted(FAMILIES))), draw(st.integers(1, 3))
    values: dict[str, Any] = {"model_type": kind, "vocab_size": 31, "initializer_range": 0.3}
    values |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    width, heads = draw(one_of([(8, 1), (16, 2), (32, 4)]))
    if kind == "gpt2":
        values |= {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 64}
    else:
        values |= {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        values |= {"intermediate_size": 20, "max_position_embeddings": 64, "num_key_value_heads": 1}
    if kind == "bert":
        del values["num_key_value_heads"]
    options = draw(st.fixed_dictionaries({}, optional=FILE_OPTIONS))
    if "rope_local_base_freq" in FILE_KNOWN[kind] and "rope_parameters" in options:
        options["rope_parameters"] = {FULL: options["rope_parameters"], SLIDING: draw(rope_settings)}
    if "layer_types" in FILE_KNOWN[kind] and draw(st.booleans()):
        options["layer_types"] = draw(st.lists(one_of([FULL, SLIDING]), min_size=layers, max_size=layers))
    if "no_rope_layers" in FILE_KNOWN[kind] and draw(st.booleans()):
        options["no_rope_layers"] = draw(st.lists(one_of([0, 1]), min_size=layers, max_size=layers))
    return values | options


def check_file(values: dict[str, Any]) -> None:
    try:
        config = from_hf(json.loads(json.dumps(values)))
    except ModelError:
        event("refused")
        return
    try:
        theirs = families.make_theirs(values)
        ids = torch.randint(31, (2, 30), generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected = families.their_scores(theirs, ids)
    except Exception as error:  # of many kinds: an odd file is refused when the config, the model or its mask is made
        event(f"refused there: {type(error).__name__}")
        return
    event(values["model_type"])
    with TemporaryDirectory() as folder, torch.no_grad():
        theirs.save_pretrained(folder)
        ours = assemble(config)
        load_weights(Path(folder), ours)
        assert relative_difference(families.our_scores(ours.eval(), ids), expected) < TOLERANCE


@few
@given(files())
def test_a_file_is_refused_or_read_as_transformers_reads_it(values: dict[str, Any]) -> None:
    check_file(values)


@pytest.mark.slow
@many
@given(files())
def test_a_file_is_refused_or_read_as_transformers_reads_it_at_length(values: dict[str, Any]) -> None:
    check_file(values)
