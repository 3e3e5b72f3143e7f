"""One update seen from inside: residual stream, MLP units, gradients, and how far the weights move.

Hooks read and return nothing, so forward and backward are the same operations on the same numbers. What is read is
bounded (`MOST_TOKENS` rows of each activation, `MOST_VALUES` of each weight), so that a measured update costs little
more than another one (docs/experiments.md has the number).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.model.parts.layer import Layer
from groundup.model.parts.mlp import DenseMLP, GatedMLP
from groundup.model.transformer import Transformer
from groundup.train.health.history import Sample
from groundup.train.optimizer import local, parameter_roles

#: Rows of an activation that are read in one pass, evenly spread.
MOST_TOKENS = 2048
#: Values of a weight whose step is measured, evenly spread.
MOST_VALUES = 4096
#: A unit is silent where its output stays below this for every token that was read. An MLP reads normalised vectors,
#: and its units give about 0.05 at the start and more later (the smallest shape of the dial); what stays below a
#: five-hundredth of that adds nothing that survives the sum.
SILENT = 1e-4

#: Tokens of the text that `seen_ahead` reads.
AHEAD_TOKENS = 64

_LAYER = re.compile(r"layers\.(\d+)\.")


class Measurement:
    """Watches one update through hooks, from before its forward pass until `finish`.

    Args:
        model: its layers are read where it is a `Transformer`; of others only gradients and steps are.
        optimizer: that of the run.
        reaches_layers: put hooks into the layers.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, reaches_layers: bool) -> None:
        self.model = model
        self._roles = parameter_roles(model)
        self._entering: dict[int, Tensor] = {}
        self._squares: dict[tuple[str, int], list[Tensor]] = {}
        self._largest: dict[int, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._gradient: dict[str, float] = {}
        self._update: dict[str, float] = {}
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(lambda *_: self._before_step()),
            optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]
        if reaches_layers and isinstance(model, Transformer):
            for index, layer in enumerate(model.layers):
                assert isinstance(layer, Layer)
                self._watch_layer(index, layer)

    def _watch_layer(self, index: int, layer: Layer) -> None:
        self._handles.append(layer.residual_in.register_forward_hook(partial(self._enters, index)))
        self._handles.append(layer.residual_out.register_forward_hook(partial(self._leaves, index)))
        if isinstance(layer.mlp, DenseMLP | GatedMLP):
            self._handles.append(layer.mlp.down_proj.register_forward_pre_hook(partial(self._units, index)))

    def _enters(self, index: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        rows = _rows(output)
        self._entering[index] = rows
        self._add("in", index, rows)

    def _leaves(self, index: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        rows = _rows(output)
        self._add("out", index, rows)
        self._add("branch", index, rows - self._entering.pop(index))

    def _add(self, name: str, index: int, rows: Tensor) -> None:
        self._squares.setdefault((name, index), []).append(rows.square().mean())

    def _units(self, index: int, module: nn.Module, inputs: tuple[Tensor]) -> None:
        largest = _rows(inputs[0]).abs().amax(0)
        before = self._largest.get(index)
        self._largest[index] = largest if before is None else torch.maximum(before, largest)

    @torch.no_grad()
    def _before_step(self) -> None:
        """Gradients stand divided and cut now, and the weights have not moved."""
        squares: dict[str, list[Tensor]] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            norms_of_part = squares.setdefault(part_of(name), [])
            if parameter.grad is None:  # nothing came back to it
                norms_of_part.append(torch.zeros((), device=parameter.device))
                continue
            norms_of_part.append(torch.linalg.vector_norm(local(parameter.grad).float()).square())
            self._before[name] = _some(parameter)
        parts = list(squares)
        if parts:
            norms = torch.stack([torch.stack(values).sum() for values in squares.values()]).sqrt().tolist()
            self._gradient = dict(zip(parts, norms, strict=True))

    @torch.no_grad()
    def _after_step(self) -> None:
        ratios: dict[str, list[Tensor]] = {}
        for name, parameter in self.model.named_parameters():
            before = self._before.pop(name, None)
            if before is None or before.numel() == 0:
                continue
            size = before.square().mean().sqrt()
            moved = (_some(parameter) - before).square().mean().sqrt()
            # A parameter of zeros (a bias at its start) has no size to compare with.
            ratios.setdefault(self._roles[name], []).append(torch.where(size > 0, moved / size, torch.nan))
        self._update = {role: float(torch.stack(values).nanmedian()) for role, values in ratios.items()}

    def finish(
        self,
        step: int,
        grad_norm: float | None,
        batches: Sequence[Any],
        *,
        waited: float | None = None,
        ahead: float | None = None,
    ) -> Sample:
        """Take the hooks out and return what they saw.

        Args:
            step: the update, counted from 1.
            grad_norm: length of the whole gradient before it was cut; the parts are scaled to it.
            batches: the micro-batches of the update.
            waited, ahead: see `Sample`.
        """
        for handle in self._handles:
            handle.remove()
        length = math.hypot(*self._gradient.values())
        scale = grad_norm / length if grad_norm is not None and length > 0 else 1.0
        count = 1 + max((index for _, index in self._squares), default=-1)
        entering, leaving, adding = (
            [_root_mean(self._squares[name, index]) for index in range(count)] for name in ("in", "out", "branch")
        )
        return Sample(
            step,
            residual=(*entering[:1], *leaving),
            branch=tuple(b / a if a > 0 else math.nan for a, b in zip(entering, adding, strict=True)),
            silent=tuple(float((self._largest[index] < SILENT).float().mean()) for index in sorted(self._largest)),
            gradient={part: norm * scale for part, norm in self._gradient.items()},
            update={role: ratio for role, ratio in self._update.items() if math.isfinite(ratio)},
            ahead=ahead,
            waited=waited,
            **targets_of(batches),
        )


def part_of(parameter: str) -> str:
    """The part of the model that a parameter belongs to: `layer 3`, or the first word of its name."""
    match = _LAYER.match(parameter)
    return f"layer {match[1]}" if match else parameter.split(".")[0]


def targets_of(batches: Sequence[Any]) -> dict[str, float | None]:
    """What can be seen of the targets of one update: see `Sample.trained`, `shifted` and `copied`.

    The last target of a row has no next input, and where rows hold several texts so has the last of each. After the last trained
    target of a row that is filled up comes padding, which is no next input either.
    """
    trained = tokens = followed = shifted = copied = 0
    for batch in batches:
        if not isinstance(batch, Batch):
            return {}
        is_trained = batch.targets != IGNORE_INDEX
        trained += int(is_trained.sum())
        tokens += is_trained.numel()
        copied += int((batch.targets[is_trained] == batch.inputs[is_trained]).sum())
        later = is_trained.flip(1).cumsum(1).flip(1)[:, 1:] > 0
        is_followed = is_trained[:, :-1] & later
        if batch.segments is not None:
            is_followed = is_followed & (batch.segments[:, 1:] == batch.segments[:, :-1])
        followed += int(is_followed.sum())
        shifted += int((batch.targets[:, :-1] == batch.inputs[:, 1:])[is_followed].sum())
    return {
        "trained": trained / tokens if tokens else None,
        "shifted": shifted / followed if followed else None,
        "copied": copied / trained if trained else None,
    }


@torch.no_grad()
def seen_ahead(model: nn.Module, batches: Sequence[Any]) -> float | None:
    """Share of the tokens of one text whose hidden vectors change when its last token does; None where none can be read.

    A causal model gives 0. The pass is one of evaluation, on one row, and draws from no random state of the run.
    """
    if not batches or not isinstance(batches[0], Batch) or not isinstance(model, Transformer):
        return None
    ids = batches[0].inputs[:1, :AHEAD_TOKENS].to(next(model.parameters()).device)
    if ids.shape[1] < 2:
        return None
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % model.config.vocab_size
    with torch.random.fork_rng(devices=[]):
        model.eval()
        # Not through `__call__`, which may be compiled for other shapes.
        before, after = model.forward(ids)[0, :-1].float(), model.forward(other)[0, :-1].float()
        model.train()
    change = torch.linalg.vector_norm(after - before, dim=1) / torch.linalg.vector_norm(before, dim=1).clamp(min=1e-12)
    return float((change > 1e-3).float().mean())


def _rows(activation: Tensor) -> Tensor:
    """Evenly spread rows of an activation, in float32 and without its graph."""
    rows = activation.detach().flatten(0, -2)
    return rows[:: max(1, rows.shape[0] // MOST_TOKENS)].float()


def _some(parameter: Tensor) -> Tensor:
    """A copy of evenly spread values of a parameter; with shards, of those that this process holds."""
    values = local(parameter).detach().flatten()
    # An odd step, so that a matrix is not read along one of its columns.
    return values[:: max(1, values.numel() // MOST_VALUES) | 1].float().clone()


def _root_mean(squares: list[Tensor]) -> float:
    return float(torch.stack(squares).mean().sqrt())
