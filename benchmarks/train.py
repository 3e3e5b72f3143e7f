"""Training steps beside a GPT-2 of transformers with the same weights: tokens per second and peak memory.

python -m benchmarks.train                 every workload; writes benchmarks/results/train.json
python -m benchmarks.train small           those whose name begins so; printed only

Ours is the trainer as `groundup pretrain` runs a long run, with the plan that its probe chooses, metrics and non-finite
guard included. The peers are the usual loop around GPT2LMHeadModel: eager float32, and with the flags that are advised:
torch.compile in float32, and with bfloat16 autocast. The same batch gives the same loss in both before anything is
timed; then segments of steps run in turn: ours, eager, compiled, bfloat16, ours, ... Peak memory is that of a process of
its own for each. Compilation is before the clock for both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, Timing, ValidationError, Work, floor_s, machine, write_results
from groundup.core.console import fail, format_bytes, format_count, say
from groundup.core.errors import Interrupted
from groundup.core.execution import (
    AttentionPath,
    ExecutionPlan,
    keep_freed_memory,
    machine_fingerprint,
    peak_memory_bytes,
)
from groundup.core.files import read_json
from groundup.core.interrupt import StopRequest
from groundup.data.batch import Batch
from groundup.model.counts import flops_per_token
from groundup.model.hf_config import from_hf
from groundup.model.transformer import Transformer, assemble
from groundup.model.weights.files import load_weights
from groundup.recipes.training import STORED_FROM, pass_sizes
from groundup.train.config import TrainConfig
from groundup.train.objectives import next_token_loss
from groundup.train.probe import describe, probe
from groundup.train.trainer import Trainer

TOLERANCE = 1e-4
PEERS = {
    "eager": "transformers, eager float32",
    "compiled": "transformers, float32 and torch.compile",
    "bfloat16": "transformers, bfloat16 autocast and torch.compile",
}
#: A run so long that the probe considers everything.
LONG_RUN_TOKENS = 10**12


@dataclass(frozen=True)
class Workload:
    """A GPT-2 and its batches.

    Attributes:
        layers, width, heads, context, rows, vocab_size: of the model and of one update.
        steps: updates of one segment.
        segments: how often each side runs one.
    """

    layers: int
    width: int
    heads: int
    context: int
    rows: int
    vocab_size: int = 65
    steps: int = 10
    segments: int = 5

    @property
    def tokens(self) -> int:
        """Tokens of one update."""
        return self.rows * self.context


WORKLOADS = {
    "characters, 6 x 384, context 256, batch 16": Workload(6, 384, 6, 256, 16, steps=5),
    "small, 4 x 128, context 64, batch 12": Workload(4, 128, 4, 64, 12, steps=50),
}


class Batches:
    """Random tokens, another batch for each update."""

    def __init__(self, work: Workload, micro_batch: int) -> None:
        self.work, self.micro_batch, self.step = work, micro_batch, 0

    def update(self, step: int) -> list[Batch]:
        self.step = step + 1
        ids = tokens_of(self.work, step)
        rows = range(0, self.work.rows, self.micro_batch)
        return [Batch(ids[i : i + self.micro_batch, :-1], ids[i : i + self.micro_batch, 1:]) for i in rows]

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.step = state["step"]


class Times:
    """A sink that keeps the time of each update and asks for a stop after a segment."""

    def __init__(self, work: Workload, stop: StopRequest) -> None:
        self.work, self.stop, self.seconds = work, stop, list[float]()

    def write(self, record: dict[str, Any]) -> None:
        self.seconds.append(self.work.tokens / record["tokens_per_s"])
        # The stop is noticed in the update that follows, which belongs to the segment too.
        self.stop.requested = len(self.seconds) % self.work.steps == self.work.steps - 1

    def rewind(self, stage: str, step: int) -> None:
        del stage, step


def tokens_of(work: Workload, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(work.vocab_size, (work.rows, work.context + 1), generator=generator)


def make_peer(work: Workload) -> Any:
    """The model of transformers, its dropout off."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "n_layer": work.layers,
        "n_embd": work.width,
        "n_head": work.heads,
        "n_positions": work.context,
    }
    off: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=work.vocab_size, **sizes, **off, **ids)).train()


