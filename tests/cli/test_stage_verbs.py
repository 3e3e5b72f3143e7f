"""The stages as verbs of their own: from text to numbers without the speedrun, stopped, repeated and misused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import command, environment, run, write_notes

SHAPE = [
    "--depth", "2", "--model.hidden-size", "32", "--model.num-attention-heads", "2", "--model.intermediate-size", "64",
    "--model.max-position-embeddings", "400", "--train.context", "32", "--train.batch-size", "4",
    "--train.num-steps", "16", "--train.checkpoint-every", "4", "--train.evaluate-every", "8",
    "--train.warmup-steps", "2",
]  # fmt: skip
EXECUTION = ["--execution.threads", "1", "--execution.precision", "float32", "--execution.micro-batch", "4"]
TUNING = [
    "--train.num-steps", "8", "--train.batch-size", "4", "--train.max-length", "399", "--train.checkpoint-every", "2",
    "--train.evaluate-every", "4", "--train.warmup-steps", "1",
]  # fmt: skip


def succeed(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a tokenizer and a base model, each made by its verb."""
    root = tmp_path_factory.mktemp("stages")
    said = succeed("corpus", write_notes(root / "notes"), "--out", root / "corpus")
    assert "train" in said and "groundup tokenizer train" in said
    said = succeed("tokenizer", "train", root / "corpus", "--out", root / "tokenizer", "--vocab-size", "300")
    assert "bytes per token" in said
    said = succeed("pretrain", root / "corpus", "--tokenizer", root / "tokenizer", "--out", root / "base",
                   *SHAPE, *EXECUTION)  # fmt: skip
    assert "16 steps" in said and "bits per byte on the validation split" in said
    return root


def talks(folder: Path, count: int = 20) -> Path:
    """Conversations in a file of one's own."""
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(count)
    ]
    path = folder / "talks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_base_says_where_it_comes_from(house: Path) -> None:
    lineage = json.loads((house / "base" / "lineage.json").read_text())
    assert lineage["stage"] == "pretrain" and lineage["recipe"] == "pretrain --depth 2"
    manifest = json.loads((house / "corpus" / "corpus.json").read_text())
    assert lineage["data_sha256"]["train"] == manifest["splits"]["train"]["sha256"]
    shown = succeed("tokenizer", "show", house / "base", "the river")
    assert shown.splitlines()[-1].endswith("bytes per token") and "9 bytes" in shown


def test_repeated_it_trains_nothing_anew_and_gives_the_same_weights(house: Path) -> None:
    before = (house / "base" / "model.safetensors").read_bytes()
    lines = (house / "base.work" / "metrics.jsonl").read_text()
    succeed(
        "pretrain", house / "corpus", "--tokenizer", house / "tokenizer", "--out", house / "base", *SHAPE, *EXECUTION
    )
    assert (house / "base" / "model.safetensors").read_bytes() == before
    assert (house / "base.work" / "metrics.jsonl").read_text() == lines


def test_other_settings_do_not_go_on_from_its_checkpoints(house: Path) -> None:
    result = run("pretrain", house / "corpus", "--tokenizer", house / "tokenizer", "--out", house / "base",
                 *SHAPE, *EXECUTION, "--train.learning-rate", "0.5")  # fmt: skip
    assert result.returncode == 1
    assert "learning_rate" in result.stderr and "0.5" in result.stderr and "another folder" in result.stderr


def test_a_changed_corpus_is_tokenised_again_and_not_mixed_into_the_old_run(house: Path, tmp_path: Path) -> None:
    for name in ("base.work", "tokenizer"):
        shutil.copytree(house / name, tmp_path / name)
    succeed("corpus", write_notes(tmp_path / "more", count=40), "--out", tmp_path / "corpus")
    arguments = ["--tokenizer", tmp_path / "tokenizer", *SHAPE, *EXECUTION]
    result = run("pretrain", tmp_path / "corpus", "--out", tmp_path / "base", *arguments)
    assert result.returncode == 1 and "data" in result.stderr and "Traceback" not in result.stderr
    succeed("pretrain", tmp_path / "corpus", "--out", tmp_path / "fresh", *arguments)
    lineage = json.loads((tmp_path / "fresh" / "lineage.json").read_text())
    manifest = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    assert lineage["data_sha256"]["train"] == manifest["splits"]["train"]["sha256"]


