"""The encoder of texts: attention both ways, kinds of text, pooling, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import families
from benchmarks.harness import relative_difference
from groundup.core.errors import ModelError, UsageError
from groundup.inference.generate import generate
from groundup.inference.sampling import Sampling
from groundup.model.config import PoolingConfig, TransformerConfig
from groundup.model.hf_config import from_hf, to_hf
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, assemble, build
from groundup.model.weights.files import load_weights, save_weights

Make = Callable[..., Transformer]
Ids = Callable[..., Tensor]
fixture_ok = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pooled_by_hand(hidden: Tensor, mask: Tensor, pooling: PoolingConfig) -> Tensor:
    """The pooling of each row by itself, over its real tokens."""
    rows = []
    for vectors, real in zip(hidden, mask, strict=True):
        kept = vectors[real]
        row = {"mean": kept.mean(0), "cls": kept[0], "last": kept[-1]}[pooling.kind]
        rows.append(row / row.norm() if pooling.normalize else row)
    return torch.stack(rows)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["mean", "cls", "last"])
@fixture_ok
@given(data=st.data())
def test_pooling_over_the_real_tokens(
    kind: Any, normalize: bool, small_model: Make, ids: Ids, data: st.DataObject
) -> None:
    pooling = PoolingConfig(kind=kind, normalize=normalize)
    model = small_model("bert", pooling=pooling)
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    mask, _ = families.padding(lengths, left=data.draw(st.booleans()))
    text = ids(len(lengths), max(lengths), data.draw(st.integers(0, 99)))
    with torch.no_grad():
        hidden = model(text, mask=mask)
        pooled = model.pool(hidden, mask)
        assert relative_difference(pooled, pooled_by_hand(hidden, mask, pooling)) < 1e-5
        alone = [model.pool(model(row[real][None])) for row, real in zip(text, mask, strict=True)]
    assert relative_difference(pooled, torch.cat(alone)) < 1e-5, "padding changes the vector of a text"
    if normalize:
        assert torch.allclose(pooled.norm(dim=-1), torch.ones(len(lengths)))


def test_pooling_by_hand() -> None:
    config = build_config(kind="mean", normalize=False)
    model = build(config)
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [8.0, 9.0]]]).expand(2, 3, 2)
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert model.pool(hidden, mask).tolist() == [[2.0, 3.0], [5.5, 6.5]]
    assert model.pool(hidden).tolist() == [[4.0, 5.0]] * 2
    for kind, rows in (("cls", [[1.0, 2.0], [3.0, 4.0]]), ("last", [[3.0, 4.0], [8.0, 9.0]])):
        assert build(build_config(kind=kind, normalize=False)).pool(hidden, mask).tolist() == rows
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.isfinite(model.pool(hidden, nothing)).all()


def build_config(**pooling: Any) -> TransformerConfig:
    fields = {"vocab_size": 9, "hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    return preset("bert", **fields, intermediate_size=4, pooling=PoolingConfig(**pooling))


def test_every_token_sees_every_other(small_model: Make, ids: Ids) -> None:
    model, text = small_model("bert"), ids(1, 9)
    changed = text.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 97
    with torch.no_grad():
        difference = (model(changed) - model(text)).abs().amax(-1)[0]
    assert (difference > 1e-4).all()


def test_the_first_kind_of_text_is_added(pair: Callable[[str], tuple[Transformer, Any]]) -> None:
    ours, theirs = pair("bert")
    text = families.text(2, 12, seed=21)
    with torch.no_grad():
        hidden = ours(text)
        first, second = (theirs(text, token_type_ids=torch.full_like(text, kind)).last_hidden_state for kind in (0, 1))
        assert relative_difference(hidden, first) < 1e-5 < 1e-2 < relative_difference(hidden, second)
        assert ours.embed_types is not None and ours.embed_types.weight.shape == (2, 48)
        # Embeddings in place of ids get positions and the kind of text as ids do.
        assert torch.equal(ours(ours.embed(text)), hidden)


def test_a_position_past_the_last_is_named(small_model: Make, ids: Ids) -> None:
    model = small_model("bert")
    with pytest.raises(ModelError, match=r"the input is 65 tokens long, this model takes 64"):
        model(ids(1, 65))
    with pytest.raises(ModelError, match="a token id is 97, this model has 0 to 96"):
        model(torch.tensor([[97]]))


def test_what_an_encoder_refuses(small_model: Make, ids: Ids) -> None:
    model, text = small_model("bert"), ids(1, 5)
    with pytest.raises(ModelError, match=r"predicts no tokens \(has_head is false\): use `pool`"):
        model.logits(model(text))
    with pytest.raises(ModelError, match="is_causal=False reads tokens that are still to come: it has no cache"):
        model.new_cache(1)
    with pytest.raises(ModelError, match="no pooling: it gives one vector for each token, not for a text"):
        model.pool(model(text))
    with pytest.raises((ModelError, UsageError)):
        list(generate(model, [1, 2], Sampling(temperature=0, max_new_tokens=2)))


def test_pooling_is_no_part_of_the_config_file(small_config: Callable[..., TransformerConfig]) -> None:
    pooling = PoolingConfig(kind="cls", normalize=False)
    config = small_config("bert", pooling=pooling)
    values = to_hf(config)
    assert values["model_type"] == "bert" and "pooling" not in values
    assert from_hf(values, pooling=pooling) == config
    assert from_hf(values).pooling is None


def test_a_file_of_the_published_berts_is_read(tmp_path: Path, small_model: Make, ids: Ids) -> None:
    """bert-base-uncased: every name under `bert.`, norms with gamma and beta, and the heads of its pretraining."""
    ours = small_model("bert")
    save_weights(tmp_path / "model.safetensors", ours)
    stored = load_file(tmp_path / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in stored.items():
        for now, then in old.items():
            name = name.replace(now, then)
        renamed[f"bert.{name}"] = tensor
    heads = {"cls.seq_relationship.weight": torch.ones(2, 4), "bert.pooler.dense.weight": torch.ones(4, 4)}
    save_file({**renamed, **heads}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = assemble(ours.config).eval()
    load_weights(tmp_path, again)
    text = ids(2, 9)
    assert torch.equal(again(text), ours(text))
