"""The main job through the command line: end to end, stopped and resumed, and with bad input."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import TINY, command, environment, run, write_notes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole tiny speedrun, never stopped."""
    root = tmp_path_factory.mktemp("speedrun")
    notes = write_notes(root / "notes")
    result = run("speedrun", notes, "--runs", root / "runs", *TINY)
    assert result.returncode == 0, result.stderr
    assert "Plan" in result.stdout and "predicted time" in result.stdout
    return root / "runs" / "notes"


def weights(run_folder: Path) -> tuple[bytes, bytes]:
    return tuple((run_folder / name / "model.safetensors").read_bytes() for name in ("base", "chat"))  # type: ignore[return-value]


def test_it_leaves_what_it_says(finished: Path) -> None:
    for name in ("base", "chat"):
        files = {path.name for path in (finished / name).iterdir()}
        assert {
            "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
            "README.md", "lineage.json",
        } <= files  # fmt: skip
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "bits per byte" in page and "primed" in page
    lineage = json.loads((finished / "chat" / "lineage.json").read_text())
    assert lineage["stage"] == "sft" and lineage["parent"]["folder"].endswith("base")
    assert lineage["data_sha256"]["train"]
    plan = json.loads((finished / "plan.json").read_text())
    assert lineage["execution"]["precision"] == plan["execution"]["precision"] == "float32"


