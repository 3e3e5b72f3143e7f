"""Sliding windows, sink tokens and learned sinks, against explicit masks and gpt-oss's attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.harness import relative_difference
from groundup.model.config import TransformerConfig
from groundup.model.ops.attention import attention, attention_fast, attention_pattern, attention_scores, visible_keys
from groundup.model.parts import Context, count_positions
from groundup.model.transformer import Transformer, build


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heads(length: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of six heads, keys and values of two."""
    shapes = ((2, 6, length, 8), (2, 2, length, 8), (2, 2, length, 8))
    query, key, value = (normal(*shape, seed=seed + i).to(dtype) for i, shape in enumerate(shapes))
    return query, key, value


# What is visible -------------------------------------------------------------------------------------------------


def seen_by_definition(
    row: int, query: int, key: int, window: int | None, sinks: int, mask: Tensor | None, segments: Tensor | None
) -> bool:
    """Whether token `query` sees token `key`, spelt out; both count over all tokens, cached ones included."""
    if mask is not None and query == key:
        return True
    if key > query or (mask is not None and not mask[row, key]):
        return False
    if segments is not None and segments[row, query] != segments[row, key]:
        return False
    if window is None or query - key < window:
        return True
    same = range(key) if segments is None else [at for at in range(key) if segments[row, at] == segments[row, key]]
    before = sum(mask is None or bool(mask[row, at]) for at in same)
    return before < sinks


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_visible_keys_are_those_of_the_definition(data: st.DataObject) -> None:
    cached, new = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 7))
    total, rows = cached + new, 2
    window = data.draw(st.none() | st.integers(1, 8))
    sinks = data.draw(st.integers(0, 3)) if window is not None else 0
    mask = segments = None
    if data.draw(st.booleans()):
        left = data.draw(st.booleans())
        counts = [data.draw(st.integers(1, total)) for _ in range(rows)]
        steps = torch.arange(total)
        mask = torch.stack([steps >= total - count if left else steps < count for count in counts])
    if cached == 0 and data.draw(st.booleans()):
        lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        segments = torch.nn.functional.pad(numbers, (0, total), value=len(lengths))[:total].expand(rows, total)
    positions = count_positions((rows, new), length=cached, mask=mask, segments=segments, device=torch.device("cpu"))
    context = Context(positions, length=cached, mask=mask, segments=segments)
    got = context.visible(True, window, sinks).expand(rows, 1, new, total)[:, 0]
    expected = [
        [
            [seen_by_definition(row, cached + query, key, window, sinks, mask, segments) for key in range(total)]
            for query in range(new)
        ]
        for row in range(rows)
    ]
    assert got.tolist() == expected
    shown, is_causal = context.visibility(True, window, sinks)
    query, key, value = normal(rows, 2, new, 4), normal(rows, 2, total, 4, seed=1), normal(rows, 2, total, 4, seed=2)
    quick = attention_fast(query, key, value, shown, is_causal)
    assert relative_difference(quick, attention(query, key, value, context.visible(True, window, sinks))) < 1e-5


def test_visible_keys_of_a_window_by_hand() -> None:
    window = visible_keys(5, 5, is_causal=True, window=2)[0, 0].int().tolist()
    assert window == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    sinks = torch.tensor([[True, False, False, False, False]])
    assert visible_keys(1, 5, is_causal=True, window=2, sinks=sinks)[0, 0].int().tolist() == [[1, 0, 0, 1, 1]]


# Models ----------------------------------------------------------------------------------------------------------

Make = Callable[..., Transformer]
Config = Callable[..., TransformerConfig]
Ids = Callable[..., Tensor]


def with_mixer(config: TransformerConfig, **mixer: Any) -> TransformerConfig:
    return config.with_layers(lambda layer: layer.replace(mixer=mixer))


def test_a_window_as_long_as_the_text_changes_nothing(small_config: Config, ids: Ids) -> None:
    config, text = small_config("llama3"), ids(2, 12)
    whole, wide, narrow = (build(with_mixer(config, sliding_window=size), seed=1) for size in (None, 12, 11))
    assert torch.equal(whole(text), wide(text))
    close = relative_difference(narrow(text)[:, :11], whole(text)[:, :11])
    assert close < 1e-5 and relative_difference(narrow(text)[:, 11:], whole(text)[:, 11:]) > 1e-3


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_stack_reaches_back_by_one_window_per_layer(layers: int, small_config: Config, ids: Ids) -> None:
    window, length = 4, 20
    model = build(with_mixer(small_config("llama3", num_hidden_layers=layers), sliding_window=window), seed=1)
    embedded = model.embed(ids(1, length)).detach().requires_grad_()
    model(embedded)[0, -1].sum().backward()
    assert embedded.grad is not None
    reached = embedded.grad[0].abs().sum(-1) > 0
    reach = layers * (window - 1)
    assert reached.tolist() == [at >= length - 1 - reach for at in range(length)]


