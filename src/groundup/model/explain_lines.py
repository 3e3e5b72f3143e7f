"""The lines of pseudo-code that `model/explain.py` puts together: what each part computes, and its cost. No torch.

The lines say what the modules in `model/parts` do, in their order; the tests run them as a program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from groundup.model.config import (
    AttentionConfig,
    CrossAttentionConfig,
    DynamicScaling,
    FilePartConfig,
    GatedMLPConfig,
    LayerConfig,
    LinearScaling,
    Llama3Scaling,
    Norm,
    RMSNormConfig,
    RotaryConfig,
    TransformerConfig,
    YarnScaling,
)
from groundup.model.counts import norm_parameters, seen_keys

ACTIVATIONS = {
    "gelu_new": "y / 2 * (1 + tanh(sqrt(2 / pi) * (y + 0.044715 * y^3)))",
    "gelu": "y * Phi(y), Phi the distribution function of a normal variable",
    "relu": "max(y, 0)",
    "relu2": "max(y, 0)^2",
    "silu": "y * sigmoid(y)",
}
POOLING = {
    "mean": "the mean of a text's vectors",
    "cls": "the vector of a text's first token",
    "last": "the vector of a text's last token",
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a line, or several of them, cost.

    Attributes:
        parameters: learned values.
        flops: floating-point operations per token, as `counts.flops_per_token` counts them.
        weight_bytes: of the parameters.
        read_bytes: of the parameters that a forward of one token reads: of a table one row, of a tied head all.
        kv_bytes: of the keys and values that each token adds to the cache.
    """

    parameters: int = 0
    flops: int = 0
    weight_bytes: int = 0
    read_bytes: int = 0
    kv_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Row(Cost):
    """One line of the pseudo-code.

    Attributes:
        text: the assignment.
        shape: of what is assigned, in the letters of the legend.
        part: `embedding`, `attention`, `cross_attention`, `mlp` or `output`.
        weights: modules and parameters that are counted here, as the model names them (in a layer, below the layer).
        is_known: False for a part from a file: only its built module knows what it costs.
    """

    text: str
    shape: str
    part: str
    weights: tuple[str, ...] = ()
    is_known: bool = True


def total_cost(costs: Iterable[tuple[int, Cost]]) -> Cost:
    """Add up `(times, cost)`."""
    sums: Counter[str] = Counter()
    for times, cost in costs:
        for name in Cost.__dataclass_fields__:
            sums[name] += times * getattr(cost, name)
    return Cost(**sums)


@dataclass(frozen=True)
class _Branch:
    """How a branch of a layer is called: in `Row.part`, in the model, and in the lines."""

    part: str
    module: str
    matrix: str = "W"
    bias: str = "b"
    prime: str = ""


_SELF, _MLP = _Branch("attention", "attn"), _Branch("mlp", "mlp")
_CROSS = _Branch("cross_attention", "cross_attn", "C", "c", "'")


