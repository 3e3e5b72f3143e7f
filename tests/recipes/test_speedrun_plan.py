"""What a speedrun remembers of itself: its plan, its inputs, its time; and what it refuses to touch."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
from cli_runner import TINY, environment, run, write_notes

from groundup.core.errors import ConfigError, DataError, Interrupted, UsageError
from groundup.core.interrupt import stop_on_signal
from groundup.core.rundir import RunDir
from groundup.data.sources import find_files
from groundup.recipes.corpus import source_fingerprint
from groundup.recipes.dial import settings_for
from groundup.recipes.evaluation import unknown_bits
from groundup.recipes.plan import fit_to_budget
from groundup.recipes.speedrun import speedrun
from groundup.tokenizer import CharTokenizer, train_bpe, train_word_level

TINY_TABLES: dict[str, Any] = {
    "depth": 2,
    "tokenizer": {"vocab_size": 300},
    "model": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 400},
    "pretrain": {"context": 32, "batch_size": 4, "num_steps": 8},
    "sft": {"num_steps": 4, "batch_size": 4, "max_length": 399},
    "evaluation": {"questions_per_kind": 10, "stride": 32},
    "execution": {"threads": 1},
}


def tiny(source: Path, **changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(TINY_TABLES)), "corpus": {"source": str(source)}, **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    overrides = tiny(write_notes(root / "notes"))
    before = json.dumps(overrides)
    speedrun(overrides, run=root / "run")
    assert json.dumps(overrides) == before  # the caller's settings are not written to
    return root


def hashes(run_folder: Path) -> dict[str, Any]:
    stages = json.loads((run_folder / "stages.json").read_text())
    return {name: (stages[name]["outputs"], stages[name]["finished"]) for name in ("pretrain", "sft")}


@pytest.mark.parametrize("replan", [False, True])
def test_other_questions_and_a_new_execution_plan_keep_what_is_trained(finished: Path, replan: bool) -> None:
    before = hashes(finished / "run")
    evaluation = {"questions_per_kind": 12 + replan, "stride": 32}
    speedrun(tiny(finished / "notes", evaluation=evaluation), run=finished / "run", replan=replan)
    assert hashes(finished / "run") == before
    plan = json.loads((finished / "run" / "plan.json").read_text())
    assert plan["settings"]["evaluation"] == {"context": 32, **evaluation}


def test_the_time_of_earlier_runs_counts(finished: Path) -> None:
    stages = json.loads((finished / "run" / "stages.json").read_text())
    for name in ("pretrain", "sft"):
        assert stages[name]["seconds"] >= stages[name]["training_s"] > 0


def test_a_folder_of_someone_else_is_never_cleared(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "pretrain").mkdir(parents=True)
    (tmp_path / "run" / "pretrain" / "keep.txt").write_text("mine")
    with pytest.raises(DataError, match="files that no run left there"):
        speedrun(tiny(finished / "notes"), run=tmp_path / "run")
    assert (tmp_path / "run" / "pretrain" / "keep.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../x"])
def test_a_name_is_a_name(tmp_path: Path, name: str) -> None:
    result = run("speedrun", write_notes(tmp_path / "n", 3), "--name", name, "--runs", tmp_path / "runs", *TINY)
    assert result.returncode == 2 and "no name of a folder" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_what_a_run_left_is_no_source(finished: Path, tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "notes", 4)
    files, seen = find_files(notes), source_fingerprint(str(notes))
    for marker in ("stages.json", "corpus.json", "lineage.json"):
        made = notes / f"made-{marker}"
        made.mkdir()
        (made / marker).write_text("{}")
        (made / "test.jsonl").write_text('{"text": "held out"}\n')
    assert find_files(notes) == files and source_fingerprint(str(notes)) == seen


def test_the_home_folder_is_followed_by_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    notes = write_notes(tmp_path / "notes", 3)
    before = source_fingerprint("~/notes")
    assert before == source_fingerprint("~/notes")
    (notes / "note0.txt").write_text("changed")
    assert source_fingerprint("~/notes") != before


def test_text_without_prose_is_named_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "code.txt").write_text("\n\n".join(f"x{n}::y | z{n};  a::b({n}) | c" for n in range(3000)))
    with pytest.raises(DataError, match="no questions could be made"):
        speedrun(tiny(tmp_path / "code.txt"), run=tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()


def test_conversations_that_do_not_fit_are_named_before_any_training(finished: Path, tmp_path: Path) -> None:
    overrides = tiny(finished / "notes", sft={"num_steps": 4, "batch_size": 4, "max_length": 16})
    with pytest.raises(DataError, match=r"longer than sft\.max_length \(16 tokens\)"):
        speedrun(overrides, run=tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()


def test_text_that_begins_with_its_only_space(tmp_path: Path) -> None:
    body = "".join(chr(0x4E00 + (n * 7919) % 900) for n in range(120))
    text = "\n\n".join(f" {body[n % 50 :]}。{body[: n % 90]}" for n in range(400))
    english = "\n\n".join(f"The {n} rivers ran. They met near a town. Nobody had seen {n} of them." for n in range(400))
    (tmp_path / "a.txt").write_text(text + "\n\n" + english, encoding="utf-8")
    speedrun(tiny(tmp_path / "a.txt"), run=tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "eval" / "samples.json").read_text())
    assert rows and all(row["prompt"] for row in rows)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"model": {"hidden_size": 0}}, "model.hidden_size.*8.*got 0"),
        ({"model": {"num_attention_heads": 0}}, "model.num_attention_heads"),
        ({"model": {"hidden_size": "wide"}}, "model.hidden_size.*'wide'"),
        ({"seed": "abc"}, "seed.*'abc'"),
        ({"depth": "four"}, "depth.*'four'"),
        ({"corpus": "notes"}, "corpus is a table of settings, not 'notes'"),
        ({"pretrain": {"num_steps": "a"}}, "pretrain.num_steps"),
        ({"pretrian": {}}, "pretrian.*pretrain"),
    ],
)
def test_values_are_checked_before_anything_is_computed(tmp_path: Path, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        speedrun(overrides, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_dial_leaves_the_overrides_as_they_are() -> None:
    overrides = {"evaluation": {"stride": 32}}
    assert settings_for(4, 1_000_000, overrides).evaluation.context == 256
    assert overrides == {"evaluation": {"stride": 32}}
    assert settings_for(12, 1_000_000, overrides).evaluation.context == 512


@pytest.mark.parametrize("budget", [300.0, 1_200.0, 3_600.0])
@pytest.mark.parametrize(
    "overrides", [{"pretrain": {"num_steps": 200}}, {"sft": {"num_steps": 3000}}, {"evaluation": {"stride": 8}}]
)
def test_given_steps_never_make_a_large_budget_too_small(
    monkeypatch: pytest.MonkeyPatch, budget: float, overrides: dict[str, Any]
) -> None:
    from test_dial_and_plan import fake_probe

    from groundup.recipes import plan as plan_module
    from groundup.recipes.dial import approximate_parameters

    def measure(settings: Any, *, may_compile: bool = True) -> Any:
        del may_compile
        size = approximate_parameters(settings.model.to_dict(), settings.tokenizer.vocab_size)
        return fake_probe(60e9 / (6 * size))

    monkeypatch.setattr(plan_module, "measure", measure)
    if budget == 300.0 and "pretrain" not in overrides:
        return
    chosen, probe = fit_to_budget(budget, 2_000_000, overrides)
    plan = plan_module.make_plan(chosen, 2_000_000, probe=probe)
    assert plan.predicted["total_s"] <= 1.05 * budget
    for stage, values in overrides.items():
        for key, value in values.items():
            assert getattr(getattr(chosen, stage), key) == value


def test_unknown_characters_are_charged() -> None:
    tokenizer = CharTokenizer(list("abc "))
    assert unknown_bits(tokenizer, ["a b", "a日b本"]).tolist() == [0.0, pytest.approx(2 * 20.087, rel=1e-3)]
    bpe = train_bpe(["some text to learn from"] * 3, 270)
    assert unknown_bits(bpe, ["日本語 ä"]).tolist() == [0.0]
    # BUNK and the blank before it are lost; the letters of [UNK] are none that came back. A line end is lost too.
    words = train_word_level(["a bee , a cat"] * 3, 300)
    lost = unknown_bits(words, ["a bee , a cat", "a BUNK , a cat", "a\nbee"]) / math.log2(0x110000 - 0x800)
    assert lost.tolist() == pytest.approx([0.0, 5.0, 1.0])


def test_another_source_of_the_same_name_does_not_take_over_the_run(finished: Path, tmp_path: Path) -> None:
    before = hashes(finished / "run")
    other = write_notes(tmp_path / "notes", 25)
    with pytest.raises(UsageError, match=r"holds a run on .*notes, not on .*choose another --name"):
        speedrun(tiny(other), run=finished / "run")
    assert hashes(finished / "run") == before


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "run")
    first.lock()
    first.lock()  # its own lock is no obstacle
    code = (
        f"from pathlib import Path; from groundup.core.rundir import RunDir; RunDir(Path({str(first.path)!r})).lock()"
    )
    taken = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert taken.returncode != 0 and "another process is working in" in taken.stderr
    first.unlock()
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


def test_a_signal_ends_work_without_a_safe_point_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_on_signal() as stop:
        with pytest.raises(Interrupted, match="stopped during corpus"), stop.at_once("stopped during corpus"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert "stopping at the next safe point" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_eval_warns_of_a_corpus_that_the_model_may_have_seen(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from groundup.recipes.corpus import make_corpus
    from groundup.recipes.settings import CorpusSettings
    from groundup.recipes.stages import evaluate_stage

    make_corpus(CorpusSettings(source=str(finished / "notes")), tmp_path / "corpus", seed=5)
    numbers = {"questions_per_kind": 10, "stride": 32}
    for corpus, warned in ((tmp_path / "corpus", True), (finished / "run" / "corpus", False)):
        evaluate_stage(finished / "run" / "base", corpus, tmp_path / "out", before=None, seed=0, overrides=numbers)
        assert ("may have seen what is held out" in capsys.readouterr().err) == warned
