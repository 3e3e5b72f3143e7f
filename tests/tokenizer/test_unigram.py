"""Unigram: the same ids as in `tokenizers`, `transformers` and `sentencepiece`, and the best way of all."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import TokenizerError
from groundup.tokenizer import StreamDecoder, Unigram, load_tokenizer
from groundup.tokenizer.blanks import BlankFirst
from groundup.tokenizer.normalizers import Charsmap, Normalizer
from groundup.tokenizer.sentencepiece_bpe import BYTE_TOKENS

sys.path.insert(0, str(Path(__file__).parent))
from sentencepiece_files import charsmap_of, pieces_of_model, train_sentencepiece_model

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")

PARTS = [" ", "  ", "\n", "\t", "a", "the ", "é", "日", "😀", "e\u0301", "\u3000", "\u2581", "Romeo", "'s", ",", "123"]
PARTS += ["ﬁ", "\0", "\u200d", "\x85", "``", "''", "½", "Å", "ΑΣ", "가", "\u1100\u1161", "①", "ǅ", "﷽", "ｶﾞ", "\ufeff"]
PARTS += ["👩‍👩‍👧", "🇩🇪", "क्षि", "<unk>", "</s>", "<pad>", "thou art", "honour", "\u2028", "\x1c"]
TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=16).map("".join)


@pytest.fixture(scope="module")
def model(shakespeare: str, languages: dict[str, str]) -> bytes:
    """SentencePiece with its usual normalization and without bytes, as T5's."""
    text = shakespeare[:100_000] + languages["fra"] + languages["deu_1996"]
    return train_sentencepiece_model(text, vocab_size=800, model_type="unigram")


@pytest.fixture(scope="module")
def plain_model(shakespeare: str) -> bytes:
    """SentencePiece that changes nothing and falls back to bytes."""
    return train_sentencepiece_model(
        shakespeare[:100_000], vocab_size=800, model_type="unigram", normalization_rule_name="identity",
        byte_fallback=True, remove_extra_whitespaces=False,
    )  # fmt: skip


def in_tokenizers(ours: Unigram) -> Any:
    return tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))


def of_scores(scores: dict[str, float], **options: Any) -> Unigram:
    """Without bytes, blanks left as they are."""
    ids = {token: id for id, token in enumerate(scores)}
    settings = {"blank_first": "never", "falls_back_to_bytes": False, **options}
    return Unigram(scores, ids, special_tokens={"<unk>": len(ids)}, roles={"unk": "<unk>"}, **settings)


def published(kind: str, model: bytes) -> Any:
    """A tokenizer of transformers with the model's pieces, as its class writes it."""
    transformers = pytest.importorskip("transformers")
    pieces, table = pieces_of_model(model), charsmap_of(model)
    before = {
        "T5Tokenizer": ["<pad>", "</s>", "<unk>"],
        "AlbertTokenizer": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
        "XLNetTokenizer": ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"],
        "XLMRobertaTokenizer": ["<s>", "<pad>", "</s>", "<unk>"],
    }[kind]
    after = [f"<extra_id_{number}>" for number in range(99, -1, -1)] if kind == "T5Tokenizer" else ["<mask>"]
    vocab = [(name, 0.0) for name in before] + pieces + [(name, 0.0) for name in after if name not in before]
    return getattr(transformers, kind)(vocab=vocab, _spm_precompiled_charsmap=table)


