"""The benchmark of the tokenizer: nothing is timed before all sides give the same ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tiktoken")
pytest.importorskip("tokenizers")
pytest.importorskip("rustbpe")

from benchmarks import tokenizer as bench
from benchmarks.harness import ValidationError
from groundup.tokenizer import ByteBPE

TEXTS = ["the cat sat on the mat, the hat's there\n" * 30, "def cat(hat):\n    return hat + 12345  # é\n" * 30]


def test_all_sides_give_the_same_ids() -> None:
    tokenizer = bench.train_ours(TEXTS, 300)
    functions = bench.encode_functions(tokenizer, "".join(TEXTS))
    assert bench.validate(functions) == len(tokenizer.encode("".join(TEXTS)))


def test_other_ids_are_not_timed() -> None:
    functions = bench.encode_functions(bench.train_ours(TEXTS, 300), TEXTS[0])
    other = ByteBPE.from_merges([(b"t", b"h")], pattern="gpt4")
    with pytest.raises(ValidationError, match=r"wrong gives other ids than ours, the first at \d+ of \d+"):
        bench.validate({**functions, "wrong": lambda: other.encode(TEXTS[0])})


def test_trainers_must_agree_on_most_tokens() -> None:
    ours = bench.train_ours(TEXTS, 280)
    theirs = {bytes(token) for token, _ in bench.train_rustbpe(TEXTS, 280).get_mergeable_ranks()}
    assert len(theirs) == 280
    with pytest.raises(ValidationError, match=r"of our 280 tokens are among the 270"):
        bench.check_shared(ours, set(list(theirs)[:270]))
    assert bench.train_tokenizers(TEXTS, 280).get_vocab_size() == 280


def test_the_text_has_the_size_that_was_asked_for(shared_data: Path) -> None:
    bench.documents.cache_clear()
    texts = bench.documents(400_000)
    assert 400_000 <= sum(len(text.encode()) for text in texts) < 420_000
    assert "import" in texts[0] and texts[-1].startswith("First Citizen")


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["decode"]) == 2
    assert "no part decode: use encode, train" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_benchmark_on_little_text(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.documents.cache_clear()
    monkeypatch.setattr(bench, "VOCABULARIES", (300, 400))
    monkeypatch.setattr(bench, "_LEAST_SHARED", 0.5)
    monkeypatch.setattr(
        bench, "write_results", lambda name, rows, where: (tmp_path / "r.json").write_text(json.dumps(where))
    )
    assert bench.main(["--bytes", "300000", "--samples", "1"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["memory"]["ours"]["peak_bytes"] > 0
    assert "train 400: " in capsys.readouterr().out
