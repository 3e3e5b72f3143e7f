"""What a resumed run must have in common with the one that was stopped, and how to reach its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from groundup.core.errors import CheckpointError, PlanError
from groundup.core.execution import ExecutionPlan
from groundup.core.files import read_json
from groundup.train.checkpoint import CheckpointStore
from groundup.train.state import copy_weights


def plan_for(folder: Path, make_plan: Callable[[], ExecutionPlan], *, replan: bool = False) -> ExecutionPlan:
    """Return the plan that the checkpoints in `folder` were made under, or a new one when there are none.

    Args:
        folder: the one given to the trainer.
        make_plan: chooses a plan, by probing; not called for a run that can be resumed.
        replan: choose anew even so; the result then differs in its last bits.

    Raises:
        PlanError: when the recorded plan cannot be repeated on this machine.
    """
    plan = recorded_plan(folder)
    if plan is None or replan:
        return make_plan()
    plan.check_repeatable()
    return plan


def recorded_plan(folder: Path) -> ExecutionPlan | None:
    """The plan in the newest intact checkpoint of `folder`; None when there is none."""
    store = CheckpointStore(folder / "checkpoints")
    step = store.newest_intact()
    return None if step is None else _plan_of(store, step)


def check_same_plan(store: CheckpointStore, step: int, plan: ExecutionPlan) -> None:
    """Raise PlanError when `plan` is not the one recorded at `step`, or cannot be repeated here."""
    recorded = _plan_of(store, step)
    recorded.check_repeatable()
    changes = differences(recorded.to_dict(), plan.to_dict())
    if changes:
        raise PlanError(
            f"{store.path(step)} was made under another execution plan: {'; '.join(changes)}. Give the recorded plan "
            "(groundup.train.resume.plan_for returns it), or run again with --replan to go on under the new one "
            "(the result will differ in the last bits)"
        )


def _plan_of(store: CheckpointStore, step: int) -> ExecutionPlan:
    path = store.path(step) / "state.json"
    state = read_json(path, CheckpointError)
    if "plan" not in state:
        raise CheckpointError(f"{path} records no execution plan")
    return ExecutionPlan(**state["plan"])


def check_same_settings(path: Path, recorded: dict[str, Any], present: dict[str, Any]) -> None:
    """Raise CheckpointError naming every setting that differs."""
    changes = differences(recorded, present)
    if changes:
        raise CheckpointError(
            f"{path} belongs to a run with other settings: {'; '.join(changes)}. Use the recorded settings to go on, "
            f"or begin a new run in another folder (or delete {path.parent})"
        )


def differences(recorded: Any, present: Any, name: str = "") -> list[str]:
    """Describe where two JSON values differ, as `a.b was 1, is now 2`."""
    if isinstance(recorded, dict) and isinstance(present, dict):
        keys = [*recorded, *(key for key in present if key not in recorded)]
        changes = []
        for key in keys:
            inner = f"{name}.{key}" if name else str(key)
            if key not in recorded:
                changes.append(f"{inner} was absent, is now {present[key]!r}")
            elif key not in present:
                changes.append(f"{inner} was {recorded[key]!r}, is now absent")
            else:
                changes += differences(recorded[key], present[key], inner)
        return changes
    if isinstance(recorded, list) and isinstance(present, list) and len(recorded) == len(present):
        pairs = enumerate(zip(recorded, present, strict=True))
        return [change for index, (a, b) in pairs for change in differences(a, b, f"{name}[{index}]")]
    return [] if recorded == present else [f"{name} was {recorded!r}, is now {present!r}"]


def weights_digest(model: nn.Module) -> str:
    """A hash that tells the starting weights of two runs apart, for a trainer's `identity`.

    It covers every name and shape and some 64 values of each tensor, evenly spread: any training moves all of them, and
    a hash of all values would read a large model twice.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        values = tensor.detach().flatten()
        some = values[:: max(1, values.numel() // 64)].double().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def load_best(folder: Path, model: nn.Module) -> int:
    """Copy the best weights in `folder/checkpoints` (the last ones when nothing was evaluated) into `model`.

    Returns:
        The step they are from.

    Raises:
        CheckpointError: when there is no checkpoint, or the best is damaged.
    """
    store = CheckpointStore(folder / "checkpoints")
    newest = store.newest_intact()
    if newest is None:
        raise CheckpointError(f"there are no checkpoints in {store.folder}")
    best = read_json(store.path(newest) / "state.json", CheckpointError).get("best_step")
    step = newest if best is None else int(best)
    copy_weights(store.read_weights(step), model)
    return step