@pytest.mark.parametrize("kind", ["T5Tokenizer", "AlbertTokenizer", "XLNetTokenizer", "XLMRobertaTokenizer"])
def test_the_files_of_published_kinds(kind: str, model: bytes, tmp_path: Path, shakespeare: str) -> None:
    """Every character of Unicode 3.2: what came later has another class in the tables of `tokenizers`."""
    published(kind, model).save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert isinstance(ours, Unigram)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = in_tokenizers(ours)
    draw = random.Random(kind)
    old = unicodedata.ucd_3_2_0
    texts = ["".join(draw.choices(PARTS, k=draw.randint(0, 20))) for _ in range(500)]
    texts += [f"a{chr(code)}b" for code in range(0x3400) if old.category(chr(code)) not in ("Cn", "Cs")]
    texts += shakespeare[:20_000].split("\n")
    for text in texts:
        ids = ours.encode(text, allow_special=True)
        assert (
            ids == theirs.encode(text, add_special_tokens=False).ids == again.encode(text, add_special_tokens=False).ids
        )
        assert ours.encode_with_special(text, allow_special=True) == theirs.encode(text).ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    ours.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint() == ours.fingerprint()


@pytest.fixture(scope="module")
def plain(plain_model: bytes) -> Unigram:
    scores = dict(pieces_of_model(plain_model))
    tokens = [*BYTE_TOKENS, *scores]
    return Unigram(
        {**dict.fromkeys(BYTE_TOKENS, 0.0), **scores},
        {token: id for id, token in enumerate(tokens)},
        special_tokens={"<unk>": len(tokens)},
        roles={"unk": "<unk>"},
    )


def test_the_tokens_of_sentencepiece_itself(plain: Unigram, plain_model: bytes, shakespeare: str) -> None:
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_proto=plain_model)
    names = {id: token for token, id in plain.vocab.items()}
    draw = random.Random(5)
    # It ends a text at a zero byte and takes its own mark for a blank; `<unk>` and bytes written out are ordinary text.
    parts = [part for part in PARTS if part not in ("\0", "\u2581")] + ["<0x41>"]
    texts = shakespeare[:30_000].split("\n") + [
        "".join(draw.choices(parts, k=draw.randint(1, 20))) for _ in range(1_000)
    ]
    for text in texts:
        assert [names[id] for id in plain.encode(text)] == theirs.encode(text, out_type=str)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_a_text_comes_back(plain: Unigram, text: str) -> None:
    ids = plain.encode(text)
    assert plain.decode(ids) == text.replace("\u2581", " ")
    assert in_tokenizers_cached(plain).encode(text, add_special_tokens=False).ids == plain.encode(
        text, allow_special=True
    )
    stream = StreamDecoder(plain)
    assert "".join([*map(stream.push, ids), stream.finish()]) == plain.decode(ids)


_THEIRS: dict[int, Any] = {}


