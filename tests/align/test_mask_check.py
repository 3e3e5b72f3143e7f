"""Whose words are trained, read off encoded conversations with right and wrong templates."""

from __future__ import annotations

import pytest

from benchmarks.doctor import END_TRAINED, USER_TRAINED, talks
from groundup.align.mask import check_mask, trained_text
from groundup.align.sft import encode_conversations
from groundup.recipes.data_checks import check_conversation_leak
from groundup.tokenizer import train_bpe
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import DEFAULT_CHAT_TEMPLATE, ChatTemplate

TALKS = talks(20, 3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([message["content"] for talk in TALKS for message in talk], 300)


def test_the_assistants_words_alone_are_right(tokenizer: Tokenizer) -> None:
    chats = encode_conversations(tokenizer, ChatTemplate(DEFAULT_CHAT_TEMPLATE), TALKS)
    assert check_mask(tokenizer, chats, TALKS) == []
    assert trained_text(tokenizer, chats[0]) == TALKS[0][1]["content"]


@pytest.mark.parametrize(
    ("template", "words"), [(USER_TRAINED, "train what the user"), (END_TRAINED, "do not train their last answer")]
)
def test_wrong_spans_are_found_with_an_example(tokenizer: Tokenizer, template: str, words: str) -> None:
    chats = encode_conversations(tokenizer, ChatTemplate(template), TALKS)
    (finding,) = check_mask(tokenizer, chats, TALKS)
    assert finding.severity == "serious" and f"20 of 20 conversations {words}" in finding.evidence


def test_held_out_conversations_that_are_trained_on() -> None:
    assert check_conversation_leak(TALKS[5:], TALKS[:5]) == []
    (finding,) = check_conversation_leak(TALKS[3:], TALKS[:5])
    assert "2 of 5 held-out conversations" in finding.evidence
