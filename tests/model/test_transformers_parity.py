"""Parity with `transformers`: the same weights give the same numbers in every way that a model is used.

The cases, tiny random models with every option of every family, are those of `benchmarks.families`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import families
from benchmarks.families import CASES, our_scores, their_scores
from benchmarks.harness import relative_difference
from groundup.inference.generate import complete_batch
from groundup.inference.sampling import Sampling
from groundup.model.config import AttentionConfig, TransformerConfig
from groundup.model.hf_config import from_hf, model_type, to_hf
from groundup.model.transformer import Transformer, assemble
from groundup.model.weights.files import load_weights, save_weights
from groundup.model.weights.names import slots

transformers = pytest.importorskip("transformers")

Pair = Callable[[str], tuple[Transformer, Any]]
DECODERS = [case for case, values in CASES.items() if values["model_type"] != "bert"]
#: model_type of a file -> that of the model read from it, where another family computes the same.
RENAMED = {"mistral-no-window": "llama"}


def close(got: Tensor, expected: Tensor, tolerance: float = families.TOLERANCE) -> None:
    difference = relative_difference(got.detach(), expected.detach())
    assert difference <= tolerance, f"{difference:.3g}"


# The same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_every_gradient(case: str, pair: Pair) -> None:
    ours, theirs = pair(case)
    ids = families.text(3, 30, seed=11)
    for model in (ours, theirs):
        model.zero_grad()
    scores, their = our_scores(ours, ids), their_scores(theirs, ids)
    close(scores, their)
    loss, their_loss = (families.loss_of(one, ids, has_head=ours.config.has_head) for one in (scores, their))
    close(loss, their_loss)
    loss.backward()
    their_loss.backward()
    differences = families.gradient_differences(ours, theirs)
    assert differences.keys() == dict(ours.named_parameters()).keys()
    wrong = {name: difference for name, difference in differences.items() if not difference <= families.TOLERANCE}
    assert not wrong


@pytest.mark.parametrize("case", DECODERS)
def test_our_loss_is_theirs(case: str, pair: Pair) -> None:
    ours, theirs = pair(case)
    ids = families.text(2, 12, seed=12)
    with torch.no_grad():
        loss = families.loss_of(our_scores(ours, ids), ids, has_head=True)
        theirs(ids[:1, :1])
        close(loss, theirs(ids, labels=ids).loss)


@pytest.mark.parametrize("case", ["gpt2", "gpt2-untied-relu", "bert", "bert-one-type"])
def test_double_precision(case: str, tmp_path: Path) -> None:
    # The families with RMS norms and rotary positions compute those in float32 whatever the dtype, in transformers.
    theirs = families.make_theirs(CASES[case], seed=3)
    ours = families.load_ours(theirs, tmp_path).double()
    theirs.double()
    ids = families.text(2, 30, seed=13)
    scores, their = our_scores(ours, ids), their_scores(theirs, ids)
    assert scores.dtype == their.dtype == torch.float64
    close(scores, their, 1e-9)
    for one in (scores, their):
        one.logsumexp(-1).square().mean().backward()
    assert max(families.gradient_differences(ours, theirs).values()) <= 1e-9


@pytest.mark.parametrize("case", CASES)
def test_every_setting_of_a_case_matters(case: str, pair: Pair) -> None:
    """A parity of models that do not use an option would say nothing about it."""
    ours, _ = pair(case)
    ids = families.text(2, 30, seed=14)
    with torch.no_grad():
        plain = our_scores(ours, ids)
        for what, config in without_one_setting(ours.config).items():
            other = assemble(config)
            other.load_state_dict(ours.state_dict())
            assert relative_difference(our_scores(other.eval(), ids), plain) > 1e-3, what


def without_one_setting(config: TransformerConfig) -> dict[str, TransformerConfig]:
    """The configs that lack one of the settings that have no weights, where the config has it."""
    changes: dict[str, TransformerConfig] = {}
    mixers = [layer.mixer for layer in config.layers() if isinstance(layer.mixer, AttentionConfig)]
    for key in ("sliding_window", "query_pre_attn_scalar", "attn_logit_softcapping"):
        if any(getattr(mixer, key) is not None for mixer in mixers):
            changes[key] = config.with_layers(lambda layer, key=key: layer.replace(mixer={key: None}))  # type: ignore[misc]
    rotaries = {mixer.rotary for mixer in mixers if mixer.rotary is not None}
    if any(rotary.scaling is not None for rotary in rotaries):
        changes["scaling"] = config.with_layers(lambda layer: layer.replace(mixer={"rotary": {"scaling": None}}))
    if len(rotaries) > 1:
        one = next(iter(rotaries)).to_dict()
        changes["local rotary"] = config.with_layers(lambda layer: layer.replace(mixer={"rotary": one}))
    for key in ("embedding_multiplier", "final_logit_softcapping"):
        if getattr(config, key) is not None:
            changes[key] = config.replace(**{key: None})
    return changes


# Caches, padding, packing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", DECODERS)
def test_generated_tokens(case: str, pair: Pair) -> None:
    ours, theirs = pair(case)
    size, count = families.window(ours), families.NEW_TOKENS
    prompt = families.text(1, 9, seed=2)
    assert size is None or prompt.shape[1] + count > 2 * size, "the text has to leave the window"
    expected = families.their_tokens(theirs, prompt, count)
    assert families.our_tokens(ours, prompt, count) == expected
    assert len(set(expected)) > count // 2


@pytest.mark.parametrize("case", DECODERS)
def test_generated_tokens_of_a_padded_batch(case: str, pair: Pair) -> None:
    ours, theirs = pair(case)
    prompts = [families.text(1, length, seed=length) for length in (3, 14, 8)]
    sampling = Sampling(temperature=0, max_new_tokens=8, repetition_penalty=families.REPETITION_PENALTY)
    rows = complete_batch(ours, [prompt[0].tolist() for prompt in prompts], sampling, pad_id=0)
    for prompt, row in zip(prompts, rows, strict=True):
        assert row.tokens == families.their_tokens(theirs, prompt, 8)


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_padded_batches(case: str, left: bool, pair: Pair) -> None:
    ours, theirs = pair(case)
    with torch.no_grad():
        assert families.padded_difference(ours, theirs, left=left) <= families.TOLERANCE
        mask, _ = families.padding((5, 21, 12), left=left)
        ids = families.text(3, 21, seed=4)
        scores, other = our_scores(ours, ids, mask=mask), our_scores(ours, ids.where(mask, 7), mask=mask)
    assert torch.isfinite(scores).all()
    assert torch.equal(scores[mask], other[mask]), "what stands in the padding is read"


@pytest.mark.parametrize("case", DECODERS)
def test_chunks_through_a_cache_equal_the_whole(case: str, pair: Pair) -> None:
    ours, theirs = pair(case)
    dynamic = families.is_dynamic(ours)  # past the trained length its cached keys keep older angles, as in generation
    chunks = (6, 1, 8, 1) if dynamic else families.CHUNKS
    ids = families.text(2, sum(chunks), seed=5)
    with torch.no_grad():
        whole = their_scores(theirs, ids)
        close(families.read_in_chunks(ours, ids, chunks), whole)
        close(families.read_in_chunks(ours, ids, (1,) * sum(chunks)), whole)


@pytest.mark.parametrize("case", CASES)
def test_packed_segments_equal_texts_alone(case: str, pair: Pair) -> None:
    ours, theirs = pair(case)
    lengths = (4, 1, 20, 9)
    ids = families.text(1, sum(lengths), seed=6)
    segments = torch.repeat_interleave(torch.tensor([3, 0, 2, 1]), torch.tensor(lengths))[None]
    with torch.no_grad():
        packed = our_scores(ours, ids, segments=segments).split(lengths, dim=1)
        for scores, piece in zip(packed, ids.split(lengths, dim=1), strict=True):
            close(scores, their_scores(theirs, piece))


# To transformers and back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_our_directory_loads_in_transformers(case: str, pair: Pair, tmp_path: Path) -> None:
    ours, _ = pair(case)
    theirs, problems = families.reload_in_transformers(ours, tmp_path)
    assert problems == []
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id, theirs.config.pad_token_id) == (1, 2, 0)
    ids = families.text(2, 30, seed=15)
    with torch.no_grad():
        close(our_scores(ours, ids), their_scores(theirs, ids))
        if ours.config.has_head:
            prompt = families.text(1, 1, seed=16)
            assert families.our_tokens(ours, prompt, 16) == families.their_tokens(theirs, prompt, 16)


@pytest.mark.parametrize("case", CASES)
def test_the_config_returns_unchanged(case: str, pair: Pair) -> None:
    ours, theirs = pair(case)
    assert from_hf(CASES[case]) == ours.config, "the file as it was, and as transformers writes it"
    values = json.loads(json.dumps(to_hf(ours.config)))
    assert from_hf(values) == ours.config
    assert model_type(ours.config) == values["model_type"] == RENAMED.get(case, CASES[case]["model_type"])
    again = transformers.AutoConfig.for_model(**values).to_dict()
    before = theirs.config.to_dict()
    # The history of the file, dropout, a default that is spelt out, and what means nothing: the encoder has no head
    # to tie, layer_types say where the windows are.
    ignored = {"_name_or_path", "architectures", "transformers_version", "dtype", "model_type"}
    ignored |= {key for key in before if key.endswith("pdrop") or key.endswith("dropout_prob")}
    ignored |= {"_sliding_window_pattern", "sliding_window_pattern"}
    ignored |= set() if ours.config.has_head else {"tie_word_embeddings"}
    ignored |= {"sliding_window"} if case in RENAMED else set()
    ignored |= {"max_window_layers"} if not before.get("use_sliding_window") or "layer_types" in CASES[case] else set()
    ignored |= {"n_inner"} if before.get("n_inner", 0) is None else set()
    old_rope, new_rope = before.pop("rope_parameters", {}), again.get("rope_parameters", {})
    assert {key: again[key] for key in before if key not in ignored} == {
        key: value for key, value in before.items() if key not in ignored
    }
    nested = {key: (old_rope[key], new_rope[key]) for key in old_rope if isinstance(old_rope[key], dict)}
    for old, new in nested.values() or [(old_rope, new_rope)]:
        defaults = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
        old.pop("type", None)  # the older name of rope_type
        assert {key: value for key, value in new.items() if key in old or value != defaults.get(key)} == old


@pytest.mark.parametrize("case", CASES)
def test_the_weights_return_unchanged(case: str, pair: Pair, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    ours, theirs = pair(case)
    theirs.save_pretrained(tmp_path / "theirs")
    save_weights(tmp_path / "ours" / "model.safetensors", ours)
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    if ours.head is None:
        old.pop("lm_head.weight", None)
    old = {name: tensor for name, tensor in old.items() if not name.startswith("pooler.")}
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    where = slots(model_type(ours.config), ours.state_dict())
    assert {slot.theirs for slot in where.values()} == set(new)


@pytest.mark.parametrize("case", ["llama", "gemma2", "bert"])
def test_sharded_files(case: str, pair: Pair, tmp_path: Path) -> None:
    whole, theirs = pair(case)
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sharded = assemble(whole.config)
    load_weights(tmp_path, sharded)
    ids = families.text(2, 9)
    with torch.no_grad():
        assert torch.equal(whole(ids), sharded.eval()(ids))


def test_names_without_prefix(pair: Pair, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole, theirs = pair("gpt2")  # the published GPT-2 has no prefix and carries its causal masks
    theirs.save_pretrained(tmp_path / "gpt2")
    stored = load_file(tmp_path / "gpt2" / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items() if "lm_head" not in name}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    (tmp_path / "bare").mkdir()
    save_file(bare, tmp_path / "bare" / "model.safetensors")
    again = assemble(whole.config)
    load_weights(tmp_path / "bare", again)
    ids = families.text(2, 9)
    with torch.no_grad():
        assert torch.equal(whole(ids), again.eval()(ids))
