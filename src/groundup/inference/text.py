"""Generation as text: pieces that never hold half a character or a part of a stop string."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.core.errors import UsageError
from groundup.inference.contracts import FinishReason, LanguageModel, Step
from groundup.inference.generate import complete_batch, generate
from groundup.inference.sampling import Sampling
from groundup.inference.stops import StopScanner
from groundup.tokenizer.base import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class TextPiece:
    """A piece of generated text.

    Attributes:
        text: whole characters; empty only in a last piece.
        steps: the tokens that were generated since the piece before, also those whose text is still held back.
        finish_reason: set on the last piece only.
    """

    text: str
    steps: tuple[Step, ...]
    finish_reason: FinishReason | None = None


class TextAssembler:
    """Turns steps into text: decodes, leaves stop tokens and special tokens out, and looks for stop strings.

    Args:
        tokenizer: the model's.
        stops: stop strings.
        stop_ids: tokens whose text is never shown.
        continues: the text goes on from its prompt; False for an answer, a text of its own, which then does not begin
            with the blank that SentencePiece puts before a first word.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], stop_ids: Collection[int], *, continues: bool = True
    ) -> None:
        self.decoder = StreamDecoder(tokenizer, skip_special=True, continues=continues)
        self.scanner = StopScanner(stops)
        self.hidden_ids = frozenset(stop_ids)

    def push(self, step: Step) -> str:
        """Return the text that `step` completes (often empty)."""
        if step.token in self.hidden_ids:
            return ""
        return self.scanner.push(self.decoder.push(step.token))

    def finish(self) -> str:
        """Return what is left: a cut character as U+FFFD, and text that was held back for a stop string."""
        return self.scanner.push(self.decoder.finish()) + self.scanner.finish()

    @property
    def stopped(self) -> bool:
        return self.scanner.found is not None


def stream_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    cache: Any = None,
    prefill_chunk: int | None = None,
    num_top: int = 0,
    continues: bool = True,
) -> Iterator[TextPiece]:
    """Generate text piece by piece.

    Args:
        model, ids, stop_ids, cache, prefill_chunk, num_top: as in `groundup.inference.generate.generate`.
        tokenizer: the model's.
        sampling: settings; the first of its stop strings that occurs ends the text and is not part of it. One that is
            a special token's text counts as a stop token, since special tokens have no text here.
        continues: as in `TextAssembler`.

    Returns:
        an iterator of pieces; the last one, perhaps with no text, has the finish reason.

    Raises:
        UsageError: for a prompt the model cannot read, at the call.
    """
    stop_ids = with_special_stops(tokenizer, sampling.stop, stop_ids)
    steps = generate(
        model,
        ids,
        sampling.replace(stop=()),
        stop_ids=stop_ids,
        cache=cache,
        prefill_chunk=prefill_chunk,
        num_top=num_top,
    )
    return text_pieces(steps, TextAssembler(tokenizer, sampling.stop, stop_ids, continues=continues))


def with_special_stops(tokenizer: Tokenizer, stops: Sequence[str], stop_ids: Collection[int]) -> set[int]:
    """The stop ids, and the ids of those stop strings that are special tokens."""
    return set(stop_ids) | {tokenizer.special_tokens[stop] for stop in stops if stop in tokenizer.special_tokens}


def text_pieces(steps: Iterable[Step], assembler: TextAssembler) -> Iterator[TextPiece]:
    """Turn any stream of steps into pieces of text; stops taking steps when a stop string is complete."""
    waiting: list[Step] = []
    for step in steps:
        waiting.append(step)
        text = assembler.push(step)
        reason: FinishReason | None = step.finish_reason
        if assembler.stopped:
            reason = "stop_string"
        elif reason is not None:
            text += assembler.finish()
            # The very last characters can still complete a stop string.
            reason = "stop_string" if assembler.stopped else reason
        if text or reason is not None:
            yield TextPiece(text, tuple(waiting), reason)
            waiting = []
        if reason is not None:
            return


@dataclass(frozen=True)
class TextCompletion:
    """One finished text of a batch."""

    text: str
    steps: tuple[Step, ...]
    finish_reason: FinishReason


def complete_texts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    pad_id: int | None = None,
    seeds: Sequence[int] | None = None,
    continues: bool = True,
) -> list[TextCompletion]:
    """Generate the text of several prompts at once; each equals the joined pieces of `stream_text` alone.

    Args:
        pad_id: by default the tokenizer's pad id, or its end-of-text id where it has none.
        continues: as in `TextAssembler`.
        model, tokenizer, prompts, sampling, stop_ids, seeds: as in `generate_batch`, with stop strings.
    """
    if pad_id is None:
        pad_id = tokenizer.eos_id if tokenizer.pad_id is None else tokenizer.pad_id
        if pad_id is None:
            raise UsageError("the tokenizer has neither a pad nor an end-of-text id: pass pad_id (any id will do)")
    stop_ids = with_special_stops(tokenizer, sampling.stop, stop_ids)
    assemblers = [TextAssembler(tokenizer, sampling.stop, stop_ids, continues=continues) for _ in prompts]
    texts = [""] * len(prompts)

    def should_stop(row: int, step: Step) -> bool:
        texts[row] += assemblers[row].push(step)
        return assemblers[row].stopped

    completions = complete_batch(
        model,
        prompts,
        sampling.replace(stop=()),
        stop_ids=stop_ids,
        pad_id=pad_id,
        seeds=seeds,
        should_stop=should_stop,
    )
    results = []
    for text, completion, assembler in zip(texts, completions, assemblers, strict=True):
        if not assembler.stopped:
            text += assembler.finish()
        reason: FinishReason = "stop_string" if assembler.stopped else completion.finish_reason
        results.append(TextCompletion(text, completion.steps, reason))
    return results