def test_going_on_from_a_model_begins_with_its_weights(house: Path, tmp_path: Path) -> None:
    succeed("pretrain", house / "corpus", "--tokenizer", house / "tokenizer", "--init-from", house / "base",
            "--out", tmp_path / "more", *SHAPE, *EXECUTION, "--train.learning-rate", "1e-9")  # fmt: skip
    from safetensors.torch import load_file

    old, new = (load_file(folder / "model.safetensors") for folder in (house / "base", tmp_path / "more"))
    assert old.keys() == new.keys()
    assert all((old[name] - new[name]).abs().max() < 1e-6 for name in old)
    lineage = json.loads((tmp_path / "more" / "lineage.json").read_text())
    assert lineage["parent"]["folder"] == str(house / "base")


def test_tuning_on_a_file_and_measuring_both(house: Path, tmp_path: Path) -> None:
    said = succeed("sft", house / "base", talks(tmp_path), "--out", tmp_path / "chat", *TUNING, *EXECUTION)
    assert "8 steps" in said and "loss on held-out conversations" in said
    lineage = json.loads((tmp_path / "chat" / "lineage.json").read_text())
    assert lineage["stage"] == "sft" and lineage["source"].endswith("talks.jsonl")
    said = succeed("eval", tmp_path / "chat", "--before", house / "base", "--corpus", house / "corpus",
                   "--out", tmp_path / "eval", "--questions-per-kind", "10")  # fmt: skip
    for words in ("xz primed", "trigram of tokens", "95 % interval", "chat", "base"):
        assert words in said
    language = json.loads((tmp_path / "eval" / "language.json").read_text())
    assert {"groundup base", "gzip", "xz"} <= {method["name"] for method in language["methods"]}
    ours = next(method for method in language["methods"] if method["kind"] == "model")
    assert "32 tokens at once" in ours["note"]  # the window of training, though the model has 400 places
    alone = succeed("eval", house / "base", "--corpus", house / "corpus", "--out", tmp_path / "alone",
                    "--questions-per-kind", "10")  # fmt: skip
    assert "trigram of tokens" in alone


def test_tuning_says_what_it_takes_and_shows_what_it_changed(house: Path, tmp_path: Path) -> None:
    data = talks(tmp_path)
    count = len(data.read_text().splitlines())
    said = succeed(
        "sft", house / "base", data, "--out", tmp_path / "chat", "--train.learning-rate", "0.003", *EXECUTION
    )
    work = tmp_path / "chat.work"
    forecast, result = (json.loads((work / name).read_text()) for name in ("forecast.json", "tuning.json"))
    held_out = max(1, round(0.05 * count))
    assert (forecast["conversations"], forecast["held_out"]) == (count - held_out, held_out)
    assert forecast["steps"] == max(1, round(2 * (count - held_out) / 32)) == result["steps"]
    assert "predicted time" in said and "predicted memory" in said and forecast["seconds"] > 0
    assert 0 < result["loss_after"] < result["loss_before"]
    pairs = json.loads((work / "pairs.json").read_text())
    assert len(pairs) == min(10, held_out) and pairs[0]["before"] != pairs[0]["after"]
    page = (work / "report.html").read_text(encoding="utf-8")
    assert f"{result['loss_before']:.3f}" in page and pairs[0]["expected"] in page and "<script" not in page
    again = succeed(
        "sft", house / "base", data, "--out", tmp_path / "chat", "--train.learning-rate", "0.003", *EXECUTION
    )
    assert "predicted time" in again and json.loads((work / "forecast.json").read_text()) == forecast


def test_tuning_stopped_by_sigterm_ends_with_the_same_bits(house: Path, tmp_path: Path) -> None:
    data = talks(tmp_path)
    steps = ["--train.num-steps", "60", *TUNING[2:]]
    arguments = command("sft", house / "base", data, "--out", tmp_path / "stopped", *steps, *EXECUTION)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    metrics, deadline = tmp_path / "stopped.work" / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command goes on" in errors, errors
    final = subprocess.run(arguments, capture_output=True, text=True, env=environment())
    assert final.returncode == 0, final.stderr
    succeed("sft", house / "base", data, "--out", tmp_path / "whole", *steps, *EXECUTION)
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"messages": [{"role": "user", "content": "hi"}]}] * 3, "assistant"),
        ([{"question": "hi", "answer": "ho"}] * 3, "messages"),
        ([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}], "two are needed"),
    ],
)
def test_conversations_that_cannot_be_tuned_on(house: Path, tmp_path: Path, rows: list[object], words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("sft", house / "base", path, "--out", tmp_path / "chat", *TUNING, *EXECUTION)
    assert result.returncode == 1 and words in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "chat").exists()


