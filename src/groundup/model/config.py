"""A model as data: frozen, validated configs with a `kind`, from which `build` makes the modules.

Only pydantic is imported here, so that a verb's `--help` can read the fields without loading torch. Field names are
those of Hugging Face's `config.json`. A new part is a new config class in one of the unions below and one line in the
builder table of `model/parts/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from groundup.core.config import Config
from groundup.core.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0)]
MAX_LAYERS = 10_000  # published models have some hundred; a file that says more would fill the memory with layers
Activation = Literal["gelu_new", "gelu", "relu", "relu2", "silu"]


class LayerNormConfig(Config):
    """Layer normalisation (Ba et al. 2016, arXiv:1607.06450)."""

    kind: Literal["layer_norm"] = "layer_norm"
    layer_norm_epsilon: Positive = 1e-5
    bias: bool = Field(default=True, description="add a learned shift")


class RMSNormConfig(Config):
    """Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    kind: Literal["rms_norm"] = "rms_norm"
    rms_norm_eps: Positive = 1e-6
    unit_offset: bool = Field(default=False, description="multiply by 1 + weight, the weight starting at 0 (Gemma)")


Norm = Annotated[LayerNormConfig | RMSNormConfig, Field(discriminator="kind")]


Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class LinearScaling(Config):
    """Position interpolation: all angles divided by `factor` (Chen et al. 2023, arXiv:2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: Factor


class DynamicScaling(Config):
    """NTK-aware scaling: past the trained length the base grows with the text (bloc97 and emozilla 2023).

    A text within `original_max_position_embeddings` is read as if there were no scaling. Keys in a cache keep the
    angles of the time when they came in, as in transformers.
    """

    kind: Literal["dynamic"] = "dynamic"
    factor: Factor
    original_max_position_embeddings: Count = Field(description="length the model was trained with")


class YarnScaling(Config):
    """YaRN: slow pairs are interpolated, fast ones kept, a ramp between (Peng et al. 2023, arXiv:2309.00071)."""

    kind: Literal["yarn"] = "yarn"
    factor: Factor
    original_max_position_embeddings: Count = Field(description="length the model was trained with")
    beta_fast: Positive = Field(default=32.0, description="pairs with more turns than this in a text are kept")
    beta_slow: Positive = Field(default=1.0, description="pairs with fewer turns than this are interpolated")
    attention_factor: Positive | None = Field(
        default=None, description="factor of queries and keys; 0.1 ln(factor) + 1 where not given (eq. 22)"
    )
    truncate: bool = Field(default=True, description="round the ends of the ramp outwards to whole pairs")


class Llama3Scaling(Config):
    """Llama 3.1's: long wavelengths divided by `factor`, short ones kept (Grattafiori et al. 2024, arXiv:2407.21783)."""

    kind: Literal["llama3"] = "llama3"
    factor: Factor
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Count = Field(description="length the model was trained with")

    @model_validator(mode="after")
    def _check_order(self) -> Llama3Scaling:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError(
                f"low_freq_factor ({self.low_freq_factor}) must be below high_freq_factor ({self.high_freq_factor})"
            )
        return self


RotaryScaling = Annotated[LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling, Field(discriminator="kind")]


class RotaryConfig(Config):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

    kind: Literal["rotary"] = "rotary"
    rope_theta: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        default=10_000.0, description="base of the wavelengths"
    )
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="share of each head that is turned, from its beginning (GPT-NeoX, Phi)"
    )
    scaling: RotaryScaling | None = Field(default=None, description="how texts past the trained length are read")

    def rotary_dim(self, head_dim: int) -> int:
        """Values of a head that are turned."""
        return int(head_dim * self.partial_rotary_factor)


class LearnedPositionsConfig(Config):
    """One learned vector for each position up to max_position_embeddings, added to the embedding (GPT-2)."""

    kind: Literal["learned"] = "learned"


class HeadsConfig(Config):
    """What self-attention and cross-attention share; key-value heads are shared by groups of query heads."""

    num_attention_heads: Annotated[int, Field(ge=1, le=65536)]
    num_key_value_heads: Count
    head_dim: Count
    qk_norm: Norm | None = Field(default=None, description="normalise queries and keys (Qwen 3, Gemma 3, OLMo 2)")
    qk_norm_scope: Literal["head", "all"] = Field(
        default="head", description="each head by itself (Qwen 3), or all heads of a token as one vector (OLMo 2)"
    )
    qkv_bias: bool = False
    output_bias: bool = False

    @model_validator(mode="after")
    def _check_groups(self) -> HeadsConfig:
        heads, key_value_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % key_value_heads:
            raise ConfigError(
                f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({key_value_heads}): "
                f"use {_one_of(divisors(heads))}"
            )
        return self


