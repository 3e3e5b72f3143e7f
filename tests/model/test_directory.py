"""The model directory: round trips, transformers, damaged and hostile files, crashes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import groundup.model.directory as directory
from groundup.core.errors import DataError, ModelError
from groundup.core.files import sha256_file
from groundup.model.companions import read_model_config
from groundup.model.config import FilePartConfig, TransformerConfig
from groundup.model.directory import load_model_directory, save_model_directory
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build
from groundup.tokenizer import ByteBPE, train_bpe
from groundup.tokenizer.chat import DEFAULT_CHAT_TEMPLATE

FAMILIES = ["gpt2", "llama3", "qwen3"]
TEXT = ["The quick brown fox jumps over the lazy dog. " * 4, "def f(x):\n    return x + 1\n" * 3]


@pytest.fixture(scope="module")
def tokenizer() -> ByteBPE:
    return train_bpe(TEXT, 290)


@pytest.fixture
def model(tokenizer: ByteBPE, small_model: Callable[..., Transformer]) -> Callable[..., Transformer]:
    def make(name: str = "qwen3", **changes: Any) -> Transformer:
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        return small_model(name, **{"vocab_size": 290, **ids, **changes})

    return make


def save(folder: Path, model: Transformer, tokenizer: ByteBPE, **options: Any) -> None:
    options = {"chat_template": DEFAULT_CHAT_TEMPLATE, "lineage": {"parent": None, "seed": 7}, **options}
    save_model_directory(folder, model, tokenizer, **options)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(
    name: str, tied: bool, tmp_path: Path, model: Callable[..., Transformer], tokenizer: ByteBPE
) -> None:
    made = model(name, tie_word_embeddings=tied)
    save(tmp_path / "m", made, tokenizer, generation={"max_new_tokens": 5, "eos_token_id": [1, 2]}, card="# Mine\n")
    loaded = load_model_directory(tmp_path / "m")
    assert loaded.model.config == made.config and not loaded.model.training
    state = loaded.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in made.state_dict().items())
    assert loaded.tokenizer.fingerprint() == tokenizer.fingerprint()
    assert loaded.chat_template is not None and loaded.chat_template.source == DEFAULT_CHAT_TEMPLATE
    assert loaded.generation["max_new_tokens"] == 5 and loaded.generation["eos_token_id"] == [1, 2]
    assert loaded.generation["pad_token_id"] == tokenizer.pad_id
    assert loaded.lineage["seed"] == 7
    assert loaded.lineage["weights_sha256"] == sha256_file(tmp_path / "m" / "model.safetensors")
    assert set(loaded.lineage["versions"]) == {"groundup", "torch", "python"}
    assert (tmp_path / "m" / "README.md").read_text() == "# Mine\n"
    assert ("lm_head.weight" in load_file(tmp_path / "m" / "model.safetensors")) is not tied
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"], "nothing is left beside the directory"


def test_dtypes(tmp_path: Path, model: Callable[..., Transformer], tokenizer: ByteBPE) -> None:
    made = model().to(torch.bfloat16)
    save(tmp_path / "m", made, tokenizer)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_file(tmp_path / "m" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    for dtype in ("float32", "bfloat16", "float64"):
        loaded = load_model_directory(tmp_path / "m", dtype=dtype).model
        assert {str(p.dtype) for p in loaded.parameters()} == {f"torch.{dtype}"}
        assert torch.equal(loaded.embed.weight.to(torch.bfloat16), made.embed.weight)


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_loads_it_in_a_fresh_process(
    name: str, tmp_path: Path, model: Callable[..., Transformer], tokenizer: ByteBPE
) -> None:
    pytest.importorskip("transformers")
    made = model(name)
    save(tmp_path / "m", made, tokenizer)
    text = "The lazy fox returns x + 1."
    code = (
        "import json, sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "inputs = tokenizer(sys.argv[2], return_tensors='pt')\n"
        "with torch.no_grad():\n"
        "    logits = model(**inputs).logits\n"
        "    greedy = model.generate(**inputs, max_new_tokens=15, do_sample=False)\n"
        "chat = tokenizer.apply_chat_template([{'role': 'user', 'content': 'hi'}], tokenize=False)\n"
        "print(json.dumps([inputs['input_ids'][0].tolist(), logits.tolist(), greedy[0].tolist(), chat]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code, str(tmp_path / "m"), text],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    ids, logits, greedy, chat = json.loads(done.stdout.splitlines()[-1])
    loaded = load_model_directory(tmp_path / "m")
    assert loaded.tokenizer.encode(text) == ids
    with torch.no_grad():
        ours = loaded.model.logits(loaded.model(torch.tensor([ids])))
        expected = torch.tensor(logits)
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
        tokens = list(ids)
        while len(tokens) < len(greedy):
            tokens.append(int(loaded.model.logits(loaded.model(torch.tensor([tokens]))[:, -1]).argmax()))
    assert tokens == greedy
    assert loaded.chat_template is not None
    assert chat == loaded.chat_template.render([{"role": "user", "content": "hi"}])


def test_what_transformers_does_not_know_keeps_our_config(tmp_path: Path, tokenizer: ByteBPE) -> None:
    qwen = preset("qwen3", vocab_size=290, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8)
    config = qwen.with_layers(lambda layer: layer.replace(mlp={"kind": "dense", "intermediate_size": 30}))
    made = build(config)
    save(tmp_path / "m", made, tokenizer, chat_template=None)
    values = json.loads((tmp_path / "m" / "config.json").read_text())
    assert values["model_type"] == "groundup" and values["hidden_size"] == 32
    loaded = load_model_directory(tmp_path / "m")
    assert loaded.model.config == config and loaded.chat_template is None
    text = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.model(text), made(text))
    assert "groundup generate" in (tmp_path / "m" / "README.md").read_text()


def test_a_file_part_travels_with_the_directory(tmp_path: Path, tokenizer: ByteBPE) -> None:
    source = tmp_path / "half.py"
    source.write_text(
        "from groundup.model.config import AttentionConfig\n"
        "from groundup.model.parts import PARTS, Attention, Builder\n"
        "class Half(Attention):\n"
        "    def __init__(self, hidden_size, heads):\n"
        "        config = AttentionConfig(num_attention_heads=heads, num_key_value_heads=1, head_dim=4)\n"
        "        super().__init__(config, hidden_size, Builder(PARTS, 0, False))\n"
        "    def forward(self, x, context, cache=None):\n"
        "        return super().forward(x, context, cache) / 2\n"
    )
    part = FilePartConfig(path=str(source), name="Half", options={"heads": 2})
    config = preset("gpt2", vocab_size=290, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    config = config.with_layers(lambda layer: layer.model_copy(update={"mixer": part}))
    made = build(config, trust_code=True)
    save(tmp_path / "m", made, tokenizer)
    source.unlink()
    moved = tmp_path / "elsewhere"
    (tmp_path / "m").rename(moved)
    with pytest.raises(ModelError, match=r"part 'Half' of the file .*part_half\.py.*trust_code=True"):
        load_model_directory(moved)
    loaded = load_model_directory(moved, trust_code=True)
    text = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded.model(text), made(text))
    save(tmp_path / "again", loaded.model, tokenizer)
    assert (tmp_path / "again" / "part_half.py").read_bytes() == (moved / "part_half.py").read_bytes()
    values = json.loads((moved / "config.json").read_text())
    values["groundup"]["stack"][0][1]["mixer"]["path"] = "../half.py"
    (moved / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=r"part 'Half' lies outside of the directory \(\.\./half\.py\)"):
        load_model_directory(moved, trust_code=True)


# Damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, model: Callable[..., Transformer], tokenizer: ByteBPE) -> Path:
    save(tmp_path / "m", model("llama3"), tokenizer)
    return tmp_path / "m"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_a_truncated_weight_file_is_named(saved: Path, keep: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or incomplete"):
        load_model_directory(saved)


def test_noise_and_a_hostile_header_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    for data in (b"\xff" * 4096, (2**60).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0[]", b"\x80\x04pickle"):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged or incomplete"):
            load_model_directory(saved)


def test_missing_unexpected_and_misshapen_tensors_are_named(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"1 of 29 tensors are missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        load_model_directory(saved)
    rewrite(saved, lambda tensors: tensors.update({"model.layers.1.mlp.other.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match=r"missing .* and 1 are unexpected \(model\.layers\.1\.mlp\.other\.weight\)"):
        load_model_directory(saved)
    rewrite(saved, lambda tensors: tensors.pop("model.layers.1.mlp.other.weight"))
    rewrite(saved, lambda tensors: tensors.update({"model.layers.1.mlp.up_proj.weight": torch.zeros(80, 47)}))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight has shape \[80, 47\].* makes it \[80, 48\]"):
        load_model_directory(saved)


def test_missing_and_malformed_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model directory .*nowhere"):
        load_model_directory(tmp_path / "nowhere")
    for name, text, message in (
        ("config.json", "{", r"config\.json cannot be read"),
        ("config.json", "[]", r"config\.json holds a JSON list"),
        ("config.json", '{"model_type": "mamba"}', r"config\.json: model_type 'mamba' is not known here"),
        ("config.json", '{"model_type": "groundup"}', r"under the key 'groundup', this one has model_type"),
        ("config.json", '{"model_type": "groundup", "groundup": 3}', "under the key 'groundup'"),
        ("config.json", '{"model_type": "groundup", "groundup": {"stak": 1}}', "did you mean 'stack'"),
        ("generation_config.json", "null", r"generation_config\.json holds a JSON NoneType"),
        ("lineage.json", "\xff", r"lineage\.json cannot be read|lineage\.json"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(saved, copy)
        (copy / name).write_text(text, encoding="latin-1")
        with pytest.raises(ModelError, match=message):
            load_model_directory(copy)
        shutil.rmtree(copy)
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        load_model_directory(saved)
    (saved / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/one.safetensors"}}')
    with pytest.raises(ModelError, match=r"m/one\.safetensors does not exist, but .*index\.json lists it"):
        load_model_directory(saved)


def test_a_tokenizer_that_is_too_large_is_refused(
    tmp_path: Path, small_model: Callable[..., Transformer], tokenizer: ByteBPE, saved: Path
) -> None:
    with pytest.raises(ModelError, match=r"the tokenizer has 290 ids and the model 97 \(vocab_size\)"):
        save(tmp_path / "bad", small_model("gpt2"), tokenizer)
    assert not (tmp_path / "bad").exists()


# Writing whole or not at all -------------------------------------------------------------------------------------


def test_replacing_a_directory(saved: Path, model: Callable[..., Transformer], tokenizer: ByteBPE) -> None:
    (saved / "chat_template.jinja").write_text("an old template, which transformers would prefer")
    other = model("llama3", seed=5)
    save(saved, other, tokenizer)
    loaded = load_model_directory(saved)
    assert torch.equal(loaded.model.embed.weight, other.embed.weight)
    assert not (saved / "chat_template.jinja").exists()


def test_a_folder_with_other_things_is_not_replaced(
    saved: Path, tmp_path: Path, model: Callable[..., Transformer], tokenizer: ByteBPE
) -> None:
    (saved / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match=r"holds what is not part of a model directory \(thesis\.tex\)"):
        save(saved, model(), tokenizer)
    assert (saved / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file: choose another name"):
        save(tmp_path / "file", model(), tokenizer)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", model(), tokenizer)


@pytest.mark.parametrize("broken", ["save_weights", "write_text", "_swap", "to_hf"])
def test_a_failure_at_any_point_leaves_the_old_directory(
    broken: str, saved: Path, model: Callable[..., Transformer], tokenizer: ByteBPE, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_model_directory(saved).model.state_dict()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory, broken, full)
    with pytest.raises(DataError, match=r"no space left on the disk while writing .*m: free some space"):
        save(saved, model("llama3", seed=9), tokenizer)
    monkeypatch.undo()
    after = load_model_directory(saved).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [entry.name for entry in saved.parent.iterdir()] == ["m"]


def test_a_kill_at_any_file_operation_leaves_old_or_new(
    saved: Path, model: Callable[..., Transformer], tokenizer: ByteBPE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop at the n-th rename, deletion or write, without any clean-up, for every n, and look at what is there."""

    class Killed(BaseException):
        pass

    old = load_model_directory(saved).model.embed.weight
    new_model = model("llama3", seed=5)
    watched = [(Path, "rename"), (Path, "replace"), (shutil, "rmtree"), (Path, "mkdir"), (os, "fsync")]
    seen = set()
    for stop in range(200):
        work = saved.parent / "work"
        shutil.copytree(saved, work)
        count = 0

        def counted(real: Callable[..., Any], stop: int = stop) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count > stop:
                    raise Killed  # from here on nothing happens any more, as after a kill
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for owner, name in watched:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                save(work, new_model, tokenizer)
                finished = True
            except Killed:
                finished = False
        if work.exists():
            weight = load_model_directory(work).model.embed.weight
            is_new = torch.equal(weight, new_model.embed.weight)
            assert is_new or torch.equal(weight, old)
            seen.add("new" if is_new else "old")
        else:
            with pytest.raises(ModelError, match=r"there is no model directory.*\.work\.old holds the version before"):
                read_model_config(work)
            seen.add("none")
        save(work, new_model, tokenizer)  # the same command again succeeds and cleans up
        assert torch.equal(load_model_directory(work).model.embed.weight, new_model.embed.weight)
        assert sorted(entry.name for entry in saved.parent.iterdir()) == ["m", "work"]
        shutil.rmtree(work)
        if finished:
            break
    else:
        pytest.fail("the save never finished")
    assert seen == {"old", "none", "new"}


