"""Chat data from text: answers stand where they are said to, nothing asked in scoring was asked in tuning."""

from __future__ import annotations

from collections import Counter

import pytest

from groundup.data.chat_examples import (
    HELD_OUT_WORDINGS,
    WORDINGS,
    ChatExample,
    ChatSets,
    copy_baseline,
    python_docs_examples,
    text_examples,
)
from groundup.data.document import Document
from groundup.data.python_docs import group_of, read_entries


@pytest.fixture(scope="module")
def sets() -> ChatSets:
    entries = read_entries()
    split_of: dict[str, str] = {}
    for entry in entries:
        group = group_of(entry.module)
        split_of[f"group:{entry.full_name}"] = group
        split_of[entry.full_name] = {"textwrap": "test", "json": "test", "queue": "validation"}.get(group, "train")
    return python_docs_examples(entries, split_of, seed=1)


def test_every_scored_kind_is_there(sets: ChatSets) -> None:
    kinds = Counter(example.kind for example in sets.test)
    assert set(kinds) == {
        "reading.default", "reading.next_parameter", "reading.quote", "reading.next_word",
        "recall.does", "recall.signature", "recall.module", "recall.refusal",
    }  # fmt: skip


def test_reading_answers_stand_in_the_prompt(sets: ChatSets) -> None:
    for example in [*sets.train, *sets.test]:
        if example.kind.startswith("reading"):
            prompt = " ".join(m["content"] for m in example.messages[:-1])
            assert example.span in prompt, example
            assert example.lead + example.span == example.answer == example.messages[-1]["content"]
            assert example.span in example.candidates


def test_reading_groups_of_the_splits_are_apart(sets: ChatSets) -> None:
    reading = {
        split: {e.group for e in getattr(sets, split) if e.kind.startswith("reading")}
        for split in ("train", "validation", "test")
    }
    assert reading["test"] == {"textwrap", "json"}
    assert not reading["train"] & (reading["test"] | reading["validation"])


def test_recall_asks_about_training_text_with_wordings_and_names_held_out(sets: ChatSets) -> None:
    asked = {split: set[str]() for split in ("train", "test")}
    for split, found in asked.items():
        for example in getattr(sets, split):
            if example.kind == "recall.signature":
                found.update(m["content"] for m in example.messages if m["role"] == "user")
    held_out = WORDINGS["recall.signature"][-HELD_OUT_WORDINGS:]
    beginnings = [wording.split("{x}")[0] for wording in held_out]
    assert asked["test"] and all(any(q.startswith(b) for b in beginnings) for q in asked["test"])
    names = {split: {q.rstrip("?.").split(" ")[-1] for q in questions} for split, questions in asked.items()}
    assert not names["test"] & names["train"]
    assert not any(e.group in ("textwrap", "json") for e in sets.test if e.kind.startswith("recall"))


def test_refusals_are_about_names_that_do_not_exist(sets: ChatSets) -> None:
    known = {entry.full_name for entry in read_entries()}
    for example in [*sets.train, *sets.test]:
        if example.kind == "recall.refusal":
            name = example.answer.removeprefix("I do not know ").removesuffix(".")
            assert name not in known


def test_there_are_several_turns_and_system_prompts(sets: ChatSets) -> None:
    assert any(len([m for m in e.messages if m["role"] == "user"]) > 1 for e in sets.train)
    assert any(e.messages[0]["role"] == "system" for e in sets.train)
    assert all(e.messages[-1]["role"] == "assistant" for e in sets.train)


def test_the_same_seed_gives_the_same_examples() -> None:
    documents = {split: [_document(split, i) for i in range(20)] for split in ("train", "validation", "test")}
    assert text_examples(documents, seed=3) == text_examples(documents, seed=3)
    assert text_examples(documents, seed=3) != text_examples(documents, seed=4)


def test_any_prose_gives_reading_and_recall() -> None:
    documents = {split: [_document(split, i) for i in range(40)] for split in ("train", "validation", "test")}
    made = text_examples(documents, seed=0)
    assert {"reading.next_word", "reading.quote", "repeat", "recall.continue"} <= {e.kind for e in made.train}
    assert {"reading.next_word", "reading.quote", "recall.continue"} <= {e.kind for e in made.test}


def test_the_span_baseline_takes_the_best_rule_of_tuning() -> None:
    def example(kind: str, answer: str, *candidates: str) -> ChatExample:
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x=" + answer}]
        return ChatExample(
            messages=messages, kind=kind, group="g", answer="x=" + answer, lead="x=", candidates=candidates
        )

    # Frequency would choose the first span of both; only the rule "last" is right twice.
    train = [example("reading.a", "c", "a", "b", "c"), example("reading.a", "a", "c", "b", "a")]
    test = [example("reading.a", "q", "o", "p", "q"), ChatExample(messages=[], kind="recall.b", group="g", answer="r")]
    assert copy_baseline(train, test) == ["x=q", ""]


def test_examples_go_to_json_and_back(sets: ChatSets) -> None:
    import json

    for example in sets.test[:50]:
        assert ChatExample.from_dict(json.loads(json.dumps(example.to_dict()))) == example


def _document(split: str, index: int) -> Document:
    words = ["river", "mountain", "garden", "window", "candle", "thunder", "village", "silver"]
    turn = words[index % 8 :] + words[: index % 8]
    text = (
        f"The {turn[0]} stood beside the {turn[1]} for {index} long years. Nobody in the {turn[2]} ever asked why. "
        f"Then one morning the {turn[3]} fell against the {turn[4]} and everything changed. "
        f"People still speak about that {turn[5]} when winter comes."
    )
    return Document(text=text, id=f"{split}{index}", group=f"{split}{index}", source="made")