def ours_from(peer: Any) -> Transformer:
    """Our model with the peer's weights."""
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        return ours_in(Path(folder))


def ours_in(folder: Path) -> Transformer:
    """Our model with the weights of a directory that the peer was saved to."""
    model = assemble(from_hf(read_json(folder / "config.json")))
    load_weights(folder, model)
    return model


def validate(work: Workload, peer: Any, ours: Transformer) -> float:
    """The relative difference of loss and gradient norm on one batch.

    Raises:
        ValidationError: when it is too large to be rounding.
    """
    ids = tokens_of(work, 0)
    loss = next_token_loss(ours, Batch(ids[:, :-1], ids[:, 1:]))
    (loss.total / loss.count).backward()  # type: ignore[no-untyped-call]
    theirs = peer(input_ids=ids[:, :-1], labels=None).logits
    expected = nn.functional.cross_entropy(theirs.flatten(0, 1), ids[:, 1:].flatten())
    expected.backward()  # type: ignore[no-untyped-call]
    pairs = [(loss.total.item() / loss.count, expected.item()), (_norm(ours), _norm(peer))]
    difference = max(abs(a - b) / abs(b) for a, b in pairs)
    for model in (ours, peer):
        model.zero_grad(set_to_none=True)
    if difference > TOLERANCE:
        raise ValidationError(f"loss and gradient norm (ours, theirs): {pairs}; {TOLERANCE:g} is allowed")
    return difference


def _norm(model: nn.Module) -> float:
    norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    return float(torch.stack(norms).norm())


class Ours:
    """The trainer, a segment at a time; between segments it stops with a checkpoint and goes on from it."""

    def __init__(self, work: Workload, model: Transformer, folder: Path) -> None:
        keep_freed_memory()
        self.work, self.model, self.folder, self.stop = work, model, folder, StopRequest()
        self.config = TrainConfig(num_steps=10**6, checkpoint_every=0)
        plan = ExecutionPlan(threads=torch.get_num_threads(), machine=machine_fingerprint())

        def make_batch(rows: int) -> Batch:
            ids = tokens_of(work, 0)[:rows]
            return Batch(ids[:, :-1], ids[:, 1:])

        paths: Sequence[AttentionPath] = ("fused", "stored") if work.context >= STORED_FROM else ("fused",)
        self.plan = probe(
            model, next_token_loss, make_batch, plan,
            micro_batches=pass_sizes(work.rows, work.context, plan.device), attentions=paths, compile_for=LONG_RUN_TOKENS,
        ).plan  # fmt: skip
        self.sink = Times(work, self.stop)

    def segment(self) -> float:
        """Seconds of one update, the median of a segment."""
        self.stop.requested = False
        before = len(self.sink.seconds)
        source = Batches(self.work, self.plan.micro_batch)
        trainer = Trainer(
            self.model, source, next_token_loss, self.config, self.plan, self.folder,
            stage="bench", sink=self.sink, stop=self.stop,
        )  # fmt: skip
        with contextlib.suppress(Interrupted):
            trainer.fit()
        return statistics.median(self.sink.seconds[before:])


class Peer:
    """The usual loop around a model of transformers."""

    def __init__(self, work: Workload, model: Any, kind: str) -> None:
        self.work, self.kind, self.step = work, kind, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        self.parameters = list(model.parameters())
        self.model = model if kind == "eager" else torch.compile(model)

    def update(self) -> None:
        ids = tokens_of(self.work, self.step)
        self.step += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=self.kind == "bfloat16"):
            logits = self.model(input_ids=ids[:, :-1]).logits
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def segment(self) -> float:
        """Seconds of one update, the median of a segment."""
        times = []
        for _ in range(self.work.steps):
            begun = time.perf_counter()
            self.update()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)


