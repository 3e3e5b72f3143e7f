"""The numbers of the report: held-out text against honest baselines, and answers before and after tuning."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core import console
from groundup.core.files import atomic_write, write_json
from groundup.core.seeds import random_for
from groundup.data.chat_examples import ChatExample, copy_baseline
from groundup.data.corpus import Corpus
from groundup.evaluate.answers import Answer, Question, answer_questions, mark
from groundup.evaluate.baselines import all_baselines
from groundup.evaluate.intervals import (
    Interval,
    bootstrap_ratio,
    paired_bootstrap_accuracy,
    paired_bootstrap_ratio,
    verdict,
    wilson,
)
from groundup.evaluate.language import bits_per_byte
from groundup.inference.sampling import Sampling
from groundup.inference.session import answer_stop_ids
from groundup.inference.text import stream_text
from groundup.model.directory import LoadedModel
from groundup.recipes.corpus import read_examples
from groundup.recipes.loading import open_model
from groundup.recipes.settings import EvaluationSettings
from groundup.tokenizer.base import Tokenizer, document_start_id
from groundup.tokenizer.chat import default_chat_template
from groundup.tokenizer.stats import tokenizer_statistics

COPY = "copy the most likely span"
TEMPERATURES = (0.0, 0.7, 1.0)
MAX_ANSWER_TOKENS = 64


def evaluate_language(corpus: Corpus, base: LoadedModel, settings: EvaluationSettings, *, seed: int) -> dict[str, Any]:
    """Bits per byte of the test split, with intervals over its groups, beside every baseline.

    The documents of a group are read one after the other, as training packs them; compressors get the whole text in
    one piece.

    Returns:
        what `eval/language.json` holds: test_bytes, documents, groups, methods, differences.
    """
    context = settings.context or trained_context(base)
    test, train = list(corpus.documents("test")), [document.text for document in corpus.documents("train")]
    texts, groups = [document.text for document in test], [document.group for document in test]
    with console.progress("eval: held-out text", sum(len(base.tokenizer.encode(t)) for t in texts), "tokens") as ticker:
        model = bits_per_byte(
            base.model,
            base.tokenizer,
            texts,
            groups=groups,
            context=context,
            stride=min(settings.stride, context),
            on_progress=console.Running(ticker),
        )
    with console.progress("eval: baselines", 8, "baselines") as ticker:
        baselines = all_baselines(
            train, texts, lambda t: base.tokenizer.encode_batch(t), base.tokenizer.vocab_size, groups=groups,
            on_progress=lambda done, total, name: ticker.advance(1, name),
        )  # fmt: skip
    unknown = unknown_bits(base.tokenizer, texts)
    model = dataclasses.replace(model, bits=model.bits + unknown)
    bits, num_bytes = _grouped(model.bits, groups), _grouped(model.num_bytes, groups)
    interval = bootstrap_ratio(bits, num_bytes, seed=seed)
    note = f"a group's documents in a row, {context} tokens at once"
    methods = [_method(f"groundup {role_of(base)}", "model", interval, note)]
    differences = []
    for baseline in baselines:
        if baseline.documents is not None:
            spelled = unknown if baseline.name.endswith("of tokens") else 0.0
            theirs = _grouped(baseline.documents.bits + spelled, groups)
            methods.append(_method(baseline.name, "baseline", bootstrap_ratio(theirs, num_bytes, seed=seed), ""))
            gap = paired_bootstrap_ratio(theirs, bits, num_bytes, seed=seed)
        elif baseline.pieces is not None:
            # What a group adds depends on the groups before it, so only the difference to the model has an interval.
            pieces, value = baseline.pieces, baseline.bits_per_byte
            methods.append(_method(baseline.name, "baseline", Interval(value, value, value), "whole text in one piece"))
            ours, size = (np.bincount(pieces.of_document, weights=a) for a in (model.bits, model.num_bytes))
            gap = paired_bootstrap_ratio(pieces.bits, ours, size, seed=seed)
        else:
            # One size for the whole text: its number is taken as exact.
            value = baseline.bits_per_byte
            methods.append(_method(baseline.name, "baseline", Interval(value, value, value), "whole text in one piece"))
            gap = Interval(value - interval.value, value - interval.high, value - interval.low)
        differences.append(_told(baseline.name, gap))
    return {
        "test_bytes": int(sum(len(text.encode()) for text in texts)),
        "documents": len(test),
        "groups": len(set(groups)),
        "methods": methods,
        "differences": differences,
    }


def unknown_bits(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.float64]:
    """What spelling out the characters that do not come back from the ids would cost in each text.

    A character tokenizer does not know some of them, word-level and WordPiece tokenizers lose words and line ends: each lost
    character is charged as one of all Unicode scalar values. A byte-level tokenizer loses nothing, and its texts cost 0. Characters
    are counted and their places are not, so blanks that decoding puts beside signs make up for lost ones: it is a lower bound.
    """
    lost = []
    for text in texts:
        # The unknown token has no text of its own: the letters of its name are none that came back.
        decoded = tokenizer.decode([id for id in tokenizer.encode(text) if id != tokenizer.unknown_id])
        lost.append(0 if decoded == text else (Counter(text) - Counter(decoded)).total())
    return np.array(lost, dtype=np.float64) * math.log2(0x110000 - 0x800)


def trained_context(model: LoadedModel) -> int:
    """The window that a model was trained on, as far as its lineage says; else all the places it has."""
    longest = model.model.config.max_position_embeddings
    return min(longest, int(model.lineage.get("context") or longest))


def role_of(model: LoadedModel) -> str:
    """`chat` for a model that was tuned, `base` for any other."""
    return "chat" if model.lineage.get("stage") == "sft" else "base"


def evaluate_answers(
    examples: Sequence[ChatExample],
    tuning: Sequence[ChatExample],
    models: dict[str, LoadedModel],
    settings: EvaluationSettings,
    *,
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ask every model the held-out questions, beside copying the most likely span.

    Args:
        examples: held-out questions with their answers.
        tuning: the tuning examples, from which the span baseline takes its rules.
        models: name -> model, in the order they are compared; the last one is the tuned one.

    Returns:
        what `eval/answers.json` holds, and the rows of `eval/transcript.jsonl`.
    """
    chosen = _at_most(examples, settings.questions_per_kind, seed)
    questions = [_question(index, example) for index, example in enumerate(chosen)]
    answers = {name: _ask(name, model, questions) for name, model in models.items()}
    copied = mark(questions, copy_baseline(tuning, chosen))
    answers[COPY] = copied
    reading = [i for i, question in enumerate(questions) if question.kind.startswith("reading")]
    recall = [i for i, question in enumerate(questions) if question.kind.startswith("recall")]
    first, last = next(iter(models)), list(models)[-1]
    differences = []
    pairs = [
        ("reading: after tuning against copying a span", reading, last, COPY),
        ("reading: after tuning against before", reading, last, first),
        ("recall: after tuning against before", recall, last, first),
    ]
    for name, indices, a, b in pairs:
        if indices and a != b:
            differences.append(_accuracy_difference(name, answers[a], answers[b], indices, seed))
    kinds = sorted({question.kind for question in questions})
    scored_kinds = {kind: [i for i, q in enumerate(questions) if q.kind == kind] for kind in kinds}
    groups = {"reading": reading, "recall": recall}
    result = {
        "models": {
            name: {
                k: _share(given, rows) for k, rows in scored_kinds.items() if name != COPY or k.startswith("reading")
            }
            for name, given in answers.items()
        },
        "groups": {
            group: {n: _share(given, rows) for n, given in answers.items() if n != COPY or group == "reading"}
            for group, rows in groups.items()
            if rows
        },
        "differences": differences,
        "questions": {group: len(rows) for group, rows in groups.items()},
    }
    transcript = [
        {
            "id": question.id,
            "kind": question.kind,
            "group": question.group,
            "question": list(question.messages),
            "expected": question.answer,
            **{name: given[index].given for name, given in answers.items() if name != COPY},
            "copy": copied[index].given,
            "right": answers[last][index].is_right,
        }
        for index, question in enumerate(questions)
    ]
    return result, transcript


