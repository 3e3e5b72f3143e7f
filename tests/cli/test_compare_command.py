"""`groundup compare`: end to end with a part of one's own, killed and continued, matched in each way, and misused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import command, environment, run_here, write_notes

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "compare-two-ideas"
TABLES: dict[str, dict[str, Any]] = {
    "model": {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    },
    "train": {
        "context": 32,
        "batch_size": 4,
        "num_steps": 16,
        "checkpoint_every": 4,
        "evaluate_every": 8,
        "optimizer": "adamw",
    },
    "execution": {"threads": 1, "precision": "float32", "micro_batch": 4},
}


def file(folder: Path, name: str, **changes: dict[str, Any]) -> Path:
    tables = {key: {**TABLES.get(key, {}), **changes.get(key, {})} for key in {**TABLES, **changes}}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(tables), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a tokenizer, and files of ideas."""
    root = tmp_path_factory.mktemp("compare")
    done = run_here("corpus", write_notes(root / "notes"), "--out", root / "corpus")
    assert done.returncode == 0, done.stderr
    done = run_here("tokenizer", "train", root / "corpus", "--out", root / "tokenizer", "--vocab-size", "300")
    assert done.returncode == 0, done.stderr
    shutil.copy(EXAMPLE / "near_attention.py", root)
    part = {"kind": "file", "path": "near_attention.py", "name": "NearAttention", "options": {"num_heads": 2}}
    file(root, "base")
    file(root, "near", model={"layer": {"mixer": part}})
    file(root, "muon", train={"optimizer": "muon"})
    return root