def measure(name: str, work: Workload) -> tuple[list[Row], ExecutionPlan]:
    """Validate, then run the sides in turn; one row for each peer, and the plan that ours ran under."""
    peer = make_peer(work)
    ours = ours_from(peer)
    difference = validate(work, peer, ours)
    flops = 3 * flops_per_token(ours.config, work.context) * work.tokens
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Any] = {"ours": Ours(work, ours, Path(folder))}
        sides |= {kind: Peer(work, make_peer(work), kind) for kind in PEERS}
        for side in sides.values():
            side.segment()  # compiles, fills caches
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(work.segments):
            for side, runner in sides.items():
                seconds[side].append(runner.segment())
        plan = sides["ours"].plan
    say(f"{name}: ours in {describe(plan)}")
    floor = floor_s(Work(operations=flops))
    rows = [_row(f"{name}, {kind}", seconds["ours"], seconds[kind], kind, difference, floor) for kind in PEERS]
    return rows, plan


def _row(name: str, ours: list[float], theirs: list[float], kind: str, difference: float, floor: float) -> Row:
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    mine = _timing(ours)
    return Row(
        name=name,
        ours=mine,
        peer=_timing(theirs),
        peer_name=PEERS[kind],
        ratio=statistics.median(ratios),
        ratio_lower=ratios[len(ratios) // 4],
        ratio_upper=ratios[-1 - len(ratios) // 4],
        difference=difference,
        floor_s=floor,
        share_of_floor=floor / mine.median_s,
    )


def _timing(times: list[float]) -> Timing:
    ordered = sorted(times)
    return Timing(
        statistics.median(ordered), ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4], len(ordered), 1
    )


def peak_of(name: str, side: str, weights: Path) -> int:
    """Peak memory of a process that runs one segment of one side, in bytes; ours does not import transformers."""
    command = [sys.executable, "-m", "benchmarks.train", name, "--alone", side, "--weights", str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def alone(work: Workload, side: str, weights: Path) -> None:
    """Run one segment of one side and print the peak memory of this process."""
    with tempfile.TemporaryDirectory() as folder:
        runner: Ours | Peer
        runner = Ours(work, ours_in(weights), Path(folder)) if side == "ours" else Peer(work, make_peer(work), side)
        runner.segment()
    print(peak_memory_bytes())


def show(rows: Sequence[Row], work: Workload, peaks: dict[str, int]) -> None:
    """Tokens per second, the ratio, the share of the float32 floor, and the memory."""
    for row, kind in zip(rows, PEERS, strict=True):
        assert row.peer is not None and row.ratio is not None
        say(
            f"  {format_count(work.tokens / row.ours.median_s)} tokens/s (spread {row.ours.spread:.0%}); {row.peer_name} "
            f"{format_count(work.tokens / row.peer.median_s)} (spread {row.peer.spread:.0%}): {row.ratio:.2f} times as fast "
            f"({row.ratio_lower:.2f} to {row.ratio_upper:.2f}); {row.share_of_floor:.0%} of the float32 floor; "
            f"peak {format_bytes(peaks['ours'])} and {format_bytes(peaks[kind])}; loss differs by {row.difference:.0e}"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", nargs="?", default="", help="only the workloads whose name begins so")
    parser.add_argument("--alone", choices=["ours", *PEERS], help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    chosen = {name: work for name, work in WORKLOADS.items() if name.startswith(options.prefix)}
    if not chosen:
        fail(f"no workload begins with {options.prefix!r}: there are {'; '.join(WORKLOADS)}")
        return 2
    if options.alone:
        alone(next(iter(chosen.values())), options.alone, options.weights)
        return 0
    where, rows, more = machine(), list[Row](), dict[str, Any]()
    for name, work in chosen.items():
        measured, plan = measure(name, work)
        with tempfile.TemporaryDirectory() as weights:
            make_peer(work).save_pretrained(weights)
            peaks = {side: peak_of(name, side, Path(weights)) for side in ("ours", *PEERS)}
        show(measured, work, peaks)
        rows += measured
        more[name] = {"tokens": work.tokens, "peak_bytes": peaks, "plan": describe(plan), "kinds": list(PEERS)}
    if not options.prefix:
        say(f"written to {write_results('train', rows, where, more={'workloads': more})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