def test_a_foreign_chat_template_is_tuned_with_and_kept(house: Path, tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {% generation %}{{ m['content'] }}{% endgeneration %}"
        "{% endfor %}{{ eos_token }}"
    ).replace("{% generation %}{{ m['content'] }}{% endgeneration %}", (
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{{ eos_token }}{% endgeneration %}"
        "{% else %}{{ m['content'] }} {% endif %}"
    ))  # fmt: skip
    shutil.copytree(house / "base", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    shown = succeed("sft", tmp_path / "base", talks(tmp_path), "--preview", "1")
    assert "<|endoftext|>[user] Say" in shown and "im_start" not in shown
    succeed("sft", tmp_path / "base", talks(tmp_path), "--out", tmp_path / "chat", *TUNING, *EXECUTION)
    from groundup.tokenizer.chat import load_chat_template

    kept = load_chat_template(tmp_path / "chat")
    assert kept is not None and kept.source == template


def test_a_tuned_model_stops_where_its_parent_stopped(house: Path, tmp_path: Path) -> None:
    """Gemma and Llama 3 name the end of a turn in generation_config.json only, and their template writes it."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|pad|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    shutil.copytree(house / "base", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    settings = tmp_path / "base" / "generation_config.json"
    settings.write_text(json.dumps({"eos_token_id": [7], "top_p": 0.9, "max_new_tokens": 9}))
    succeed("sft", tmp_path / "base", talks(tmp_path), "--out", tmp_path / "chat", *TUNING, *EXECUTION)
    special = {
        token["content"]: token["id"]
        for token in json.loads((tmp_path / "chat" / "tokenizer.json").read_text())["added_tokens"]
    }
    kept = json.loads((tmp_path / "chat" / "generation_config.json").read_text())
    assert kept["eos_token_id"] == [special["<|pad|>"], special["<|endoftext|>"], 7]
    assert kept["top_p"] == 0.9 and kept["max_new_tokens"] == 9


def test_changed_conversations_or_another_parent_do_not_go_on_from_old_checkpoints(house: Path, tmp_path: Path) -> None:
    """The number of conversations is the same, and neither parent says in words what it is."""
    for name in ("first", "second"):
        shutil.copytree(house / "base", tmp_path / name)
        (tmp_path / name / "lineage.json").unlink()
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "second" / "model.safetensors")
    save_file({name: 0.9 * tensor for name, tensor in weights.items()}, tmp_path / "second" / "model.safetensors")
    data = talks(tmp_path)
    arguments = ["--out", tmp_path / "chat", *TUNING, *EXECUTION]
    succeed("sft", tmp_path / "first", data, *arguments)
    result = run("sft", tmp_path / "second", data, *arguments)
    assert result.returncode == 1 and "parent" in result.stderr and "another folder" in result.stderr
    data.write_text(data.read_text().replace("It is 3.", "It is 4."))
    result = run("sft", tmp_path / "first", data, *arguments)
    assert result.returncode == 1 and "conversations" in result.stderr and "another folder" in result.stderr


def test_settings_that_a_recorded_plan_leaves_no_room_for(house: Path, tmp_path: Path) -> None:
    data = talks(tmp_path)
    arguments = ["sft", house / "base", data, "--out", tmp_path / "chat", *TUNING]
    succeed(*arguments, *EXECUTION)
    other = [value if value != "4" else "2" for value in EXECUTION]
    result = run(*arguments, *other)
    assert (
        result.returncode == 1 and "micro_batch 2 (it was made with 4)" in result.stderr and "--replan" in result.stderr
    )
    succeed(*arguments)  # what is not given is as it was
    succeed(*arguments, *other, "--replan")
    assert json.loads((tmp_path / "chat.work" / "plan.json").read_text())["micro_batch"] == 2


def test_a_run_begun_anew_in_the_same_folder_forgets_the_old_numbers(house: Path, tmp_path: Path) -> None:
    first, second = talks(tmp_path), tmp_path / "second.jsonl"
    second.write_text(first.read_text().replace("It is", "That makes"))
    succeed("sft", house / "base", first, "--out", tmp_path / "chat", *TUNING, *EXECUTION)
    work = tmp_path / "chat.work"
    old = {name: json.loads((work / name).read_text()) for name in ("before.json", "forecast.json")}
    shutil.rmtree(work / "checkpoints")
    shutil.rmtree(tmp_path / "chat")
    said = succeed("sft", house / "base", second, "--out", tmp_path / "chat", *TUNING, *EXECUTION)
    new = {name: json.loads((work / name).read_text()) for name in ("before.json", "forecast.json")}
    assert new["before.json"]["loss"] != old["before.json"]["loss"]
    assert new["forecast.json"]["of"] != old["forecast.json"]["of"]
    assert f"{new['before.json']['loss']:.4f} before" in said
    assert json.loads((work / "tuning.json").read_text())["loss_before"] == new["before.json"]["loss"]


def test_two_processes_train_as_one(house: Path, tmp_path: Path) -> None:
    """torchrun with two processes over gloo gives the weights of one, and only the first process reports."""
    changed = {"--train.batch-size": "8", "--train.num-steps": "6"}
    shape = [changed.get(SHAPE[place - 1], value) for place, value in enumerate(SHAPE)]
    arguments = ["pretrain", house / "corpus", "--tokenizer", house / "tokenizer", *shape, *EXECUTION, "--out"]
    succeed(*arguments, tmp_path / "one")
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "groundup",
         *map(str, arguments), str(tmp_path / "two")],
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(": 6 steps, ") == 1
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    # In float32 Adam's first updates, g / |g|, magnify the order of summation where g is nearly zero; the 1e-6 of the
    # trainer itself is held in float64 by tests/train/test_distributed_cpu.py.
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    lines = ((tmp_path / f"{name}.work" / "metrics.jsonl").read_text().splitlines() for name in ("one", "two"))
    losses = [[row["loss"] for row in map(json.loads, rows) if "loss" in row] for rows in lines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0]


def test_speedrun_under_torchrun_says_what_to_do(tmp_path: Path) -> None:
    result = run("speedrun", "--runs", tmp_path, RANK="0", WORLD_SIZE="2")
    assert result.returncode == 2 and "pretrain and sft" in result.stderr


def test_a_config_file_for_another_verb_is_not_ignored(house: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[sft]\nnum_steps = 3\n")
    result = run("sft", house / "base", talks(tmp_path), "--out", tmp_path / "chat", "--config", tmp_path / "s.toml")
    assert result.returncode == 2 and "'sft'" in result.stderr and "execution, train" in result.stderr
    (tmp_path / "s.toml").write_text("[train]\nnum_steps = 3\n[execution]\nthreads = 1\n")
    said = succeed("sft", house / "base", talks(tmp_path), "--out", tmp_path / "chat", "--config", tmp_path / "s.toml",
                   "--train.max-length", "399")  # fmt: skip
    assert "3 steps" in said


def test_the_parent_is_never_overwritten(house: Path, tmp_path: Path) -> None:
    result = run("sft", house / "base", talks(tmp_path), "--out", house / "base")
    assert result.returncode == 2 and "is the model itself: name another place" in result.stderr


def test_a_flipped_bit_and_a_truncated_checkpoint_are_named(house: Path, tmp_path: Path) -> None:
    for name in ("corpus", "tokenizer", "base.work"):
        shutil.copytree(house / name, tmp_path / name)
    arguments = ["pretrain", tmp_path / "corpus", "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "base",
                 *SHAPE, *EXECUTION]  # fmt: skip
    # The newest checkpoint is cut short: the one before is used, and the end is the same.
    newest = max((tmp_path / "base.work" / "checkpoints").glob("step-*"))
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert newest.name in result.stderr
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == (house / "base" / "model.safetensors").read_bytes()
    shard = next((tmp_path / "base.work" / "shards" / "train").glob("*.bin"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    result = run(*arguments)
    assert result.returncode == 1 and shard.name in result.stderr and "Traceback" not in result.stderr
