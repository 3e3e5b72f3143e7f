"""`groundup doctor` on real folders: a sound run, spoilt ones, hostile ones, and wrong use."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import run_here, write_notes
from test_stage_verbs import EXECUTION, SHAPE, TUNING, talks


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctor")
    for arguments in (
        ("corpus", write_notes(root / "notes"), "--out", root / "corpus"),
        ("tokenizer", "train", root / "corpus", "--out", root / "tokenizer", "--vocab-size", "300"),
        ("pretrain", root / "corpus", "--tokenizer", root / "tokenizer", "--out", root / "base", *SHAPE, *EXECUTION),
        ("sft", root / "base", talks(root, 60), "--out", root / "chat", *TUNING, *EXECUTION),
    ):
        result = run_here(*arguments)
        assert result.returncode == 0, result.stderr
    return root


def rules(run: Path, stage: str = "pretrain") -> dict[str, str]:
    result = run_here("doctor", run, "--json")
    assert result.returncode in (0, 1), result.stderr
    return {finding["rule"]: finding["evidence"] for finding in json.loads(result.stdout)[stage]["findings"]}


def test_it_says_what_it_checked_and_what_it_could_not(house: Path) -> None:
    result = run_here("doctor", house / "chat")
    assert result.returncode == 0 and "no findings" in result.stdout
    assert "wrong-mask" in result.stdout.split("checked:")[1]
    assert "not checked: loss-spikes: fewer than 26 updates" in result.stdout
    assert run_here("doctor", house / "chat.work").stdout == result.stdout


def test_the_notes_repeat_themselves_and_it_sees_that(house: Path) -> None:
    """The test's texts are one sentence with other numbers: held-out passages do stand in the training text."""
    result = run_here("doctor", house / "base")
    assert result.returncode == 1 and "serious: validation-leak" in result.stdout
    assert "% of the held-out tokens lie in passages" in result.stdout and "fix:" in result.stdout


def test_foreign_tokenizer_and_damaged_checkpoint(house: Path, tmp_path: Path) -> None:
    for name in ("base", "base.work", "corpus"):
        shutil.copytree(house / name, tmp_path / name)
    (tmp_path / "tokens").mkdir()
    run_here("tokenizer", "train", tmp_path / "corpus", "--out", tmp_path / "tokens", "--vocab-size", "290")
    shutil.copy(tmp_path / "tokens" / "tokenizer.json", tmp_path / "base" / "tokenizer.json")
    newest = sorted((tmp_path / "base.work" / "checkpoints").glob("step-*"))[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    found = rules(tmp_path / "base")
    assert "its training (lineage.json) had" in found["tokenizer-mismatch"] or "shards" in found["tokenizer-mismatch"]
    assert "was cut short" in found["damaged-checkpoint"]


def test_broken_shards_are_a_finding_and_not_a_crash(house: Path, tmp_path: Path) -> None:
    for name in ("base", "base.work"):
        shutil.copytree(house / name, tmp_path / name)
    (tmp_path / "base.work" / "shards" / "train" / "index.json").write_text("{")
    metrics = tmp_path / "base.work" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + "{half a line")
    assert "it could not be checked" in rules(tmp_path / "base")["validation-leak"]


def test_wrong_use(house: Path, tmp_path: Path) -> None:
    for folder, words in ((tmp_path / "no", "is no folder"), (tmp_path, "holds no metrics of a run")):
        result = run_here("doctor", folder)
        assert result.returncode == 2 and words in result.stderr
    result = run_here("pretrain", house / "corpus", "--tokenizer", house / "tokenizer", "--out", tmp_path / "x",
                      "--find-lr", "--init-from", house / "base")  # fmt: skip
    assert result.returncode == 2 and "the test is for random weights" in result.stderr


def test_the_range_test_suggests_a_rate_and_trains_nothing(house: Path, tmp_path: Path) -> None:
    result = run_here("pretrain", house / "corpus", "--tokenizer", house / "tokenizer", "--out", tmp_path / "base",
                      "--find-lr", *SHAPE, *EXECUTION)  # fmt: skip
    assert result.returncode == 0, result.stderr
    rate = float(result.stdout.split("--train.learning-rate ")[1].split()[0])
    assert 1e-4 < rate < 1.0 and "suggested" in result.stdout
    assert not (tmp_path / "base").exists() and not (tmp_path / "base.work" / "checkpoints").exists()