def test_read_model_config(saved: Path, model: Callable[..., Transformer]) -> None:
    config = read_model_config(saved)
    assert isinstance(config, TransformerConfig) and config == model("llama3").config


def test_added_tokens_beyond_the_model_are_left_out(
    tmp_path: Path, model: Callable[..., Transformer], tokenizer: ByteBPE, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma 3 1B's files name a token for images that its 262,144 embeddings lack; others a [PAD]."""
    made = model(vocab_size=tokenizer.vocab_size)
    save(tmp_path / "m", made, tokenizer)
    path, config = (tmp_path / "m" / name for name in ("tokenizer.json", "tokenizer_config.json"))
    data = json.loads(path.read_text())
    beyond = {**data["added_tokens"][-1], "id": tokenizer.vocab_size, "content": "<image_soft_token>"}
    data["added_tokens"].append(beyond)
    data["model"]["vocab"]["<image_soft_token>"] = tokenizer.vocab_size
    path.write_text(json.dumps(data))
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"pad_token": "<image_soft_token>"}))
    loaded = load_model_directory(tmp_path / "m")
    assert loaded.tokenizer.vocab_size == tokenizer.vocab_size and loaded.tokenizer.pad_id is None
    assert "<image_soft_token>" in caplog.text
    assert loaded.tokenizer.encode("a fox <image_soft_token>") == tokenizer.encode("a fox <image_soft_token>")
    # An ordinary token beyond them means that the two do not belong together.
    data["added_tokens"].pop()
    config.write_text(before)
    path.write_text(json.dumps(data))
    with pytest.raises(ModelError, match="do not belong together"):
        load_model_directory(tmp_path / "m")


@pytest.mark.parametrize(
    ("written", "read"),
    [({}, [1, 2]), ({"eos_token_id": 5}, [5]), ({"eos_token_id": [5, 9999, -1]}, [5]), (None, [1, 2])],
)
def test_ids_that_end_a_text(
    written: dict[str, Any] | None,
    read: list[int],
    tmp_path: Path,
    model: Callable[..., Transformer],
    tokenizer: ByteBPE,
) -> None:
    save(tmp_path / "m", model(eos_token_id=(1, 2)), tokenizer)
    path = tmp_path / "m" / "generation_config.json"
    path.unlink() if written is None else path.write_text(json.dumps(written))
    assert load_model_directory(tmp_path / "m").generation["eos_token_id"] == read


@pytest.mark.parametrize("value", [2.0, "x", {"a": 1}, [1.5], [None], True])
def test_ids_that_are_none_are_named(
    value: Any, tmp_path: Path, model: Callable[..., Transformer], tokenizer: ByteBPE
) -> None:
    save(tmp_path / "m", model(), tokenizer)
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id is .*the id of a token"):
        load_model_directory(tmp_path / "m")
