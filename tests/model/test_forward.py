"""The one forward: causality, cache, segments, padding, memory, positions, hooks, precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundup.core.errors import ModelError
from groundup.model.cache import Cache, LayerCache, StackCache, TruncatableCache
from groundup.model.config import CrossAttentionConfig, LayerNormConfig, TransformerConfig
from groundup.model.transformer import Transformer, build

Make = Callable[..., Transformer]
Ids = Callable[..., Tensor]
FAMILIES = ["gpt2", "llama3", "mistral", "qwen3", "gemma2", "gemma3", "olmo2", "smollm3", "sinks"]
# Attention that the fused kernel takes whole: no window, no cap, no learned sink.
FUSED = ["gpt2", "llama3", "qwen3", "olmo2"]
fixture_ok = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    difference, scale = float((got - expected).detach().abs().max()), float(expected.detach().abs().max())
    assert difference <= tolerance * scale, f"{difference:.3g} against {scale:.3g}"


@pytest.mark.parametrize("name", FAMILIES)
@fixture_ok
@given(data=st.data())
def test_causality(name: str, small_model: Make, ids: Ids, data: st.DataObject) -> None:
    length = data.draw(st.integers(2, 20))
    cut = data.draw(st.integers(1, length - 1))
    model, text = small_model(name), ids(2, length, data.draw(st.integers(0, 99)))
    changed = text.clone()
    changed[:, cut:] = (changed[:, cut:] + data.draw(st.integers(1, 96))) % 97
    with torch.no_grad():
        before, after = model(text), model(changed)
    close(after[:, :cut], before[:, :cut])
    assert (after[:, cut] - before[:, cut]).abs().max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
@fixture_ok
@given(data=st.data())
def test_cache_equals_no_cache_for_every_chunking(name: str, small_model: Make, ids: Ids, data: st.DataObject) -> None:
    chunks = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    model, text = small_model(name), ids(3, sum(chunks), data.draw(st.integers(0, 99)))
    cache = model.new_cache(3)
    with torch.no_grad():
        parts = [model(piece, cache=cache) for piece in text.split(chunks, dim=1)]
        close(torch.cat(parts, dim=1), model(text))
    assert cache.length == sum(chunks) and cache.mask is None


@pytest.mark.parametrize("name", FAMILIES)
@fixture_ok
@given(data=st.data())
def test_packed_documents_do_not_see_each_other(name: str, small_model: Make, ids: Ids, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    model, text = small_model(name), ids(2, sum(lengths), data.draw(st.integers(0, 99)))
    numbers = torch.repeat_interleave(torch.tensor([5 * i % 7 for i in range(len(lengths))]), torch.tensor(lengths))
    with torch.no_grad():
        packed = model.logits(model(text, segments=numbers.expand(2, -1)))
        alone = torch.cat([model.logits(model(piece)) for piece in text.split(lengths, dim=1)], dim=1)
    close(packed, alone)


@pytest.mark.parametrize("name", FAMILIES)
def test_packing_gives_the_gradients_of_separate_rows(name: str, small_model: Make, ids: Ids) -> None:
    model, text = small_model(name).double(), ids(1, 20)
    segments = torch.tensor([[0] * 8 + [1] * 12])
    gradients = []
    for hidden in (model(text, segments=segments), torch.cat((model(text[:, :8]), model(text[:, 8:])), dim=1)):
        model.zero_grad()
        model.logits(hidden).logsumexp(-1).sum().backward()
        # Without rotary a shift of all keys changes nothing, so the gradient of k_proj.bias is rounding error alone.
        used = [p.grad.clone() for n, p in model.named_parameters() if "k_proj.bias" not in n and p.grad is not None]
        gradients.append(used)
    assert len(gradients[0]) >= len(list(model.parameters())) - 3
    for got, expected in zip(*gradients, strict=True):
        close(got, expected, 1e-9)


@pytest.mark.parametrize("name", FAMILIES)
@fixture_ok
@given(data=st.data())
def test_left_padding_with_and_without_cache(name: str, small_model: Make, ids: Ids, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 10), min_size=1, max_size=4))
    extra = data.draw(st.integers(0, 4))
    width = max(lengths)
    model, text = small_model(name), ids(len(lengths), width + extra, data.draw(st.integers(0, 99)))
    mask = torch.arange(width) >= torch.tensor([width - length for length in lengths])[:, None]
    cache = model.new_cache(len(lengths))
    with torch.no_grad():
        rows = [model(text[row : row + 1, width - length :]) for row, length in enumerate(lengths)]
        padded = model(text[:, :width], mask=mask, cache=cache)
        assert torch.isfinite(padded).all()
        more = [model(text[:, at : at + 1], cache=cache) for at in range(width, width + extra)]
        whole_mask = torch.cat((mask, torch.ones(len(lengths), extra, dtype=torch.bool)), dim=1)
        whole = model(text, mask=whole_mask)
    joined = torch.cat([padded, *more], dim=1)
    for row, length in enumerate(lengths):
        close(joined[row : row + 1, width - length :], rows[row])
        close(whole[row : row + 1, width - length :], rows[row])


@pytest.mark.parametrize("name", FAMILIES)
def test_right_padding_and_both_widths_of_a_mask(name: str, small_model: Make, ids: Ids) -> None:
    model, text = small_model(name), ids(2, 12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    with torch.no_grad():
        got = model(text, mask=mask)
        close(got[1, :7], model(text[1:, :7])[0])
        close(got[0], model(text[:1])[0])
        left = mask.flip(1)
        first, second = model.new_cache(2), model.new_cache(2)
        model(text[:, :8], mask=left[:, :8], cache=first)
        model(text[:, :8], mask=left[:, :8], cache=second)
        close(model(text[:, 8:], mask=left[:, 8:], cache=first), model(text[:, 8:], mask=left, cache=second))
    assert torch.equal(first.mask, left) and torch.equal(second.mask, left)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"mask covers 5 tokens: give 1 \(the new ones\) or 13"):
        model(text[:, :1], mask=mask[:, :5], cache=first)


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_in_place_of_ids(name: str, small_model: Make, ids: Ids) -> None:
    model, text = small_model(name), ids(2, 9)
    factor = model.config.embedding_multiplier or 1.0  # embeddings are what the first layer reads
    assert torch.equal(model(model.embed(text) * factor), model(text))


@pytest.mark.parametrize("name", FAMILIES)
def test_positions(name: str, small_model: Make, ids: Ids) -> None:
    model, text = small_model(name), ids(2, 9)
    assert torch.equal(model(text, positions=torch.arange(9)[None]), model(text))
    moved = model(text, positions=torch.arange(9)[None] + 20)
    if name == "gpt2":
        assert (moved - model(text)).abs().max() > 1e-2
    else:
        close(moved, model(text), 1e-4)  # rotary: only distances matter


def test_errors_carry_the_values(small_model: Make, ids: Ids) -> None:
    model = small_model("gpt2")
    with pytest.raises(ModelError, match=r"65 tokens long, this model takes 64 \(max_position_embeddings\)"):
        model(ids(1, 65))
    cache = model.new_cache(1)
    model(ids(1, 60), cache=cache)
    with pytest.raises(ModelError, match=r"66 tokens long \(60 in the cache and 6 new\), this model takes 64"):
        model(ids(1, 6), cache=cache)
    assert cache.length == 60
    with pytest.raises(ModelError, match="a token id is 97, this model has 0 to 96"):
        model(torch.tensor([[3, 97]]))
    with pytest.raises(ModelError, match="a token id is -1, this model has 0 to 96"):
        model(torch.tensor([[3, -1]]))
    with pytest.raises(ModelError, match="a position is 64, this model has 0 to 63"):
        model(torch.tensor([[3]]), positions=torch.tensor([[64]]))
    with pytest.raises(ModelError, match="segments are for whole packed rows"):
        model(ids(1, 1), cache=cache, segments=torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ModelError, match="no layer of this model has cross_attention"):
        model(ids(1, 1), memory=torch.zeros(1, 2, 48))
    short = small_model("llama3").new_cache(1, max_length=5)
    with pytest.raises(ModelError, match="holds at most 5 tokens, 6 are needed"):
        small_model("llama3")(ids(1, 6), cache=short)


# Cache -----------------------------------------------------------------------------------------------------------


def test_the_caches_fit_their_protocols(small_model: Make) -> None:
    cache = small_model("qwen3").new_cache(2)
    assert isinstance(cache, Cache)
    assert all(isinstance(layer, LayerCache) and isinstance(layer, TruncatableCache) for layer in cache.layers)


@pytest.mark.parametrize("name", FAMILIES)
@fixture_ok
@given(data=st.data())
def test_snapshot_restore_fork_truncate_in_any_order(
    name: str, small_model: Make, ids: Ids, data: st.DataObject
) -> None:
    """A cache always continues as a fresh run over the tokens it is supposed to hold."""
    model = small_model(name)
    source = ids(1, 400, data.draw(st.integers(0, 99)))
    used = 0
    cache: StackCache = model.new_cache(2)
    rows: list[list[int]] = [[], []]
    saved: list[tuple[Any, list[list[int]]]] = []
    for step in data.draw(st.lists(st.sampled_from(["run", "snapshot", "restore", "truncate", "fork"]), max_size=12)):
        if step == "run":
            count = data.draw(st.integers(1, 4))
            if len(rows[0]) + count > 60:
                continue
            new = source[0, used : used + 2 * count].view(2, count)
            used += 2 * count
            rows = [row + piece for row, piece in zip(rows, new.tolist(), strict=True)]
            with torch.no_grad():
                close(model(new, cache=cache)[:, -1:], model(torch.tensor(rows))[:, -1:])
        elif step == "snapshot":
            saved.append((cache.snapshot(), rows))
        elif step == "restore" and saved:
            snapshot, rows = data.draw(st.sampled_from(saved))
            cache.restore(snapshot)
        elif step == "truncate":
            length = data.draw(st.integers(0, len(rows[0])))
            cache.truncate(length)
            rows = [row[:length] for row in rows]
        elif step == "fork":
            order = data.draw(st.sampled_from([[0, 1], [1, 0], [0, 0]]))
            other = cache.fork(order)
            with torch.no_grad():
                model(torch.tensor([[1], [2]]), cache=cache)  # the first goes its own way
            cache, rows = other, [rows[i] for i in order]
        assert cache.length == len(rows[0])


def test_cache_errors_and_growth(small_model: Make, ids: Ids) -> None:
    model = small_model("qwen3", max_position_embeddings=1000)
    cache = model.new_cache(1)
    text = ids(1, 200)
    with torch.no_grad():
        close(torch.cat([model(piece, cache=cache) for piece in text.split(33, dim=1)], dim=1), model(text))
    with pytest.raises(ModelError, match="cannot truncate a cache of 200 tokens to 201"):
        cache.truncate(201)
    with pytest.raises(ModelError, match=r"cannot fork rows \[0, 1\] of a cache of 1 rows"):
        cache.fork([0, 1])


def test_an_interrupted_forward_leaves_the_cache_usable(small_model: Make, ids: Ids) -> None:
    model, text = small_model("qwen3"), ids(1, 12)
    cache = model.new_cache(1)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with torch.no_grad():
        model(text[:, :5], cache=cache)
        handle = model.layers[1].mlp.register_forward_hook(interrupt)  # type: ignore[union-attr]
        with pytest.raises(KeyboardInterrupt):
            model(text[:, 5:9], cache=cache)
        handle.remove()
        assert cache.length == 5 and cache.layers[0].length == 9
        close(model(text[:, 5:], cache=cache), model(text)[:, 5:])


def test_no_gradient_flows_through_a_cache(small_model: Make, ids: Ids) -> None:
    model = small_model("gpt2")
    cache = model.new_cache(1)
    for piece in ids(1, 6).split(2, dim=1):
        model(piece, cache=cache).sum().backward()  # a graph kept in the cache would fail the second time


# Memory, placement, precision ------------------------------------------------------------------------------------


def with_cross_attention(config: TransformerConfig, **fields: Any) -> TransformerConfig:
    cross = CrossAttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8, **fields)
    return config.with_layers(lambda layer: layer.replace(cross_attention=cross.to_dict()))


def test_memory_through_cross_attention(small_config: Callable[..., TransformerConfig], ids: Ids) -> None:
    config = with_cross_attention(small_config("llama3"), memory_size=24, qkv_bias=True)
    assert TransformerConfig.from_json(config.to_json()) == config
    model, text = build(config, seed=3), ids(2, 10)
    memory = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    cache = model.new_cache(2)
    with torch.no_grad():
        whole = model(text, memory=memory)
        assert (whole - model(text, memory=-memory)).abs().max() > 1e-3
        close(model(text, memory=memory[:, [3, 1, 4, 0, 2]]), whole)  # a set: its order does not matter
        swapped = model(text, memory=memory.flip(0))
        assert (swapped[0] - whole[0]).abs().max() > 1e-3
        close(torch.cat([model(piece, memory=memory, cache=cache) for piece in text.split(3, 1)], 1), whole)
    seen: list[Tensor] = []
    model.layers[1].cross_attn.pattern.register_forward_hook(lambda _m, _i, out: seen.append(out))  # type: ignore[union-attr]
    close(model(text, memory=memory), whole)
    assert seen[0].shape == (2, 4, 10, 5)
    close(seen[0].sum(-1), torch.ones(2, 4, 10))
    with pytest.raises(ModelError, match=r"cross-attention: give forward\(\.\.\., memory="):
        model(text)
    with pytest.raises(ModelError, match="the memory has width 7, this model reads width 24"):
        model(text, memory=torch.zeros(2, 5, 7))


def test_post_placement(small_config: Callable[..., TransformerConfig], ids: Ids) -> None:
    norm = LayerNormConfig(bias=False)
    config = small_config("gpt2").with_layers(lambda layer: layer.replace(placement="post", norm=norm.to_dict()))
    model = build(config.model_copy(update={"final_norm": None}), seed=1)
    hidden = model(ids(2, 7))
    close(hidden.mean(-1), torch.zeros(2, 7) + 1e-30, 1e25)  # what leaves the last norm has mean 0 and variance 1
    close(hidden.var(-1, correction=0), torch.ones(2, 7), 1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_autocast_and_bfloat16_weights(name: str, small_model: Make, ids: Ids) -> None:
    model, text = small_model(name, initializer_range=0.05), ids(2, 16)
    exact = model.logits(model(text)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(text)
        logits = model.logits(hidden)
        logits.logsumexp(-1).sum().backward()
    assert logits.dtype == torch.float32
    close(logits, exact, 0.05)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        small = model.to(torch.bfloat16)
        cache = small.new_cache(2)
        pieces = [small.logits(small(piece, cache=cache)) for piece in text.split(5, dim=1)]
        hidden = small(text)
    assert hidden.dtype == torch.bfloat16 and pieces[0].dtype == torch.float32
    close(torch.cat(pieces, dim=1), exact, 0.1)
    close(small.logits(hidden), exact, 0.1)


@pytest.mark.parametrize("name", FUSED)
def test_the_training_path_builds_no_mask(
    name: str, small_model: Make, ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watch(*arguments: Any, **options: Any) -> Tensor:
        calls.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    model, text = small_model(name), ids(2, 16)
    model(text)
    assert len(calls) == 3 and all(call["attn_mask"] is None and call["is_causal"] for call in calls)
    calls.clear()
    cache = model.new_cache(2)
    model(text, cache=cache)
    model(text[:, :1], cache=cache)
    assert [(call["attn_mask"] is None, call["is_causal"]) for call in calls] == [(True, True)] * 3 + [
        (True, False)
    ] * 3


def test_a_window_builds_one_mask_for_all_layers_and_none_within_it(
    small_model: Make, ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Tensor | None] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watch(*arguments: Any, **options: Any) -> Tensor:
        masks.append(options["attn_mask"])
        return real(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    model = small_model("mistral")  # a window of 7
    model(ids(1, 7))
    assert masks == [None] * 3
    masks.clear()
    model(ids(1, 8))
    first, *others = masks
    assert first is not None and first.shape == (1, 1, 8, 8) and all(one is first for one in others)
    masks.clear()
    cache = model.new_cache(1)
    model(ids(1, 6), cache=cache)
    model(ids(1, 1), cache=cache)
    assert masks == [None] * 6
    model(ids(1, 1), cache=cache)
    assert [mask.tolist() for mask in masks[6:] if mask is not None] == [[[[[False] + [True] * 7]]]] * 3


# Start -----------------------------------------------------------------------------------------------------------


def test_the_start_is_seeded_and_of_gpt2s_sizes(small_config: Callable[..., TransformerConfig]) -> None:
    config = small_config("gpt2", hidden_size=128, initializer_range=0.02)
    first, again, other = build(config, seed=1), build(config, seed=1), build(config, seed=2)
    state, same, different = first.state_dict(), again.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert not torch.equal(state["embed.weight"], different["embed.weight"])
    deeper = build(small_config("gpt2", hidden_size=128, initializer_range=0.02, num_hidden_layers=4), seed=1)
    assert torch.equal(deeper.state_dict()["layers.2.mlp.up_proj.weight"], state["layers.2.mlp.up_proj.weight"])
    for name, value in state.items():
        if name.endswith("norm.weight"):
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert (value == 0).all()
        else:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            assert float(value.std()) == pytest.approx(0.02 / 6**0.5 if residual else 0.02, rel=0.06), name