def samples(base: LoadedModel, corpus: Corpus, *, seed: int) -> list[dict[str, Any]]:
    """Continuations of the beginnings of held-out documents at several temperatures, unedited."""
    documents = list(corpus.documents("test"))
    random_for(seed, "samples").shuffle(documents)
    rows = []
    for document in documents[:2]:
        beginning = document.text[:60]
        prompt = beginning.rsplit(" ", 1)[0] or beginning
        start = document_start_id(base.tokenizer)
        ids = [*([] if start is None else [start]), *base.tokenizer.encode(prompt)]
        for temperature in TEMPERATURES:
            sampling = Sampling(temperature=temperature, max_new_tokens=80, seed=seed)
            stops = [] if base.tokenizer.eos_id is None else [base.tokenizer.eos_id]
            pieces = stream_text(base.model, base.tokenizer, ids, sampling, stop_ids=stops)
            text = "".join(piece.text for piece in pieces)
            rows.append({"prompt": prompt, "temperature": temperature, "text": text, "model": "base"})
    return rows


def evaluate_run(
    corpus: Corpus,
    base_folder: Path | str,
    chat_folder: Path | str | None,
    settings: EvaluationSettings,
    out: Path,
    *,
    seed: int,
) -> list[Path]:
    """Measure a base model and its tuned form, and write the files that the report reads.

    Returns:
        the files written into `out`.
    """
    base = open_model(base_folder)
    models = {role_of(base): base}
    if chat_folder is not None:
        models["chat"] = open_model(chat_folder)
    written: dict[str, Any] = {
        "tokenizer.json": describe_tokenizer(base.tokenizer, corpus),
        "language.json": evaluate_language(corpus, base, settings, seed=seed),
    }
    answers, transcript = evaluate_answers(
        [e for e in read_examples(corpus.folder, "test") if e.kind != "repeat"],
        read_examples(corpus.folder, "train"),
        models,
        settings,
        seed=seed,
    )
    written["answers.json"] = answers
    written["samples.json"] = samples(base, corpus, seed=seed)
    for name, value in written.items():
        write_json(out / name, value)
    with atomic_write(out / "transcript.jsonl") as file:
        for row in transcript:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return [*(out / name for name in written), out / "transcript.jsonl"]


