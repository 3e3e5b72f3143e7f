"""Where and how the arithmetic runs: device, precision, threads, and the plan that a run records."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from groundup.core.config import Config
from groundup.core.errors import PlanError, UsageError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]
#: Who multiplies float32 matrices on a CPU: torch's default (MKL on x86), or oneDNN.
MatmulPath = Literal["torch", "onednn"]
#: Attention of training on a CPU: torch's fused kernel, or blocks whose pattern is stored for the backward pass.
AttentionPath = Literal["fused", "stored"]


class ExecutionPlan(Config):
    """What was chosen for a run, written into its checkpoints and never probed again on resume."""

    device: str = Field("cpu", description="cpu, cuda, cuda:1 or mps")
    precision: Precision = Field("float32", description="type of the matrix products; master weights stay float32")
    threads: int = Field(2, ge=1, description="CPU threads of one process")
    micro_batch: int = Field(16, ge=1, description="sequences in one forward and backward pass")
    matmul: MatmulPath = Field("torch", description="library of the float32 products on a CPU: torch or onednn")
    attention: AttentionPath = Field(
        "fused", description="on a CPU: torch's fused kernel, or blocks whose pattern is stored"
    )
    compile: bool = Field(False, description="run the step through torch.compile")
    deterministic: bool = Field(True, description="refuse operations whose result varies between runs")
    world_size: int = Field(1, ge=1, description="number of training processes")
    sharded: bool = Field(
        False, description="split parameters over the processes (FSDP2) instead of copying them (DDP)"
    )
    machine: str = Field("", description="processor and library versions the plan was made for")

    def check_repeatable(self) -> None:
        """Raise PlanError when this machine cannot run the plan bit for bit."""
        problems = []
        if self.machine != machine_fingerprint():
            problems.append(f"it was made on {self.machine!r}, this machine is {machine_fingerprint()!r}")
        if self.device.startswith("cuda") and not _torch().cuda.is_available():
            problems.append("it needs a CUDA device and there is none")
        if self.threads > available_cpus():
            problems.append(f"it needs {self.threads} CPU threads and {available_cpus()} are available")
        if problems:
            raise PlanError(
                "the recorded execution plan cannot be repeated: "
                + "; ".join(problems)
                + ". Run again with --replan to go on under a new plan (the result will differ in the last bits)."
            )


def _torch() -> Any:
    import torch

    return torch


def available_cpus() -> int:
    """CPUs this process may use (its affinity mask where the platform has one)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def default_threads() -> int:
    """CPU threads of one process where nobody asks for a number: what torch takes on its own, without importing it.

    `MKL_NUM_THREADS` or else `OMP_NUM_THREADS` where one is set, up to the cores of the machine; else the cores that this
    process may use. Two CPUs of one core count once (which only Linux tells).
    """
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if re.fullmatch(r"[0-9]{1,9}", value) and int(value) > 0:
            return min(int(value), _num_cores(range(os.cpu_count() or 1)))
    return _num_cores(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else available_cpus()


def _num_cores(cpus: Collection[int]) -> int:
    folders = (Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus)
    siblings = {path.read_text().strip() for path in folders if path.is_file()}
    return len(siblings) or len(cpus)


@lru_cache(maxsize=1)
def cpu_info() -> tuple[str, frozenset[str]]:
    """The processor's name and its feature flags (empty where the platform does not list them)."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = frozenset(value.split())
                break
    return name, flags


def machine_fingerprint() -> str:
    """Processor, its vector features, and the torch build: equal where a run can be repeated bit for bit."""
    torch = _torch()
    name, _ = cpu_info()
    return f"{name} | {torch.backends.cpu.get_cpu_capability()} | torch {torch.__version__}"


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory instead of returning it to the system. True where that is possible.

    By default every block over 32 MB, and most over 128 KB, is mapped anew and zeroed page by page at each use; a
    training step allocates the same blocks again and again (docs/experiments.md has the numbers). The setting lasts
    for the process; elsewhere than on Linux with glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # M_MMAP_MAX = 0: no blocks of their own; M_TRIM_THRESHOLD and M_TOP_PAD: give nothing back, grow in large steps.
    return all(mallopt(option, value) == 1 for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 << 20)))


def peak_memory_bytes() -> int:
    """Largest memory that this process has held so far; 0 where the platform does not tell."""
    if sys.platform == "win32":
        return 0
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss begins with that of the process that started this one; VmHWM begins anew.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kilobytes, macOS bytes.
    return int(peak if platform.system() == "Darwin" else peak * 1024)


def has_fast_bfloat16() -> bool:
    """True where the CPU multiplies bfloat16 natively (AVX-512 BF16 or AMX); elsewhere it is emulated and slower."""
    _, flags = cpu_info()
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def resolve_device(name: str = "auto") -> str:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that is present.

    Raises:
        UsageError: when the named device does not exist here.
    """
    if name == "cpu":  # always there, and torch takes seconds to ask
        return name
    torch = _torch()
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.split(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in present:
        raise UsageError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    if not present[kind]:
        raise UsageError(f"device {name!r} is not available on this machine: use cpu")
    return name


def torch_dtype(name: str) -> torch.dtype:
    """`float32`, `bfloat16`, `float16` or `float64` as a torch dtype."""
    import torch

    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if name not in types:
        raise UsageError(f"unknown dtype {name!r}: use {', '.join(types)}")
    return types[name]
