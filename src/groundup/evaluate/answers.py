"""Questions with one right answer: asked greedily, marked by exact match, every answer kept."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundup.core.errors import DataError, UsageError
from groundup.core.files import write_text
from groundup.evaluate.intervals import Interval, paired_bootstrap_accuracy, wilson
from groundup.inference.contracts import LanguageModel
from groundup.inference.sampling import Sampling
from groundup.inference.text import complete_texts
from groundup.tokenizer.base import Tokenizer, document_start_id
from groundup.tokenizer.chat import ChatTemplate, Message, encode_chat

ALL_KINDS = "all"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        id: unique in its set.
        messages: the conversation up to and with the user's question.
        prompt: the same as plain text that a model without a chat template completes.
        answer: the expected answer.
        alternatives: other wordings that are as right.
        kind: such as "recall" or "reading"; accuracy is given per kind.
        group: what resembles each other (the module): drawn together in intervals of differences.
    """

    id: str
    messages: tuple[Message, ...]
    prompt: str
    answer: str
    alternatives: tuple[str, ...] = ()
    kind: str
    group: str


@dataclass(frozen=True)
class Answer:
    """What was answered to one question, and whether it is right."""

    question: Question
    given: str
    is_right: bool
    finish_reason: str = ""


@dataclass(frozen=True)
class Accuracy:
    """Right answers of one kind; the interval is Wilson's and takes questions as independent."""

    kind: str
    num_right: int
    num_total: int
    interval: Interval


def normalize(text: str) -> str:
    """Reduce an answer to what is compared.

    Unicode NFC; runs of white space become one space, none at the ends; one full stop at the end goes, unless it is
    one of several ("..."); then one pair of enclosing backticks goes. Case, quotes and all other characters count,
    since `None` and `none` or `1` and `'1'` are different answers.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if re.search(r"(?<!\.)\.$", text):
        text = text[:-1].rstrip()
    match = re.fullmatch(r"`([^`]*)`", text)
    return match.group(1).strip() if match else text


def is_right(question: Question, given: str) -> bool:
    """True when the given answer equals the expected one, or an alternative, after `normalize`."""
    return normalize(given) in {normalize(wanted) for wanted in (question.answer, *question.alternatives)}


def mark(questions: Sequence[Question], given: Sequence[str], finish_reasons: Sequence[str] = ()) -> list[Answer]:
    """Mark answers that came from anywhere (a model, a baseline that copies a span, a person)."""
    if len(questions) != len(given):
        raise DataError(f"{len(given)} answers were given to {len(questions)} questions: need one each")
    reasons = finish_reasons or [""] * len(given)
    return [
        Answer(question, text, is_right(question, text), reason)
        for question, text, reason in zip(questions, given, reasons, strict=True)
    ]


def answer_questions(
    model: LanguageModel,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    template: ChatTemplate | None,
    stop_ids: Collection[int],
    stop: tuple[str, ...] = (),
    max_new_tokens: int = 128,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Ask a model all questions greedily, in batches of like length, and mark its answers.

    Args:
        template: the chat template that renders `messages`; None lets the model complete `prompt` (a base model).
        stop_ids: tokens that end an answer.
        stop: texts that end an answer, such as "\\n" for a base model.
        max_new_tokens: longest answer; a longer one is cut and marked as it is.
        batch_size: questions answered side by side; the answers do not depend on it.
        on_progress: called with the number of answered questions and the total.

    Returns:
        answers in the order of the questions. A question that leaves no room in the model's context is answered with
        nothing and the finish reason "context".
    """
    if batch_size < 1:
        raise UsageError(f"batch_size ({batch_size}) must be at least 1")
    prompts = [_prompt_ids(tokenizer, template, question) for question in questions]
    longest = int(model.config.max_position_embeddings)
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens, stop=stop)
    given, reasons = [""] * len(questions), ["context"] * len(questions)
    order = sorted(range(len(questions)), key=lambda index: -len(prompts[index]))
    fitting = [index for index in order if len(prompts[index]) <= longest]
    done = len(order) - len(fitting)
    for start in range(0, len(fitting), batch_size):
        rows = fitting[start : start + batch_size]
        texts = complete_texts(
            model,
            tokenizer,
            [prompts[index] for index in rows],
            sampling,
            stop_ids=stop_ids,
            continues=template is None,
        )
        for index, completion in zip(rows, texts, strict=True):
            given[index], reasons[index] = completion.text, completion.finish_reason
        done += len(rows)
        if on_progress is not None:
            on_progress(done, len(order))
    return mark(questions, given, reasons)


def accuracy_by_kind(answers: Sequence[Answer]) -> dict[str, Accuracy]:
    """Accuracy of every kind in order of first appearance, and of "all" where there is more than one."""
    kinds = list(dict.fromkeys(answer.question.kind for answer in answers))
    groups = {kind: [answer for answer in answers if answer.question.kind == kind] for kind in kinds}
    if len(kinds) > 1:
        groups[ALL_KINDS] = list(answers)
    result = {}
    for kind, members in groups.items():
        num_right = sum(answer.is_right for answer in members)
        result[kind] = Accuracy(kind, num_right, len(members), wilson(num_right, len(members)))
    return result


def compare_answers(first: Sequence[Answer], second: Sequence[Answer], *, seed: int = 0) -> dict[str, Interval]:
    """Difference in accuracy, first minus second, on the same questions: by kind, drawn group by group.

    Raises:
        DataError: when the two were not asked the same questions in the same order.
    """
    ids_a, ids_b = [a.question.id for a in first], [b.question.id for b in second]
    if ids_a != ids_b:
        raise DataError(f"the two were asked different questions ({len(ids_a)} and {len(ids_b)}): ask both the same")
    result = {}
    for kind in accuracy_by_kind(first):
        rows = [i for i, answer in enumerate(first) if kind == ALL_KINDS or answer.question.kind == kind]
        result[kind] = paired_bootstrap_accuracy(
            [first[i].is_right for i in rows],
            [second[i].is_right for i in rows],
            [first[i].question.group for i in rows],
            seed=seed,
        )
    return result


def write_transcript(path: Path, answers: Sequence[Answer]) -> None:
    """Write all answers, right and wrong, as JSON lines: question, expected, given, right."""
    lines = [
        json.dumps(
            {
                "id": answer.question.id,
                "kind": answer.question.kind,
                "group": answer.question.group,
                "messages": list(answer.question.messages),
                "expected": answer.question.answer,
                "alternatives": list(answer.question.alternatives),
                "given": answer.given,
                "right": answer.is_right,
                "finish_reason": answer.finish_reason,
            },
            ensure_ascii=False,
        )
        for answer in answers
    ]
    write_text(path, "".join(line + "\n" for line in lines))


def _prompt_ids(tokenizer: Tokenizer, template: ChatTemplate | None, question: Question) -> list[int]:
    if template is not None:
        return encode_chat(tokenizer, template, list(question.messages), add_generation_prompt=True).ids
    start = document_start_id(tokenizer)
    return ([] if start is None else [start]) + tokenizer.encode(question.prompt)
