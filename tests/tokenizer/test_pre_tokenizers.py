"""The named pre-tokenizers: the same pieces as in `tokenizers`, the same ids as in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import TokenizerError
from groundup.tokenizer import ByteBPE
from groundup.tokenizer.bpe_fast import train_merges
from groundup.tokenizer.gguf_vocabulary import gguf_from_tokenizer
from groundup.tokenizer.patterns import PATTERNS, SplitPattern, compile_pattern, split, split_pattern
from groundup.tokenizer.pre_tokenizers import COVERING, PRE_TOKENIZERS

Merges = list[tuple[bytes, bytes]]

# The first name of each way to cut.
DISTINCT = list({pre.steps: name for name, pre in reversed(PRE_TOKENIZERS.items())}.values())
OTHERS = [name for name in PRE_TOKENIZERS if name not in DISTINCT]

# Where llama.cpp approximates the expression of the model's own file; see the head of pre_tokenizers.py.
APPROXIMATED = {
    "gpt-4o": r"\p{M}",
    "tekken": r"\p{M}",
    "youtu": r"\p{M}",
    "kimi-k2": r"\p{M}",
    "tiny_aya": r"\d",
    "cohere2moe": r"\d",
}


@pytest.fixture(scope="module")
def merges(corpus: dict[str, list[str]]) -> Merges:
    """Learned without any cuts, so that tokens reach over every border that a pattern may leave out."""
    text = "".join("".join(texts)[:25_000] for texts in corpus.values())
    return train_merges({text.encode(): 1}, 1500)


@pytest.mark.parametrize("source", sorted(COVERING), ids=lambda source: source[:20])
def test_what_covers_leaves_nothing_and_has_no_groups(source: str) -> None:
    assert regex.compile(source).groups == 0
    every = "".join(chr(code) for code in range(0x30000) if not 0xD800 <= code < 0xE000)
    for text in (every, every[::-1], " ".join(every[:5000]), "\n".join(every[:5000]), "a'S\r\n \t '"):
        assert "".join(regex.findall(source, text)) == text


@pytest.mark.parametrize("name", DISTINCT)
@given(text=st.text(st.sampled_from("aB'sS12٣½ \n\r\t.!/<é\u0301日한𝒜\u2028ǅ")))
@settings(deadline=None, max_examples=40)
def test_the_pieces_are_the_text(name: str, text: str) -> None:
    assert "".join(split(text, split_pattern(name))) == text


@pytest.mark.parametrize("name", DISTINCT)
def test_tokenizers_cuts_alike(name: str, merges: Merges, corpus: dict[str, list[str]], tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = ByteBPE.from_merges(merges, pattern=name)
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for kind, texts in corpus.items():
        for text in texts[:60]:
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, kind


@pytest.fixture(scope="module")
def in_llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ByteBPE, str], Any]:
    """llama.cpp's tokenizer for the GGUF export of one of ours."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: run  make oracles")
    from groundup.model.weights.gguf_format import Typed
    from groundup.model.weights.gguf_write import write_gguf

    def load(tokenizer: ByteBPE, pre: str) -> Any:
        path = tmp_path_factory.mktemp("gguf") / f"{pre}.gguf"
        values = {"general.architecture": ("string", "llama"), **gguf_from_tokenizer(tokenizer, pre=pre)}
        write_gguf(path, {key: Typed(*value) for key, value in values.items()}, [])
        return llama_cpp.Llama(model_path=str(path), vocab_only=True, verbose=False)

    return load


@pytest.mark.parametrize("name", [*DISTINCT, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_llama_cpp_cuts_alike(
    name: str, merges: Merges, corpus: dict[str, list[str]], in_llama_cpp: Callable[[ByteBPE, str], Any]
) -> None:
    ours = ByteBPE.from_merges(merges, pattern=name)
    theirs = in_llama_cpp(ours, name)
    differs = APPROXIMATED.get(next((n for n in APPROXIMATED if PRE_TOKENIZERS[n].steps == ours.pattern.portable), ""))
    size = 60 if name in DISTINCT else 8
    compared = 0
    for kind, texts in corpus.items():
        for text in texts[:size]:
            if differs and regex.search(differs, text):
                continue
            compared += 1
            assert ours.encode(text) == theirs.tokenize(text.encode(), add_bos=False, special=False), kind
    assert compared > size


def test_names_are_those_of_llama_cpp() -> None:
    """Names come from its source; a wrong one would be refused when a file is loaded."""
    assert len(PRE_TOKENIZERS) > 80
    assert {"gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-v3", "falcon", "tekken", "default"} <= set(
        PRE_TOKENIZERS
    )


def test_patterns_go_by_name_by_expression_and_by_several() -> None:
    for name, pre in PRE_TOKENIZERS.items():
        assert split_pattern(pre.steps).portable == split_pattern(name).portable == pre.steps or name == "llama3"
    assert split_pattern(PATTERNS["llama3"].sources) == PATTERNS["llama3"] == split_pattern("llama3")
    assert split_pattern(PRE_TOKENIZERS["smollm"].steps).name == "smollm"
    assert split_pattern([r"\d", "a"]) == SplitPattern("custom", (r"\d", "a"))
    assert split("ab 1a2", split_pattern([r"\d", "a"])) == ["a", "b ", "1", "a", "2"]
    assert split("any thing", split_pattern([])) == ["any thing"]
    assert split("", split_pattern([])) == []
    with pytest.raises(TokenizerError, match=r"no split pattern named 'smolm' \(did you mean 'smollm'\?\)"):
        split_pattern("smolm")


def test_zero_width_matches_cut(merges: Merges) -> None:
    assert split("1234567 12", split_pattern("superbpe")) == ["1", "234", "567", " ", "12"]


def test_a_pattern_that_takes_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.tokenizer.patterns._CUSTOM_SECONDS", 0.2)
    pattern = split_pattern(r"(?:a|a|ab)*!")
    with pytest.raises(TokenizerError, match=r"took more than 0 s for a text of 62 characters"):
        split("a" * 60 + " !", pattern)


def test_long_runs_take_no_quadratic_time(merges: Merges) -> None:
    for name in DISTINCT:
        pattern = split_pattern(name)
        for text in ("=" * 30_000, "a" * 30_000, " " * 30_000, "\n" * 30_000, "漢" * 30_000, "A" * 30_000):
            assert len("".join(split(text, pattern))) == 30_000


def test_expressions_have_no_letters_beyond_ascii_unescaped() -> None:
    """Editors normalize such letters (U+212A, the Kelvin sign, becomes K), which would change the class."""
    import groundup.tokenizer.pre_tokenizers as module

    assert Path(str(module.__file__)).read_text(encoding="utf-8").isascii()
    assert all(compile_pattern(step) for pre in PRE_TOKENIZERS.values() for step in pre.steps)
