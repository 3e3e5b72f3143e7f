"""The explained forward is what the modules compute: run as a program, and its costs counted on the built model."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundup.core.config import Config
from groundup.core.errors import ConfigError, ModelError
from groundup.model import config as configs
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
)
from groundup.model.counts import count_parameters, flops_per_token, heads_parameters
from groundup.model.explain import Block, Explanation, compare_attention, explain, kv_cache_bytes
from groundup.model.explain_lines import Row
from groundup.model.ops.rotary import rotary_fast, rotary_tables
from groundup.model.presets import PRESETS, preset
from groundup.model.transformer import Transformer, build

WIDTH, VOCABULARY, CONTEXT, MEMORY = 6, 11, 9, 4

positive = st.sampled_from([1e-6, 1e-3, 0.5])
norms = st.one_of(
    st.builds(LayerNormConfig, layer_norm_epsilon=positive, bias=st.booleans()),
    st.builds(RMSNormConfig, rms_norm_eps=positive, unit_offset=st.booleans()),
)
scalings = st.none() | st.sampled_from(
    [
        LinearScaling(factor=2.5),
        DynamicScaling(factor=2.0, original_max_position_embeddings=4),
        YarnScaling(factor=4.0, original_max_position_embeddings=8),
        YarnScaling(factor=4.0, original_max_position_embeddings=8, attention_factor=1.3),
        Llama3Scaling(factor=8.0, original_max_position_embeddings=8),
    ]
)
rotaries = st.builds(
    RotaryConfig,
    rope_theta=st.sampled_from([3.0, 10_000.0, 1_000_000.0]),
    partial_rotary_factor=st.sampled_from([0.5, 1.0]),
    scaling=scalings,
)
activations = st.sampled_from(["gelu_new", "gelu", "relu", "relu2", "silu"])
mlps = st.one_of(
    *(
        st.builds(kind, intermediate_size=st.sampled_from([3, 8]), activation=activations, bias=st.booleans())
        for kind in (DenseMLPConfig, GatedMLPConfig)
    )
)


@st.composite
def heads(draw: st.DrawFn, kind: type[Any], *, is_causal: bool = True) -> Any:
    groups = draw(st.sampled_from([1, 2, 3]))
    values: dict[str, Any] = {
        "num_attention_heads": groups * draw(st.sampled_from([1, 2, 4])),
        "num_key_value_heads": groups,
        "head_dim": draw(st.sampled_from([8, 12])),
        "qk_norm": draw(st.none() | norms),
        "qk_norm_scope": draw(st.sampled_from(["head", "all"])),
        "qkv_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
    }
    if kind is CrossAttentionConfig:
        return kind(**values, memory_size=draw(st.sampled_from([None, 5])))
    window = draw(st.none() | st.sampled_from([1, 3, 20])) if is_causal else None
    return kind(
        **values,
        rotary=draw(st.none() | rotaries),
        is_causal=is_causal,
        sliding_window=window,
        num_sink_tokens=draw(st.sampled_from([0, 2])) if window is not None else 0,
        sink_logits=draw(st.booleans()),
        query_pre_attn_scalar=draw(st.sampled_from([None, 7.5])),
        attn_logit_softcapping=draw(st.sampled_from([None, 1.5])),
    )


@st.composite
def transformers(draw: st.DrawFn) -> TransformerConfig:
    is_causal = draw(st.booleans())
    layers = st.builds(
        LayerConfig,
        mixer=heads(AttentionConfig, is_causal=is_causal),
        mlp=mlps,
        norm=norms,
        placement=st.sampled_from(["pre", "post", "output", "sandwich"]),
        cross_attention=st.none() | heads(CrossAttentionConfig),
    )
    kinds = draw(st.lists(layers, min_size=1, max_size=2))
    pattern = draw(st.lists(st.tuples(st.sampled_from([1, 2]), st.sampled_from(kinds)), min_size=1, max_size=3))
    has_head = draw(st.booleans())
    return TransformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        max_position_embeddings=12,
        stack=tuple(pattern),
        positions=draw(st.sampled_from([None, LearnedPositionsConfig()])),
        final_norm=draw(st.none() | norms),
        has_head=has_head,
        tie_word_embeddings=has_head and draw(st.booleans()),
        embedding_multiplier=draw(st.sampled_from([None, 2.5, 6**0.5])),
        embedding_norm=draw(st.none() | norms),
        type_vocab_size=draw(st.sampled_from([0, 2])),
        final_logit_softcapping=draw(st.sampled_from([None, 0.8])),
        pooling=draw(st.none() | st.builds(PoolingConfig, kind=st.sampled_from(["mean", "cls", "last"]))),
    )


def checked(config: TransformerConfig) -> Explanation:
    return explain(config, context=CONTEXT, memory_length=MEMORY, dtype="float32")


def blocks_in_order(explanation: Explanation) -> list[tuple[int | None, Block]]:
    """Every block as often as it runs, with the index of its layer."""
    by_index = {
        index: block for block in explanation.blocks for first, last in block.layers for index in range(first, last + 1)
    }
    before = [(None, block) for block in explanation.blocks if block.name == "embedding"]
    after = [(None, block) for block in explanation.blocks if block.name == "output"]
    return [*before, *((index, by_index[index]) for index in sorted(by_index)), *after]


# ---------------------------------------------------------------------------------------------------- the lines run


class Program:
    """Runs the lines on tensors. It knows the notation and the definitions, and nothing of the modules but weights."""

    def __init__(self, explanation: Explanation, model: Transformer) -> None:
        self.definitions, self.model, self.explanation = explanation.definitions, model, explanation
        self.weights = dict(model.named_parameters())

    def run(self, ids: Tensor, memory: Tensor | None) -> dict[str, Any]:
        positions = torch.arange(ids.shape[1])
        values: dict[str, Any] = {"ids": ids, "i": positions, "m": memory}
        sizes = {"B": ids.shape[0], "T": ids.shape[1], "S": ids.shape[1], **self.explanation.dimensions}
        for index, block in blocks_in_order(self.explanation):
            for row in block.rows:
                target, expression = row.text.split(" = ", 1)
                letters = {**sizes, **block.dimensions}
                scope = {**values, **self.functions(index, block, row), **self.matrices(index, row)}
                scope |= {"d": letters.get("d"), "d_": letters.get("d'")}
                result = eval(self.python(expression), {"__builtins__": {}}, scope)
                results = result if isinstance(result, tuple) else (result,)
                for name, value in zip(target.split(", "), results, strict=True):
                    assert list(value.shape) == [letters[letter] for letter in row.shape.split()], row
                    values[name] = value
        return values

    @staticmethod
    def python(text: str) -> str:
        text = text.replace("^", "**").replace("|e|", "length(e)").replace("d'", "d_")
        text = re.sub(r"\b([WC]_\w+|embed(?:_\d+)?) (x|h|m|u|\(g \* u\)|join\(a\))", r"multiply(\1, \2)", text)
        return text.replace("q . k", "dot(q, k)").replace("p v", "mix(p, v)")

    def weight(self, index: int | None, name: str) -> Tensor:
        return self.weights[name if index is None else f"layers.{index}.{name}"]

    def matrices(self, index: int | None, row: Row) -> dict[str, Any]:
        """The weights that a line names, from the modules that it counts."""
        found: dict[str, Any] = {"embed": self.weights["embed.weight"]}
        tables = {"embed_types": "types", "embed_positions": "positions", "head": "W_head"}
        for name in row.weights:
            if name in tables:
                found[tables[name]] = self.weight(None, f"{name}.weight")
            elif name.endswith("_proj"):
                module, letter = name.rsplit(".", 1)[1].removesuffix("_proj"), "cross" if "cross" in name else ""
                found[f"{'C' if letter else 'W'}_{module}"] = self.weight(index, f"{name}.weight")
                bias = f"layers.{index}.{name}.bias"
                if bias in self.weights:
                    found[f"{'c' if letter else 'b'}_{module}"] = self.weights[bias]
            elif name.endswith("sink_logits"):
                found["sink"] = self.weight(index, name)
        return found

    def functions(self, index: int | None, block: Block, row: Row) -> dict[str, Any]:
        size = block.dimensions.get("d'" if "'" in row.shape else "d", 0)
        known: dict[str, Any] = {
            "sqrt": math.sqrt,
            "multiply": lambda matrix, y: y @ matrix.T,
            "dot": lambda q, k: q @ self.repeated(k, q).transpose(-1, -2),
            "mix": lambda p, v: p @ self.repeated(v, p),
            "softmax": softmax,
            "length": lambda y: y.norm(dim=-1, keepdim=True),
            "split": lambda y: y.unflatten(-1, (-1, size)).transpose(1, 2),
            "join": lambda a: a.transpose(1, 2).flatten(2),
            "cache": EmptyCache,
        }
        for name, meaning in self.definitions.items():
            if name.startswith(("rms_norm", "layer_norm")):
                known[name] = self.norm(meaning, index, row)
            elif name.startswith(("causal", "window")):
                known[name] = lambda s, meaning=meaning: masked(s, meaning)
            elif name.startswith("rotate"):
                known[name] = lambda y, meaning=meaning: self.rotate(y, meaning, index)
            elif name.startswith("pool"):
                known[name] = lambda x, meaning=meaning: pool(x, meaning)
            elif name not in ("embed", "split", "join", "cache.append", "sink"):
                known[name] = lambda y, meaning=meaning: formula(meaning, y=y)
        return known

    def norm(self, meaning: str, index: int | None, row: Row) -> Any:
        module = next((name for name in row.weights if name.endswith("norm")), None)
        if module is None:
            return None
        prefix = "" if index is None else f"layers.{index}."
        weights = {"w": self.weights[f"{prefix}{module}.weight"], "b": self.weights.get(f"{prefix}{module}.bias")}
        return lambda y: formula(meaning, y=y, **weights)

    def rotate(self, y: Tensor, meaning: str, index: int | None) -> Tensor:
        found = re.fullmatch(
            r"(?:in the first (\d+) values )?pairs y\[n\], y\[n \+ (\d+)\] turned by i(?: / ([\d.]+))? \* "
            r"([\d.,]+)\^\(-2n/(\d+)\)(.*)",
            meaning,
        )
        assert found is not None, meaning
        first, half, factor, base, size, more = found.groups()
        assert int(size) == 2 * int(half) == int(first or y.shape[-1])
        positions = torch.arange(y.shape[2])
        if more:  # the other scalings are named, not written out
            assert index is not None
            mixer = self.model.config.layers()[index].mixer
            assert isinstance(mixer, AttentionConfig) and mixer.rotary is not None
            assert f"{mixer.rotary.scaling.factor:g}" in more  # type: ignore[union-attr]
            return rotary_fast(y, *rotary_tables(positions[None], y.shape[-1], mixer.rotary, y.dtype))
        n = torch.arange(int(half))
        angle = positions[:, None] / float(factor or 1) * float(base.replace(",", "")) ** (-2 * n / int(size))
        angle = angle.to(y.dtype)
        one, two = y[..., : int(half)], y[..., int(half) : int(size)]
        turned = (one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin())
        return torch.cat((*turned, y[..., int(size) :]), dim=-1)

    @staticmethod
    def repeated(y: Tensor, like: Tensor) -> Tensor:
        return y.repeat_interleave(like.shape[1] // y.shape[1], dim=1)


class EmptyCache:
    @staticmethod
    def append(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v


def formula(meaning: str, **values: Any) -> Any:
    known = {
        "mean": lambda y: y.mean(-1, keepdim=True),
        "var": lambda y: y.var(-1, keepdim=True, unbiased=False),
        "sqrt": lambda y: y**0.5,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "max": lambda y, low: y.clamp(min=low),
        "Phi": lambda y: (1 + torch.erf(y / 2**0.5)) / 2,
        "pi": math.pi,
    }
    return eval(meaning.split(", Phi")[0].replace("^", "**"), {"__builtins__": {}}, {**known, **values})


def masked(s: Tensor, meaning: str) -> Tensor:
    found = re.fullmatch(r"s where (.*), else -inf", meaning)
    assert found is not None, meaning
    condition = found[1].replace(",", "").replace(" and ", ") & (").replace(" or ", ") | (")
    steps = torch.arange(s.shape[-1])
    visible = eval(f"({condition})", {"__builtins__": {}}, {"i": steps[:, None], "j": steps})
    return s.masked_fill(~visible, -math.inf)


def softmax(s: Tensor, sink: Tensor | None = None) -> Tensor:
    if sink is None:
        return s.softmax(-1)
    column = sink[None, :, None, None].expand(*s.shape[:3], 1)
    return torch.cat((s, column), dim=-1).softmax(-1)[..., :-1]


def pool(x: Tensor, meaning: str) -> Tensor:
    chosen = {"mean": x.mean(1), "first token": x[:, 0], "last token": x[:, -1]}
    return next(vectors for words, vectors in chosen.items() if words in meaning)


def noisy(config: TransformerConfig) -> Transformer:
    """The built model with noise on every parameter, or a bias or norm that is left out would not show."""
    model = build(config).double().eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(config=transformers(), seed=st.integers(0, 2**32))
def test_the_lines_run_as_a_program_give_what_the_model_gives(config: TransformerConfig, seed: int) -> None:
    check_program(config, seed)


@pytest.mark.slow
@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(config=transformers(), seed=st.integers(0, 2**32))
def test_the_lines_run_for_many_configs(config: TransformerConfig, seed: int) -> None:
    check_program(config, seed)


def check_program(config: TransformerConfig, seed: int) -> None:
    model = noisy(config)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (2, CONTEXT), generator=generator)
    sizes = {layer.cross_attention.memory_size or WIDTH for layer in config.layers() if layer.cross_attention}
    if len(sizes) > 1:
        return  # two widths of one memory cannot be given
    memory = torch.randn(2, MEMORY, *sizes, generator=generator).double() if sizes else None
    with torch.no_grad():
        values = Program(checked(config), model).run(ids, memory)
        hidden = model(ids, memory=memory)
        expected = {"x": hidden}
        expected |= {"logits": model.logits(hidden)} if config.has_head else {}
        expected |= {"e": model.pool(hidden)} if config.pooling is not None else {}
    for name, tensor in expected.items():
        assert (values[name] - tensor).abs().max() <= 1e-5 * tensor.abs().max() + 1e-12, name
    assert ("logits" in values, "e" in values) == (config.has_head, config.pooling is not None)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(config=transformers())
def test_every_parameter_is_counted_where_it_is_used(config: TransformerConfig) -> None:
    explanation, left = checked(config), dict(build(config).named_parameters())
    for index, block in blocks_in_order(explanation):
        prefix = "" if index is None else f"layers.{index}."
        for row in block.rows:
            own = [key for key in left for name in row.weights if f"{key}.".startswith(f"{prefix}{name}.")]
            assert row.parameters == sum(left.pop(key).numel() for key in own), row
    assert not left


@settings(deadline=None, max_examples=25)
@given(config=transformers(), context=st.integers(1, 12), memory_length=st.integers(1, 50))
def test_totals_are_those_of_the_counts(config: TransformerConfig, context: int, memory_length: int) -> None:
    explanation = explain(config, context=context, memory_length=memory_length, dtype="float16")
    assert explanation.cost.parameters == count_parameters(config).total
    assert explanation.cost.flops == flops_per_token(config, context, memory_length=explanation.memory_length)
    assert explanation.cost.weight_bytes == 2 * count_parameters(config).total
    assert sum(block.times for block in explanation.blocks if block.layers) == config.num_hidden_layers


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("context", [None, 1, 300])
def test_totals_of_every_preset(name: str, context: int | None) -> None:
    config = preset(name)
    explanation = explain(config, context=context)
    assert explanation.context == (context or min(config.max_position_embeddings, 4096))
    counts = count_parameters(config)
    assert explanation.cost.parameters == counts.total
    assert explanation.cost.flops == flops_per_token(config, explanation.context)
    # Of the tables a token reads one row each; a tied head reads all of the first.
    tables = 1 + (config.positions is not None) + (config.type_vocab_size > 0)
    tied = config.vocab_size * config.hidden_size * config.tie_word_embeddings
    assert explanation.cost.read_bytes == 2 * (counts.non_embedding + tables * config.hidden_size + tied)


# -------------------------------------------------------------------------------------------------------- the cache


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(config=transformers())
def test_the_cache_grows_as_the_lines_say(config: TransformerConfig) -> None:
    cost = checked(config).cost
    if not all(layer.mixer.is_causal for layer in config.layers()):  # type: ignore[union-attr]
        assert cost.kv_bytes == 0
        return
    config = config.with_layers(lambda layer: layer.model_copy(update={"cross_attention": None}))
    cache = (model := build(config)).new_cache(1)
    with torch.no_grad():
        model(torch.zeros(1, CONTEXT, dtype=torch.long), cache=cache)
    kept = sum(tensor.nbytes for layer in cache.layers for tensor in layer.snapshot() if isinstance(tensor, Tensor))
    assert kept == cost.kv_bytes * CONTEXT


def test_a_window_bounds_what_is_needed() -> None:
    config = preset("gemma3", num_hidden_layers=6, sliding_window=512)
    token = 2 * 1 * 256 * 2  # keys and values, one head of 256, two bytes
    assert explain(config).cost.kv_bytes == 6 * token
    assert kv_cache_bytes(config, 100) == 6 * 100 * token
    assert kv_cache_bytes(config, 4096) == (5 * 512 + 4096) * token
    sinks = config.with_layers(lambda layer: layer.replace(mixer={"sliding_window": 512, "num_sink_tokens": 4}))
    assert kv_cache_bytes(sinks, 4096, "float32") == 2 * 6 * 516 * token
    assert kv_cache_bytes(preset("bert"), 512) == 0


# ------------------------------------------------------------------------------------------------ blocks and their text


def test_equal_layers_stand_once() -> None:
    blocks = [block for block in explain(preset("gemma3")).blocks if block.layers]
    assert [block.layers for block in blocks] == [
        ((0, 4), (6, 10), (12, 16), (18, 22), (24, 25)),
        ((5, 5), (11, 11), (17, 17), (23, 23)),
    ]
    assert [block.times for block in blocks] == [22, 4]
    texts = [[row.text for row in block.rows] for block in blocks]
    assert "p = softmax(window(s))" in texts[0] and "p = softmax(causal(s))" in texts[1]
    assert "q = rotate(rms_norm(split(W_q h)))" in texts[0] and "q = rotate_2(rms_norm(split(W_q h)))" in texts[1]
    definitions = explain(preset("gemma3")).definitions
    assert definitions["rotate"].endswith("turned by i * 10,000^(-2n/256)")
    assert definitions["rotate_2"].endswith("turned by i * 1,000,000^(-2n/256)")
    assert definitions["window"] == "s where j <= i and i - j < 512, else -inf"
    one, other = preset("gpt2").layers()[0], preset("gpt2", hidden_act="relu").layers()[0]
    split = preset("gpt2").model_copy(update={"stack": ((2, one), (1, one), (3, other), (1, one))})
    assert [block.layers for block in explain(split).blocks[1:3]] == [((0, 2), (6, 6)), ((3, 5),)]


PLACEMENTS = {
    "pre": ["h = layer_norm(x)", "x = x + W_down u + b_down"],
    "post": ["x = layer_norm(x + W_down u + b_down)"],
    "output": ["x = x + layer_norm(W_down u + b_down)"],
    "sandwich": ["h = layer_norm(x)", "x = x + layer_norm(W_down u + b_down)"],
}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_norms_stand_where_the_placement_says(placement: Any) -> None:
    config = preset("gpt2").with_layers(lambda layer: layer.replace(placement=placement))
    texts = [row.text for row in explain(config).blocks[1].rows if row.part == "mlp"]
    source = "h" if len(PLACEMENTS[placement]) == 2 else "x"
    expected = [*PLACEMENTS[placement]]
    expected.insert(len(expected) - 1, f"u = gelu_new(W_up {source} + b_up)")
    assert texts == expected


def test_scalings_are_described() -> None:
    def meaning(scaling: Config | None, part: float = 1.0) -> str:
        plain = None if scaling is None else scaling.to_dict()
        rotary = {"kind": "rotary", "rope_theta": 500_000.0, "partial_rotary_factor": part, "scaling": plain}
        config = preset("qwen3").with_layers(lambda layer: layer.replace(mixer={"rotary": rotary}))
        return explain(config).definitions["rotate"]

    assert meaning(None) == "pairs y[n], y[n + 64] turned by i * 500,000^(-2n/128)"
    assert meaning(None, 0.25) == "in the first 32 values pairs y[n], y[n + 16] turned by i * 500,000^(-2n/32)"
    assert meaning(LinearScaling(factor=4)).endswith("turned by i / 4 * 500,000^(-2n/128)")
    trained = 8192
    assert "the base growing past 8,192 tokens (NTK, factor 4)" in meaning(
        DynamicScaling(factor=4, original_max_position_embeddings=trained)
    )
    yarn = YarnScaling(factor=4, original_max_position_embeddings=trained)
    assert "4 times slower (YaRN, trained on 8,192 tokens); times 0.1 ln(4) + 1" in meaning(yarn)
    assert meaning(yarn.replace(attention_factor=1.25)).endswith("; times 1.25")
    llama = Llama3Scaling(factor=8, original_max_position_embeddings=trained)
    assert "8 times slower (Llama 3, trained on 8,192 tokens)" in meaning(llama)


def test_a_part_from_a_file_has_no_known_cost() -> None:
    part = FilePartConfig(path="my.py", name="Mine")
    config = preset("gpt2", num_hidden_layers=2)
    first, second = config.layers()
    mixed = config.model_copy(update={"stack": ((1, first), (1, second.model_copy(update={"mixer": part})))})
    explanation = explain(mixed)
    assert explanation.unknown == ("'Mine' of 'my.py'",)
    rows = [row for row in explanation.blocks[2].rows if not row.is_known]
    assert [(row.text, row.parameters, row.flops) for row in rows] == [("x = x + Mine(h)", 0, 0)]
    attention = heads_parameters(first.mixer, 768)  # type: ignore[arg-type]
    assert explanation.cost.parameters == count_parameters(config).total - attention
    assert [variant.parameters for variant in compare_attention(mixed) if variant.is_own] == [attention]
    assert compare_attention(config.with_layers(lambda layer: layer.model_copy(update={"mixer": part}))) == ()
    odd = config.with_layers(lambda layer: layer.replace(mixer={"kind": "file", "path": "a", "name": "\x1b[2J(\ud800"}))
    shown = [row.text for row in explain(odd).blocks[1].rows] + [*explain(odd).unknown, explain(odd).blocks[1].about]
    assert all(text.isprintable() for text in shown)


# ----------------------------------------------------------------------------------------------------- the comparison


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", [("MHA", (12,), (), True), ("GQA", (3,), (), False), ("MQA", (1,), (), False), ("window", (12,), (256,), False)]),
        ("qwen3", [("MHA", (16,), (), False), ("GQA", (8,), (), True), ("MQA", (1,), (), False), ("window", (8,), (1024,), False)]),
        ("gemma3", [("MHA", (4,), (), False), ("GQA", (2,), (), False), ("MQA", (1,), (), False), ("window", (1,), (512,), True)]),
        ("bert", [("MHA", (12,), (), True), ("GQA", (3,), (), False), ("MQA", (1,), (), False)]),
    ],
)  # fmt: skip
def test_the_comparison_has_the_models_own_shape(name: str, expected: list[tuple[Any, ...]]) -> None:
    found = compare_attention(preset(name))
    assert [(one.name, one.key_value_heads, one.windows, one.is_own) for one in found] == expected


def test_the_comparison_where_a_kind_does_not_exist() -> None:
    def names(**fields: Any) -> list[str]:
        return [one.name for one in compare_attention(preset("gpt2", hidden_size=70, **fields))]

    assert names(num_attention_heads=1) == ["MHA", "window"]
    assert names(num_attention_heads=2) == ["MHA", "MQA", "window"]
    assert names(num_attention_heads=7) == ["MHA", "MQA", "window"]
    # A model that mixes kinds is none of them.
    config = preset("gpt2", num_hidden_layers=2)
    first, second = config.layers()
    mixed = config.model_copy(update={"stack": ((1, first), (1, second.replace(mixer={"num_key_value_heads": 1})))})
    found = compare_attention(mixed)
    assert [(one.name, one.key_value_heads, one.is_own) for one in found][3:] == [
        ("own", (1, 12), True),
        ("window", (1, 12), False),
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_the_comparison_changes_the_counts_as_the_model_would_change(name: str) -> None:
    config = preset(name)
    context = min(2000, config.max_position_embeddings)
    variants = {one.name: one for one in compare_attention(config, context=context, dtype="float32")}
    (own,) = (one for one in variants.values() if one.is_own)

    def changed(heads: Any, window: Any = None) -> TransformerConfig:
        def change(layer: LayerConfig) -> LayerConfig:
            new = {"num_key_value_heads": heads or layer.mixer.num_key_value_heads}  # type: ignore[union-attr]
            return layer.replace(mixer={**new, "sliding_window": window, "num_sink_tokens": 0})

        return config.with_layers(change)

    query_heads = config.layers()[0].mixer.num_attention_heads  # type: ignore[union-attr]
    others = {"MHA": changed(query_heads), "MQA": changed(1)}
    if not any(layer.mixer.sliding_window for layer in config.layers()) and "window" in variants:  # type: ignore[union-attr]
        others["window"] = changed(None, 1024 if context > 1024 else context // 4)
    for kind, other in others.items():
        variant = variants[kind]
        assert variant.parameters - own.parameters == count_parameters(other).total - count_parameters(config).total
        assert variant.flops - own.flops == flops_per_token(other, context) - flops_per_token(config, context)
        assert variant.kv_bytes == explain(other, dtype="float32").cost.kv_bytes
        assert variant.kv_bytes_at_context == kv_cache_bytes(other, context, "float32")


# ------------------------------------------------------------------------------------------------------------- guards


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 10**9, "vocab_size": 10**9}, "about 1e18 parameters, and up to 1e14 are explained"),
        ({"max_position_embeddings": 10**30, "positions": None}, r"1e30 tokens \(max_position_embeddings\)"),
        ({"vocab_size": 10**4200, "hidden_size": 10**4200}, "about 1e8400 parameters"),
    ],
)  # fmt: skip
def test_sizes_that_no_machine_holds_are_refused_at_once(change: dict[str, Any], message: str) -> None:
    config = preset("gpt2")
    config = TransformerConfig(**{**config.to_dict(), **change})
    with pytest.raises(ModelError, match=message):
        explain(config)


EXPLAINED = {
    "LayerNormConfig": "kind layer_norm_epsilon bias",
    "RMSNormConfig": "kind rms_norm_eps unit_offset",
    "LinearScaling": "kind factor",
    "DynamicScaling": "kind factor original_max_position_embeddings",
    "YarnScaling": "kind factor original_max_position_embeddings beta_fast beta_slow attention_factor truncate",
    "Llama3Scaling": "kind factor low_freq_factor high_freq_factor original_max_position_embeddings",
    "RotaryConfig": "kind rope_theta partial_rotary_factor scaling",
    "LearnedPositionsConfig": "kind",
    "HeadsConfig": "num_attention_heads num_key_value_heads head_dim qk_norm qk_norm_scope qkv_bias output_bias",
    "AttentionConfig": "num_attention_heads num_key_value_heads head_dim qk_norm qk_norm_scope qkv_bias output_bias "
    "kind rotary is_causal sliding_window num_sink_tokens sink_logits query_pre_attn_scalar attn_logit_softcapping",
    "CrossAttentionConfig": "num_attention_heads num_key_value_heads head_dim qk_norm qk_norm_scope qkv_bias "
    "output_bias kind memory_size",
    "FilePartConfig": "kind path name options",
    "DenseMLPConfig": "kind intermediate_size activation bias",
    "GatedMLPConfig": "kind intermediate_size activation bias",
    "LayerConfig": "mixer mlp norm placement cross_attention",
    "PoolingConfig": "kind normalize max_length",
    "TransformerConfig": "vocab_size hidden_size max_position_embeddings stack positions final_norm "
    "tie_word_embeddings has_head embedding_multiplier embedding_norm type_vocab_size final_logit_softcapping pooling "
    "bos_token_id eos_token_id pad_token_id initializer_range",
}


def test_every_field_of_a_model_is_explained() -> None:
    """A new field changes what a model computes: explain it in explain_lines.py, draw it above, and add it here."""
    found = {
        name: set(value.model_fields)
        for name, value in vars(configs).items()
        if isinstance(value, type) and issubclass(value, Config) and value is not Config
    }
    assert found == {name: set(fields.split()) for name, fields in EXPLAINED.items()}


def test_rows_are_plain_and_frozen() -> None:
    row = explain(preset("gpt2")).blocks[0].rows[0]
    assert dataclasses.asdict(row) == {
        "text": "x = embed[ids]",
        "shape": "B T D",
        "part": "embedding",
        "weights": ("embed",),
        "is_known": True,
        "parameters": 50257 * 768,
        "flops": 0,
        "weight_bytes": 2 * 50257 * 768,
        "read_bytes": 2 * 768,
        "kv_bytes": 0,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.text = ""  # type: ignore[misc]
    with pytest.raises(ConfigError):
        preset("gtp2")


def test_an_encoder_is_explained_for_the_texts_it_reads() -> None:
    assert explain(preset("bert")).context == 512
    assert explain(preset("bert", pooling=PoolingConfig(max_length=128))).context == 128
