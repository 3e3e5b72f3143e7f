"""The settings of the speedrun and its stages. Only pydantic is imported, so that help texts stay fast."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from groundup.core.config import Config
from groundup.core.errors import ConfigError
from groundup.train.config import TrainConfig

#: The schools of tokenizers that can be trained.
TokenizerKind = Literal["bpe", "char", "word", "wordpiece", "sentencepiece", "unigram"]


class CorpusSettings(Config):
    """Where the text comes from and how it is split."""

    source: str = Field("python-docs", description="python-docs, shakespeare, or a file or folder of your own text")
    text_key: str = Field("text", description="column of a .jsonl file that holds the text")
    validation_fraction: float = Field(0.04, gt=0, lt=0.5, description="share of the text to watch while training")
    test_fraction: float = Field(0.08, gt=0, lt=0.5, description="share of the text kept for the final numbers")


class TokenizerSettings(Config):
    """How text becomes token ids."""

    kind: TokenizerKind = Field(
        "bpe", description="byte-level BPE, one token for each character or word, or another school of subwords"
    )
    vocab_size: int = Field(4096, ge=260, le=200_000, description="token ids, special ones included (not char)")
    pattern: Literal["gpt2", "gpt4", "llama3"] = Field("llama3", description="which pieces may not be merged (bpe)")


class ModelSettings(Config):
    """Shape of the model; the names are those of config.json."""

    preset: Literal["gpt2", "llama3", "qwen3"] = Field("qwen3", description="family of the architecture")
    hidden_size: int = Field(256, ge=8, description="width of the residual stream")
    num_hidden_layers: int = Field(4, ge=1, description="layers")
    num_attention_heads: int = Field(4, ge=1, description="query heads")
    num_key_value_heads: int | None = Field(None, ge=1, description="key-value heads (default: as many; not gpt2)")
    head_dim: int | None = Field(None, ge=2, description="size of a head (default: hidden size / heads; not gpt2)")
    intermediate_size: int = Field(768, ge=8, description="width of the MLP")
    max_position_embeddings: int = Field(512, ge=16, description="longest sequence in tokens")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary wavelengths (not gpt2)")
    tie_word_embeddings: bool = Field(True, description="the output head is the token embedding")
    positions: Literal["learned", "none"] | None = Field(
        None, description="learned: a vector for each position; none: no such vectors (default: the preset's)"
    )
    layer: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="changes of the preset's layers, as tables: mixer, mlp, norm, placement (in a file of settings)",
    )

    @model_validator(mode="after")
    def _check_heads(self) -> ModelSettings:
        width, heads = self.hidden_size, self.num_attention_heads
        if self.head_dim is None and width % heads:
            below = max(count for count in range(1, heads) if width % count == 0)
            raise ConfigError(
                f"model.hidden_size ({width}) must be a multiple of model.num_attention_heads ({heads}): "
                f"use {below} heads, a width of {width - width % heads + heads}, or set model.head_dim"
            )
        return self


class ExecutionSettings(Config):
    """How the arithmetic runs; `auto` is settled by a short probe and then recorded in the checkpoints."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="type of the matrix products; auto: bfloat16 where a measurement finds it faster"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads (default: all this process may use)")
    micro_batch: int | None = Field(None, ge=1, description="sequences in one pass (default: chosen by the probe)")
    matmul: Literal["auto", "torch", "onednn"] = Field(
        "auto", description="library of float32 products on a CPU; auto: the one measured to be faster"
    )
    attention: Literal["auto", "fused", "stored"] = Field(
        "auto", description="attention of training on a CPU: torch's kernel, or blocks that store their pattern"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile of the step; auto: in runs over ten minutes that are measured to gain by it"
    )


class PretrainSettings(TrainConfig):
    """Training on the corpus."""

    context: int = Field(256, ge=8, description="tokens of one training window")
    batch_size: int = Field(16, ge=1, description="windows of one update")
    chat_share: float = Field(
        0.0, ge=0, lt=1, description="share of the windows that hold reading conversations instead of documents"
    )
    starting_values: Literal["induction", "normal"] = Field(
        "induction", description="induction plants the two heads that read back from the prompt (rotary, tied models)"
    )

    def train_config(self) -> TrainConfig:
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields})


class SftSettings(TrainConfig):
    """Tuning on conversations."""

    batch_size: int = Field(32, ge=1, description="conversations of one update")
    max_length: int | None = Field(
        320, ge=16, description="longest conversation in tokens; longer ones are left out, with a warning"
    )

    def train_config(self) -> TrainConfig:
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields})


class EvaluationSettings(Config):
    """What the final numbers are measured on."""

    questions_per_kind: int = Field(200, ge=10, description="scored questions of each kind, at most")
    context: int | None = Field(None, ge=8, description="tokens seen at once in held-out text")
    stride: int = Field(64, ge=1, description="tokens between the windows in which held-out text is read")


class SpeedrunSettings(Config):
    """Everything that a speedrun does, resolved."""

    seed: int = Field(0, ge=0, description="of everything random")
    depth: int = Field(4, ge=1, le=64, description="the one dial: layers, from which the rest follows")
    corpus: CorpusSettings = CorpusSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: ModelSettings = ModelSettings()
    pretrain: PretrainSettings = PretrainSettings()
    sft: SftSettings = SftSettings()
    execution: ExecutionSettings = ExecutionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