class AttentionConfig(HeadsConfig):
    """Multi-head or grouped-query self-attention (Vaswani et al. 2017; Ainslie et al. 2023, arXiv:2305.13245)."""

    kind: Literal["attention"] = "attention"
    rotary: RotaryConfig | None = None
    is_causal: bool = Field(default=True, description="a token sees itself and what came before it")
    sliding_window: Count | None = Field(
        default=None, description="a token sees itself and the sliding_window - 1 before it (Mistral, Gemma)"
    )
    num_sink_tokens: Annotated[int, Field(ge=0)] = Field(
        default=0, description="first tokens of a text that stay visible beyond the window (StreamingLLM)"
    )
    sink_logits: bool = Field(
        default=False, description="one learned score for each head that takes a share of the softmax (gpt-oss)"
    )
    query_pre_attn_scalar: Positive | None = Field(
        default=None, description="scores are divided by its root; head_dim where not given (Gemma)"
    )
    attn_logit_softcapping: Positive | None = Field(
        default=None, description="scores are bent to stay below this: c tanh(score / c) (Gemma 2)"
    )

    @model_validator(mode="after")
    def _check_rotary(self) -> AttentionConfig:
        if self.rotary is not None and self.head_dim % 2:
            raise ConfigError(
                f"head_dim ({self.head_dim}) must be even, since rotary turns pairs of values: "
                f"use {self.head_dim - 1 or 2} or {self.head_dim + 1}"
            )
        turned = 2 if self.rotary is None else self.rotary.rotary_dim(self.head_dim)
        if turned % 2 or turned == 0:
            raise ConfigError(
                f"partial_rotary_factor ({self.rotary and self.rotary.partial_rotary_factor}) of head_dim "
                f"({self.head_dim}) turns {turned} values, and pairs are turned: use a factor that gives an even number"
            )
        if turned == 2 and self.rotary is not None and isinstance(self.rotary.scaling, DynamicScaling):
            raise ConfigError(
                "dynamic scaling divides by the turned values less two: turn at least 4 of a head's values"
            )
        if self.sliding_window is None and self.num_sink_tokens:
            raise ConfigError(
                f"num_sink_tokens ({self.num_sink_tokens}) needs a sliding_window: without one all is seen"
            )
        if self.sliding_window is not None and not self.is_causal:
            raise ConfigError(f"sliding_window ({self.sliding_window}) needs is_causal: it reaches back only")
        return self


class CrossAttentionConfig(HeadsConfig):
    """Attention whose keys and values come from `memory` (an encoder's output); every token sees all of it."""

    kind: Literal["cross_attention"] = "cross_attention"
    memory_size: Count | None = Field(default=None, description="width of the memory; hidden_size where not given")


class FilePartConfig(Config):
    """A mixer of one's own, read from a Python file; only with trust_code, and checked for conformance first."""

    kind: Literal["file"] = "file"
    path: str = Field(description="the Python file; in a model directory, relative to it")
    name: str = Field(description="the class in it: NAME(hidden_size, **options)")
    options: dict[str, JsonValue] = Field(default_factory=dict)


Mixer = Annotated[AttentionConfig | FilePartConfig, Field(discriminator="kind")]


class DenseMLPConfig(Config):
    """Two linear maps with an activation between them."""

    kind: Literal["dense"] = "dense"
    intermediate_size: Count
    activation: Activation = "gelu_new"
    bias: bool = True


class GatedMLPConfig(Config):
    """An MLP whose activated half gates the other (Shazeer 2020, arXiv:2002.05202)."""

    kind: Literal["gated"] = "gated"
    intermediate_size: Count
    activation: Activation = "silu"
    bias: bool = False


MLP = Annotated[DenseMLPConfig | GatedMLPConfig, Field(discriminator="kind")]


class LayerConfig(Config):
    """One layer: a mixer across tokens, then an MLP on each token, each with a norm and a residual connection.

    `pre` normalises what a branch reads (GPT-2 and later), `post` the sum after it (Vaswani et al. 2017, BERT),
    `output` what a branch adds (OLMo 2), `sandwich` what it reads and what it adds (Gemma 2).
    """

    mixer: Mixer
    mlp: MLP
    norm: Norm
    placement: Literal["pre", "post", "output", "sandwich"] = "pre"
    cross_attention: CrossAttentionConfig | None = Field(default=None, description="stands between mixer and MLP")