def test_sink_tokens_stay_visible_and_nothing_else_before_the_window(small_config: Config, ids: Ids) -> None:
    config = with_mixer(small_config("llama3", num_hidden_layers=1), sliding_window=4, num_sink_tokens=2)
    model = build(config, seed=1)
    embedded = model.embed(ids(1, 12)).detach().requires_grad_()
    model(embedded)[0, -1].sum().backward()
    assert embedded.grad is not None
    assert [at for at in range(12) if embedded.grad[0, at].abs().sum() > 0] == [0, 1, 8, 9, 10, 11]


def test_sink_tokens_against_an_explicit_mask(small_model: Make, ids: Ids, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = small_model("sinks"), ids(2, 17)
    got = model(text)
    steps = torch.arange(17)
    near, first = steps[:, None] - steps < 5, (steps < 2)[None]
    allowed = ((steps <= steps[:, None]) & (near | first))[None, None]
    monkeypatch.setattr(Context, "visibility", lambda *_: (allowed, False))
    assert relative_difference(model(text), got) < 1e-6
    monkeypatch.setattr(Context, "visibility", lambda *_: (allowed & near, False))
    assert relative_difference(model(text), got) > 1e-3


def test_left_padding_is_no_sink(small_model: Make, ids: Ids) -> None:
    model, text = small_model("sinks"), ids(1, 20)
    mask = torch.arange(20)[None] >= 6
    with torch.no_grad():
        alone, padded = model(text[:, 6:]), model(text, mask=mask)[:, 6:]
    assert relative_difference(padded, alone) < 1e-5


# Learned sinks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("seed", range(3))
def test_learned_sinks_are_those_of_gpt_oss(seed: int, window: int | None) -> None:
    pytest.importorskip("transformers")
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    query, key, value = heads(9, seed=10 * seed)
    sinks = normal(6, seed=seed) * 2
    visible = visible_keys(9, 9, is_causal=True, window=window)
    module = SimpleNamespace(num_key_value_groups=3, sinks=sinks, training=False)
    bias = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    expected, pattern = eager_attention_forward(module, query, key, value, bias, scaling=0.4)
    got = attention(query, key, value, visible, scale=0.4, sink_logits=sinks)
    assert relative_difference(got, expected.transpose(1, 2)) < 1e-5
    assert relative_difference(attention_fast(query, key, value, visible, scale=0.4, sink_logits=sinks), got) < 1e-6
    ours = attention_pattern(attention_scores(query, key, visible, 0.4), sinks)
    assert relative_difference(ours, pattern) < 1e-5
    assert (ours.sum(-1) < 1).all()


def test_a_sink_takes_its_share_of_the_softmax() -> None:
    scores = torch.tensor([[[[1.0, 2.0, -math.inf]]]])
    got = attention_pattern(scores, torch.tensor([0.5]))[0, 0, 0]
    total = math.exp(1) + math.exp(2) + math.exp(0.5)
    assert got.tolist() == pytest.approx([math.exp(1) / total, math.exp(2) / total, 0.0])
    without = attention_pattern(scores, torch.tensor([-1e9]))
    assert torch.allclose(without, attention_pattern(scores))


def test_gradients_of_sinks_caps_and_scale_against_central_differences() -> None:
    query, key, value = (x.requires_grad_() for x in heads(5, dtype=torch.float64))
    sinks = normal(6).double().requires_grad_()
    visible = visible_keys(5, 5, is_causal=True, window=3)

    def run(*arguments: Tensor) -> Tensor:
        *rest, sink = arguments
        return attention(*rest, visible, scale=0.3, softcap=1.5, sink_logits=sink)

    assert torch.autograd.gradcheck(run, (query, key, value, sinks))


@pytest.mark.parametrize("options", [{}, {"scale": 0.7}, {"softcap": 1.0}, {"scale": 0.2, "softcap": 0.5}])
def test_fast_attention_takes_windows_scale_and_cap(options: dict[str, float]) -> None:
    query, key, value = heads(11)
    visible = visible_keys(11, 11, is_causal=True, window=4)
    expected = attention(query, key, value, visible, **options)
    assert relative_difference(attention_fast(query, key, value, visible, **options), expected) < 1e-5
    assert not options or relative_difference(attention(query, key, value, visible), expected) > 1e-3


def test_a_cap_bends_scores_and_keeps_their_order() -> None:
    query, key, _ = heads(7)
    plain, capped = attention_scores(query * 20, key, None), attention_scores(query * 20, key, None, softcap=5.0)
    assert capped.abs().max() <= 5 < plain.abs().max()
    assert torch.allclose(capped, 5 * torch.tanh(plain / 5))
    hidden = attention_scores(query, key, visible_keys(7, 7, is_causal=True), softcap=5.0)
    assert (hidden[..., 0, 1:] == -math.inf).all(), "what is hidden stays hidden under a cap"
