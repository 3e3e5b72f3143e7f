"""Model and optimizer as named tensors, and back into place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from groundup.core.errors import CheckpointError
from groundup.train.checkpoint import Checkpoint, Tensors
from groundup.train.distributed import Parallel
from groundup.train.optimizer import Optimizer


def model_tensors(model: nn.Module) -> Tensors:
    """Parameters and persistent buffers by name; a shared (tied) tensor stands once, under its first name."""
    persistent = model.state_dict(keep_vars=True)
    named: Tensors = dict(model.named_parameters())
    named.update((name, buffer) for name, buffer in model.named_buffers() if name in persistent)
    return named


def saved_tensors(model: nn.Module, optimizer: Optimizer, parallel: Parallel) -> tuple[Tensors, Tensors]:
    """Whole copies on the CPU of what a checkpoint holds of the model and of the optimizer."""
    weights = {name: parallel.full(tensor) for name, tensor in model_tensors(model).items()}
    moments = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for kind, tensor in optimizer.state_of(parameter).items():
                moments[f"{kind}.{name}"] = parallel.full(tensor)
    return weights, moments


def restore_tensors(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer, parallel: Parallel) -> None:
    """Copy a checkpoint into a model and its optimizer.

    Raises:
        CheckpointError: when names or shapes differ.
    """
    weights = model_tensors(model)
    check_tensors(checkpoint.model, weights)
    for name, tensor in weights.items():
        parallel.restore(tensor, checkpoint.model[name])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for kind, moment in optimizer.state_of(parameter).items():
                saved = checkpoint.optimizer.get(f"{kind}.{name}")
                if saved is None:
                    raise CheckpointError(f"the checkpoint of step {checkpoint.step} has no optimizer state of {name}")
                parallel.restore(moment, saved)


@torch.no_grad()
def copy_weights(saved: Tensors, model: nn.Module) -> None:
    """Copy saved weights into an unsharded model; CheckpointError when names or shapes differ."""
    weights = model_tensors(model)
    check_tensors(saved, weights)
    for name, tensor in weights.items():
        tensor.copy_(saved[name])


def check_tensors(saved: Tensors, present: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless both have the same names and shapes."""
    missing, extra = sorted(set(present) - set(saved)), sorted(set(saved) - set(present))
    if missing or extra:
        raise CheckpointError(
            "the checkpoint belongs to another model: "
            + "; ".join(
                f"{len(names)} tensors {text} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                for names, text in ((missing, "are missing in it"), (extra, "are not in this model"))
                if names
            )
        )
    for name, tensor in present.items():
        if saved[name].shape != tensor.shape:
            raise CheckpointError(
                f"the checkpoint belongs to another model: {name} has shape {tuple(saved[name].shape)} in it and "
                f"{tuple(tensor.shape)} here"
            )
