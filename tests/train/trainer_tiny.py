"""A small language model and source for the trainer's tests, also imported by the processes that they kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.core.execution import ExecutionPlan, machine_fingerprint
from groundup.core.metrics import NullSink
from groundup.core.seeds import seed_for
from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build
from groundup.train.config import TrainConfig
from groundup.train.objectives import next_token_loss
from groundup.train.trainer import Trainer


class TinyModel(nn.Module):
    """Embedding, causal mixing by a running mean, two layers and a tied head."""

    def __init__(self, vocab_size: int = 50, hidden_size: int = 16, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(vocab_size, hidden_size)
        self.layers = nn.ModuleList([nn.Linear(hidden_size, hidden_size) for _ in range(2)])
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = dropout
        with torch.no_grad():
            for parameter in (self.embed.weight, *(tensor for layer in self.layers for tensor in layer.parameters())):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def forward(self, inputs: Tensor, *, positions: Any = None, segments: Any = None, mask: Any = None) -> Tensor:
        hidden = self.embed(inputs)
        before = torch.ones(inputs.shape[1], inputs.shape[1], device=hidden.device, dtype=hidden.dtype).tril()
        hidden = hidden + (before / before.sum(1, keepdim=True)) @ hidden
        for layer in self.layers:
            mixed = torch.tanh(layer(hidden))
            hidden = hidden + nn.functional.dropout(mixed, self.dropout, self.training)
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = nn.functional.linear(hidden, self.embed.weight)
        return logits if logits.dtype == torch.float64 else logits.float()


def tiny_transformer(family: str = "qwen3", seed: int = 0, **fields: Any) -> Transformer:
    """A real model of a few thousand parameters."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return build(preset(family, **sizes, max_position_embeddings=32, intermediate_size=24, **fields), seed=seed)


class TinySource:
    """Sequences that count upwards in random steps: easy to learn, a pure function of the step."""

    def __init__(
        self,
        batch_size: int = 8,
        length: int = 12,
        micro_batch: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        vocab_size: int = 50,
        masked: float = 0.2,
    ) -> None:
        self.batch_size, self.length, self.micro_batch, self.vocab_size = batch_size, length, micro_batch, vocab_size
        self.seed, self.rank, self.world_size, self.masked = seed, rank, world_size, masked
        self.next_step = 0

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(seed_for(self.seed, "tiny", step))
        start = torch.randint(self.vocab_size, (self.batch_size, 1), generator=generator)
        stride = torch.randint(1, 4, (self.batch_size, 1), generator=generator)
        tokens = (start + stride * torch.arange(self.length + 1)) % self.vocab_size
        targets = tokens[:, 1:].clone()
        targets[torch.rand(targets.shape, generator=generator) < self.masked] = IGNORE_INDEX
        return Batch(tokens[:, :-1].contiguous(), targets)

    def update(self, step: int) -> list[Batch]:
        if step != self.next_step:
            raise AssertionError(f"asked for update {step} at position {self.next_step}")
        self.next_step = step + 1
        whole = self.batch(step)
        share = self.batch_size // self.world_size
        rows = range(self.rank * share, (self.rank + 1) * share, self.micro_batch)
        end = (self.rank + 1) * share
        return [
            Batch(whole.inputs[i : min(i + self.micro_batch, end)], whole.targets[i : min(i + self.micro_batch, end)])
            for i in rows
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"next_step": self.next_step}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.next_step = state["next_step"]


def plan(**changes: Any) -> ExecutionPlan:
    return ExecutionPlan(**{"threads": 1, "micro_batch": 4, "machine": machine_fingerprint()} | changes)


class ListSink:
    """Keeps the records of a run."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def rewind(self, stage: str, step: int) -> None:
        self.records = [r for r in self.records if r["stage"] != stage or r["step"] <= step]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def evaluate(model: nn.Module) -> dict[str, float]:
    """Mean loss on one batch that is never trained on."""
    loss = next_token_loss(model, TinySource(seed=99).batch(0))
    return {"loss": loss.total.item() / loss.count}


def trainer(folder: Path, *, model: nn.Module | None = None, source: Any = None, **options: Any) -> Trainer:
    """A trainer of 20 short steps; fields of TrainConfig may be given beside the trainer's own options."""
    fields = {name: options.pop(name) for name in list(options) if name in TrainConfig.model_fields}
    settings = {"num_steps": 20, "learning_rate": 1e-2, "warmup_steps": 2, "checkpoint_every": 5} | fields
    options = {"stage": "pretrain", "sink": NullSink(), "plan": plan(), "objective": next_token_loss} | options
    return Trainer(
        model if model is not None else TinyModel(),
        source if source is not None else TinySource(),
        options.pop("objective"),
        TrainConfig(**settings),
        options.pop("plan"),
        folder,
        **options,
    )
