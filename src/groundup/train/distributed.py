"""Training in several processes: torch's DDP and FSDP2 around the same loop; alone, all of it costs nothing."""

from __future__ import annotations

import faulthandler
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from groundup.core.errors import PlanError, TrainingError, UsageError
from groundup.core.execution import ExecutionPlan
from groundup.train.contracts import LossSum, Objective

T = TypeVar("T")


def rank_and_world_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) when no process group was begun."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def from_first_process(make: Callable[[], T]) -> T:
    """Call `make` in the first process of the group and return its value (sent by pickle) in every one."""
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return make()
    box = [make() if rank == 0 else None]
    torch.distributed.broadcast_object_list(box, src=0)
    return cast(T, box[0])


@contextmanager
def process_group(device: str = "cpu") -> Iterator[tuple[int, int]]:
    """Join the process group that `torchrun` or `launch` described in the environment; yields rank and world size.

    Without such an environment this is one process: (0, 1).

    Args:
        device: cuda uses NCCL, and each process takes the GPU of its LOCAL_RANK; everything else uses gloo.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    import torch.distributed as dist

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
        dist.barrier()  # leave together: who closes its connections early can abort one that still uses them
    finally:
        dist.destroy_process_group()


def launch(worker: Callable[..., None], world_size: int, *args: Any, device: str = "cpu") -> None:
    """Run `worker(*args)` in `world_size` spawned processes of this machine, each inside its `process_group`.

    Args:
        worker: a function at the top level of a module (it is sent by name).
        args: sent to every process, so they must be picklable.
        device: as in `process_group`.

    Raises:
        TrainingError: when a process failed, with the traceback of the first that did.
    """
    if world_size < 1:
        raise UsageError(f"world_size ({world_size}) must be at least 1")
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

    with tempfile.TemporaryDirectory() as folder:
        sent = (worker, world_size, device, _free_port(), Path(folder), args)
        try:
            spawn(_launched, args=sent, nprocs=world_size)  # type: ignore[no-untyped-call]
        except (ProcessExitedException, ProcessRaisedException) as error:
            # The first to fail is the cause; the others then fail because they lost it.
            written = [path for path in Path(folder).iterdir() if path.stat().st_size]
            failures = sorted(written, key=lambda path: path.stat().st_mtime_ns)
            said = [path.read_text(encoding="utf-8") for path in failures[:1]]
            if isinstance(error, ProcessExitedException) or not said:
                said = [str(error), *said]  # which process, and the signal that ended it
            reason = "\n".join(said)
            raise TrainingError(f"one of {world_size} training processes failed: {reason}") from error


def _launched(
    rank: int,
    worker: Callable[..., None],
    world_size: int,
    device: str,
    port: int,
    failures: Path,
    args: tuple[Any, ...],
) -> None:
    # A process that a signal ends (an abort inside of torch or gloo) leaves where it was.
    faulthandler.enable((failures / f"{rank}.signal.txt").open("w"), all_threads=True)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with process_group(device):
        try:
            worker(*args)
        except BaseException:
            # Before the group is left, so that it is older than the failures that follow from leaving.
            (failures / f"{rank}.txt").write_text(f"process {rank}\n{traceback.format_exc()}", encoding="utf-8")
            raise


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Parallel:
    """A model and its objective, run by one process or by several that hold copies (DDP) or shards (FSDP2).

    Args:
        model: on its device; with `plan.sharded` its parameters become shards in place.
        objective: what is minimised.
        plan: its world size must be that of the process group.
    """

    def __init__(self, model: nn.Module, objective: Objective, plan: ExecutionPlan) -> None:
        self.rank, self.world_size = rank_and_world_size()
        if plan.world_size != self.world_size:
            raise PlanError(
                f"the execution plan is for {plan.world_size} processes and {self.world_size} run: start it with "
                f"torchrun --nproc-per-node {plan.world_size}, or run again with --replan"
            )
        self.sharded = plan.sharded and self.world_size > 1
        self.device = next(model.parameters()).device
        self.model = model
        if plan.compile:
            model.compile()
        if self.sharded:
            shard(model)
        self._loss: nn.Module = _ObjectiveModule(model, objective)
        if self.world_size > 1 and not self.sharded:
            from torch.nn.parallel import DistributedDataParallel

            self._loss = DistributedDataParallel(self._loss, gradient_as_bucket_view=True)

    def close(self) -> None:
        """Leave the model callable as it was: what follows training has other shapes and should not compile them."""
        self.model._compiled_call_impl = None

    def loss(self, batch: Any) -> LossSum:
        """The loss sum of a micro-batch of this process."""
        total, count, metrics = self._loss(batch)
        return LossSum(total, count, metrics)

    def check_micro_batches(self, count: int) -> None:
        """Raise TrainingError when shards would wait for each other for ever: each pass gathers from all processes.

        Copies (DDP) meet only at the last micro-batch, so their numbers may differ.
        """
        if not self.sharded:
            return
        total, squares = self.sum([float(count), float(count * count)])
        if squares * self.world_size != total * total:
            raise TrainingError(
                f"process {self.rank} has {count} micro-batches in this update, the average is "
                f"{total / self.world_size:.4g}: with sharded parameters all must have the same number"
            )

    def micro_batch(self, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro-batch: gradients cross the processes with the last one only."""
        if self.world_size == 1:
            return nullcontext()
        if self.sharded:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if last else self._loss.no_sync()  # type: ignore[operator]

    def sum(self, values: list[float]) -> list[float]:
        """Add numbers over all processes, in float64."""
        if self.world_size == 1:
            return values
        # MPS has no float64, but it has no process group either.
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def full(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor that may be sharded, on the CPU. Every process must call it."""
        if self.sharded:
            from torch.distributed.tensor import DTensor

            if isinstance(tensor, DTensor):
                tensor = tensor.full_tensor()
        return tensor.detach().cpu()

    @torch.no_grad()
    def restore(self, tensor: Tensor, whole: Tensor) -> None:
        """Copy `whole` into a tensor, or this process's shard of it."""
        if self.sharded:
            from torch.distributed.tensor import DTensor, distribute_tensor

            if isinstance(tensor, DTensor):
                whole = distribute_tensor(whole.to(self.device), tensor.device_mesh, tensor.placements)
        tensor.copy_(whole)


def shard(model: nn.Module) -> None:
    """Split the parameters over all processes with FSDP2: every element of a ModuleList is gathered by itself.

    The root keeps what it gathered after its forward pass, so the head can be used outside of it.
    """
    from torch.distributed.fsdp import fully_shard

    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for child in module:
                fully_shard(child)
    fully_shard(model)


class _ObjectiveModule(nn.Module):
    """The objective as a module, since DDP must see the whole way from the batch to the loss."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Any) -> tuple[Tensor, int, dict[str, float]]:
        loss = self.objective(self.model, batch)
        return loss.total, loss.count, loss.metrics
