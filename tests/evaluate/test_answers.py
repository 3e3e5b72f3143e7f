"""Questions answered in batches, marked by a documented normalisation, and kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, UsageError
from groundup.evaluate.answers import (
    Answer,
    Question,
    accuracy_by_kind,
    answer_questions,
    compare_answers,
    is_right,
    mark,
    normalize,
    write_transcript,
)
from groundup.evaluate.intervals import wilson
from groundup.inference.sampling import Sampling
from groundup.inference.text import stream_text
from groundup.tokenizer.chat import DEFAULT_CHAT_TEMPLATE, ChatTemplate, encode_chat


def question(number: int = 0, answer: str = "None", kind: str = "reading", group: str = "os", **more) -> Question:
    text = f"What is the default of argument {number}?" + "!" * (number % 5)
    return Question(
        id=f"q{number}",
        messages=({"role": "user", "content": text},),
        prompt=f"{text}\nAnswer: ",
        answer=answer,
        kind=kind,
        group=group,
        **more,
    )


@pytest.mark.parametrize(
    ("given_text", "expected", "right"),
    [
        ("None", "None", True),
        ("  None\n", "None", True),
        ("`None`", "None", True),
        ("`None`.", "None", True),
        ("a  b\n c", "a b c", True),
        ("It returns a list.", "It returns a list", True),
        ("e\u0301", "é", True),
        ("none", "None", False),
        ("'x'", "x", False),
        ("...", "", False),
        ("wait...", "wait", False),
        ("None None", "None", False),
        ("`a` and `b`", "a` and `b", False),
        ("1.0", "1", False),
        ("", "None", False),
    ],
)
def test_normalisation_forgives_form_and_nothing_else(given_text: str, expected: str, right: bool) -> None:
    assert is_right(question(answer=expected), given_text) is right


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=30))
def test_normalisation_is_stable_under_white_space(text: str) -> None:
    assert normalize(f" \n{text}\t ") == normalize(text)
    assert is_right(question(answer=text), text)


def test_alternatives_are_right_too() -> None:
    asked = question(answer="os.path", alternatives=("`os.path`", "the module os.path"))
    assert is_right(asked, "The module os.path") is False
    assert is_right(asked, "the module os.path.") is True


@pytest.mark.parametrize("with_template", [True, False])
def test_answers_equal_each_question_asked_alone(tiny_lm, byte_tokenizer, with_template: bool) -> None:
    model, template = tiny_lm(1, max_length=200), ChatTemplate(DEFAULT_CHAT_TEMPLATE) if with_template else None
    questions = [question(number) for number in range(7)]
    stop_ids, stop = [258, 10, 65, 200], ("" + "e",)
    options = {"template": template, "stop_ids": stop_ids, "stop": stop, "max_new_tokens": 12}
    seen: list[tuple[int, int]] = []
    answers = answer_questions(
        model, byte_tokenizer, questions, batch_size=3, on_progress=lambda *news: seen.append(news), **options
    )
    assert seen == [(3, 7), (6, 7), (7, 7)]
    for asked, answer in zip(questions, answers, strict=True):
        if template is not None:
            ids = encode_chat(byte_tokenizer, template, list(asked.messages), add_generation_prompt=True).ids
        else:
            ids = [256, *byte_tokenizer.encode(asked.prompt)]
        sampling = Sampling(temperature=0, max_new_tokens=12, stop=stop)
        pieces = list(stream_text(model, byte_tokenizer, ids, sampling, stop_ids=stop_ids))
        assert answer.question is asked
        assert answer.given == "".join(piece.text for piece in pieces)
        assert answer.finish_reason == pieces[-1].finish_reason
    assert len({answer.finish_reason for answer in answers}) >= 1


def test_a_question_that_does_not_fit_is_wrong_and_not_an_error(tiny_lm, byte_tokenizer) -> None:
    short = Question(id="s", messages=(), prompt="hi", answer="x", kind="k", group="g")
    long = Question(id="l", messages=(), prompt="h" * 100, answer="x", kind="k", group="g")
    answers = answer_questions(
        tiny_lm(), byte_tokenizer, [long, short], template=None, stop_ids=[256], max_new_tokens=3
    )
    assert (answers[0].given, answers[0].is_right, answers[0].finish_reason) == ("", False, "context")
    assert answers[1].finish_reason == "length"
    with pytest.raises(UsageError, match=r"batch_size \(0\)"):
        answer_questions(tiny_lm(), byte_tokenizer, [short], template=None, stop_ids=[], batch_size=0)


def some_answers(rights: list[bool]) -> list[Answer]:
    kinds = ["recall" if i % 3 == 0 else "reading" for i in range(len(rights))]
    questions = [question(i, kind=kinds[i], group=f"m{i // 2}") for i in range(len(rights))]
    return mark(questions, ["None" if right else "5" for right in rights])


def test_accuracy_by_kind_counts_and_gives_wilson_intervals() -> None:
    accuracies = accuracy_by_kind(some_answers([True, False, True, True, False, True, False]))
    assert list(accuracies) == ["recall", "reading", "all"]
    assert [(a.num_right, a.num_total) for a in accuracies.values()] == [(2, 3), (2, 4), (4, 7)]
    assert accuracies["all"].interval == wilson(4, 7)
    assert list(accuracy_by_kind(some_answers([True]))) == ["recall"]
    assert accuracy_by_kind([]) == {}


def test_comparison_is_first_minus_second_on_the_same_questions() -> None:
    good, bad = some_answers([True] * 24), some_answers([i % 4 == 0 for i in range(24)])
    difference = compare_answers(good, bad)
    assert difference["all"].value == pytest.approx(0.75) and difference["all"].low > 0
    assert set(difference) == {"recall", "reading", "all"}
    assert compare_answers(bad, good)["all"].value == pytest.approx(-0.75)
    with pytest.raises(DataError, match="24 and 23"):
        compare_answers(good, bad[:-1])
    with pytest.raises(DataError, match="1 answers were given to 2 questions"):
        mark([question(0), question(1)], ["x"])


def test_the_transcript_keeps_every_answer(tmp_path) -> None:
    answers = mark(
        [question(1, answer="ä\n"), question(2, alternatives=("0",))], ["ä", "nö\u2028"], ["stop_token", "length"]
    )
    write_transcript(tmp_path / "deep" / "answers.jsonl", answers)
    text = (tmp_path / "deep" / "answers.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [(r["id"], r["expected"], r["given"], r["right"], r["finish_reason"]) for r in records] == [
        ("q1", "ä\n", "ä", True, "stop_token"),
        ("q2", "None", "nö\u2028", False, "length"),
    ]
    assert records[1]["alternatives"] == ["0"] and records[1]["messages"][0]["role"] == "user"
    write_transcript(tmp_path / "none.jsonl", [])
    assert (tmp_path / "none.jsonl").read_text() == ""
