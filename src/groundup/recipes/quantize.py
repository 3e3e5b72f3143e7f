"""Making a model small: its weights rounded to a block format, and what that costs, measured against the original."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundup.core import console
from groundup.core.errors import ModelError, UsageError
from groundup.core.files import check_writable, write_json
from groundup.data.readers import read_text
from groundup.evaluate.divergence import Divergence, measure_divergence
from groundup.inference.compiled import why_not_compiled
from groundup.inference.contracts import LanguageModel
from groundup.inference.generate import generate
from groundup.inference.sampling import Sampling
from groundup.model.directory import LoadedModel
from groundup.model.load import load_model
from groundup.model.ops.integers import IntegerFormat, integer_format
from groundup.model.sources import locate_model
from groundup.model.weights.gguf_mix import mix_named
from groundup.recipes.export import check_directory, check_gguf, export_directory, export_gguf
from groundup.recipes.loading import check_writes, open_model, open_speaker
from groundup.tokenizer.base import Tokenizer

WINDOW = 512
# Tokens decoded to time a model: long enough for a steady rate, short enough for a large model on two cores.
_DECODED, _WARM_UP = 48, 8
_WORST = 5


@dataclass(frozen=True, kw_only=True)
class QuantizeReport:
    """What rounding a model cost and brought.

    Attributes:
        type: the mix of block formats, or the format of whole numbers.
        source_bytes, bytes: of the original's weights on the disk and of the new ones.
        source_tokens_per_s, tokens_per_s: greedy decoding of one text, as each of them runs here.
        text: where the text for the divergence came from.
        divergence: of the new model, as it runs, from the original in float32.
        worst: name of a matrix -> the root mean square of what rounding changed over that of its values, the largest.
    """

    type: str
    source_bytes: int
    bytes: int
    source_tokens_per_s: float
    tokens_per_s: float
    text: str
    divergence: Divergence
    worst: dict[str, float]


def quantize_model(
    source: str,
    out: Path | None,
    *,
    type: str,
    text: Path | None = None,
    num_tokens: int = 2048,
    report: Path | None = None,
) -> QuantizeReport:
    """Write a quantised model, a GGUF file or a directory, and measure it.

    Args:
        source: what `load_model` takes.
        out: the file or directory; by default beside the model, named after it and the type.
        type: whole numbers (`integer_format`), which make a directory, or a mix of `export_gguf`.
        text: a text file to compare the distributions on; by default Python's reference manual, which comes with Python.
        num_tokens: of it, at most.
        report: a JSON file for the numbers.

    Raises:
        UsageError: for a model that writes no text, or a text of less than two tokens.
        ModelError: as `export_gguf` and `save_model_directory`.
    """
    rounded = _format(type)
    locate_model(source)
    check_writes(source, True)
    path = check_gguf(source, out, type=type) if rounded is None else check_directory(source, out, rounded=rounded)
    if report is not None:
        check_writable(report)
        if report.is_dir():
            raise UsageError(f"--report {report} is a folder: name a file")
    words = _reference_manual() if text is None else read_text(text)
    original = open_model(source)
    ids = _first_ids(original.tokenizer, words, num_tokens, text)
    if rounded is None:
        export_gguf(source, path, type=type, loaded=original)
    else:
        export_directory(source, path, rounded=rounded, loaded=original)
    speaker = open_speaker(path)
    with console.progress("compare with the original", len(ids), "tokens") as ticker:
        divergence = measure_divergence(
            original.model,
            speaker.model,
            ids,
            window=min(WINDOW, original.model.config.max_position_embeddings),
            on_progress=console.Running(ticker),
        )
    found = QuantizeReport(
        type=type.upper() if rounded is None else rounded.name,
        source_bytes=_stored_bytes(locate_model(source)),
        bytes=_stored_bytes(path),
        source_tokens_per_s=_decoding_rate(open_speaker(source).model, ids),
        tokens_per_s=_decoding_rate(speaker.model, ids),
        text=str(text) if text is not None else "Python's reference manual",
        divergence=divergence,
        worst=_worst_matrices(original, path),
    )
    _show(found, why_not_compiled(original.model.config))
    if report is not None:
        write_json(report, asdict(found))
    return found


def _format(type: str) -> IntegerFormat | None:
    """Whole numbers, or None for a mix of block formats; ModelError for a type that is neither."""
    rounded = integer_format(type)
    if rounded is None:
        try:
            mix_named(type)
        except ModelError as error:
            raise ModelError(f"{error}; int8 or int4-g32 make a model directory") from None
    return rounded


def _reference_manual() -> str:
    import pydoc_data.topics

    return "\n\n".join(pydoc_data.topics.topics.values())


def _first_ids(tokenizer: Tokenizer, words: str, count: int, text: Path | None) -> list[int]:
    # A token is seldom longer than sixteen characters, and encoding a whole book would take longer than comparing.
    ids = tokenizer.encode(words[: 16 * count])[:count]
    if len(ids) < 2:
        raise UsageError(
            f"{text or 'the text'} has {len(ids)} tokens: at least 2 are needed to predict one from another"
        )
    return ids


def _stored_bytes(path: Path) -> int:
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _decoding_rate(model: LanguageModel, ids: list[int]) -> float:
    """Tokens per second after a short prompt, the first few not counted."""
    longest = int(model.config.max_position_embeddings)
    prompt = ids[: max(1, min(32, longest - _DECODED - _WARM_UP))]
    times = []
    for _ in generate(model, prompt, Sampling(temperature=0.0, max_new_tokens=_DECODED + _WARM_UP)):
        times.append(time.perf_counter())
    counted = np.diff(times[min(_WARM_UP, len(times) // 2) :])
    return float(1 / np.median(counted)) if len(counted) else float("nan")


def _worst_matrices(original: LoadedModel, path: Path) -> dict[str, float]:
    """The matrices that rounding changed most, largest first."""
    rounded = load_model(path).model.state_dict()
    changes: dict[str, float] = {}
    for name, tensor in original.model.state_dict().items():
        if tensor.dim() == 2 and name in rounded:
            size = tensor.float().square().mean().sqrt()
            change = (rounded[name].float() - tensor.float()).square().mean().sqrt()
            changes[name.removesuffix(".weight")] = float(change / torch.clamp(size, min=1e-30))
    return dict(sorted(changes.items(), key=lambda item: -item[1])[:_WORST])


def _show(found: QuantizeReport, problem: str | None) -> None:
    d = found.divergence
    rows: list[list[Any]] = [
        ["size", console.format_bytes(found.source_bytes), console.format_bytes(found.bytes)],
        ["tokens per second", f"{found.source_tokens_per_s:.1f}", f"{found.tokens_per_s:.1f}"],
        ["perplexity", f"{d.reference_perplexity:.3f}", f"{d.perplexity:.3f}"],
        ["KL from the original, nats", "0", f"{d.kl:.4f} (99th percentile {d.kl_99:.4f})"],
        ["likeliest token equal", "100 %", f"{100 * d.top1:.1f} %"],
    ]
    console.table(["", "original", found.type], rows)
    runs = f"as torch runs it: {problem}" if problem else "as it runs, with activations rounded to eight bits"
    console.say(f"on {d.positions:,} predictions of {found.text}; the new model {runs}")
    console.say("changed most by rounding (root mean square of the change over that of the weights):")
    console.facts([[name, f"{100 * value:.2f} %"] for name, value in found.worst.items()])
