"""The benchmark of training steps: it validates before it times, and its sides run what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from benchmarks import train as bench
from benchmarks.harness import ValidationError

TINY = bench.Workload(layers=2, width=16, heads=2, context=8, rows=4, vocab_size=11, steps=3, segments=1)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: None)  # for the whole process
    monkeypatch.setattr(bench, "LONG_RUN_TOKENS", 1)  # nothing is compiled
    monkeypatch.setattr("groundup.train.probe.native_precisions", lambda device: ("float32",))


def test_other_weights_are_not_timed() -> None:
    peer = bench.make_peer(TINY)
    ours = bench.ours_from(peer)
    assert bench.validate(TINY, peer, ours) < 1e-5
    with torch.no_grad():
        ours.layers[1].mlp.down_proj.weight.mul_(1.5)  # type: ignore[union-attr, operator]
    with pytest.raises(ValidationError, match=r"loss and gradient norm .* is allowed"):
        bench.validate(TINY, peer, ours)


def test_a_segment_is_so_many_updates_and_goes_on(tmp_path: Path) -> None:
    ours = bench.Ours(TINY, bench.ours_from(bench.make_peer(TINY)), tmp_path)
    for segment in (1, 2):
        assert ours.segment() > 0
        assert len(ours.sink.seconds) == segment * TINY.steps


def test_both_learn_the_same_from_the_same_batches(tmp_path: Path) -> None:
    """One update of each side from equal weights, at the same rate, gives nearly the same weights."""
    theirs = bench.make_peer(TINY)
    ours = bench.Ours(TINY, bench.ours_from(theirs), tmp_path)
    before = bench.tokens_of(TINY, 7)
    peer = bench.Peer(TINY, theirs, "eager")
    ours.segment()
    for _ in range(TINY.steps):
        peer.update()
    with torch.no_grad():
        a = ours.model.logits(ours.model(before[:, :-1]))
        b = theirs(input_ids=before[:, :-1]).logits
        assert (a - b).abs().max() < 2e-3 * b.abs().max(), "theirs decays vectors too, by 1e-4 of an update"


def test_an_unknown_workload_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["large"]) == 2
    assert "no workload begins with 'large'" in capsys.readouterr().err