def arguments(house: Path, a: str, b: str, out: Path, *more: str) -> list[str]:
    shared = ["--corpus", house / "corpus", "--tokenizer", house / "tokenizer", "--out", out, "--trust-code"]
    return list(map(str, ["compare", house / f"{a}.json", house / f"{b}.json", *shared, *more]))


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock, nor on where the comparison lies."""
    timed = ("seconds", "seconds_of_seeds", "tokens_per_s")
    costs = {key: {k: v for k, v in cost.items() if k not in timed} for key, cost in found["costs"].items()}
    curves = [
        [(p["tokens"], p["bits_per_byte"]) for p in curve["points"]] for key in "ab" for curve in found["curves"][key]
    ]
    kept = {key: found[key] for key in ("verdict", "difference", "seeds", "differs", "same", "test", "settings")}
    return {**kept, "costs": costs, "curves": curves}


@pytest.fixture(scope="module")
def whole(house: Path) -> Path:
    """A comparison that was never stopped."""
    done = run_here(*arguments(house, "base", "near", house / "whole", "--seeds", "2"))
    assert done.returncode == 0, done.stderr
    assert "Run 4 of 4: near, seed 1" in done.stdout and "page: " in done.stdout
    return house / "whole"


def test_it_says_what_differs_what_is_the_same_and_what_came_out(whole: Path) -> None:
    found = json.loads((whole / "comparison.json").read_text())
    assert [one["name"] for one in found["differs"]] == ["model.layer.mixer"]
    assert found["differs"][0]["b"].startswith("file (path near_attention.py, name NearAttention, ")
    assert found["costs"]["a"]["tokens"] == found["costs"]["b"]["tokens"] == 16 * 4 * 32
    assert any("the same windows in the same updates" in sentence for sentence in found["same"])
    assert len(found["seeds"]) == 2 and found["difference"]["over"] == "seeds and texts"
    first = found["curves"]["a"][0]["points"]
    assert [point["tokens"] for point in first] == [1024, 2048] and first[0]["seconds"] < first[1]["seconds"]
    page = (whole / "comparison.html").read_text()
    assert found["verdict"] in page and "<script" not in page and "near_attention.py" in page
    assert not (whole / "runs" / "a-seed0" / "checkpoints").exists()
    assert (whole / "runs" / "b-seed1" / "model" / "model.safetensors").is_file()


def test_the_result_is_that_of_the_runs_that_pretrain_would_make(house: Path, whole: Path, tmp_path: Path) -> None:
    settings = ["--config", house / "base.json", "--depth", "4", "--seed", "1", "--out", tmp_path / "base"]
    plain = ["--train.chat-share", "0", "--train.starting-values", "normal"]
    done = run_here("pretrain", house / "corpus", "--tokenizer", house / "tokenizer", *settings, *plain)
    assert done.returncode == 0, done.stderr
    ours = whole / "runs" / "a-seed1" / "model" / "model.safetensors"
    assert ours.read_bytes() == (tmp_path / "base" / "model.safetensors").read_bytes()


def test_repeated_it_trains_nothing_and_more_seeds_are_added(house: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(whole, out)
    before = (out / "comparison.json").read_text()
    done = run_here(*arguments(house, "base", "near", out, "--seeds", "2"))
    assert done.returncode == 0 and done.stdout.count("finished before") == 4, done.stderr
    assert without_times(json.loads((out / "comparison.json").read_text())) == without_times(json.loads(before))
    done = run_here(*arguments(house, "base", "near", out, "--seeds", "3"))
    assert done.returncode == 0 and done.stdout.count("finished before") == 4 and "Run 6 of 6" in done.stdout
    assert json.loads((out / "comparison.json").read_text())["seeds"][:2] == json.loads(before)["seeds"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_stopped_in_the_middle_it_ends_as_if_it_had_not_been(
    house: Path, whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    call = arguments(house, "base", "near", tmp_path / "out", "--seeds", "2")
    process = subprocess.Popen(
        command(*call), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    )
    checkpoints, deadline = tmp_path / "out" / "runs" / "b-seed0" / "checkpoints", time.monotonic() + 120
    while not list(checkpoints.glob("step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert not (tmp_path / "out" / "comparison.json").exists()
    done = run_here(*call)
    assert done.returncode == 0 and "Run 1 of 4: base, seed 0: finished before" in done.stdout, done.stderr
    again, never = (json.loads((folder / "comparison.json").read_text()) for folder in (tmp_path / "out", whole))
    assert without_times(again) == without_times(never)


def test_other_settings_are_refused_and_the_difference_named(house: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copy(house / "near_attention.py", tmp_path)
    base, near = json.loads((house / "base.json").read_text()), json.loads((house / "near.json").read_text())
    base["train"]["learning_rate"] = 0.5
    (tmp_path / "base.json").write_text(json.dumps(base))
    (tmp_path / "near.json").write_text(json.dumps(near))
    call = arguments(house, "base", "near", whole, "--seeds", "2")
    call[1:3] = [str(tmp_path / "base.json"), str(tmp_path / "near.json")]
    done = run_here(*call)
    assert done.returncode == 2 and "a.file.train.learning_rate was absent, is now 0.5" in done.stderr
    shutil.copy(house / "base.json", tmp_path)
    code = tmp_path / "near_attention.py"
    code.write_text(code.read_text().replace("linspace(-1.0", "linspace(-2.0"))
    done = run_here(*call)
    assert done.returncode == 2 and "b.code.near_attention.py was" in done.stderr
    done = run_here(*arguments(house, "base", "near", whole, "--match", "flops"))
    assert done.returncode == 2 and "match was 'tokens', is now 'flops'" in done.stderr


def test_equal_operations(house: Path, tmp_path: Path) -> None:
    call = arguments(house, "base", "base", tmp_path / "out", "--seeds", "1", "--match", "flops")
    call[2] = str(file(tmp_path, "deep", model={"num_hidden_layers": 4}))
    done = run_here(*call)
    assert done.returncode == 0 and "one seed gives an interval over texts only" in done.stderr, done.stderr
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["costs"]["b"]["steps"] < 16 and abs(found["budget"]["flops"]) < 0.05


def test_equal_time_is_corrected_and_what_remains_is_said(house: Path, tmp_path: Path) -> None:
    tables = {**TABLES, "model": {**TABLES["model"], "num_hidden_layers": 4}}
    tables["train"] = {key: value for key, value in TABLES["train"].items() if key != "num_steps"}
    (tmp_path / "deep.json").write_text(json.dumps(tables))
    call = arguments(house, "base", "base", tmp_path / "out", "--seeds", "1", "--match", "time")
    call[2] = str(tmp_path / "deep.json")
    done = run_here(*call)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert found["costs"]["b"]["steps"] == plan["steps"]["b"]
    assert plan["corrections"] == done.stdout.count("its first run is repeated with") <= 2
    # Whatever the clock said: it is in the table, and called unequal where it is.
    assert ("the budgets are not equal" in done.stderr) == (not found["budget"]["is_equal"])
    assert ("The budgets are not equal" in (tmp_path / "out" / "comparison.html").read_text()) == (
        not found["budget"]["is_equal"]
    )


def test_each_idea_may_have_a_tokenizer_of_its_own(house: Path, tmp_path: Path) -> None:
    """Equal tokens are then other bytes of text, and only bits per byte compare the two."""
    small = file(tmp_path, "small", tokenizer={"vocab_size": 300})
    large = file(tmp_path, "large", tokenizer={"vocab_size": 400})
    call = ["compare", small, large, "--corpus", house / "corpus", "--out", tmp_path / "out", "--seeds", "1"]
    done = run_here(*map(str, call))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [one["name"] for one in found["differs"] if one["why"] == "the files"] == ["tokenizer.vocab_size"]
    assert found["costs"]["a"]["tokens"] == found["costs"]["b"]["tokens"]
    sizes = [json.loads(path.read_text())["vocab_size"] for path in (tmp_path / "out").glob("runs/*/model/config.json")]
    assert sorted(sizes) == [300, 400] and len(list((tmp_path / "out").glob("tokenizer-*"))) == 2
    assert not any("the same windows" in sentence for sentence in found["same"])


def test_a_comparison_of_another_machine_goes_on_only_under_a_new_plan(house: Path, tmp_path: Path) -> None:
    call = arguments(house, "base", "near", tmp_path / "out", "--seeds", "1")
    process = subprocess.Popen(command(*call), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    runs, deadline = tmp_path / "out" / "runs", time.monotonic() + 120
    while not list(runs.glob("b-seed0/checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait(timeout=60)
    plans = list(runs.glob("b-seed0/plan.json"))
    assert len(plans) == 1 and not (tmp_path / "out" / "comparison.json").exists()
    plans[0].write_text(json.dumps({**json.loads(plans[0].read_text()), "machine": "another"}))
    done = run_here(*call)
    assert done.returncode == 1 and "another" in done.stderr and "--replan" in done.stderr
    done = run_here(*call, "--replan")
    assert done.returncode == 0 and "base, seed 0: finished before" in done.stdout, done.stderr
    assert (tmp_path / "out" / "comparison.json").is_file()


def test_the_same_file_twice_differs_in_nothing(house: Path, tmp_path: Path) -> None:
    done = run_here(*arguments(house, "base", "base", tmp_path / "out", "--seeds", "2"))
    assert done.returncode == 0 and "nothing differs between the two" in done.stderr
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["names"] == {"a": "A", "b": "B"} and found["differs"] == []
    assert found["verdict"] == "B cannot be told from A: there is no difference at all."
    assert "Nothing differs" in (tmp_path / "out" / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "0"], "--seeds 0: at least one run of each is needed"),
        (["--budget", "1s"], "train.num_steps = 16, and --budget chooses it"),
        (["--budget", "soon"], "--budget 'soon' is no duration"),
        (["--match", "speed"], "speed"),
        (["--corpus", "nowhere"], "the source 'nowhere' is neither a file, a folder nor a named source"),
        (["--tokenizer", "nowhere"], "nowhere"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_trained(
    house: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    call = arguments(house, "base", "muon", tmp_path / "out")
    if more[0] in ("--corpus", "--tokenizer"):
        place = call.index(more[0])
        call[place : place + 2] = more
    else:
        call += more
    done = run_here(*call)
    assert done.returncode in (1, 2) and message in done.stderr, done.stderr
    assert not (tmp_path / "out" / "runs").exists()


def test_code_needs_trust_and_a_folder_of_something_else_is_left_alone(house: Path, tmp_path: Path) -> None:
    call = arguments(house, "base", "near", tmp_path / "out")
    call.remove("--trust-code")
    done = run_here(*call)
    assert done.returncode == 2 and "near_attention.py" in done.stderr and "--trust-code" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    done = run_here(*arguments(house, "base", "muon", tmp_path / "mine"))
    assert done.returncode == 2 and "holds 'letter.txt', which no comparison left there" in done.stderr
    small = file(tmp_path, "small")
    free = json.loads(small.read_text())
    del free["train"]["num_steps"]
    small.write_text(json.dumps(free))
    call = arguments(house, "base", "base", tmp_path / "short", "--budget", "0.01s")
    call[1:3] = [str(small), str(small)]
    done = run_here(*call)
    assert done.returncode == 2 and "is too short for 6 runs of at least 50 updates: use --budget" in done.stderr


def test_pretrain_takes_a_part_of_ones_own_too(house: Path, tmp_path: Path) -> None:
    call = ["pretrain", house / "corpus", "--tokenizer", house / "tokenizer", "--out", tmp_path / "near",
            "--config", house / "near.json"]  # fmt: skip
    refused = run_here(*call)
    assert refused.returncode == 2 and "--trust-code" in refused.stderr and not (tmp_path / "near.work").exists()
    done = run_here(*call, "--trust-code", "--train.num-steps", "2", "--train.warmup-steps", "0")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "near").glob("part_*.py"))


def test_the_page_shows_the_files_that_its_commands_run_on() -> None:
    page = (ROOT / "docs" / "how-to" / "compare-two-ideas.md").read_text(encoding="utf-8")
    for name, language in (("near_attention.py", "python"), ("base.toml", "toml")):
        assert f"```{language}\n{(EXAMPLE / name).read_text(encoding='utf-8')}```" in page, name
    lines = (EXAMPLE / "near.toml").read_text(encoding="utf-8").splitlines()
    more = [line for line in lines if line and line not in (EXAMPLE / "base.toml").read_text().splitlines()]
    assert "```toml\n" + "\n".join(more) + "\n```" in page
