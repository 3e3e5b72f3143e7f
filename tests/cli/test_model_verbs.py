"""Verbs on small models of one's own: stop strings, places to write to, and input that is no text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groundup.model.directory import save_model_directory
from groundup.model.load import load_model
from groundup.model.presets import preset
from groundup.model.transformer import build
from groundup.model.weights.files import stored_dtype
from groundup.model.weights.gguf_model import save_gguf
from groundup.model.weights.gguf_read import open_gguf
from groundup.tokenizer import ByteBPE
from groundup.tokenizer.chat import DEFAULT_CHAT_TEMPLATE

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import command, environment, run, run_here

GEMMA_LIKE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\\n{{ m['content'] | trim }}<|pad|>\\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
)


def make(folder: Path, *, template: str | None = DEFAULT_CHAT_TEMPLATE, likeliest: int | None = None) -> Path:
    """A tiny Qwen 3 over single bytes; with `likeliest` it says that token whatever it reads."""
    tokenizer = ByteBPE.from_merges([])
    config = preset(
        "qwen3",
        vocab_size=260,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )
    model = build(config, seed=1)
    if likeliest is not None:
        with torch.no_grad():
            assert model.head is not None and model.final_norm is not None
            for layer in model.layers:  # what is added to the embedding is nothing, so that it can be told
                layer.attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.embed.weight.fill_(1.0)
            model.head.weight.zero_()
            model.head.weight[likeliest] = 1.0
    save_model_directory(folder, model, tokenizer, chat_template=template, lineage={"parent": None})
    return folder


@pytest.fixture(scope="module")
def says_a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "says-a", likeliest=ord("a"))


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_stop_strings_are_options(says_a: Path, verb: str) -> None:
    prompt = ["x"] if verb == "generate" else []
    stops = ["--stop", "zz", "--stop", "aaa"]
    options = ["--max-new-tokens", "9", "--temperature", "0"]
    done = run(verb, says_a, *prompt, *options, *stops, input="hi\n")
    assert done.returncode == 0, done.stderr
    whole = run(verb, says_a, *prompt, *options, input="hi\n")
    assert "a" * 9 in whole.stdout and "a" not in done.stdout.replace("assistant", ""), "the text up to the first stop"


def test_generation_ends_where_the_files_say(tmp_path: Path) -> None:
    """Without a generation_config.json the ids of config.json count, several of them, as in transformers."""
    folder = make(tmp_path / "m", template=None, likeliest=ord("a"))
    arguments = ["generate", folder, "x", "--max-new-tokens", "5", "--temperature", "0"]
    assert run_here(*arguments).stdout.startswith("xaaaaa")
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [256, ord("a")]}))
        assert run_here(*arguments).stdout.strip() == "x", f"{name} alone"
        if name == "generation_config.json":
            path.unlink()


def test_the_end_of_a_turn_goes_with_a_gguf_file(tmp_path: Path) -> None:
    folder = make(tmp_path / "gemma", template=GEMMA_LIKE, likeliest=259)
    done = run_here("export", folder, "--type", "F32", "--out", tmp_path / "g.gguf")
    assert done.returncode == 0, done.stderr
    with open_gguf(tmp_path / "g.gguf") as file:
        assert file.metadata["tokenizer.ggml.eot_token_id"] == 259
        assert file.metadata["tokenizer.ggml.eos_token_id"] == 256
    assert load_model(tmp_path / "g.gguf").generation["eos_token_id"] == [256, 259]
    for source in (folder, tmp_path / "g.gguf"):
        done = run("chat", source, "--max-new-tokens", "20", input="hi\n")
        assert done.returncode == 0 and done.stdout.strip() == "", (source, done.stdout)


def test_a_model_is_not_exported_over_itself(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    assert run_here("export", folder, "--type", "F32", "--out", tmp_path / "m.gguf").returncode == 0
    before = (tmp_path / "m.gguf").read_bytes()
    done = run_here("export", tmp_path / "m.gguf", "--type", "Q4_0", "--out", tmp_path / "." / "m.gguf")
    assert done.returncode == 2 and "is the model itself" in done.stderr
    assert (tmp_path / "m.gguf").read_bytes() == before
    done = run_here("export", folder, "--to", "hf", "--out", folder)
    assert done.returncode == 2 and "is the model itself" in done.stderr


def test_a_checkpoint_in_bfloat16_gives_the_same_file(tmp_path: Path) -> None:
    """It is read in its own type: half the memory, and every number as it is."""
    folder = make(tmp_path / "m")
    assert run_here("export", folder, "--to", "hf", "--dtype", "bfloat16", "--out", tmp_path / "half").returncode == 0
    assert stored_dtype(folder) == "float32" and stored_dtype(tmp_path / "half") == "bfloat16"
    wide = load_model(tmp_path / "half")
    save_gguf(tmp_path / "wide.gguf", wide.model, wide.tokenizer, type="Q8_0")
    assert run_here("export", tmp_path / "half", "--out", tmp_path / "half.gguf").returncode == 0
    with open_gguf(tmp_path / "half.gguf") as ours, open_gguf(tmp_path / "wide.gguf") as expected:
        assert ours.tensors.keys() == expected.tensors.keys()
        assert all(ours.raw(name).tobytes() == expected.raw(name).tobytes() for name in expected.tensors)


def test_the_folder_one_stands_in_is_exported_beside_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    done = subprocess.run(command("export", "."), capture_output=True, text=True, cwd=folder, env=environment())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m-Q8_0.gguf").is_file()


def test_places_that_cannot_be_written_are_named_before_any_work(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    below = folder / "config.json" / "x"
    for arguments in (
        ["export", folder, "--out", below / "m.gguf"],
        ["export", folder, "--to", "hf", "--out", below],
        ["sft", folder, data, "--out", below],
    ):
        done = run_here(*arguments)
        assert done.returncode == 1 and "config.json is a file" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and "Plan" not in done.stdout


def test_a_model_of_another_run_is_not_replaced(tmp_path: Path) -> None:
    parent, other = make(tmp_path / "m"), make(tmp_path / "other")
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    weights = (other / "model.safetensors").read_bytes()
    done = run_here("sft", parent, data, "--out", other)
    assert done.returncode == 2 and "is a model already" in done.stderr
    assert (other / "model.safetensors").read_bytes() == weights


def test_a_conversation_that_the_template_refuses_is_numbered(tmp_path: Path) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + GEMMA_LIKE
    folder = make(tmp_path / "m", template=strict)
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 6
    rows[3] = {"messages": [{"role": "system", "content": "s"}, *rows[0]["messages"]]}
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_here("sft", folder, data, "--out", tmp_path / "o")
    assert done.returncode == 1 and "no system role" in done.stderr and "conversation " in done.stderr


def test_bytes_that_are_no_text_do_not_end_a_conversation(says_a: Path) -> None:
    done = subprocess.run(
        command("chat", says_a, "--max-new-tokens", "3"),
        input=b"h\xff\xfe\nagain\n",
        capture_output=True,
        env=environment(PYTHONIOENCODING="utf-8:strict"),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [b"aaa", b"aaa"]


def test_the_card_names_the_model_it_was_made_from(tmp_path: Path) -> None:
    folder = make(tmp_path / "theirs")
    (folder / "lineage.json").unlink()
    shutil.copytree(folder, tmp_path / "copy")
    done = run_here("export", folder, "--to", "hf", "--out", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "Made with groundup from `theirs`" in card and "licence" in card and "trained on little text" not in card


def test_quantize_writes_a_file_and_says_what_it_costs(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog " * 20)
    report = tmp_path / "report.json"
    options = ["--text", tmp_path / "words.txt", "--tokens", "200", "--report", report]
    done = run("quantize", folder, "--type", "q8_0", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m-Q8_0.gguf").is_file()
    for words in ("tokens per second", "perplexity", "KL from the original", "likeliest token equal"):
        assert words in done.stdout
    found = json.loads(report.read_text())
    assert found["type"] == "Q8_0" and found["bytes"] == (tmp_path / "m-Q8_0.gguf").stat().st_size
    assert found["divergence"]["positions"] == 199
    assert 0 < found["divergence"]["kl"] < 1e-3
    assert found["tokens_per_s"] > 0 and found["source_tokens_per_s"] > 0
    assert len(found["worst"]) == 5 and all(0 < value < 0.01 for value in found["worst"].values())
    small = run("quantize", folder, "--type", "Q4_0", *options)
    assert small.returncode == 0, small.stderr
    assert json.loads(report.read_text())["divergence"]["kl"] > 10 * found["divergence"]["kl"]
    text = run("generate", tmp_path / "m-Q4_0.gguf", "ab", "--max-new-tokens", "4", "--temperature", "0")
    assert text.returncode == 0 and text.stdout.startswith("ab"), text.stderr


def test_quantize_writes_directories_that_other_verbs_take(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog " * 20)
    report = tmp_path / "report.json"
    kl = {}
    for kind in ("int8", "int4-g32"):
        options = ["--text", tmp_path / "words.txt", "--tokens", "100", "--report", report]
        done = run_here("quantize", folder, "--type", kind.upper(), *options)
        assert done.returncode == 0, done.stderr
        found = json.loads(report.read_text())
        kl[kind] = found["divergence"]["kl"]
        assert found["type"] == kind and found["bytes"] < found["source_bytes"]
        made = tmp_path / f"m-{kind}"
        assert json.loads((made / "lineage.json").read_text())["recipe"] == f"quantize --type {kind}"
        texts = set()
        for engine in ("compiled", "torch"):
            options = ["--max-new-tokens", "6", "--temperature", "0", "--engine", engine]
            text = run_here("generate", made, "ab", *options)
            assert text.returncode == 0, text.stderr
            texts.add(text.stdout)
        assert len(texts) == 1 or kind == "int4-g32", "activations rounded to eight bits hardly matter here"
        again = run_here("export", made, "--type", "Q4_0")
        assert again.returncode == 0, again.stderr
        assert ("rounded again" in again.stderr) == (kind == "int4-g32")
    assert 0 < 5 * kl["int8"] < kl["int4-g32"]
    done = run_here("quantize", folder, "--type", "int4-g64", "--text", tmp_path / "words.txt", "--tokens", "9")
    assert done.returncode == 0 and "12 of 14 matrices stay in bfloat16" in done.stderr, done.stderr
    tokenizer = ByteBPE.from_merges([])
    config = preset("gpt2", vocab_size=260, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    save_model_directory(tmp_path / "g", build(config, seed=0), tokenizer, chat_template=None, lineage={})
    done = run_here("quantize", tmp_path / "g", "--type", "int8")
    assert done.returncode == 1 and "gpt2 stores its matrices transposed" in done.stderr
    assert not (tmp_path / "g-int8").exists()


def test_quantize_refuses_before_it_writes(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (tmp_path / "empty.txt").write_text("")
    for options, said in (
        (["--type", "Q4_K_X"], "Q4_K_X"),
        (["--type", "Q4_K_X"], "int8 or int4-g32 make a model directory"),
        (["--type", "int3"], "3 bits are not known here"),
        (["--type", "int4-g33"], "a multiple of 32 is needed"),
        (["--type", "int8", "--out", tmp_path / "m.gguf"], "int8 makes a model directory"),
        (["--type", "int8", "--out", folder], "is the model itself"),
        (["--type", "int4-g128"], "int4-g128 fits none of the 14 matrices"),
        (["--type", "int8", "--report", tmp_path], "is a folder: name a file"),
        (["--tokens", "1"], "--tokens 1: at least 2 are needed"),
        (["--text", tmp_path / "empty.txt"], "at least 2 are needed"),
        (["--text", tmp_path / "none.txt"], "none.txt"),
        (["--out", tmp_path / "m.bin"], "a GGUF file ends in .gguf"),
    ):
        done = run_here("quantize", folder, *options)
        assert done.returncode in (1, 2) and said in done.stderr, (options, done.stderr)
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob("m-*"))


def test_the_engine_can_be_chosen(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    texts = {}
    for engine in ("auto", "compiled", "torch"):
        arguments = ["generate", folder, "x", "--max-new-tokens", "9", "--temperature", "0", "--engine", engine]
        done = run_here(*arguments)
        assert done.returncode == 0, done.stderr
        texts[engine] = done.stdout
    assert len(set(texts.values())) == 1
    done = run_here("generate", folder, "x", "--engine", "torch", "--cache-type", "int8")
    assert done.returncode == 2 and "--cache-type int8 needs the compiled step" in done.stderr
    done = run_here("generate", folder, "x", "--engine", "compiled", "--dtype", "float16")
    assert done.returncode == 2 and "not in float16" in done.stderr
