"""The trained tokenizers of the other schools: files, ids, vocabularies and round trips against `tokenizers`."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, TokenizerError
from groundup.tokenizer import (
    StreamDecoder,
    Tokenizer,
    WordLevel,
    load_tokenizer,
    train_sentencepiece,
    train_unigram,
    train_word_level,
    train_wordpiece,
)
from groundup.tokenizer.bert_text import BertNormalization
from groundup.tokenizer.blanks import trained_words
from groundup.tokenizer.chat import default_chat_template, encode_chat
from groundup.tokenizer.common import TokenizerBase
from groundup.tokenizer.word_level import WORD_RULES, cut_words

tokenizers = pytest.importorskip("tokenizers")

Trainer = Callable[..., TokenizerBase]
TRAINERS: dict[str, Trainer] = {
    "word": train_word_level,
    "wordpiece": train_wordpiece,
    "sentencepiece": train_sentencepiece,
    "unigram": train_unigram,
}
LOSSLESS = ("sentencepiece", "unigram")
PARTS = [
    " ",
    "  ",
    "\n",
    "\t",
    "a",
    "the ",
    "é",
    "日",
    "😀",
    "e\u0301",
    "\u3000",
    "\u2581",
    "Romeo",
    "'s",
    ",",
    "123",
    "\0",
]
PARTS += ["\u200d", "\x85", "ﬁ", "[UNK]", "<unk>", "<|im_end|>", "<|endoftext|>", "##a", "ΑΣ", "_x", "\u0bcd", "ⅷ", "½"]
TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=16).map("".join)


@pytest.fixture(scope="module")
def documents(shakespeare: str) -> list[str]:
    return shakespeare[:40_000].split("\n\n")


@pytest.fixture(scope="module")
def trained(documents: list[str]) -> dict[str, TokenizerBase]:
    return {name: train(documents, 600) for name, train in TRAINERS.items()}


@pytest.fixture(scope="module")
def theirs(trained: dict[str, TokenizerBase]) -> dict[str, Any]:
    return {name: tokenizers.Tokenizer.from_str(json.dumps(one.to_json())) for name, one in trained.items()}


@pytest.mark.parametrize("name", TRAINERS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_ids_and_texts_are_those_of_tokenizers(
    trained: dict[str, TokenizerBase], theirs: dict[str, Any], name: str, text: str
) -> None:
    # Newer characters have other classes in the tables of `tokenizers`.
    text = "".join(
        character for character in text if character.isascii() or character < "\u0100" or character in "".join(PARTS)
    )
    ours, other = trained[name], theirs[name]
    ids = ours.encode(text, allow_special=True)
    assert ids == other.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == other.decode(ids, skip_special_tokens=False)
    assert not {*ours.encode(text)} & {*ours.special_tokens.values()} - {ours.unknown_id}
    stream = StreamDecoder(ours)
    assert "".join([*map(stream.push, ids), stream.finish()]) == ours.decode(ids)


@pytest.mark.parametrize("name", LOSSLESS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_any_text_comes_back(trained: dict[str, TokenizerBase], name: str, text: str) -> None:
    """But for U+2581 itself, which is how these schools write a blank."""
    ours = trained[name]
    assert ours.decode(ours.encode(text)) == text.replace("\u2581", " ")


def test_what_words_and_wordpieces_lose(trained: dict[str, TokenizerBase]) -> None:
    for name, text, back in [
        ("word", "What  is it?\n", "What is it ?"),
        ("word", "Xylophones is", "[UNK] is"),
        ("wordpiece", "What  light?\n", "What light?"),
        ("wordpiece", "日 light", "[UNK] light"),
    ]:
        assert trained[name].decode(trained[name].encode(text)) == back


@pytest.mark.parametrize("name", TRAINERS)
def test_the_files_are_read_by_both(name: str, trained: dict[str, TokenizerBase], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = trained[name]
    ours.save(tmp_path, chat_template=default_chat_template(ours).source, max_length=128)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(ours)
    assert again.fingerprint() == ours.fingerprint()
    assert (again.bos_id, again.eos_id, again.pad_id, again.unknown_id) == (
        ours.bos_id, ours.eos_id, ours.pad_id, ours.unknown_id,
    )  # fmt: skip
    assert again.vocab_size == ours.vocab_size == 600
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ["Romeo, wherefore art thou?", "naïve 日本\n\n x  y", ""]:
        assert auto(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    chat = [{"role": "user", "content": "<|im_end|> speak"}, {"role": "assistant", "content": "Hear me speak"}]
    assert auto.convert_tokens_to_ids("<|im_end|>") == ours.special_tokens["<|im_end|>"]
    encoded = encode_chat(again, default_chat_template(again), chat)
    assert encoded.ids.count(ours.special_tokens["<|im_end|>"]) == 2
    assert any(encoded.trained)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_order_of_the_texts_plays_no_part(name: str, documents: list[str]) -> None:
    train = TRAINERS[name]
    few = documents[:60]
    assert train(few, 420).to_json() == train(few[::-1], 420).to_json()


@pytest.mark.parametrize("rule", WORD_RULES)
def test_words_are_those_of_tokenizers(rule: Any) -> None:
    draw = random.Random(rule)
    theirs = getattr(tokenizers.pre_tokenizers, rule)()
    for _ in range(1_500):
        text = "".join(draw.choices(PARTS, k=draw.randint(0, 12)))
        assert cut_words(text, rule) == [word for word, _ in theirs.pre_tokenize_str(text)]


def test_the_vocabulary_of_words_is_that_of_tokenizers(documents: list[str]) -> None:
    for size, min_count in [(50, 1), (300, 2), (5_000, 3)]:
        ours = train_word_level(documents, size + 5, min_count=min_count)
        theirs = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
        theirs.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        trainer = tokenizers.trainers.WordLevelTrainer(vocab_size=size, min_frequency=min_count, show_progress=False)
        theirs.train_from_iterator(documents, trainer)
        assert ours.vocab == theirs.get_vocab()


def test_the_wordpieces_are_those_of_tokenizers(documents: list[str]) -> None:
    """Characters are handed to their trainer in our order: in theirs, ties fall by the order of a hash table."""
    ours = train_wordpiece(documents, 605)
    theirs = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    characters = [token for token in ours.vocab if len(token.removeprefix("##")) == 1]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=600, min_frequency=2, show_progress=False, special_tokens=characters
    )
    theirs.train_from_iterator(documents, trainer)
    assert ours.vocab == theirs.get_vocab()


def test_the_merges_of_sentencepiece_are_those_of_tokenizers(documents: list[str]) -> None:
    ours = train_sentencepiece(documents, 256 + 4 + 400, coverage=1.0)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, min_frequency=2, show_progress=False)
    theirs.train_from_iterator((word for text in documents for word in trained_words(text)), trainer)
    merges = json.loads(theirs.to_str())["model"]["merges"]
    assert ours.merges == [tuple(pair) for pair in merges]


def test_nothing_is_learned_across_words_or_line_ends(trained: dict[str, TokenizerBase]) -> None:
    for name in LOSSLESS:
        ours: Any = trained[name]
        for token in ours.vocab:
            assert "▁" not in token[1:], token
            assert token.isspace() or not re.search(r"\s", token), token


def test_the_ratio_gives_another_wordpiece(documents: list[str]) -> None:
    counted, weighed = (train_wordpiece(documents, 400, score=score).vocab for score in ("count", "ratio"))  # type: ignore[arg-type]
    assert counted.keys() != weighed.keys()
    folded = train_wordpiece(documents, 400, normalization=BertNormalization())
    assert not any(map(str.isupper, folded.vocab))


def test_rare_characters_are_bytes_or_unknown(caplog: pytest.LogCaptureFixture) -> None:
    text = ["the cat and the hat " * 400 + "日 😀"]
    for train in (train_sentencepiece, train_unigram):
        ours = train(text, 300)
        assert "日" not in ours.vocab
        assert ours.decode(ours.encode("日 😀")) == "日 😀"
        assert "日" in train(text, 300, coverage=1.0).vocab
    with caplog.at_level(logging.WARNING, "groundup.tokenizer"):
        small = train_wordpiece(["abcdefgh " * 3 + "z"], 5 + 8)
    assert "room for 4 of the text's 9 characters" in caplog.text
    assert small.decode(small.encode("z")) == "[UNK]"


def test_a_short_text_gives_a_smaller_vocabulary_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "groundup.tokenizer"):
        for train in (train_wordpiece, train_sentencepiece, train_unigram):
            caplog.clear()
            ours = train(["one two one two"], 2_000)
            assert ours.vocab_size < 300
            assert "instead of" in caplog.text


@pytest.mark.parametrize(("name", "least"), [("word", 6), ("wordpiece", 7), ("sentencepiece", 261), ("unigram", 262)])
def test_faults_are_named(name: str, least: int) -> None:
    train = TRAINERS[name]
    with pytest.raises(TokenizerError, match=rf"vocab_size {least - 1} is too small: .* need at least {least}"):
        train(["a b"], least - 1)
    train(["a a a a"], least)
    for empty in ([], [""], ["", ""]):
        with pytest.raises(DataError, match="there is no text to train a tokenizer on"):
            train(empty, 1_000)
    with pytest.raises(TokenizerError, match=r"special token '<\|im_start\|>' is given twice"):
        train(["a"], 1_000, special_tokens=["[UNK]", "<unk>", "<|im_start|>", "<|im_start|>"])
    if name != "sentencepiece":
        with pytest.raises(TokenizerError, match="must be among the special tokens"):
            train(["a"], 1_000, special_tokens=["<|im_start|>"])
    with pytest.raises(TokenizerError, match="the special token 'a' is a character of a text too"):
        train(["a"], 1_000, special_tokens=["[UNK]", "<unk>", "a"])
    if name in LOSSLESS:
        with pytest.raises(TokenizerError, match=r"coverage \(1.5\) must be above 0 and at most 1"):
            train(["a"], 1_000, coverage=1.5)
    if name == "word":
        with pytest.raises(DataError, match="none of the 2 words occurs 2 times"):
            train(["a b"], 1_000)


def test_only_whitespace_is_no_word() -> None:
    with pytest.raises(DataError, match="every text is empty"):
        train_word_level([" \n\t"], 100)
    for train in (train_sentencepiece, train_unigram):
        ours = train([" \n\n \t " * 9], 300)
        assert ours.decode(ours.encode(" \n \t")) == " \n \t"


def test_special_tokens_inside_the_texts_are_ordinary_text() -> None:
    for train in TRAINERS.values():
        ours = train(["[UNK] <unk> <|im_end|> " * 20], 420)
        ids = ours.encode("[UNK] <unk> <|im_end|>")
        assert not {*ours.special_tokens.values()} & {*ids}


def test_bytes_written_out_are_ordinary_text() -> None:
    for train in (train_sentencepiece, train_unigram):
        ours = train([" ".join(f"{a}<0x41>{b}" for a in "abcdefgh" for b in "abcdefgh")], 420)
        for text in ("a<0x41>b<0x42>", "q<0x41>q"):
            assert ours.decode(ours.encode(text)) == text


def words_file(tmp_path: Path, change: Callable[[Any], None]) -> Path:
    data = WordLevel({"a": 0}, special_tokens={"[UNK]": 1}, roles={"unk": "[UNK]"}).to_json()
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(pre_tokenizer={"type": "Digits"}), "or those of Whitespace, WhitespaceSplit, Bert"),
        (lambda data: data.update(normalizer={"type": "NFC"}), "is read without a normalizer"),
        (lambda data: data.update(decoder={"type": "Fuse"}), "the decoder 'Fuse' cannot be read"),
        (lambda data: data["model"].update(unk_token="?"), r"unk_token is '\?'; it must be the text of a token"),
        (lambda data: data["model"].update(unk_token=None), "unk_token is None"),
        (lambda data: data["model"]["vocab"].update(a=-1), "the token 'a' has the id -1"),
        (lambda data: data["model"]["vocab"].update(a=1), "share the id 1"),
    ],
)
def test_each_fault_of_a_file_of_words_is_named(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(words_file(tmp_path, change))


def test_an_unknown_token_outside_of_the_added_ones_is_read(tmp_path: Path) -> None:
    tokenizer: Tokenizer = load_tokenizer(words_file(tmp_path, lambda data: data.update(added_tokens=[])))
    assert tokenizer.encode("a b") == [0, 1]
    assert tokenizer.decode([0, 1]) == "a [UNK]"
