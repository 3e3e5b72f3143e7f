"""`groundup explain`: what it prints, what it takes, what it refuses, and that a preset costs no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from groundup.cli.app import run
from groundup.core.errors import ConfigError
from groundup.core.files import write_json
from groundup.model.config import FilePartConfig, TransformerConfig
from groundup.model.counts import count_parameters, flops_per_token
from groundup.model.explain import kv_cache_bytes
from groundup.model.hf_config import to_hf
from groundup.model.presets import PRESETS, preset
from groundup.recipes.explain import resolve_config

Captured = pytest.CaptureFixture[str]
SMALL = ["--set", "hidden_size=64", "--set", "num_hidden_layers=2", "--set", "vocab_size=300"]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that a preset's name is looked up in, and a terminal of a known width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def explain(*arguments: str) -> int:
    return run(["explain", *arguments])


def said(captured: Captured, *arguments: str) -> str:
    assert explain(*arguments) == 0, captured.readouterr().err
    return captured.readouterr().out


def refused(captured: Captured, *arguments: str, code: int = 2) -> str:
    assert explain(*arguments) == code
    shown = captured.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and "Traceback" not in shown.err
    return " ".join(shown.err.split())


def written(folder: Path, config: TransformerConfig) -> str:
    folder.mkdir()
    write_json(folder / "config.json", to_hf(config))
    return str(folder)


def test_a_preset_line_by_line(capsys: Captured) -> None:
    shown = said(capsys, "qwen3", "--context", "1000")
    lines = shown.splitlines()
    heading = next(line for line in lines if "shape" in line)
    assert heading.split() == ["shape", "parameters", "FLOPs", "weights", "KV", "cache"]
    # 1,024 x 1,024 weights of 2 bytes and a norm over 128 values; 2 operations per weight.
    key = next(line for line in lines if line.startswith("  k = "))
    assert key.split("  ")[1] == "k = rotate(rms_norm(split(W_k h)))"
    assert key.split()[-9:] == ["B", "K", "T", "d", "1.05M", "2.1M", "2.1", "MB", "-"]
    assert re.search(r"k, v = cache.append\(k, v\) +B K S d +- +- +- +4.1 KB$", shown, re.MULTILINE)
    assert re.search(r"s = q . k / sqrt\(d\) +B H T S +- +4.1M +- +-$", shown, re.MULTILINE)  # 2 x 16 x 128 x 1,000
    assert "layers 0-27 (28 times): grouped-query attention, 2 query heads to a key-value head" in lines
    assert "  parameters        596,049,920" in lines
    assert "S = 1,000 keys, D = 1,024 hidden, H = 16 query heads, K = 8 key-value heads" in shown
    assert "rotate        pairs y[n], y[n + 64] turned by i * 1,000,000^(-2n/128)" in shown
    assert "KV cache          115 KB per token, 115 MB at 1,000 tokens, 4.7 GB at 40,960 tokens" in shown
    assert [line.split()[1] for line in lines if line.startswith("│")] == ["MHA", "GQA", "MQA", "window"]
    assert "GQA grouped-query *" in shown and "window 250" in shown


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_readable_at_100_columns(name: str, capsys: Captured) -> None:
    shown = said(capsys, name)
    assert max(map(len, shown.splitlines())) <= 100
    assert f"{count_parameters(preset(name)).total:,}" in shown


def test_windows_and_what_the_cache_really_keeps(capsys: Captured) -> None:
    shown = said(capsys, "gemma3", "--bandwidth", "100")
    assert "layers 0-4, 6-10, 12-16, 18-22, 24-25 (22 times): multi-query attention" in shown
    assert "layers 5, 11, ..., 23 (4 times): multi-query attention" in shown
    assert "28.3 MB at 4,096 tokens, 146 MB at 32,768 tokens" in shown
    assert "the cache here keeps every token:\n" + 20 * " " + "109 MB at 4,096 tokens, 872 MB at 32,768" in shown
    assert "at 100 GB/s at most 50 tokens/s; with 4,096 tokens before 49.3" in shown
    alternating = said(capsys, "gemma2")
    assert "layers 0, 2, ..., 24 (13 times)" in alternating and "layers 1, 3, ..., 25 (13 times)" in alternating


def test_an_encoder_has_no_cache_and_writes_no_tokens(capsys: Captured) -> None:
    shown = said(capsys, "bert", "--set", 'pooling={"kind": "mean"}')
    assert "KV cache    none: every token sees all, so a text is read at once" in shown
    assert "to write a token" not in shown and "tokens/s" not in shown
    assert "e = pool(x)" in shown and "e = e / |e|" in shown
    assert "pool        the mean of a text's vectors" in shown


def test_one_layer(capsys: Captured) -> None:
    shown = said(capsys, "gemma3", "--layer", "5")
    assert "layer 5: multi-query attention" in shown
    assert "rotate_2" in shown and not re.search(r"^  rotate ", shown, re.MULTILINE)
    for absent in ("embed[ids]", "logits", "The whole", "MHA", "window", "= the model", "(4 times)"):
        assert absent not in shown


def test_json_for_programs(capsys: Captured) -> None:
    values = json.loads(said(capsys, "gemma3", "--context", "2000", "--dtype", "float32", "--json"))
    config = preset("gemma3")
    assert values["model"] == "gemma3" and values["context"] == 2000 and values["dtype"] == "float32"
    assert values["cost"]["parameters"] == count_parameters(config).total
    assert values["cost"]["flops"] == flops_per_token(config, 2000)
    assert values["kv_cache_bytes_at_context"] == kv_cache_bytes(config, 2000, "float32")
    total = sum(block["times"] * row["parameters"] for block in values["blocks"] for row in block["rows"])
    assert total == values["cost"]["parameters"]
    assert values["blocks"][1]["layers"] == [[0, 4], [6, 10], [12, 16], [18, 22], [24, 25]]
    assert values["blocks"][1]["rows"][1] == {
        "text": "q = rotate(rms_norm(split(W_q h)))",
        "shape": "B H T d",
        "part": "attention",
        "weights": ["attn.q_proj", "attn.q_norm"],
        "is_known": True,
        "parameters": 1152 * 1024 + 256,
        "flops": 2 * 1152 * 1024,
        "weight_bytes": 4 * (1152 * 1024 + 256),
        "read_bytes": 4 * (1152 * 1024 + 256),
        "kv_bytes": 0,
    }
    assert [(one["name"], one["is_own"]) for one in values["variants"]][-1] == ("window", True)
    layer = json.loads(said(capsys, "gemma3", "--layer", "7", "--json"))
    assert [block["layers"] for block in layer["blocks"]] == [[[7, 7]]]
    assert "variants" not in layer and "kv_cache_bytes_at_context" not in layer


# ------------------------------------------------------------------------------------------------------- what it takes


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("gpt2", ["hidden_size=144", "hidden_act=relu2"], preset("gpt2", hidden_size=144, hidden_act="relu2")),
        ("qwen3", ["tie_word_embeddings=false"], preset("qwen3", tie_word_embeddings=False)),
        ("llama3", ["head_dim=null", "rope_theta=1e6"], preset("llama3", head_dim=None, rope_theta=1e6)),
        ("llama3", ["eos_token_id=[1, 2]"], preset("llama3", eos_token_id=(1, 2))),
        ("gemma2", ["num_hidden_layers=2", 'layer_types=["full_attention", "sliding_attention"]'],
         preset("gemma2", num_hidden_layers=2, layer_types=("full_attention", "sliding_attention"))),
        ("qwen2", ['rope_scaling={"kind": "linear", "factor": 4}'],
         preset("qwen2", rope_scaling={"kind": "linear", "factor": 4})),
    ],
)  # fmt: skip
def test_a_preset_takes_changes(name: str, changes: list[str], expected: TransformerConfig) -> None:
    assert resolve_config(name, changes) == expected


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gpt2", "hiden_size=1", "the preset 'gpt2' has no field 'hiden_size' (did you mean 'hidden_size'?)"),
        ("gpt2", "rms_norm_eps=1", "the preset 'gpt2' has no field 'rms_norm_eps'"),
        ("gpt2", "hidden_size", "--set hidden_size has no value: write FIELD=VALUE, such as hidden_size=512"),
        ("gpt2", "hidden_size=wide", "--set hidden_size=wide: Input should be a valid integer"),
        ("gpt2", "hidden_size=2.5", "--set hidden_size=2.5: Input should be a valid integer"),
        ("gpt2", "hidden_size=true", "--set hidden_size=true: Input should be a valid integer"),
        ("gpt2", "hidden_size=[[[[", "--set hidden_size=[[[[: Input should be a valid integer"),
        ("gpt2", "hidden_size=" + "[" * 100_000, "Input should be a valid integer"),
        ("gpt2", "hidden_act=swish", "--set hidden_act=swish: Input should be 'gelu_new', 'gelu', 'relu'"),
        ("gpt2", "num_attention_heads=5", "hidden_size (768) must be a multiple of num_attention_heads (5)"),
        ("gpt2", "num_hidden_layers=1000000000", "num_hidden_layers is 1000000000: at most 10000 layers are taken"),
        ("gpt2", "num_hidden_layers=0", "greater than or equal to 1"),
        ("qwen3", "num_hidden_layers=-1", "at least 1 item"),
        ("gemma2", "hidden_size=1" + "0" * 400, "one of these numbers is too large"),
        ("qwen3", 'rope_scaling={"kind": "linear", "facto": 2}', "has no field 'facto' (did you mean 'factor'?)"),
        ("qwen3", "rope_scaling=3", "Input should be"),
        ("gemma2", "layer_types=sliding_attention", "'str' instances are not allowed"),
        ("gemma2", 'layer_types=["full"]', "layer_types has full; known here are full_attention and sliding_attention"),
    ],
)  # fmt: skip
def test_a_change_that_does_not_fit_is_explained(name: str, change: str, message: str) -> None:
    with pytest.raises(Exception) as caught:
        resolve_config(name, [change])
    assert isinstance(caught.value, ConfigError) or "has no value" in message
    assert message in str(caught.value)


def test_a_model_directory_without_weights(tmp_path: Path, capsys: Captured) -> None:
    folder = written(tmp_path / "model", preset("qwen2", hidden_size=112, num_hidden_layers=3, vocab_size=300))
    values = json.loads(said(capsys, folder, "--json"))
    assert values["model"] == folder and values["blocks"][1]["layers"] == [[0, 2]]
    assert "weights           " in said(capsys, folder)
    message = refused(capsys, folder, "--set", "hidden_size=1")
    assert f"--set hidden_size=1 changes a preset, and {folder} is none: use one of gpt2, llama3" in message


def test_a_folder_here_comes_before_the_preset_of_its_name(tmp_path: Path, capsys: Captured) -> None:
    written(tmp_path / "gpt2", preset("qwen2", hidden_size=112, num_hidden_layers=3, vocab_size=300))
    assert json.loads(said(capsys, "gpt2", "--json"))["dimensions"]["L"] == 3


def test_a_gguf_file(tmp_path: Path, capsys: Captured) -> None:
    from groundup.model.transformer import build
    from groundup.model.weights.gguf_model import save_gguf
    from groundup.tokenizer.bpe import ByteBPE

    config = preset("llama3", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                    vocab_size=256, max_position_embeddings=64)  # fmt: skip
    path = tmp_path / "tiny.gguf"
    save_gguf(path, build(config), ByteBPE.from_merges([], special_tokens=()), type="F32")
    values = json.loads(said(capsys, str(path), "--json"))
    assert values["cost"]["parameters"] == count_parameters(config).total and values["context"] == 64


def test_a_part_from_a_file_is_named_and_left_out(tmp_path: Path, capsys: Captured) -> None:
    part = FilePartConfig(path="part_mine.py", name="Mine")
    config = preset("gpt2", num_hidden_layers=2).with_layers(lambda layer: layer.model_copy(update={"mixer": part}))
    shown = said(capsys, written(tmp_path / "model", config))
    assert re.search(r"x = x \+ Mine\(h\) +B T D +\? +\? +\? +\?$", shown, re.MULTILINE)
    assert "leave out 'Mine' of 'part_mine.py': only the built module knows what it costs" in shown
    assert "parameters  at least " in shown and "training" not in shown and "MHA" not in shown
    assert "layers 0-1 (2 times): a part from the file 'part_mine.py'" in shown


def test_cross_attention_reads_a_memory(tmp_path: Path, capsys: Captured) -> None:
    cross = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "memory_size": 80}
    config = preset("gpt2", num_hidden_layers=2).with_layers(lambda layer: layer.replace(cross_attention=cross))
    folder = written(tmp_path / "model", config)
    shown = said(capsys, folder, "--memory-length", "77")
    assert "M = 77 vectors of the memory" in shown and "E = 80 their width" in shown
    assert "H' = 4 query heads of cross-attention" in shown
    assert re.search(r"k = split\(C_k m\) +B K' M d' ", shown)
    assert re.search(r"s = q . k / sqrt\(d'\) +B H' T M +- +9.86k", shown)  # 2 x 4 x 16 x 77
    assert "every call projects it to keys and values; counted here once for a text" in shown
    assert json.loads(said(capsys, folder, "--json"))["memory_length"] == 1024
    assert "--memory-length 0 must be a positive" in refused(capsys, folder, "--memory-length", "0")


# ----------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt2", "--context", "1025"], "--context 1025 must be 1 to 1,024 (max_position_embeddings of this model)"),
        (["gpt2", "--context", "0"], "--context 0 must be 1 to 1,024"),
        (["gpt2", "--bandwidth", "0"], "--bandwidth 0.0 must be a positive number of GB/s"),
        (["gpt2", "--bandwidth", "nan"], "--bandwidth nan must be a positive number"),
        (["gpt2", "--layer", "12"], "--layer 12 must be 0 to 11: this model has 12 layers"),
        (["gpt2", "--layer=-1"], "--layer -1 must be 0 to 11"),
        (["gpt2", "--memory-length", "5"], "--memory-length 5: this model has no cross-attention, leave it out"),
        (["gpt2", "--dtype", "int3"], "int3"),
        (["gpt2", "--set", "hiden_size=3"], "did you mean 'hidden_size'?"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], message: str, capsys: Captured) -> None:
    assert message in refused(capsys, *arguments)


def test_what_is_no_model(tmp_path: Path, capsys: Captured) -> None:
    unknown = refused(capsys, "qwen4", code=1)
    assert "'qwen4'" in unknown and "No preset is called 'qwen4' either (did you mean 'qwen3'?)" in unknown
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    empty = refused(capsys, str(tmp_path / "notes"), code=1)
    assert "has no config.json" in empty and "a.txt" in empty and "preset" not in empty
    assert "File name too long" in refused(capsys, "a" * 5000, code=1)
    assert "missing/folder" in refused(capsys, "./missing/folder", code=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds a JSON list, not an object"),
        ('{"model_type": "mamba"}', "model_type 'mamba' is not known here"),
        ('{"model_type": "qwen3"}', "lacks vocab_size"),
    ],
)
def test_a_config_that_is_damaged(text: str, message: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(text, encoding="utf-8")
    assert message in refused(capsys, str(tmp_path / "model"), code=1)


def test_sizes_that_no_machine_holds(tmp_path: Path, capsys: Captured) -> None:
    values: dict[str, Any] = to_hf(preset("qwen3", num_hidden_layers=2)) | {"vocab_size": 10**400}
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", values)
    assert "about 1e403 parameters" in refused(capsys, str(tmp_path / "model"), code=1)


def test_a_preset_is_explained_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom groundup.cli.app import run\n"
        f"assert run(['explain', 'gemma3', *{SMALL!r}]) == 0\n"
        "heavy = {'torch', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "x = 8 * x" in done.stdout