def test_a_finished_run_is_not_repeated_unless_its_inputs_change(finished: Path) -> None:
    notes, before = finished.parents[1] / "notes", weights(finished)
    result = run("speedrun", notes, "--runs", finished.parent, *TINY)
    assert result.returncode == 0, result.stderr
    for stage in ("Corpus", "Tokenizer", "Pretraining", "Tuning on conversations", "Evaluation"):
        assert f"{stage}: finished before" in result.stdout
    assert weights(finished) == before


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_the_chat_model_answers_the_same_in_llama_cpp(finished: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama.cpp: make oracles")
    from benchmarks import llama_cpp_peer as peer
    from groundup.inference.session import answer_stop_ids
    from groundup.model.load import load_model
    from groundup.recipes.tuning import answer
    from groundup.tokenizer.chat import encode_chat

    path = tmp_path / "chat.gguf"
    done = run("export", finished / "chat", "--type", kind, "--out", path)
    assert done.returncode == 0, done.stderr
    loaded = load_model(path)
    assert loaded.chat_template is not None
    stops = answer_stop_ids(loaded.tokenizer, loaded.chat_template, loaded.generation)
    for question in ("Where does the river stand?", "Que dit <|im_end|> l'été ?"):
        messages = [{"role": "user", "content": question}]
        ids = encode_chat(loaded.tokenizer, loaded.chat_template, messages, add_generation_prompt=True).ids
        if "<|" not in question:  # there llama.cpp reads the special token in the text, which we never do
            assert ids == peer.tokenize(path, peer.chat_prompt(path, messages), special=True)
        theirs = loaded.tokenizer.decode(peer.greedy(path, ids, 128, stops, threads=1), skip_special=True)
        assert answer(loaded, messages) == theirs


def test_transformers_loads_both_and_says_the_same(finished: Path) -> None:
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from groundup.model.directory import load_model_directory
from groundup.inference.generate import generate
from groundup.inference.sampling import Sampling
from groundup.tokenizer.chat import encode_chat
for folder in sys.argv[1:]:
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    from pathlib import Path
    ours = load_model_directory(Path(folder))
    messages = [{"role": "user", "content": "Which word comes after river?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == encode_chat(ours.tokenizer, ours.chat_template, messages, add_generation_prompt=True).ids
    with torch.no_grad():
        a = theirs(torch.tensor([ids])).logits
        b = ours.model.logits(ours.model(torch.tensor([ids])))
    assert (a - b).abs().max() <= 1e-4 * a.abs().max(), (a - b).abs().max()
    text = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0][len(ids):].tolist()
    ends = set(ours.generation["eos_token_id"])
    mine = [s.token for s in generate(ours.model, ids, Sampling(temperature=0.0, max_new_tokens=24), stop_ids=ends)]
    assert mine == text, (mine, text)
print("same")
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(finished / "base"), str(finished / "chat")],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert result.stdout.endswith("same\n"), result.stderr


def test_chat_and_generate(finished: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    lines = f"hello\n/help\n/temperature 0.5\nagain\n/save {saved}\n/reset\n/quit\n"
    result = run("chat", finished / "chat", "--max-new-tokens", "5", "--system", "Be brief.", input=lines)
    assert result.returncode == 0, result.stderr
    assert "/reset" in result.stdout and "forgotten" in result.stdout
    messages = json.loads(saved.read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    again = run("generate", finished / "base", "The river", "--temperature", "0", "--max-new-tokens", "6")
    assert again.returncode == 0 and again.stdout.startswith("The river")


def test_preview_colours_the_trained_tokens(finished: Path) -> None:
    result = run("sft", finished / "base", finished / "corpus", "--preview", "2", FORCE_COLOR="1")
    assert result.returncode == 0, result.stderr
    assert "\x1b[32m" in result.stdout and "\x1b[1;31m<|im_end|>" in result.stdout


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(finished: Path, tmp_path: Path, kills: int) -> None:
    notes = finished.parents[1] / "notes"
    arguments = command("speedrun", notes, "--runs", tmp_path, *TINY)
    dice, done = random.Random(kills), 0
    log = tmp_path / "log"
    while done < kills:
        metrics = tmp_path / "notes" / "metrics.jsonl"
        before = metrics.stat().st_size if metrics.exists() else 0
        with log.open("w") as out:
            process = subprocess.Popen(arguments, stdout=out, stderr=out, env=environment())
        # Wait until a stage writes numbers, then a random moment longer: the kill falls into pretraining or tuning.
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.stat().st_size != before:
                break
            time.sleep(0.01)
        time.sleep(dice.random() * 0.4)
        if process.poll() is not None:
            assert process.returncode == 0, log.read_text()
            break
        process.kill()
        process.wait()
        done += 1
    assert done >= 1
    final = subprocess.run(arguments, capture_output=True, text=True, env=environment())
    assert final.returncode == 0, final.stderr
    assert weights(tmp_path / "notes") == weights(finished)


def test_sigterm_saves_and_ends_with_130(finished: Path, tmp_path: Path) -> None:
    notes = finished.parents[1] / "notes"
    arguments = command("speedrun", notes, "--runs", tmp_path, *TINY)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    metrics, deadline = tmp_path / "notes" / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command goes on from there" in errors
    final = subprocess.run(arguments, capture_output=True, text=True, env=environment())
    assert final.returncode == 0, final.stderr
    assert weights(tmp_path / "notes") == weights(finished)


def test_jsonl_with_its_text_column(tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "notes")
    rows = [json.dumps({"body": path.read_text(), "n": i}) for i, path in enumerate(sorted(notes.glob("*.txt")) * 3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(f'{row[:-1]}, "k": {i}}}' for i, row in enumerate(rows)) + "\n")
    result = run("speedrun", tmp_path / "rows.jsonl", "--runs", tmp_path / "runs", *TINY)
    assert result.returncode == 1
    assert "body" in result.stderr and "--corpus.text-key" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: (p / "empty.txt").write_text(""), ["empty"]),
        (lambda p: (p / "image.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\0" * 40), ["binary"]),
        (lambda p: (p / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 400), ["UTF-8"]),
        (lambda p: (p / "short.txt").write_text("Too little to learn from.\n\n" * 6), ["needs"]),
    ],
)
def test_bad_sources_are_named(tmp_path: Path, make, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "source"
    folder.mkdir()
    make(folder)
    result = run("speedrun", folder, "--runs", tmp_path / "runs")
    assert result.returncode == 1, result.stdout
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speedrun", "nosuchfolder"], ["nosuchfolder", "neither a file, a folder nor a named source"]),
        (["speedrun", "x" * 3000], ["name too long"]),
        (["speedrun", "--budget", "soon"], ["soon", "5m"]),
        (["speedrun", "--pretrain.learning-rat", "1"], ["learning-rat"]),
        (["speedrun", "--depth", "0"], ["depth", "64"]),
        (["chat", "nosuchmodel"], ["nosuchmodel"]),
        (["generate", "nosuchmodel", "x"], ["nosuchmodel"]),
        (["report", "nosuchrun"], ["nosuchrun"]),
        (["nosuchverb"], ["nosuchverb"]),
    ],
)
def test_wrong_calls_say_what_to_do(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    result = run(*arguments, *(["--runs", tmp_path] if arguments[0] == "speedrun" else []))
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_config_file_loses_to_options_and_wins_over_the_dial(tmp_path: Path) -> None:
    from groundup.recipes.dial import settings_for

    dialled = settings_for(4, 2_000_000, {"pretrain": {"learning_rate": 0.5}})
    assert dialled.pretrain.learning_rate == 0.5 and dialled.model.hidden_size == 192
    (tmp_path / "s.toml").write_text("[pretrain]\nnum_steps = 7\nlearning_rat = 1\n")
    result = run("speedrun", write_notes(tmp_path / "n"), "--runs", tmp_path, "--config", tmp_path / "s.toml")
    assert result.returncode == 2
    assert "learning_rat" in result.stderr and "learning_rate" in result.stderr


def test_env_names_what_a_bug_report_needs() -> None:
    result = run("env", "--json")
    facts = json.loads(result.stdout)
    assert {"groundup", "python", "torch", "processor", "bfloat16", "fast paths", "torch threads"} <= set(facts)
