"""Observation points: reading and replacing what flows through, at no cost when nobody looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from groundup.model.parts import Point
from groundup.model.transformer import Transformer

FAMILIES = ["gpt2", "llama3", "mistral", "qwen3", "gemma2", "olmo2", "sinks"]


@pytest.mark.parametrize("name", FAMILIES)
def test_reading_the_pattern_changes_nothing(
    name: str, small_model: Callable[..., Transformer], ids: Callable[..., Tensor]
) -> None:
    model, text = small_model(name), ids(2, 11)
    plain = model(text)
    seen: dict[str, Tensor] = {}
    points = [path for path, module in model.named_modules() if isinstance(module, Point)]
    assert {"layers.0.attn.scores", "layers.2.attn.pattern", "layers.1.residual_in", "layers.1.residual_out"} <= set(
        points
    )
    for path in points:
        model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, path=path: seen.__setitem__(path, output.detach())
        )
    hooked = model(text)
    assert torch.allclose(hooked, plain, rtol=0, atol=1e-5 * plain.detach().abs().max().item())
    assert set(seen) == set(points)
    pattern = seen["layers.1.attn.pattern"]
    heads = model.config.layers()[0].mixer.num_attention_heads  # type: ignore[union-attr]
    assert pattern.shape == (2, heads, 11, 11)
    sums = pattern.sum(-1)
    if name == "sinks":  # the sink of each head takes the rest
        assert ((sums > 0) & (sums < 1)).all()
    else:
        assert torch.allclose(sums, torch.ones(2, heads, 11))
    assert (pattern.triu(1) == 0).all()
    assert torch.equal(seen["layers.1.residual_in"], seen["layers.0.residual_out"])
    lens = model.logits(model.final_norm(seen["layers.2.residual_out"]))  # type: ignore[misc]
    assert torch.allclose(lens, model.logits(hooked), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_hooked_calls_with_cache_mask_and_segments(
    name: str, small_model: Callable[..., Transformer], ids: Callable[..., Tensor]
) -> None:
    model, text = small_model(name), ids(2, 12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :4] = False
    segments = torch.tensor([[0] * 5 + [1] * 7]).expand(2, 12)

    def runs() -> list[Tensor]:
        cache = model.new_cache(2)
        with torch.no_grad():
            pieces = [model(piece, cache=cache) for piece in text.split([5, 1, 6], dim=1)]
            return [torch.cat(pieces, dim=1), model(text, mask=mask), model(text, segments=segments)]

    plain = runs()
    model.layers[0].attn.pattern.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    for got, expected in zip(runs(), plain, strict=True):
        assert torch.allclose(got, expected, atol=1e-4)


def test_replacing_and_gradients_at_a_point(
    small_model: Callable[..., Transformer], ids: Callable[..., Tensor]
) -> None:
    model, text = small_model("qwen3"), ids(1, 8)
    plain = model(text)
    point = model.get_submodule("layers.1.attn.pattern")
    handle = point.register_forward_hook(lambda _m, _i, pattern: torch.zeros_like(pattern))
    assert (model(text) - plain).abs().max() > 1e-3
    handle.remove()
    assert torch.equal(model(text), plain), "the fused path is back once the hook is gone"
    gradients: list[Any] = []
    handle = point.register_full_backward_hook(lambda _m, _i, output: gradients.append(output[0]))
    model(text).sum().backward()
    assert gradients[0].shape == (1, 6, 8, 8) and gradients[0].abs().max() > 0
    handle.remove()


def test_points_hold_no_weights(small_model: Callable[..., Transformer]) -> None:
    model = small_model("qwen3")
    assert not any(part in key for key in model.state_dict() for part in ("residual", "pattern", "scores"))
