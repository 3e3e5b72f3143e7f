"""Seconds of training until tiny Shakespeare, by characters, reaches a validation loss: ours beside a GPT-2.

python -m benchmarks.time_to_loss              both, three seeds; writes benchmarks/results/time_to_loss.json
python -m benchmarks.time_to_loss --ours       ours alone, printed only; --set train.learning_rate=0.01 changes it

The text is split 90 / 10; a model sees 64 characters at once, and the loss is the mean over the whole validation part,
read in windows of 64 that do not overlap. The clock runs during updates, the probe and compilation, from a cold start;
an evaluation stops it. Ours may have any architecture and optimizer of the package; the peer is transformers' GPT-2, 4
layers of 128, batch 12, no dropout, AdamW (0.9, 0.99), warm-up 100, cosine 1e-3 to 1e-4 over 2,000 updates.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import machine, write_results
from groundup.core.config import merge
from groundup.core.console import fail, format_count, say
from groundup.core.errors import Interrupted, UsageError
from groundup.core.execution import ExecutionPlan, keep_freed_memory, machine_fingerprint
from groundup.core.interrupt import StopRequest
from groundup.core.metrics import NullSink
from groundup.core.seeds import seed_for
from groundup.data.batch import Batch
from groundup.model.presets import preset
from groundup.model.transformer import build
from groundup.train.config import TrainConfig
from groundup.train.objectives import next_token_loss
from groundup.train.probe import probe
from groundup.train.trainer import Trainer

TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "shakespeare" / "input.txt"
TARGET, CONTEXT, SEEDS = 1.88, 64, (0, 1, 2)
PEER_STEPS, PEER_ROWS, EVALUATE_EVERY = 2_000, 12, 50
#: What ours trains; docs/experiments.md says why.
RECIPE: dict[str, Any] = {
    "rows": 12,
    "model": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "intermediate_size": 384,
        "tie_word_embeddings": False,
    },
    "train": {
        "num_steps": 250,
        "learning_rate": 0.02,
        "optimizer": "muon",
        "matrix_learning_rate": 0.015,
        "muon_momentum": 0.8,
        "warmup_steps": 5,
        "min_learning_rate_ratio": 0.05,
        "weight_decay": 0.1,
        "evaluate_every": 10,
        "checkpoint_every": 0,
    },
}


@dataclass(frozen=True)
class Reached:
    """When a run came to the target.

    Attributes:
        seconds: of training; infinite when it never did.
        tokens: trained until then.
        losses: validation loss after each evaluation, with the seconds and tokens before it.
    """

    seconds: float
    tokens: int
    losses: list[tuple[float, int, float]] = field(default_factory=list)


def read_text() -> tuple[Tensor, Tensor, int]:
    """Training and validation part as ids of characters, and how many characters there are.

    Raises:
        UsageError: where the text is not here.
    """
    if not TEXT.is_file():
        raise UsageError(f"this benchmark reads tiny Shakespeare from {TEXT}, which is not here")
    text = TEXT.read_text(encoding="utf-8")
    ids = {character: index for index, character in enumerate(sorted(set(text)))}
    data = torch.tensor([ids[character] for character in text])
    cut = int(0.9 * len(data))
    return data[:cut], data[cut:], len(ids)


def windows(data: Tensor, rows: int, seed: int, step: int) -> Batch:
    """Random windows of the training part."""
    generator = torch.Generator().manual_seed(seed_for(seed, "windows", step))
    starts = torch.randint(len(data) - CONTEXT, (rows,), generator=generator)
    picked = data[starts[:, None] + torch.arange(CONTEXT + 1)]
    return Batch(picked[:, :-1], picked[:, 1:])


def validation_windows(data: Tensor) -> Batch:
    """The whole validation part, each character predicted once (but for a rest shorter than a window)."""
    count = (len(data) - 1) // CONTEXT
    inputs = data[: count * CONTEXT].view(count, CONTEXT)
    return Batch(inputs, data[1 : count * CONTEXT + 1].view(count, CONTEXT))


class Windows:
    """The training part as a source."""

    def __init__(self, data: Tensor, rows: int, micro_batch: int, seed: int) -> None:
        self.data, self.rows, self.micro_batch, self.seed = data, rows, micro_batch, seed

    def update(self, step: int) -> list[Batch]:
        batch = windows(self.data, self.rows, self.seed, step)
        size = self.micro_batch
        return [
            Batch(batch.inputs[i : i + size], batch.targets[i : i + size]) for i in range(0, len(batch.inputs), size)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        del state


def train_ours(recipe: dict[str, Any], seed: int) -> Reached:
    """Train by the recipe until the target is reached."""
    train, held_out, vocab_size = read_text()
    keep_freed_memory()
    begun = time.perf_counter()
    fields = {"vocab_size": vocab_size, "max_position_embeddings": CONTEXT, **recipe["model"]}
    model = build(preset("qwen3", **fields), seed=seed)
    plan = ExecutionPlan(threads=torch.get_num_threads(), machine=machine_fingerprint())
    rows = recipe["rows"]
    plan = probe(
        build(model.config), next_token_loss, lambda count: windows(train, count, seed, 0), plan, micro_batches=[rows]
    ).plan
    batch, stop, losses = validation_windows(held_out), StopRequest(), list[tuple[float, int, float]]()
    paused = 0.0

    def evaluate(module: nn.Module) -> dict[str, float]:
        nonlocal paused
        now = time.perf_counter()
        total, count = 0.0, 0
        for i in range(0, len(batch.inputs), 128):
            loss = next_token_loss(module, Batch(batch.inputs[i : i + 128], batch.targets[i : i + 128]))
            total, count = total + loss.total.item(), count + loss.count
        losses.append((now - begun - paused, trainer.progress.tokens, total / count))
        stop.requested = total / count <= TARGET
        paused += time.perf_counter() - now
        return {"loss": total / count}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model, Windows(train, rows, plan.micro_batch, seed), next_token_loss,
            TrainConfig(**{**recipe["train"], "seed": seed}), plan, Path(folder),
            stage="bench", sink=NullSink(), evaluate=evaluate, stop=stop,
        )  # fmt: skip
        with contextlib.suppress(Interrupted):
            trainer.fit()
    return _reached(losses)


def train_peer(seed: int) -> Reached:
    """Train the GPT-2 until the target is reached."""
    from transformers import GPT2Config, GPT2LMHeadModel

    train, held_out, vocab_size = read_text()
    begun, paused = time.perf_counter(), 0.0
    torch.manual_seed(seed)
    fields: dict[str, Any] = {"n_layer": 4, "n_embd": 128, "n_head": 4, "n_positions": CONTEXT}
    fields |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **fields)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    batch, losses = validation_windows(held_out), list[tuple[float, int, float]]()
    for step in range(PEER_STEPS):
        share = min(1.0, (step + 1) / 100)
        progress = max(0.0, (step - 100) / (PEER_STEPS - 100))
        optimizer.param_groups[0]["lr"] = share * (1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * progress)))
        picked = windows(train, PEER_ROWS, seed, step)
        loss = nn.functional.cross_entropy(
            model(input_ids=picked.inputs).logits.flatten(0, 1), picked.targets.flatten()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % EVALUATE_EVERY == 0:
            now = time.perf_counter()
            with torch.no_grad():
                pieces = [
                    nn.functional.cross_entropy(
                        model(input_ids=batch.inputs[i : i + 128]).logits.flatten(0, 1),
                        batch.targets[i : i + 128].flatten(),
                        reduction="sum",
                    )
                    for i in range(0, len(batch.inputs), 128)
                ]
            value = float(torch.stack(pieces).sum()) / batch.targets.numel()
            losses.append((now - begun - paused, (step + 1) * PEER_ROWS * CONTEXT, value))
            paused += time.perf_counter() - now
            if value <= TARGET:
                break
    return _reached(losses)


def _reached(losses: list[tuple[float, int, float]]) -> Reached:
    first = next((entry for entry in losses if entry[2] <= TARGET), None)
    return Reached(math.inf, losses[-1][1], losses) if first is None else Reached(first[0], first[1], losses)


def at_equal_loss(ours: Reached, peer: Reached) -> tuple[float, float, float]:
    """The target, or the peer's best loss where it stayed above, and the seconds of ours and of the peer until then."""
    loss = max(TARGET, min(entry[2] for entry in peer.losses))
    first = [next((seconds for seconds, _, found in run.losses if found <= loss), math.inf) for run in (ours, peer)]
    return loss, first[0], first[1]


