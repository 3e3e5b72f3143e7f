"""Parity with `transformers`: the same weights give the same logits, loss and every gradient, in both directions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from groundup.core.errors import ModelError
from groundup.core.files import read_json
from groundup.model.hf_config import from_hf, to_hf
from groundup.model.transformer import Transformer, assemble
from groundup.model.weights.files import load_weights, save_weights
from groundup.model.weights.names import slots

transformers = pytest.importorskip("transformers")

ATTENTION = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "intermediate_size": 80}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "gpt2-untied-relu": (
        "GPT2",
        {
            "vocab_size": 97,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
            "n_inner": 72,
            "tie_word_embeddings": False,
            "activation_function": "relu",
            "layer_norm_epsilon": 1e-3,
        },
    ),
    "llama": ("Llama", {**ATTENTION, "num_attention_heads": 6, "num_key_value_heads": 2}),
    "llama-tied-biases": (
        "Llama",
        {
            **ATTENTION,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 20,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "rms_norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        },
    ),
    "qwen3": ("Qwen3", {**ATTENTION, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16}),
    "qwen3-tied": (
        "Qwen3",
        {
            **ATTENTION,
            "hidden_size": 40,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "head_dim": 8,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
    ),
}


def make_theirs(case: str, seed: int = 0) -> Any:
    family, fields = CASES[case]
    no_dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0} if family == "GPT2" else {}
    config = getattr(transformers, f"{family}Config")(**fields, **no_dropout, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = "eager"
    kind = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, kind)(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model.eval()


def load_ours(theirs: Any, folder: Path) -> Transformer:
    theirs.save_pretrained(folder)
    model = assemble(from_hf(read_json(folder / "config.json")))
    load_weights(folder, model)
    return model


def close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    got, expected = got.detach(), expected.detach()
    difference, scale = float((got - expected).abs().max()), float(expected.abs().max())
    assert difference <= tolerance * scale, f"{difference:.3g} against {scale:.3g}"


def losses(model: Any, theirs: Any, ids: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    result = theirs(ids, labels=ids)
    logits = model.logits(model(ids))
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return (logits, loss), (result.logits, result.loss)


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_every_gradient(case: str, tmp_path: Path, ids: Callable[..., Tensor]) -> None:
    theirs = make_theirs(case)
    ours = load_ours(theirs, tmp_path)
    (logits, loss), (their_logits, their_loss) = losses(ours, theirs, ids(3, 21))
    close(logits, their_logits, 1e-5)
    close(loss, their_loss, 1e-5)
    loss.backward()
    their_loss.backward()
    compare_gradients(ours, theirs, 1e-5)


def compare_gradients(ours: Transformer, theirs: Any, tolerance: float) -> None:
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    parameters = dict(ours.named_parameters())
    where = slots(theirs.config.model_type, parameters)
    for name, slot in where.items():
        got, expected = parameters[name].grad, slot.take(gradients[slot.theirs])
        assert got is not None
        scale = float(gradients[slot.theirs].abs().max())  # of the fused tensor, where q, k and v are one
        assert float((got - expected).abs().max()) <= tolerance * scale, name
    assert {slot.theirs for slot in where.values()} == set(gradients), "a tensor of theirs was not compared"


def test_gpt2_in_double_precision(tmp_path: Path, ids: Callable[..., Tensor]) -> None:
    # Llama and Qwen compute their norms and wavelengths in float32 whatever the dtype, GPT-2 does not.
    theirs = make_theirs("gpt2").double()
    ours = load_ours(make_theirs("gpt2"), tmp_path).double()
    text = ids(2, 30)
    for logits in (ours.logits(ours(text)), theirs(text).logits):
        assert logits.dtype == torch.float64
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())  # theirs rounds to float32
        loss.backward()
    with torch.no_grad():
        close(ours.logits(ours(text)), theirs(text).logits, 1e-9)
    compare_gradients(ours, theirs, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_config_and_weights_return_unchanged(case: str, tmp_path: Path) -> None:
    theirs = make_theirs(case)
    ours = load_ours(theirs, tmp_path)
    values = to_hf(ours.config)
    assert from_hf(values) == ours.config
    again = type(theirs.config)(**{key: value for key, value in values.items() if key != "model_type"})
    ignored = {"_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"}
    before = {k: v for k, v in theirs.config.to_dict().items() if k not in ignored}
    after = {k: v for k, v in again.to_dict().items() if k not in ignored}
    assert before["rope_parameters"] == after["rope_parameters"] if "rope_parameters" in before else True
    if before.get("n_inner", 1) is None:
        before["n_inner"] = 4 * before["n_embd"]
    assert {k: v for k, v in after.items() if k in before} == before
    save_weights(tmp_path / "again" / "model.safetensors", ours)
    from safetensors.torch import load_file

    old, new = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    old.pop("lm_head.weight", None) if ours.head is None else None
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_our_directory_loads_in_transformers(
    name: str, tied: bool, tmp_path: Path, small_model: Callable[..., Transformer], ids: Callable[..., Tensor]
) -> None:
    ours = small_model(name, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=3)
    save_weights(tmp_path / "model.safetensors", ours)
    (tmp_path / "config.json").write_text(json.dumps(to_hf(ours.config)))
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id, theirs.config.pad_token_id) == (1, 2, 3)
    text = ids(2, 12)
    with torch.no_grad():
        close(ours.logits(ours(text)), theirs(text).logits, 1e-4)
        expected = theirs.generate(
            text[:1], attention_mask=torch.ones_like(text[:1]), max_new_tokens=20, do_sample=False, eos_token_id=None
        )
        got = text[:1]
        for _ in range(20):
            got = torch.cat((got, ours.logits(ours(got)[:, -1]).argmax(-1, keepdim=True)), dim=1)
    assert got.tolist() == expected.tolist()


def test_in_a_fresh_process(
    tmp_path: Path, small_model: Callable[..., Transformer], ids: Callable[..., Tensor]
) -> None:
    ours = small_model("qwen3", tie_word_embeddings=True)
    save_weights(tmp_path / "model.safetensors", ours)
    (tmp_path / "config.json").write_text(json.dumps(to_hf(ours.config)))
    text = ids(1, 9)
    code = (
        "import sys, json, torch, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "with torch.no_grad(): print(json.dumps(model(torch.tensor(json.loads(sys.argv[2]))).logits.tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), json.dumps(text.tolist())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    close(ours.logits(ours(text)), torch.tensor(json.loads(done.stdout.splitlines()[-1])), 1e-4)


def test_sharded_files_and_names_without_prefix(tmp_path: Path, ids: Callable[..., Tensor]) -> None:
    from safetensors.torch import load_file, save_file

    theirs = make_theirs("llama")
    whole = load_ours(theirs, tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    sharded = assemble(whole.config)
    load_weights(tmp_path / "shards", sharded)
    text = ids(2, 9)
    assert torch.equal(whole(text), sharded(text))

    theirs = make_theirs("gpt2")  # the published GPT-2 has no prefix and carries its causal masks
    whole = load_ours(theirs, tmp_path / "gpt2")
    stored = load_file(tmp_path / "gpt2" / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items() if "lm_head" not in name}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    (tmp_path / "bare").mkdir()
    save_file(bare, tmp_path / "bare" / "model.safetensors")
    again = assemble(whole.config)
    load_weights(tmp_path / "bare", again)
    assert torch.equal(whole(text), again(text))


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type 'llama3'.*'default'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling = .*linear"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window = True is not known here"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ("gpt2", {"activation_function": "mish"}, r"activation 'mish' is not known here \(known: gelu_new,"),
        ("gpt2", {"n_embd": "wide"}, r"(?s)does not describe a model.*wide"),
        ("gpt2", {"activation_function": ["silu"]}, "activation"),
        (
            "gpt2",
            {"model_type": "mamba"},
            r"model_type 'mamba' is not known here \(known: gpt2, llama, qwen3, groundup",
        ),
        ("llama", {"num_key_value_heads": 4}, r"num_attention_heads \(6\).*num_key_value_heads \(4\)"),
    ],
)
def test_what_is_not_implemented_is_refused(case: str, change: dict[str, Any], message: str) -> None:
    values = make_theirs(case).config.to_dict() | change
    with pytest.raises(ModelError, match=message):
        from_hf(values)


def test_missing_and_unknown_keys(caplog: pytest.LogCaptureFixture) -> None:
    values = make_theirs("llama").config.to_dict()
    del values["hidden_size"], values["vocab_size"]
    with pytest.raises(ModelError, match="lacks vocab_size, hidden_size"):
        from_hf(values)
    values = make_theirs("llama").config.to_dict()
    assert not caplog.records, "a config that transformers wrote has no key we do not know"
    from_hf(values | {"logit_softcapping": 30.0})
    assert "logit_softcapping" in caplog.text and "30.0" in caplog.text