class PoolingConfig(Config):
    """How the vectors of a text become one (sentence encoders, Reimers and Gurevych 2019, arXiv:1908.10084)."""

    kind: Literal["mean", "cls", "last"] = Field(default="mean", description="mean, first token or last token")
    normalize: bool = Field(default=True, description="scale the result to length one")
    max_length: Count | None = Field(default=None, description="texts are cut to so many tokens (none: what fits)")


class TransformerConfig(Config):
    """A whole model: token embedding, positions, a stack of `(times, layer)`, final norm and output head.

    Raises:
        ConfigError: for an unknown key, a value out of its range, or two values that contradict each other.
    """

    vocab_size: Count = Field(description="number of token ids, special ones included")
    hidden_size: Count
    max_position_embeddings: Count = Field(description="longest sequence in tokens")
    stack: tuple[tuple[Count, LayerConfig], ...] = Field(min_length=1, description="(times, layer), bottom first")
    positions: LearnedPositionsConfig | None = None
    final_norm: Norm | None = None
    tie_word_embeddings: bool = Field(default=False, description="the output head is the token embedding")
    has_head: bool = Field(default=True, description="predicts tokens; an encoder of texts does not")
    embedding_multiplier: Positive | None = Field(default=None, description="factor of the token embedding (Gemma)")
    embedding_norm: Norm | None = Field(default=None, description="normalise the sum of the embeddings (BERT)")
    type_vocab_size: Annotated[int, Field(ge=0)] = Field(
        default=0, description="kinds of text, each with a vector; the first is added to every token (BERT)"
    )
    final_logit_softcapping: Positive | None = Field(
        default=None, description="logits are bent to stay below this: c tanh(logit / c) (Gemma 2)"
    )
    pooling: PoolingConfig | None = Field(default=None, description="one vector for a text")
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    pad_token_id: TokenId | None = None
    initializer_range: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.02, description="standard deviation at the start"
    )

    @model_validator(mode="after")
    def _check_ids(self) -> TransformerConfig:
        eos = self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)
        named = [("bos_token_id", self.bos_token_id), ("pad_token_id", self.pad_token_id)]
        for name, value in [*named, *(("eos_token_id", one) for one in eos)]:
            if value is not None and value >= self.vocab_size:
                raise ConfigError(
                    f"{name} ({value}) must be below vocab_size ({self.vocab_size}): "
                    f"use an id up to {self.vocab_size - 1} or none"
                )
        if self.tie_word_embeddings and not self.has_head:
            raise ConfigError("tie_word_embeddings says what the head is, and has_head is false: leave it out")
        return self

    @model_validator(mode="after")
    def _check_depth(self) -> TransformerConfig:
        check_depth(self.num_hidden_layers)
        return self

    @property
    def num_hidden_layers(self) -> int:
        return sum(times for times, _ in self.stack)

    def layers(self) -> list[LayerConfig]:
        """The config of every layer, bottom first."""
        return [layer for times, layer in self.stack for _ in range(times)]

    def eos_token_ids(self) -> tuple[int, ...]:
        """All ids that end a text, none to several."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    def with_layers(self, change: Callable[[LayerConfig], LayerConfig]) -> TransformerConfig:
        """Return a copy in which each stack entry's layer is `change(layer)`."""
        return self.model_copy(update={"stack": tuple((times, change(layer)) for times, layer in self.stack)})


def check_depth(num_hidden_layers: int) -> None:
    """Refuse a depth that no model has, before that many layers are made.

    Raises:
        ConfigError: above `MAX_LAYERS`.
    """
    if num_hidden_layers > MAX_LAYERS:
        raise ConfigError(f"num_hidden_layers is {num_hidden_layers}: at most {MAX_LAYERS} layers are taken")


def stack_of(layers: Sequence[LayerConfig]) -> tuple[tuple[int, LayerConfig], ...]:
    """Group layers, bottom first, into `(times, layer)`."""
    return tuple((len(list(same)), layer) for layer, same in groupby(layers))


def divisors(number: int) -> list[int]:
    """All divisors of a positive number, ascending."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]


def _one_of(numbers: list[int]) -> str:
    texts = [str(number) for number in numbers]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
