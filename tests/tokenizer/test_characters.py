"""The character tokenizer: exact on the characters it knows, honest about the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, TokenizerError
from groundup.tokenizer import SPECIAL_TOKENS, CharTokenizer, StreamDecoder, load_tokenizer
from groundup.tokenizer.stats import tokenizer_statistics

KNOWN = "abc é日😀\n\x00<|>_"


def test_ids_follow_the_code_points() -> None:
    tokenizer = CharTokenizer.train(["cab", "b"])
    assert tokenizer.vocab == {"a": 0, "b": 1, "c": 2, "\ufffd": 3}
    assert tokenizer.special_tokens == {name: 4 + index for index, name in enumerate(SPECIAL_TOKENS)}
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (8, 4, 4, 7)
    assert tokenizer.encode("abc") == [0, 1, 2]


@given(st.text(st.sampled_from(KNOWN)))
@settings(deadline=None, max_examples=100)
def test_known_characters_come_back(text: str) -> None:
    tokenizer = CharTokenizer.train([KNOWN])
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    decoder = StreamDecoder(tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.finish() == text


@given(st.text())
@settings(deadline=None, max_examples=100)
def test_unknown_characters_become_replacements_and_are_named(text: str) -> None:
    tokenizer = CharTokenizer.train([KNOWN])
    unknown = tokenizer.unknown_characters(text)
    expected = "".join("\ufffd" if character in unknown else character for character in text)
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert (expected == text) == (set(unknown) <= {"\ufffd"})


def test_special_tokens_come_from_the_caller_only() -> None:
    tokenizer = CharTokenizer.train([KNOWN + "".join(SPECIAL_TOKENS)])
    assert not set(tokenizer.encode("<|im_end|>")) & set(tokenizer.special_tokens.values())
    ids = tokenizer.encode("a<|im_end|><|pad|>b", allow_special=True)
    assert [tokenizer.token_bytes(id) for id in ids] == [b"a", b"<|im_end|>", b"<|pad|>", b"b"]
    assert tokenizer.decode(ids, skip_special=True) == "ab"


def test_lone_surrogates_become_replacements() -> None:
    tokenizer = CharTokenizer.train(["ab\ud800"])
    assert tokenizer.decode(tokenizer.encode("a\udfffb")) == "a\ufffdb"


def test_saving_and_loading(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.train([KNOWN], special_tokens=["<|endoftext|>", "<x>"])
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, CharTokenizer)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert (again.eos_id, again.pad_id) == (tokenizer.eos_id, None)
    assert again.encode(KNOWN + "?") == tokenizer.encode(KNOWN + "?")


def test_wrong_uses() -> None:
    with pytest.raises(DataError, match="every text is empty"):
        CharTokenizer.train(["", ""])
    with pytest.raises(TokenizerError, match=r"'ab' is not one character"):
        CharTokenizer(["ab"])
    with pytest.raises(TokenizerError, match=r"'a' is given twice"):
        CharTokenizer(["a", "a"])
    with pytest.raises(TokenizerError, match=r"special token 'a' is an ordinary character"):
        CharTokenizer(["a"], special_tokens=["a"])
    tokenizer = CharTokenizer(["a"])
    for id in (-1, 6):
        with pytest.raises(TokenizerError, match=f"id {id} names no token: the vocabulary has 6 ids"):
            tokenizer.decode([id])


def test_statistics_count_what_does_not_come_back() -> None:
    tokenizer = CharTokenizer.train(["abcd"])
    statistics = tokenizer_statistics(tokenizer, ["ab ab", "abc", "aé"])
    assert (statistics.num_texts, statistics.num_tokens, statistics.num_words) == (3, 10, 4)
    assert statistics.lossy_texts == 2
    assert statistics.num_bytes == 11
    assert statistics.num_characters == 10
    assert statistics.vocabulary_used == 4 / 5  # a, b, c and the replacement, but no d
