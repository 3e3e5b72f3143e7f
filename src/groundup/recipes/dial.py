"""The one dial: from a depth and the size of the corpus to every other setting.

The constants were chosen by the runs in docs/experiments.md; each can be overridden. Imports no torch.
"""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from groundup.core.config import Config, merge
from groundup.core.errors import ConfigError, suggest
from groundup.recipes.settings import SpeedrunSettings

# Heads of 64, three for every four layers: at 2 MB of text, 192 wide beats 256 in the same time (docs/experiments.md).
HEAD_DIM = 64
HEADS_PER_LAYER = 0.75
# The reading of one's own prompt needs two layers of attention (Olsson et al. 2022, arXiv:2209.11895).
MIN_LAYERS = 2
# Text seen per update: small models want many small updates. Muon's share of an update's operations grows with the width
# over the tokens (docs/concepts/muon.md), so that wider models than this get larger ones.
TOKENS_PER_UPDATE, WIDTH_OF_UPDATE = 2048, 192
# Passes over a small corpus: with Muon and this weight decay the held-out loss rises again in the sixth
# (docs/experiments.md); Muennighoff et al. 2023, arXiv:2305.16264, find up to 4 as good as new text.
MAX_EPOCHS = 5.2
# Chinchilla's 20 tokens a parameter (Hoffmann et al. 2022, arXiv:2203.15556) where the corpus is large enough.
TOKENS_PER_PARAMETER = 20
# GPT-2 has 65 tokens for each unit of its width, Llama 3 8B 31, and a small model has less to spare for rare words.
TOKENS_PER_WIDTH = 32
CHAT_SHARE = 0.25
# Muon learns more from an update than AdamW; on updates of 2,048 tokens three of its iterations cost a tenth of the time,
# five a fifth, and learn no more (docs/experiments.md).
MUON = {"muon_momentum": 0.9, "muon_iterations": 3}
MATRIX_RATE = 2.0
# Five times the usual: with several passes over little text it lowers the held-out loss (docs/experiments.md);
# "Pre-training under infinite compute" (Kim et al. 2025) reports the same at scale.
WEIGHT_DECAY = 0.5
BYTES_PER_TOKEN = 3.3