def in_tokenizers_cached(ours: Unigram) -> Any:
    return _THEIRS.setdefault(id(ours), in_tokenizers(ours))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text("abc▁", min_size=1, max_size=4), st.floats(-12, -0.5), min_size=1, max_size=14),
    st.text("abcx ", max_size=8),
)
def test_the_best_way_of_all(scores: dict[str, float], text: str) -> None:
    """Against looking at each way; an unknown character costs 10 more than the rarest token."""
    ours = of_scores(scores, splits_at_blanks=False)
    marked = text.replace(" ", "▁")
    unknown = min([*scores.values(), 0.0]) - 10
    best = -math.inf
    for cuts in itertools.product([False, True], repeat=max(len(marked) - 1, 0)):
        ends = [*(place for place, cut in enumerate(cuts, 1) if cut), len(marked)]
        parts = [marked[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if all(part in scores or len(part) == 1 for part in parts):
            best = max(best, sum(scores.get(part, unknown) for part in parts))
    assert ours.log_probability(text) == pytest.approx(best if marked else 0.0)
    assert in_tokenizers(ours).encode(text).ids == ours.encode(text)


@pytest.mark.parametrize("blank_first", ["prepend", "always", "first", "never"])
@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize("words_first", [True, False])
def test_every_way_to_treat_blanks(blank_first: BlankFirst, splits: bool, words_first: bool, tmp_path: Path) -> None:
    scores = {"▁": -2.0, "a": -3.0, "▁a": -2.5, "b": -3.1, "ab": -4.0, "a▁b": -4.5, "▁▁": -3.3, "\n": -5.0}
    options = {"blank_first": blank_first, "splits_at_blanks": splits, "splits_at_whitespace": words_first}
    if words_first and blank_first == "prepend":
        with pytest.raises(
            TokenizerError, match="splits_at_whitespace goes with blank_first 'always', 'first' or 'never'"
        ):
            of_scores(scores, **options)
        return
    ours = of_scores(scores, **options)
    theirs = in_tokenizers(ours)
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    draw = random.Random(repr(options))
    for _ in range(300):
        text = "".join(draw.choices(["a", "b", " ", "  ", "\n", "▁", "x", "<unk>", "a b"], k=draw.randint(0, 9)))
        ids = ours.encode(text, allow_special=True)
        assert ids == theirs.encode(text).ids == again.encode(text, allow_special=True), text


def test_a_text_that_goes_on_takes_no_blank(plain: Unigram) -> None:
    first = plain.encode("the")
    assert plain.token_bytes(first[0]) == b" the"
    assert plain.decode(first) == "the"
    going_on = plain.encode("the", after=first[-1])
    assert b"".join(map(plain.token_bytes, going_on)) == b"the"
    words = of_scores({"▁a": -1.0, "a": -1.5, "▁": -4.0}, blank_first="always", splits_at_whitespace=True)
    assert [words.token_bytes(id) for id in words.encode("a a", after=1)] == [b"a", b" a"]


def test_a_sampled_way_comes_as_often_as_its_probability() -> None:
    scores = {"a": math.log(0.4), "b": math.log(0.3), "ab": math.log(0.2), "ba": math.log(0.1)}
    ours = of_scores(scores)
    generator = np.random.default_rng(0)
    drawn = Counter(tuple(ours.sample("aba", generator)) for _ in range(4_000))
    chances = {(0, 1, 0): 0.4 * 0.3 * 0.4, (2, 0): 0.2 * 0.4, (0, 3): 0.4 * 0.1}
    for way, chance in chances.items():
        share = chance / sum(chances.values())
        assert drawn[way] / 4_000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4_000))
    sharp = Counter(tuple(ours.sample("aba", generator, sharpness=50.0)) for _ in range(50))
    assert sharp == {tuple(ours.encode("aba")): 50}
    assert ours.decode(ours.sample("abxab", generator)) == "ab<unk>ab"


def test_unknown_characters_in_a_row_are_one_token() -> None:
    ours = of_scores({"a": -1.0, "▁": -1.0})
    assert ours.encode("aüöa ü") == [0, 2, 0, 1, 2]
    # One of the two bytes of ü has no token: neither is written as bytes.
    scores = {"a": -1.0, "<0xC3>": 0.0, "<0xBC>": 0.0}
    bytes_too = of_scores(scores, falls_back_to_bytes=True)
    assert bytes_too.encode("aü") == [0, 1, 2]
    assert bytes_too.encode("aö") == bytes_too.encode("aüö") == [0, 3]
    assert in_tokenizers(bytes_too).encode("aüö").ids == [0, 3]


