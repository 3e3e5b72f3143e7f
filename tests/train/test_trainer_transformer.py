"""The trainer with real models of each preset."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trainer_tiny import ListSink, TinySource, plan, tiny_transformer, trainer, weights_of

from groundup.core.errors import CheckpointError, Interrupted
from groundup.core.interrupt import StopRequest
from groundup.data.batch import Batch
from groundup.train import objectives
from groundup.train.objectives import next_token_loss


@pytest.mark.parametrize("family", ["gpt2", "llama3", "qwen3"])
def test_it_learns_and_the_chunked_loss_gives_the_same_gradients(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = ListSink()
    model = tiny_transformer(family)
    trainer(tmp_path, model=model, sink=sink, num_steps=30, checkpoint_every=0).fit()
    losses = [r["loss"] for r in sink.records]
    assert losses[-1] < 0.8 * losses[0]

    model = tiny_transformer(
        family
    ).double()  # in float32 a gradient that is zero but for rounding, as of a key bias, differs
    batch = TinySource().batch(3)
    gradients = []
    for elements in (2**21, 50 * 13):
        monkeypatch.setattr(objectives, "CHUNK_ROWS", 1)
        monkeypatch.setitem(objectives.CHUNK_ELEMENTS, "cpu", elements)
        model.zero_grad()
        loss = next_token_loss(model, batch)
        loss.total.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert "Chunked" in type(loss.total.grad_fn).__name__
    plain, chunked = gradients
    for name in plain:
        assert (plain[name] - chunked[name]).abs().max() <= 1e-9 * plain[name].abs().max() + 1e-15, name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "CHUNK_ROWS", 1)
    monkeypatch.setitem(objectives.CHUNK_ELEMENTS, "cpu", 50 * 13)

    class Stops(TinySource):
        def update(self, step: int) -> list[Batch]:
            stop.requested = stop.requested or step == 6
            return super().update(step)

    options = {"plan": plan(precision=precision), "num_steps": 12}
    stop = StopRequest()
    whole, resumed = tiny_transformer(), tiny_transformer()
    trainer(tmp_path / "whole", model=whole, **options).fit()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "run", model=tiny_transformer(), source=Stops(), stop=stop, **options).fit()
    trainer(tmp_path / "run", model=resumed, **options).fit()
    assert all(torch.equal(a, b) for a, b in zip(weights_of(whole).values(), weights_of(resumed).values(), strict=True))


def test_another_model_config_is_refused_by_field(tmp_path: Path) -> None:
    trainer(tmp_path, model=tiny_transformer(), num_steps=3, warmup_steps=0).fit()
    with pytest.raises(CheckpointError, match=r"model\.stack\[0\]\[1\]\.norm\.rms_norm_eps was .*, is now 0\.01"):
        trainer(tmp_path, model=tiny_transformer(rms_norm_eps=0.01), num_steps=3, warmup_steps=0).fit()
