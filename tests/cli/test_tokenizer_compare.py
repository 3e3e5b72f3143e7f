"""`groundup tokenizer compare`: what it prints and writes, what it refuses; and training by `--kind`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from groundup.recipes.tokenizer_compare import (
    SCHOOLS,
    SENTENCES,
    Measure,
    Span,
    measure,
    read_languages,
    spans_markup,
    spans_of,
)
from groundup.tokenizer import CharTokenizer, load_tokenizer, train_bpe, train_unigram, train_word_level

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import Done, run_here, write_notes

TEXT = "The river <b>&amp; 東京</b>  flows\n\x1b[31m"


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_notes(tmp_path_factory.mktemp("compare") / "notes")


@pytest.fixture(scope="module")
def house(notes: Path) -> Path:
    """A tokenizer to compare with, texts by language, and what the command printed and wrote."""
    root = notes.parent
    train_bpe(["the river and the mountain " * 20], 300).save(root / "mine")
    languages = root / "languages"
    languages.mkdir()
    (languages / "aaa.txt").write_text("the river and the mountain", encoding="utf-8")
    (languages / "zzz.txt").write_text("老面包师在日出之前打开店门，整条街都飘着热面包的香味。", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def compared(notes: Path, house: Path) -> Done:
    return run_here(
        "tokenizer", "compare", TEXT, "--on", notes, "--vocab-size", "400", "--with", house / "mine",
        "--with", house / "mine" / "tokenizer.json", "--languages", house / "languages", "--price", "2.5",
        "--page", house / "page.html",
    )  # fmt: skip


def test_all_schools_stand_side_by_side(compared: Done) -> None:
    assert compared.returncode == 0, compared.stderr
    said = compared.stdout
    places = [said.index(f"\n{kind}: ") for kind in [*SCHOOLS, "mine"]]
    assert places == sorted(places)
    for line in ("aaa", "zzz"):
        assert len(re.findall(rf"^│ {line} ", said, re.M)) == 2
    assert "\x1b[31m" not in said and r"\x1b" in said
    assert re.search(r"^│ word .* no ", said, re.M)
    assert re.search(r"^│ unig\S* .* yes ", said, re.M)


def test_the_page_is_self_contained_and_escaped(compared: Done, house: Path) -> None:
    assert compared.returncode == 0
    page = (house / "page.html").read_text(encoding="utf-8")
    assert page.count('<div class="tokens"') == len(SCHOOLS) + 2
    assert "&lt;" in page and "<b>" not in page.replace("<body>", "") and "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "\x1b" not in page
    assert "token unknown" in page
    assert f"--vocab-size 400 --with {house / 'mine'}" in page


def test_the_built_in_sentences_are_used_and_a_file_is_read(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the river", encoding="utf-8")
    done = run_here("tokenizer", "compare", "--file", tmp_path / "text.txt", "--on", notes, "--vocab-size", "300")
    assert done.returncode == 0, done.stderr
    for language in SENTENCES:
        assert f"│ {language} " in done.stdout
    assert "cost" not in done.stdout


REFUSED: list[tuple[list[str], str]] = [
    ([], "give a text, or a file of one with --file"),
    (["", "--on", "NOTES"], "the text is empty: there is nothing to cut"),
    ([" \n", "--on", "NOTES"], "the text is empty"),
    (["a", "--file", "x.txt"], "and not both"),
    (["--file", "absent.txt"], "absent.txt does not exist"),
    (["a", "--on", "shakespear"], "did you mean 'shakespeare'"),
    (["a", "--on", "NOTES", "--vocab-size", "100"], "vocab_size"),
    (["a", "--on", "NOTES", "--price", "-1"], "--price -1 must be 0 or more"),
    (["a", "--on", "NOTES", "--price", "nan"], "--price nan must be 0 or more"),
    (["a", "--on", "NOTES", "--with", "nowhere/at/all"], "nowhere/at/all"),
    (["a", "--on", "NOTES", "--languages", "absent"], "absent is no folder of .txt files"),
    (["a", "--on", "NOTES", "--page", "."], "--page . is a folder: name a file"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_wrong_use_is_refused_before_any_training(
    arguments: list[str], message: str, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_here("tokenizer", "compare", *(str(notes) if word == "NOTES" else word for word in arguments))
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "tokens" not in done.stdout


def test_languages_without_text_are_refused(tmp_path: Path) -> None:
    from groundup.core.errors import DataError

    (tmp_path / "eng.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"eng\.txt is empty: a language needs a text"):
        read_languages(tmp_path)


def test_numbers_by_hand() -> None:
    words = train_word_level(["to be or not to be"], 100)
    found = measure(words, "to be  free")
    assert found == Measure(num_tokens=3, num_unknown=1, num_words=3, num_characters=11, num_bytes=11, comes_back=False)
    assert found.tokens_per_word == 1.0
    assert [(span.text, span.is_unknown) for span in spans_of(words, "to be free")] == [
        (" to", False), (" be", False), (" [UNK]", True),
    ]  # fmt: skip
    chinese = measure(CharTokenizer.train([SENTENCES["Chinese"]]), SENTENCES["Chinese"])
    assert chinese.tokens_per_word is None
    assert chinese.comes_back


def test_parts_of_characters_and_signs_are_made_visible() -> None:
    tokenizer = train_unigram(["the cat " * 100], 270)
    shown = [span.text for span in spans_of(tokenizer, "a\n\té\u202e")]
    assert {"⏎", "→", r"\xc3", r"\xa9"} <= {text.strip() for text in shown}
    assert "<" not in str(spans_markup([Span("<b>&", 3, True)])).replace("<div", "").replace("<span", "").replace(
        "</", ""
    ).replace("<small", "")


@pytest.mark.parametrize("kind", ["word", "wordpiece", "sentencepiece", "unigram"])
def test_a_tokenizer_of_each_school_is_trained_and_read(kind: str, notes: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    assert run_here("corpus", notes, "--out", corpus).returncode == 0
    done = run_here("tokenizer", "train", corpus, "--out", tmp_path / "t", "--kind", kind, "--vocab-size", "300")
    assert done.returncode == 0, done.stderr
    assert "bytes per token" in done.stdout
    assert load_tokenizer(tmp_path / "t").vocab_size <= 300
    assert run_here("tokenizer", "show", tmp_path / "t", "the river").returncode == 0
