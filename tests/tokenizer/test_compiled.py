"""The compiled scanner, encoder and trainer: equal to the readable versions, on every code point and whatever comes."""

from __future__ import annotations

import copy
import logging
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core import jit
from groundup.core.errors import DataError
from groundup.tokenizer import ByteBPE, compiled, train_bpe
from groundup.tokenizer.bpe_fast import merge_tokens, train_merges
from groundup.tokenizer.bpe_reference import count_words, train_merges_reference
from groundup.tokenizer.pairs import SPLIT_ALPHABET
from groundup.tokenizer.patterns import PATTERNS, SplitPattern, split, split_pattern
from groundup.tokenizer.scan_rules import SCAN_RULES
from groundup.tokenizer.train_compiled import WordCounts, train_merges_compiled

SCANNED = [split_pattern(sources) for sources in SCAN_RULES]
names = [pattern.name for pattern in SCANNED]
every_pattern = pytest.mark.parametrize("pattern", SCANNED, ids=names)
adversarial = st.text(st.one_of(st.sampled_from(SPLIT_ALPHABET), st.characters(exclude_categories=["Cs"])))


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text takes the compiled path, however short."""
    monkeypatch.setattr(compiled, "worth_it", lambda num_characters: compiled.load())


def pure(tokenizer: ByteBPE, text: str) -> list[int]:
    """The ids of ordinary text on the pure path."""
    return tokenizer._encode_pure(tokenizer._normalized(text))


def in_context(codes: range) -> str:
    """Each character alone, doubled, and beside all that a pattern looks at."""
    return "".join(f"{chr(c)}a'{chr(c)} {chr(c)}{chr(c)}1'l{chr(c)}!{chr(c)}\n {chr(c)}  " for c in codes)


def without_surrogates(text: str) -> str:
    return text.encode("utf-8", "ignore").decode()


@every_pattern
def test_every_character_of_the_first_planes_is_split_alike(pattern: SplitPattern) -> None:
    for codes in (range(0x3400), range(0xA000, 0x12000, 3), range(0x12000, 0x110000, 1009)):
        text = without_surrogates(in_context(codes))
        assert compiled.split_compiled(text, pattern) == split(text, pattern)


@pytest.mark.slow
@every_pattern
def test_every_code_point_is_split_alike(pattern: SplitPattern) -> None:
    for start in range(0, 0x110000, 0x8000):
        text = without_surrogates(in_context(range(start, start + 0x8000)))
        assert compiled.split_compiled(text, pattern) == split(text, pattern), hex(start)


@every_pattern
@given(text=adversarial)
@settings(deadline=None, max_examples=150)
def test_any_text_is_split_alike(pattern: SplitPattern, text: str) -> None:
    assert compiled.split_compiled(text, pattern) == split(text, pattern)


@every_pattern
def test_texts_of_what_the_patterns_look_at_are_split_alike(pattern: SplitPattern) -> None:
    draw = random.Random(random.SystemRandom().randrange(10**9))
    for weights in ([1] * len(SPLIT_ALPHABET), [20 if c in " \n'" else 1 for c in SPLIT_ALPHABET]):
        for _ in range(150):
            text = "".join(draw.choices(SPLIT_ALPHABET, weights, k=draw.randint(1, 60)))
            assert compiled.split_compiled(text, pattern) == split(text, pattern), repr(text)


@every_pattern
def test_real_text_is_split_alike(
    pattern: SplitPattern, shakespeare: str, languages: dict[str, str], sources: list[str]
) -> None:
    for text in (shakespeare[:60_000], "".join(text[:2_000] for text in languages.values()), *sources):
        assert compiled.split_compiled(text, pattern) == split(text, pattern)


def test_a_text_of_many_chunks_is_split_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_CHUNK_PIECES", 3)
    text = "one two  three\n\nfour 12345 it's" * 7
    assert compiled.split_compiled(text, PATTERNS["gpt4"]) == split(text, PATTERNS["gpt4"])


def test_published_tokenizers_are_scanned() -> None:
    for name in ("gpt2", "gpt4", "llama3", "llama-bpe", "qwen2", "smollm", "olmo", "starcoder", "dbrx"):
        assert split_pattern(name).portable in SCAN_RULES, name


@pytest.mark.usefixtures("always")
def test_real_tokenizer_gives_the_same_ids(gpt2: ByteBPE, languages: dict[str, str], sources: list[str]) -> None:
    for text in [text[:3_000] for text in languages.values()] + [source[:20_000] for source in sources]:
        assert gpt2.encode(text) == pure(gpt2, text)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("pattern", names)
@given(text=adversarial)
@settings(deadline=None, max_examples=60)
def test_any_text_gets_the_same_ids(small_bpe: ByteBPE, pattern: str, text: str) -> None:
    tokenizer = _with(small_bpe, pattern)
    assert tokenizer.encode(text) == pure(tokenizer, text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


_known: dict[str, ByteBPE] = {}


def _with(tokenizer: ByteBPE, pattern: str) -> ByteBPE:
    if pattern not in _known:
        _known[pattern] = ByteBPE.from_merges(tokenizer.merges, pattern=pattern)
    return _known[pattern]


def foreign(**settings: Any) -> ByteBPE:
    """A vocabulary with gaps and other ids than ranks, without the byte 7, and with tokens that no merge makes."""
    vocab = {bytes([byte]): 1000 - 3 * byte for byte in range(256) if byte != 7}
    vocab |= {b"ab": 5, b"abc": 4, b"zzz": 2, b" whole": 8, b"x" * 40: 1500, b"y" * 70: 1501}
    merges = [(b"a", b"b"), (b"ab", b"c")]
    return ByteBPE(vocab, merges, pattern="llama3", **settings)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("ignores", [False, True])
def test_foreign_vocabularies(ignores: bool) -> None:
    tokenizer = foreign(ignores_merges=ignores, special_tokens={"<s>": 2000}, added_tokens={"<think>": 2001})
    text = "abc zzz whole " + "x" * 40 + " " + "x" * 41 + "\n" + "y" * 70 + " a\x07b \x07 <s>zzz<think>abc"
    assert tokenizer.encode(text) == _parts(tokenizer, text)
    assert (2 in tokenizer.encode("zzz")) == ignores
    assert tokenizer.encode("\x07") == []
    assert tokenizer.encode("abc<s>", allow_special=True) == [4, 2000]
    assert tokenizer.encode_batch([text, "", "abc"]) == [tokenizer.encode(text), [], [4]]


def _parts(tokenizer: ByteBPE, text: str) -> list[int]:
    before, after = text.split("<think>")
    return [*pure(tokenizer, before), 2001, *pure(tokenizer, after)]


@pytest.mark.usefixtures("always")
def test_normalization_and_surrogates() -> None:
    tokenizer = foreign(normalizes=True)
    assert tokenizer.encode("e\u0301") == pure(tokenizer, "é")
    assert tokenizer.encode_batch(["e\u0301", "a\ud800b"]) == [pure(tokenizer, "é"), pure(tokenizer, "a\ufffdb")]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("lines", [4, 1 << 12])
def test_pieces_at_the_limits_of_the_cache(monkeypatch: pytest.MonkeyPatch, small_bpe: ByteBPE, lines: int) -> None:
    """Lengths around 8, 16, 24, 32 and 64 bytes, up to many ids, each several times; zeros are not the end of a piece."""
    monkeypatch.setattr(compiled, "_CACHE_LINES", lines)
    tokenizer = ByteBPE.from_merges(small_bpe.merges)
    pieces = ["".join(random.Random(n).choices("ethanbx", k=n)) for n in range(1, 70)]
    pieces += ["\0" * n for n in range(1, 35)] + ["a" * n for n in range(1, 70)]
    for text in (" ".join(pieces * 2), "\n".join(pieces)):
        assert tokenizer.encode(text) == pure(tokenizer, text)


@pytest.mark.usefixtures("always")
def test_a_cache_that_is_too_small_changes_nothing(monkeypatch: pytest.MonkeyPatch, small_bpe: ByteBPE) -> None:
    monkeypatch.setattr(compiled, "_CACHE_LINES", 8)
    tokenizer = ByteBPE.from_merges(small_bpe.merges)
    text = " ".join(f"word{n} the{n % 7}" for n in range(300)) * 2
    assert tokenizer.encode(text) == pure(tokenizer, text)


@pytest.mark.usefixtures("always")
def test_batches_are_cut_where_the_texts_end(small_bpe: ByteBPE) -> None:
    """What stands beside a text in the row, whitespace above all, must not change its pieces."""
    texts = ["", "a ", " ", "", " b\n", "\n", "'", "s", "12", "345", " ", "é", "", ""]
    for pattern in names:
        tokenizer = _with(small_bpe, pattern)
        assert tokenizer.encode_batch(texts) == [pure(tokenizer, text) for text in texts]
        assert tokenizer.encode_batch(["", ""]) == [[], []] and tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("letters", ["a", "ab", "abcdefgh"])
def test_a_long_piece_takes_about_as_many_steps_as_it_has_letters(letters: str) -> None:
    from groundup.tokenizer import encode_numba

    size = 1 << 20
    draw = random.Random(0)
    merges = train_merges({"".join(draw.choices(letters, k=2000)).encode(): 1}, 400)
    ids = {bytes([byte]): byte for byte in range(256)}
    table = {}
    for rank, (left, right) in enumerate(merges):
        table[ids[left], ids[right]] = (rank, ids.setdefault(left + right, len(ids)))
    encoder = compiled.CompiledEncoder({byte: byte for byte in range(256)}, table, {}, compiled._ANY_RULES)
    scratch = np.zeros(encode_numba.scratch_size(size), dtype=np.int64)
    scratch[:size] = np.frombuffer("".join(draw.choices(letters, k=size)).encode(), dtype=np.uint8)
    short = scratch[:3000].tolist()
    _, pushed = encode_numba.merge_long(scratch, size, encoder._pairs)
    assert pushed < 3 * size
    piece = bytes(short).decode()
    assert encoder.encode(piece) == merge_tokens(short, table)


def test_several_threads_use_one_encoder(small_bpe: ByteBPE, sources: list[str]) -> None:
    encoder = compiled.CompiledEncoder(small_bpe._byte_ids, small_bpe._merge_table, {}, compiled._ANY_RULES)
    expected = [small_bpe._encode_pure(source) for source in sources]
    wrong: list[int] = []

    def work(index: int) -> None:
        for turn in range(6):
            at = (index + turn) % len(sources)
            if encoder.encode(sources[at]) != expected[at]:
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(encoder._idle) <= 4


@pytest.mark.usefixtures("always")
def test_a_copy_of_a_tokenizer_makes_its_own_tables(small_bpe: ByteBPE) -> None:
    small_bpe.encode("the lazy dog")
    other = copy.deepcopy(small_bpe)
    assert other._compiled is None
    assert other.encode("the lazy dog") == small_bpe.encode("the lazy dog")


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=30).map(str.encode), st.integers(1, 9), max_size=12),
    st.integers(0, 80),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=150)
def test_training_matches_the_reference(words: dict[bytes, int], num_merges: int, least: int) -> None:
    assert train_merges_compiled(words, num_merges, least) == train_merges_reference(words, num_merges, least)


def test_training_on_long_words_and_runs() -> None:
    """Tables that must grow, and runs that merge with themselves."""
    for words in ({b"a" * 20_000: 1}, {b"ab" * 5_000 + b"a": 2, b"b" * 4_097: 3}, {bytes(range(256)) * 9: 2}):
        assert train_merges_compiled(words, 700, 1) == train_merges(words, 700, 1)


def test_training_on_real_text(shakespeare: str, languages: dict[str, str]) -> None:
    texts = [shakespeare[:200_000], *(text[:5_000] for text in languages.values())]
    counts = WordCounts()
    counts.count(texts, SCAN_RULES[PATTERNS["gpt4"].portable])
    words = count_words(texts, PATTERNS["gpt4"])
    assert len(counts) == len(words)
    merges = train_merges(words, 3_000)
    seen: list[tuple[int, int]] = []
    assert train_merges_compiled(counts, 3_000, on_progress=lambda *done: seen.append(done)) == merges
    assert seen[0] == (256, 3_000) and seen[-1] == (3_000, 3_000)


@pytest.mark.usefixtures("always")
def test_a_tokenizer_is_trained_alike_on_both_paths(monkeypatch: pytest.MonkeyPatch, sources: list[str]) -> None:
    texts = [*sources, "", "caf\ud800 " + "=" * 500]
    fast = train_bpe(iter(texts), 900).merges
    monkeypatch.setattr(compiled, "worth_it", lambda num_characters: False)
    assert train_bpe(texts, 900).merges == fast
    # The kernels take over in the middle: what was counted before is not lost.
    answers = iter([False, False, True])
    monkeypatch.setattr(compiled, "worth_it", lambda num_characters: next(answers))
    assert train_bpe(texts, 900).merges == fast


@pytest.mark.usefixtures("always")
def test_no_text_is_no_text_on_the_compiled_path() -> None:
    with pytest.raises(DataError, match="every text is empty"):
        train_bpe(["", ""], 300)


class TestWhenItIsWorthIt:
    @pytest.fixture(autouse=True)
    def _anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiled, "_account", compiled._Account())
        compiled.load.cache_clear()
        monkeypatch.setattr(compiled, "_compiled_before", lambda: False)

    def test_a_prompt_never_compiles_and_a_corpus_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not compiled.worth_it(100_000)
        assert compiled.load.cache_info().currsize == 0
        assert compiled.worth_it(compiled._PRICE_OF_COMPILING)
        assert compiled.worth_it(10_000), "loaded once, short texts use it too"
        assert not compiled.worth_it(100), "a call costs more than so few characters"

    def test_much_text_in_small_parts_counts_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiled, "_PRICE_OF_COMPILING", 2_500)
        assert [compiled.worth_it(1_000) for _ in range(4)] == [False, False, True, True]

    def test_less_text_is_enough_when_it_was_compiled_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiled, "_compiled_before", lambda: True)
        assert compiled.worth_it(compiled._PRICE_OF_LOADING)

    def test_the_compiler_is_announced(self) -> None:
        said: list[str] = []
        compiled.prepare(1_000, lambda: said.append("small"))
        assert compiled.load.cache_info().currsize == 0
        compiled.prepare(compiled._PRICE_OF_COMPILING, lambda: said.append("large"))
        assert compiled.load.cache_info().currsize == 1 and said == ["large"]

    def test_a_compiler_that_fails_is_done_without(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, small_bpe: ByteBPE
    ) -> None:
        def broken(*_: object) -> None:
            raise OSError("libllvm is gone")

        monkeypatch.setattr(compiled, "CompiledEncoder", broken)
        monkeypatch.setattr(compiled, "_PRICE_OF_COMPILING", 1)
        text = "the quick brown fox " * 20
        with caplog.at_level(logging.WARNING, "groundup.tokenizer"):
            assert small_bpe.encode(text) == pure(small_bpe, text)
            small_bpe.encode(text)
        assert caplog.text.count("(OSError: libllvm is gone): the slower path runs") == 1
        compiled.load.cache_clear()


def test_the_package_works_without_numba(tmp_path: Path) -> None:
    """One line says so; splitting, encoding and training give the same."""
    code = (
        "import logging, sys\nsys.modules['numba'] = None\nlogging.basicConfig(level='WARNING', stream=sys.stdout)\n"
        "from groundup.tokenizer import compiled, train_bpe\n"
        "compiled._PRICE_OF_LOADING = compiled._PRICE_OF_COMPILING = 1\n"
        "texts = ['the quick brown fox jumps over it ' * 20] * 3\n"
        "tokenizer = train_bpe(texts, 300)\n"
        "assert tokenizer.decode(tokenizer.encode_batch(texts)[1]) == texts[1]\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("numba cannot be used (ModuleNotFoundError") == 1, result.stdout
    assert result.stdout.count("\n") == 2, result.stdout  # and that the text has few pairs


def test_importing_the_tokenizer_imports_no_numba(tmp_path: Path) -> None:
    code = "import sys\nimport groundup.tokenizer, groundup.cli\nsys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_kernels_are_compiled_anew_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba.njit

    def njit(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            return lambda function: (_ for _ in ()).throw(RuntimeError("no locator available"))
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert jit.kernel(lambda a: a + 1)(2) == 3


def test_what_was_compiled_before_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    source = tmp_path / "x_numba.py"
    source.write_text("", encoding="utf-8")
    assert not jit.compiled_before(source)
    (tmp_path / "kept" / "package_abc").mkdir(parents=True)
    (tmp_path / "kept" / "package_abc" / "x_numba.f-1.py311.nbi").write_text("", encoding="utf-8")
    assert not jit.compiled_before(source)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    assert jit.compiled_before(source)