def settings_for(depth: int, text_bytes: int, overrides: dict[str, Any] | None = None) -> SpeedrunSettings:
    """Turn the dial.

    Args:
        depth: layers, 1 to 64.
        text_bytes: training text in UTF-8 bytes.
        overrides: nested values that replace the dial's, such as `{"pretrain": {"learning_rate": 1e-3}}`.

    Returns:
        the resolved settings.

    Raises:
        ConfigError: for a depth out of range, an unknown key, or values that contradict each other.
    """
    if not 1 <= depth <= 64:
        raise ConfigError(f"depth ({depth}) must lie between 1 and 64")
    overrides = copy.deepcopy(overrides or {})
    check_overrides(overrides)
    hidden, heads = _width_and_heads(depth, overrides.get("model", {}))
    vocabulary = vocabulary_for(text_bytes, hidden)
    tokenizer = merge({"kind": "bpe", "vocab_size": vocabulary}, overrides.get("tokenizer", {}))
    chars = tokenizer["kind"] == "char"
    model = merge(
        {
            "preset": "qwen3",
            "hidden_size": hidden,
            "num_hidden_layers": max(depth, MIN_LAYERS),
            "num_attention_heads": heads,
            "intermediate_size": 3 * hidden,
            "max_position_embeddings": 512 if depth <= 8 else 1024,
        },
        overrides.get("model", {}),
    )
    context = 256 if depth <= 8 else 512
    corpus_tokens = text_bytes / (1.0 if chars else BYTES_PER_TOKEN)
    parameters = approximate_parameters(model, tokenizer["vocab_size"])
    tokens = min(MAX_EPOCHS * corpus_tokens, TOKENS_PER_PARAMETER * parameters) / (1 - CHAT_SHARE)
    # muP's rule for AdamW: the rate of the matrices falls with the width (Yang et al. 2022, arXiv:2203.03466). Muon's updates
    # are as large as AdamW's, so that it holds for them too.
    learning_rate = 4e-3 * min(1.0, (192 / hidden)) ** 0.5
    rows = max(1, round(TOKENS_PER_UPDATE * max(1.0, hidden / WIDTH_OF_UPDATE) / context))
    steps = max(50, round(tokens / (rows * context)))
    base: dict[str, Any] = {
        "depth": depth,
        "tokenizer": tokenizer,
        "model": model,
        "pretrain": {
            "context": context,
            "batch_size": rows,
            "chat_share": CHAT_SHARE,
            "num_steps": steps,
            "optimizer": "muon",
            "learning_rate": round(learning_rate, 6),
            "min_learning_rate_ratio": 0.05,
            "schedule": "cosine",
            "weight_decay": WEIGHT_DECAY,
        },
        "sft": {"num_steps": 600, "learning_rate": round(learning_rate / 2, 6), "min_learning_rate_ratio": 0.0},
    }
    merged = merge(base, overrides)
    if merged["pretrain"]["optimizer"] == "muon":
        rate = MATRIX_RATE * merged["pretrain"]["learning_rate"]
        merged["pretrain"] = {"matrix_learning_rate": rate, **MUON, **merged["pretrain"]}
    # Places beyond the training window were never seen; text is read in windows of its size.
    merged["evaluation"] = {"context": merged["pretrain"]["context"], **merged.get("evaluation", {})}
    for stage, every in (("pretrain", 8), ("sft", 4)):
        values = merged[stage]
        steps = values["num_steps"]
        values.setdefault("warmup_steps", min(100, steps // 20))
        values.setdefault("evaluate_every", max(1, math.ceil(steps / every)))
        values.setdefault("checkpoint_every", max(1, min(250, steps // 4)))
    return SpeedrunSettings(**merged)


def check_overrides(overrides: dict[str, Any]) -> None:
    """Check the type and range of each given value on its own, before anything is computed from it.

    Raises:
        ConfigError: naming the setting and the value.
    """
    for name, value in overrides.items():
        field = SpeedrunSettings.model_fields.get(name)
        if field is None:
            raise ConfigError(
                f"SpeedrunSettings has no field {name!r}{suggest(name, tuple(SpeedrunSettings.model_fields))}"
            )
        if name == "depth" and isinstance(value, int):
            continue  # its range is the dial's, and said there
        table = field.annotation
        if not (isinstance(table, type) and issubclass(table, Config)):
            _check_value(name, field, value)
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is a table of settings, not {value!r}")
        for key, inner in value.items():
            if key not in table.model_fields:
                raise ConfigError(f"{name} has no field {key!r}{suggest(str(key), tuple(table.model_fields))}")
            _check_value(f"{name}.{key}", table.model_fields[key], inner)


def _check_value(name: str, field: FieldInfo, value: Any) -> None:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
        adapter.validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{name}: {error.errors()[0]['msg']} (got {value!r})") from None


def _width_and_heads(depth: int, given: dict[str, Any]) -> tuple[int, int]:
    """Width and heads by the depth; where the user gave one of the two, the other follows it."""
    if "hidden_size" in given:
        width = int(given["hidden_size"])
        wanted = min(width, given.get("num_attention_heads", max(1, round(width / HEAD_DIM))))
        # Heads divide the width into parts of even size, since rotary turns pairs.
        fitting = [count for count in range(wanted, 0, -1) if width % (2 * count) == 0]
        return width, fitting[0] if fitting else 1
    heads = int(given.get("num_attention_heads", max(2, round(HEADS_PER_LAYER * depth))))
    return HEAD_DIM * heads, heads


def vocabulary_for(text_bytes: int, hidden_size: int | None = None) -> int:
    """A power of two that gives each token some hundred occurrences: 2,048 for 2 MB, 512 to 32,768 at the ends.

    Args:
        text_bytes: of the training text.
        hidden_size: width of the model, which holds the vocabulary to about TOKENS_PER_WIDTH times itself: 100 MB of
            text and a model 128 wide would otherwise put nine tenths of the parameters into the embedding.
    """
    exponent = min(15, max(9, round(math.log2(max(text_bytes, 1) / 1024))))
    if hidden_size is not None:
        exponent = min(exponent, max(9, round(math.log2(TOKENS_PER_WIDTH * hidden_size))))
    return int(2**exponent)


def approximate_parameters(model: dict[str, Any], vocab_size: int) -> int:
    """Parameters of a shape with tied embeddings: 4 D^2 for attention and 3 D F for a gated MLP in each layer."""
    hidden, layers = model["hidden_size"], model["num_hidden_layers"]
    return int(vocab_size * hidden + layers * (4 * hidden**2 + 3 * hidden * model["intermediate_size"]))


def smallest_corpus_bytes(settings: SpeedrunSettings) -> tuple[int, str]:
    """Text below which a run of these settings cannot work at all, and what would lower it.

    Each split must hold a few windows, and a BPE vocabulary needs text to be learned from.
    """
    per_token = 1.0 if settings.tokenizer.kind == "char" else 2.5
    held_out = min(settings.corpus.validation_fraction, settings.corpus.test_fraction)
    windows = 4 * settings.pretrain.context * per_token / held_out / 4
    vocabulary = 20 * settings.tokenizer.vocab_size if settings.tokenizer.kind != "char" else 2_000
    if windows >= vocabulary:
        return int(windows), "set a smaller --pretrain.context"
    return int(vocabulary), "set a smaller --tokenizer.vocab-size"