FAULTS: list[tuple[list[Any], Any, str]] = [
    (["model", "vocab"], {}, r"the vocabulary is empty, not a list of tokens and their scores"),
    (["model", "vocab"], {"a": 1}, r"of type dict, not a list"),
    (["model", "vocab", 0], ["a"], r"entry 0 of the vocabulary is \['a'\], not a token and its score"),
    (["model", "vocab", 0], ["", -1.0], r"entry 0 of the vocabulary is \['', -1.0\]"),
    (["model", "vocab", 0], ["a", True], r"not a token and its score"),
    (["model", "vocab", 0], ["a", float("nan")], r"the token 'a' has the score nan: it must be a finite number"),
    (["model", "vocab", 1], ["a", -1.0], r"the token 'a' stands twice in the vocabulary"),
    (["model", "unk_id"], None, r"unk_id is None: it must be the place of a token among 3"),
    (["model", "unk_id"], 3, r"unk_id is 3"),
    (["pre_tokenizer"], {"type": "Digits"}, r"the pre-tokenizer 'Digits' is not one that can be read"),
    (["pre_tokenizer"], {"type": "WhitespaceSplit"}, r"Unigram has Metaspace, or WhitespaceSplit and Metaspace"),
    (["pre_tokenizer"], None, r"nothing turns blanks into"),
    (["normalizer"], {"type": "Bert"}, r"the normalizer 'Bert' cannot be read; NFC, NFD,"),
    (["normalizer"], {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}, r"'\(' is not a valid regular"),
    (["normalizer"], {"type": "Replace", "pattern": "a", "content": ""}, r"has the pattern 'a': String or Regex"),
    (["normalizer"], {"type": "Precompiled", "precompiled_charsmap": "?"}, r"precompiled_charsmap is of type str, not"),
    (["normalizer"], {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, r"has 3 bytes .* it is damaged"),
    (["decoder"], {"type": "WordPiece"}, r"the decoder \['WordPiece'\] cannot be read"),
    (["added_tokens", 0, "id"], 0, r"'<unk>' has the id 2 in the vocabulary and 0 beside it"),
]


@pytest.mark.parametrize(("path", "value", "message"), FAULTS)
def test_each_fault_is_named(path: list[Any], value: Any, message: str, tmp_path: Path) -> None:
    data: Any = of_scores({"a": -1.0, "▁": -1.5}).to_json()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_faults_of_the_arguments() -> None:
    with pytest.raises(TokenizerError, match="there is no unknown token"):
        Unigram({"a": -1.0}, {"a": 0}, special_tokens={}, roles={})
    with pytest.raises(TokenizerError, match="'a' has the score inf"):
        of_scores({"a": math.inf})
    ours = Unigram({"a": -1.0}, {"a": 5}, special_tokens={"<unk>": 0}, roles={"unk": "<unk>"})
    with pytest.raises(TokenizerError, match="no token has the id 1"):
        ours.to_json()


def test_normalizer_steps_are_those_of_tokenizers() -> None:
    steps: list[dict[str, Any]] = [
        {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "NFC"},
        {"type": "Strip", "strip_left": True, "strip_right": False},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "bb"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\\0 "},
        {"type": "Prepend", "prepend": "x"},
    ]  # fmt: skip
    draw = random.Random(9)
    for size in range(1, len(steps) + 1):
        chosen = steps[:size]
        ours = Normalizer(chosen)
        empty = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
        document = {"version": "1.0", "added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": chosen}}
        document |= {"pre_tokenizer": None, "post_processor": None, "decoder": None, "model": empty}
        theirs = tokenizers.Tokenizer.from_str(json.dumps(document)).normalizer
        for _ in range(100):
            text = "".join(draw.choices(PARTS, k=draw.randint(0, 8)))
            assert ours(text) == theirs.normalize_str(text)


def test_a_table_that_is_cut_or_changed_is_an_error_or_a_text(model: bytes) -> None:
    table = charsmap_of(model)
    theirs = tokenizers.normalizers.Precompiled(table)
    for part in [*PARTS, "ﬁ①Å\u0301 ｶﾞ"]:
        assert Charsmap(table)(part) == theirs.normalize_str(part)
    assert Charsmap(table)("ﬁ①\u3000") == "fi1 "
    draw = random.Random(4)
    for _ in range(60):
        damaged = bytearray(table[: draw.randint(0, len(table))] if draw.random() < 0.3 else table)
        for _ in range(draw.randint(0, 3_000) if damaged else 0):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            assert isinstance(Charsmap(bytes(damaged))("".join(PARTS)), str)
        except TokenizerError as error:
            assert "it is damaged" in str(error)
    with pytest.raises(TokenizerError, match="not base64"):
        Normalizer([{"type": "Precompiled", "precompiled_charsmap": 3}])