def describe_tokenizer(tokenizer: Tokenizer, corpus: Corpus) -> dict[str, Any]:
    """What `eval/tokenizer.json` holds: compression on training and held-out text, and the use of the vocabulary."""
    train = tokenizer_statistics(tokenizer, [d.text for d in corpus.documents("train")])
    test = tokenizer_statistics(tokenizer, [d.text for d in corpus.documents("test")])
    return {
        "vocab_size": tokenizer.vocab_size,
        "kind": type(tokenizer).__name__,
        "bytes_per_token": {"train": train.bytes_per_token, "test": test.bytes_per_token},
        "tokens_per_word": {"train": train.tokens_per_word, "test": test.tokens_per_word},
        "used_share": train.vocabulary_used,
        "longest": list(train.longest_tokens),
    }


def _grouped(values: Any, groups: Sequence[str]) -> list[float]:
    """Sums of the values by group, in the order of first appearance: documents of a module are not independent."""
    sums: dict[str, float] = {}
    for group, value in zip(groups, values, strict=True):
        sums[group] = sums.get(group, 0.0) + float(value)
    return list(sums.values())


def _method(name: str, kind: str, interval: Interval, note: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "bits_per_byte": interval.value,
        **_borders(interval),
        "note": note,
    }


def _at_most(examples: Sequence[ChatExample], limit: int, seed: int) -> list[ChatExample]:
    """At most `limit` examples of each kind, chosen at random."""
    by_kind: dict[str, list[ChatExample]] = {}
    for example in examples:
        by_kind.setdefault(example.kind, []).append(example)
    chosen = []
    for kind in sorted(by_kind):
        members = by_kind[kind]
        random_for(seed, "questions", kind).shuffle(members)
        chosen += members[:limit]
    return chosen


def _question(index: int, example: ChatExample) -> Question:
    return Question(
        id=f"{example.kind}:{index}",
        messages=tuple(example.messages[:-1]),
        prompt=example.messages[-2]["content"] + "\n",
        answer=example.answer,
        kind=example.kind,
        group=example.group,
    )


def _ask(name: str, model: LoadedModel, questions: Sequence[Question]) -> list[Answer]:
    template = model.chat_template or default_chat_template(model.tokenizer)
    with console.progress(f"eval: questions to {name}", len(questions), "questions") as ticker:
        return answer_questions(
            model.model,
            model.tokenizer,
            questions,
            template=template,
            stop_ids=answer_stop_ids(model.tokenizer, template, model.generation),
            max_new_tokens=MAX_ANSWER_TOKENS,
            batch_size=32,
            on_progress=console.Running(ticker),
        )


def _share(answers: Sequence[Answer], rows: Sequence[int]) -> dict[str, Any]:
    right = sum(answers[row].is_right for row in rows)
    interval = wilson(right, len(rows))
    return {
        "correct": right,
        "total": len(rows),
        "accuracy": interval.value,
        "low": interval.low,
        "high": interval.high,
    }


def _accuracy_difference(
    name: str, a: Sequence[Answer], b: Sequence[Answer], rows: Sequence[int], seed: int
) -> dict[str, Any]:
    interval = paired_bootstrap_accuracy(
        [a[row].is_right for row in rows],
        [b[row].is_right for row in rows],
        [a[row].question.group for row in rows],
        seed=seed,
    )
    return _told(name, interval)


def _borders(interval: Interval) -> dict[str, float | None]:
    """The borders for JSON, which has no infinity: none where a single group gives no interval."""
    return {
        "low": interval.low if math.isfinite(interval.low) else None,
        "high": interval.high if math.isfinite(interval.high) else None,
    }


def _told(name: str, interval: Interval) -> dict[str, Any]:
    return {
        "name": name,
        "difference": interval.value,
        **_borders(interval),
        "verdict": verdict(interval.value, interval.low, interval.high),
    }