class Lines:
    """Writes the lines of a model, and gives every function in them a name.

    Args:
        width: hidden_size.
        context: tokens in a text.
        memory_length: vectors that cross-attention reads.
        value_bytes: bytes of one weight or cached value.
    """

    def __init__(self, width: int, context: int, memory_length: int, value_bytes: int) -> None:
        self.width, self.context, self.memory_length, self.value_bytes = width, context, memory_length, value_bytes
        self._names: dict[tuple[str, str], str] = {}
        self._taken: Counter[str] = Counter()

    @property
    def definitions(self) -> dict[str, str]:
        """What each name in the lines stands for, by first use."""
        return {name: meaning for (_, meaning), name in self._names.items()}

    def embedding(self, config: TransformerConfig) -> list[Row]:
        """From token ids to the residual stream."""
        rows = [self._table("x = embed[ids]", "embed", config.vocab_size)]
        if config.embedding_multiplier is not None:
            rows.append(self._row(f"x = {config.embedding_multiplier:.7g} * x", "B T D", "embedding"))
        if config.type_vocab_size:
            rows.append(self._table("x = x + types[0]", "embed_types", config.type_vocab_size))
        if config.positions is not None:
            rows.append(self._table("x = x + positions[i]", "embed_positions", config.max_position_embeddings))
        if config.embedding_norm is not None:
            rows.append(self._norm_row("x", config.embedding_norm, "embedding", "embed_norm"))
        return rows

    def output(self, config: TransformerConfig) -> list[Row]:
        """From the residual stream to scores of tokens, or to one vector for a text."""
        rows, size = [], config.vocab_size * self.width
        if config.final_norm is not None:
            rows.append(self._norm_row("x", config.final_norm, "output", "final_norm"))
        if config.has_head and config.tie_word_embeddings:
            embed = self._name("embed", "the table of token vectors; as a V x D matrix it is the head, too (tied)")
            rows.append(self._row(f"logits = {embed} x", "B T V", "output", flops=2 * size, read=size))
        elif config.has_head:
            rows.append(self._row("logits = W_head x", "B T V", "output", ["head"], size, flops=2 * size))
        if config.has_head and config.final_logit_softcapping is not None:
            rows.append(self._row(f"logits = {self._cap(config.final_logit_softcapping)}(logits)", "B T V", "output"))
        if config.pooling is not None:
            rows.append(self._row(f"e = {self._name('pool', POOLING[config.pooling.kind])}(x)", "B D", "output"))
            if config.pooling.normalize:
                rows.append(self._row("e = e / |e|", "B D", "output"))
        return rows

    def layer(self, layer: LayerConfig) -> list[Row]:
        """One layer: its mixer, its cross-attention if it has one, its MLP."""
        rows, source = self._begin(layer, _SELF)
        if isinstance(layer.mixer, FilePartConfig):
            name = layer.mixer.name if layer.mixer.name.isidentifier() else repr(layer.mixer.name)
            rows.append(replace(self._add(layer, _SELF, f"{name}({source})", ["attn"]), is_known=False))
        else:
            rows += self.attention(layer, layer.mixer, source)
        if layer.cross_attention is not None:
            begin, source = self._begin(layer, _CROSS)
            rows += [*begin, *self.attention(layer, layer.cross_attention, source)]
        begin, source = self._begin(layer, _MLP)
        return [*rows, *begin, *self._mlp(layer, source)]

    def attention(self, layer: LayerConfig, heads: AttentionConfig | CrossAttentionConfig, source: str) -> list[Row]:
        """Self-attention or cross-attention, from its input to the sum with the residual stream.

        Args:
            layer: where it stands.
            heads: its config.
            source: name of its input.
        """
        is_cross = isinstance(heads, CrossAttentionConfig)
        branch = _CROSS if is_cross else _SELF
        prime, part = branch.prime, branch.part
        size = heads.num_attention_heads * heads.head_dim
        reading = 2 * size * (self.memory_length if is_cross else seen_keys(heads, self.context))
        keys, root, pattern = "M" if is_cross else "S", f"d{prime}", "s"
        rows = self._projections(heads, branch, source)
        if isinstance(heads, AttentionConfig):
            rows += self._cached(heads)
            if heads.query_pre_attn_scalar is not None:
                root = f"{heads.query_pre_attn_scalar:.7g}"
        rows.append(self._row(f"s = q . k / sqrt({root})", f"B H{prime} T {keys}", part, flops=reading))
        sinks: list[str] = []
        if isinstance(heads, AttentionConfig):
            if heads.attn_logit_softcapping is not None:
                rows.append(self._row(f"s = {self._cap(heads.attn_logit_softcapping)}(s)", "B H T S", part))
            pattern = self._masked(heads, "s")
            if heads.sink_logits:
                sinks = ["attn.sink_logits"]
                pattern += ", " + self._name("sink", "a learned score of each head: takes a share, reads nothing")
        num_sinks = heads.num_attention_heads * len(sinks)
        rows.append(self._row(f"p = softmax({pattern})", f"B H{prime} T {keys}", part, sinks, num_sinks))
        rows.append(self._row("a = p v", f"B H{prime} T d{prime}", part, flops=reading))
        added = f"{branch.matrix}_o {self._name('join', 'the heads of a token side by side')}(a)"
        added += f" + {branch.bias}_o" if heads.output_bias else ""
        weights, parameters = [f"{branch.module}.o_proj"], size * self.width + self.width * heads.output_bias
        rows.append(self._add(layer, branch, added, weights, parameters, 2 * size * self.width))
        return rows

    def _projections(self, heads: AttentionConfig | CrossAttentionConfig, branch: _Branch, source: str) -> list[Row]:
        is_cross, width, tokens = isinstance(heads, CrossAttentionConfig), self.width, "T"
        key_values = heads.num_key_value_heads * heads.head_dim
        flops = [2 * self.width * n * heads.head_dim for n in (heads.num_attention_heads, heads.num_key_value_heads)]
        flops.append(flops[1])
        if isinstance(heads, CrossAttentionConfig):
            width = heads.memory_size or self.width
            # Once for a text, so a token has its share.
            both = 4 * width * key_values * self.memory_length // self.context
            flops[1:] = [both // 2, both - both // 2]
        rows = []
        for name, cost in zip("qkv", flops, strict=True):
            if name == "k" and is_cross:
                source, tokens = "m", "M"
            letter = "H" if name == "q" else "K"
            size = heads.num_attention_heads * heads.head_dim if name == "q" else key_values
            inputs = self.width if name == "q" else width
            text, weights, norms = self._to_heads(heads, branch, name, source, size)
            if isinstance(heads, AttentionConfig) and heads.rotary is not None and name != "v":
                text = f"{self._rotation(heads.rotary, heads.head_dim)}({text})"
            parameters = inputs * size + size * heads.qkv_bias + norms
            shape = f"B {letter}{branch.prime} {tokens} d{branch.prime}"
            rows.append(self._row(f"{name} = {text}", shape, branch.part, weights, parameters, flops=cost))
        return rows

    def _to_heads(
        self, heads: AttentionConfig | CrossAttentionConfig, branch: _Branch, name: str, source: str, size: int
    ) -> tuple[str, list[str], int]:
        """A projection, cut into heads and normalised: its text, its weights, the parameters of its norm."""
        weights = [f"{branch.module}.{name}_proj"]
        text = f"{branch.matrix}_{name} {source}" + (f" + {branch.bias}_{name}" if heads.qkv_bias else "")
        split = self._name("split", "the values of a token as heads")
        if heads.qk_norm is None or name == "v":
            return f"{split}({text})", weights, 0
        weights.append(f"{branch.module}.{name}_norm")
        norm = self._norm(heads.qk_norm)
        if heads.qk_norm_scope == "head":
            return f"{norm}({split}({text}))", weights, norm_parameters(heads.qk_norm, heads.head_dim)
        return f"{split}({norm}({text}))", weights, norm_parameters(heads.qk_norm, size)

    def _cached(self, heads: AttentionConfig) -> list[Row]:
        """The line of the cache; attention in both directions has none."""
        if not heads.is_causal:
            return []
        append = self._name("cache.append", "keys and values of the tokens so far, then the new ones")
        values = 2 * heads.num_key_value_heads * heads.head_dim
        return [self._row(f"k, v = {append}(k, v)", "B K S d", "attention", kv_values=values)]

    def _mlp(self, layer: LayerConfig, source: str) -> list[Row]:
        mlp, size = layer.mlp, layer.mlp.intermediate_size * self.width
        inner, outer = mlp.intermediate_size * mlp.bias, self.width * mlp.bias
        activation = self._name(mlp.activation, ACTIVATIONS[mlp.activation])

        def up(name: str) -> str:
            return f"W_{name} {source}" + (f" + b_{name}" if mlp.bias else "")

        def row(text: str, name: str) -> Row:
            return self._row(text, "B T F", "mlp", [f"mlp.{name}_proj"], size + inner, flops=2 * size)

        if isinstance(mlp, GatedMLPConfig):
            rows = [row(f"g = {activation}({up('gate')})", "gate"), row(f"u = {up('up')}", "up")]
            added = "W_down (g * u)"
        else:
            rows, added = [row(f"u = {activation}({up('up')})", "up")], "W_down u"
        added += " + b_down" if mlp.bias else ""
        return [*rows, self._add(layer, _MLP, added, ["mlp.down_proj"], size + outer, 2 * size)]

    def _begin(self, layer: LayerConfig, branch: _Branch) -> tuple[list[Row], str]:
        """The norm before a branch, where it has one, and the name of what the branch reads."""
        if layer.placement in ("pre", "sandwich"):
            return [self._norm_row("h", layer.norm, branch.part, f"{branch.module}_norm")], "h"
        return [], "x"

    def _add(
        self,
        layer: LayerConfig,
        branch: _Branch,
        added: str,
        weights: list[str],
        parameters: int = 0,
        flops: int = 0,
    ) -> Row:
        """The sum of a branch and the residual stream, with the norm that stands there."""
        if layer.placement == "pre":
            return self._row(f"x = x + {added}", "B T D", branch.part, weights, parameters, flops=flops)
        norm = self._norm(layer.norm)
        text = f"x = {norm}(x + {added})" if layer.placement == "post" else f"x = x + {norm}({added})"
        weights = [*weights, f"{branch.module}_{'post_' if layer.placement == 'sandwich' else ''}norm"]
        parameters += norm_parameters(layer.norm, self.width)
        return self._row(text, "B T D", branch.part, weights, parameters, flops=flops)

    def _row(
        self,
        text: str,
        shape: str,
        part: str,
        weights: list[str] | None = None,
        parameters: int = 0,
        *,
        flops: int = 0,
        kv_values: int = 0,
        read: int | None = None,
    ) -> Row:
        return Row(
            text=text,
            shape=shape,
            part=part,
            weights=tuple(weights or ()),
            parameters=parameters,
            flops=flops,
            weight_bytes=parameters * self.value_bytes,
            read_bytes=(parameters if read is None else read) * self.value_bytes,
            kv_bytes=kv_values * self.value_bytes,
        )

    def _table(self, text: str, name: str, entries: int) -> Row:
        return self._row(text, "B T D", "embedding", [name], entries * self.width, read=self.width)

    def _norm_row(self, target: str, norm: Norm, part: str, weight: str) -> Row:
        text = f"{target} = {self._norm(norm)}(x)"
        return self._row(text, "B T D", part, [weight], norm_parameters(norm, self.width))

    def _name(self, name: str, meaning: str) -> str:
        """`name`, or `name_2` where that means something else already."""
        if (name, meaning) not in self._names:
            self._taken[name] += 1
            number = self._taken[name]
            self._names[name, meaning] = name if number == 1 else f"{name}_{number}"
        return self._names[name, meaning]

    def _norm(self, norm: Norm) -> str:
        if isinstance(norm, RMSNormConfig):
            weight = "(1 + w)" if norm.unit_offset else "w"
            return self._name("rms_norm", f"y / sqrt(mean(y^2) + {norm.rms_norm_eps:g}) * {weight}")
        shift = " + b" if norm.bias else ""
        return self._name("layer_norm", f"(y - mean(y)) / sqrt(var(y) + {norm.layer_norm_epsilon:g}) * w{shift}")

    def _cap(self, limit: float) -> str:
        return self._name("cap", f"{limit:g} * tanh(y / {limit:g})")

    def _masked(self, heads: AttentionConfig, scores: str) -> str:
        if not heads.is_causal:
            return scores
        if heads.sliding_window is None:
            return f"{self._name('causal', 's where j <= i, else -inf')}({scores})"
        seen = f"i - j < {heads.sliding_window:,}"
        if heads.num_sink_tokens:
            seen = f"({seen} or j < {heads.num_sink_tokens:,})"
        return f"{self._name('window', f's where j <= i and {seen}, else -inf')}({scores})"

    def _rotation(self, rotary: RotaryConfig, head_dim: int) -> str:
        size, theta = rotary.rotary_dim(head_dim), rotary.rope_theta
        part = "" if size == head_dim else f"in the first {size} values "
        angle, more = f"i * {theta:,.10g}^(-2n/{size})", ""
        scaling = rotary.scaling
        if isinstance(scaling, LinearScaling):
            angle = f"i / {scaling.factor:g} * {theta:,.10g}^(-2n/{size})"
        elif isinstance(scaling, DynamicScaling):
            trained = scaling.original_max_position_embeddings
            more = f", the base growing past {trained:,} tokens (NTK, factor {scaling.factor:g})"
        elif isinstance(scaling, Llama3Scaling):
            trained = scaling.original_max_position_embeddings
            more = f", slow pairs {scaling.factor:g} times slower (Llama 3, trained on {trained:,} tokens)"
        elif isinstance(scaling, YarnScaling):
            trained = scaling.original_max_position_embeddings
            longer = f"0.1 ln({scaling.factor:g}) + 1"
            times = longer if scaling.attention_factor is None else f"{scaling.attention_factor:g}"
            more = f", slow pairs {scaling.factor:g} times slower (YaRN, trained on {trained:,} tokens); times {times}"
        return self._name("rotate", f"{part}pairs y[n], y[n + {size // 2}] turned by {angle}{more}")
