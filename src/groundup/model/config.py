"""A model as data: frozen, validated configs with a `kind`, from which `build` makes the modules.

Only pydantic is imported here, so that a verb's `--help` can read the fields without loading torch. Field names are
those of Hugging Face's `config.json`. A new part is a new config class in one of the unions below and one line in the
builder table of `model/parts/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from groundup.core.config import Config
from groundup.core.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0)]
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


Norm = Annotated[LayerNormConfig | RMSNormConfig, Field(discriminator="kind")]


class RotaryConfig(Config):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

    kind: Literal["rotary"] = "rotary"
    rope_theta: Positive = Field(default=10_000.0, description="base of the wavelengths")


class LearnedPositionsConfig(Config):
    """One learned vector for each position up to max_position_embeddings, added to the embedding (GPT-2)."""

    kind: Literal["learned"] = "learned"


class HeadsConfig(Config):
    """What self-attention and cross-attention share; key-value heads are shared by groups of query heads."""

    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    qk_norm: Norm | None = Field(default=None, description="normalise each query and key head (Qwen 3)")
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

    @model_validator(mode="after")
    def _check_rotary(self) -> AttentionConfig:
        if self.rotary is not None and self.head_dim % 2:
            raise ConfigError(
                f"head_dim ({self.head_dim}) must be even, since rotary turns pairs of values: "
                f"use {self.head_dim - 1 or 2} or {self.head_dim + 1}"
            )
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

    `pre` normalises what a branch reads (GPT-2 and later), `post` the sum after it (Vaswani et al. 2017).
    """

    mixer: Mixer
    mlp: MLP
    norm: Norm
    placement: Literal["pre", "post"] = "pre"
    cross_attention: CrossAttentionConfig | None = Field(default=None, description="stands between mixer and MLP")


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


def divisors(number: int) -> list[int]:
    """All divisors of a positive number, ascending."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]


def _one_of(numbers: list[int]) -> str:
    texts = [str(number) for number in numbers]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
