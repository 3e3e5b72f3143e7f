"""What a plan changes in the process while a run lasts: threads, determinism, precision, kernels, random state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from groundup.core.execution import ExecutionPlan
from groundup.model.ops.paths import compute_paths


@contextmanager
def planned_environment(plan: ExecutionPlan) -> Iterator[None]:
    """Set the threads and determinism of a plan; afterwards they and the random state are as before."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if plan.deterministic and plan.device.startswith("cuda"):
        # cuBLAS reads it at its first use; without it a deterministic product is refused.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    gpus = [torch.device(plan.device)] if plan.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=gpus):
        torch.set_num_threads(plan.threads)
        torch.use_deterministic_algorithms(plan.deterministic)
        # Filling every new tensor with NaN is for finding bugs and costs a pass over memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            with compute_paths(plan.matmul, plan.attention):
                yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def autocast(plan: ExecutionPlan) -> AbstractContextManager[None]:
    """Matrix products in the plan's precision; parameters, norms and sums stay float32."""
    if plan.precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(plan.device).type, dtype=torch.bfloat16)