def changed(recipe: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The recipe with `table.name=value` settings (values as TOML) put in.

    Raises:
        UsageError: for a setting of another form.
    """
    import tomllib

    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write it as train.learning_rate=0.01")
        recipe = merge(recipe, tomllib.loads(f"{name} = {value}"))
    return recipe


def compared(ours: list[Reached], peer: list[Reached]) -> dict[str, Any]:
    """What is kept of the runs: them, and how much longer the peer takes to a loss that both reach."""
    equal = [at_equal_loss(a, b) for a, b in zip(ours, peer, strict=True)]
    return {
        "equal_loss": statistics.median(loss for loss, _, _ in equal),
        "ratio": statistics.median(theirs / own for _, own, theirs in equal),
        "runs": {name: [_written(run) for run in runs] for name, runs in (("ours", ours), ("peer", peer))},
    }


def _written(run: Reached) -> dict[str, Any]:
    """A run in JSON, which has no word for infinity: null."""
    return {**run.__dict__, "seconds": run.seconds if math.isfinite(run.seconds) else None}


def tell(name: str, runs: list[Reached]) -> None:
    def spoken(seconds: float) -> str:
        return f"{seconds:.1f} s" if math.isfinite(seconds) else "never"

    seconds = [run.seconds for run in runs]
    say(
        f"{name}: median {spoken(statistics.median(seconds))} ({', '.join(map(spoken, seconds))}), {format_count(statistics.median(run.tokens for run in runs))}"
        f" tokens; best loss {min(entry[2] for run in runs for entry in run.losses):.3f}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="without the peer; nothing is written")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="runs of each")
    parser.add_argument(
        "--set", action="append", default=[], help="change the recipe, such as train.learning_rate=0.01"
    )
    options = parser.parse_args(arguments)
    where = machine()
    try:
        recipe = changed(RECIPE, options.set)
        ours, peer = [], []
        for seed in range(options.seeds):
            ours.append(train_ours(recipe, seed))
            if not options.ours:
                peer.append(train_peer(seed))
    except UsageError as error:
        fail(str(error))
        return 2
    tell("ours", ours)
    if not options.ours:
        tell("transformers' GPT-2", peer)
        more = {"target": TARGET, "recipe": recipe, **compared(ours, peer)}
        say(
            f"to a loss of {more['equal_loss']:.3f}, which both reach: {more['ratio']:.1f} times as fast"
            f" (median of {len(ours)} pairs)"
        )
        say(f"written to {write_results('time_to_loss', [], where, more=more)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
