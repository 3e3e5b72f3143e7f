"""What the spawned processes of the distributed tests run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from trainer_tiny import ListSink, TinyModel, TinySource, evaluate, plan, tiny_transformer, trainer, weights_of

from groundup.core.errors import Interrupted, TrainingError
from groundup.core.interrupt import StopRequest
from groundup.data.batch import Batch
from groundup.train.distributed import rank_and_world_size
from groundup.train.health.history import RunFacts
from groundup.train.health.monitor import Monitor


class Uneven(TinySource):
    """The ranks get different numbers of trained tokens and, if `ragged`, of micro-batches; rank 1 may ask for a stop."""

    def __init__(self, stop: StopRequest, stop_at: int | None, ragged: bool, **options: Any) -> None:
        super().__init__(masked=0.5, **options)
        self.stop, self.stop_at = stop, stop_at
        if self.rank == 1 and ragged:
            self.micro_batch = 1

    def update(self, step: int) -> list[Batch]:
        if step == self.stop_at and self.rank == self.world_size - 1:
            self.stop.requested = True
        return super().update(step)


def run(
    folder: Path,
    dtype: torch.dtype,
    *,
    sharded: bool = False,
    ragged: bool | None = None,
    stop_at: int | None = None,
    real: bool = False,
    **options: Any,
) -> None:
    """Train from the same start on however many processes there are; rank 0 writes weights and records."""
    rank, world_size = rank_and_world_size()
    stop = StopRequest()
    make = tiny_transformer if real else TinyModel
    model = make().to(dtype)
    sink = ListSink()
    ragged = not sharded if ragged is None else ragged
    source = Uneven(stop, stop_at, ragged, batch_size=8, micro_batch=2, rank=rank, world_size=world_size)
    training = trainer(
        folder,
        model=model,
        source=source,
        plan=plan(world_size=world_size, sharded=sharded),
        sink=sink,
        evaluate=evaluate,
        evaluate_every=4,
        num_steps=10,
        stop=stop,
        **options,
    )
    try:
        training.fit()
    except Interrupted as error:
        if rank == 0:
            (folder / "stopped.txt").write_text(str(error))
        return
    if rank == 0:
        (folder / "records.json").write_text(json.dumps(sink.records))
        best = make(seed=1).to(dtype)
        training.load_best(best)
        save_file(weights_of(best), folder / "best.safetensors")
    elif sink.records:
        raise AssertionError("only the first process may write metrics")


def all_cases(folder: Path) -> None:
    """DDP and FSDP2 in float64 and float32, and one stopped on rank 1 and resumed."""
    for dtype in (torch.float64, torch.float32):
        name = str(dtype).removeprefix("torch.")
        run(folder / f"ddp-{name}", dtype)
        run(folder / f"fsdp-{name}", dtype, sharded=True)
    for sharded in (False, True):
        run(folder / f"{'fsdp' if sharded else 'ddp'}-transformer", torch.float64, sharded=sharded, real=True)
    for sharded in (False, True):
        run(
            folder / f"{'fsdp' if sharded else 'ddp'}-muon", torch.float64, sharded=sharded, real=True, optimizer="muon"
        )
    try:
        run(folder / "ragged", torch.float32, sharded=True, ragged=True)
    except TrainingError as error:
        (folder / f"ragged-{rank_and_world_size()[0]}.txt").write_text(str(error))
    for sharded in (False, True):
        stopped = folder / f"stopped-{'fsdp' if sharded else 'ddp'}"
        run(stopped, torch.float64, sharded=sharded, stop_at=5)
        run(stopped, torch.float64, sharded=sharded)


def monitored(folder: Path) -> None:
    """DDP and FSDP2 with and without a monitor; the first process writes weights and how often was measured."""
    rank, world_size = rank_and_world_size()
    facts = RunFacts(50, 1000, 10, 1e-2, 1.0, "adamw", 2, True, 80, 3.9)
    for sharded in (False, True):
        kind = "fsdp" if sharded else "ddp"
        for name in ("with", "without"):
            model, sink = tiny_transformer(), ListSink()
            training = trainer(
                folder / f"{kind}-{name}",
                model=model,
                source=TinySource(micro_batch=2, rank=rank, world_size=world_size),
                plan=plan(world_size=world_size, sharded=sharded),
                sink=sink,
                observer=Monitor(facts, every=4, tell=lambda finding: None) if name == "with" else None,
                num_steps=10,
            )
            training.fit()
            best = tiny_transformer(seed=1)
            if rank == 0:
                training.load_best(best)
                flat = torch.cat([tensor.flatten() for tensor in weights_of(best).values()])
                (folder / f"{kind}-{name}.bin").write_bytes(flat.numpy().tobytes())
                if name == "with":
                    count = sum("health" in record for record in sink.records)
                    (folder / f"{kind}-health.txt").write_text(str(count))


def fails_on_the_second(folder: Path) -> None:
    if rank_and_world_size()[0] == 1:
        raise ValueError(f"nothing works in {folder}")


def aborts_on_the_second(folder: Path) -> None:
    if rank_and_world_size()[0] == 1:
        os.abort()
