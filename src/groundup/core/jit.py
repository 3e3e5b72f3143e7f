"""Compiling kernels with numba: one decorator, and whether it can be used here."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_cache_path

log = logging.getLogger("groundup.core.jit")

Function = TypeVar("Function", bound=Callable[..., object])


@lru_cache(maxsize=1)
def numba_works() -> bool:
    """True where numba can be imported and compiles; says once in the log why not.

    The kernels read eight bytes of a text as one little-endian number, so other machines take the pure path as well.
    """
    if sys.byteorder != "little":
        return False
    try:
        import numba
    except Exception as error:  # a broken llvmlite raises OSError or what it likes
        log.warning("numba cannot be used (%s: %s): the slower pure Python path runs", type(error).__name__, error)
        return False
    settings: Any = numba.config
    return not settings.DISABLE_JIT


@lru_cache(maxsize=1)
def target_features() -> frozenset[str]:
    """The features of the processor that numba compiles for, such as `avx512vnni`, without those that are off.

    They are those of this processor unless `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` say otherwise. LLVM ends the
    process when a function of its own is used that the target lacks, so it is asked before.
    """
    from numba.core.registry import cpu_target

    codegen: Any = cpu_target.target_context.codegen()
    _, _, features = codegen.magic_tuple()
    return frozenset(feature[1:] for feature in str(features).split(",") if feature.startswith("+"))


def kernel(function: Function) -> Function:
    """Compile a function with numba at its first call, without the interpreter lock, and keep the machine code.

    numba keeps it in `NUMBA_CACHE_DIR`, else in `__pycache__` beside the source, else (where that is read-only) in the
    user's cache directory; it belongs to one processor, numba version and state of the source file. A kernel calls
    kernels of its own file only: numba does not see a change of another one. It allocates nothing, which spares the
    counting of references at each call between kernels (a scanner ran at 50 MB/s with it and at 180 without).

    Raises:
        ImportError: where numba is missing (ask `numba_works` first).
    """
    import numba

    njit: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy", "_nrt": False}
    try:
        compiled: Function = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to: compiled anew in each process
        compiled = njit(**options)(function)
    return compiled


def parallel_kernel(function: Function) -> Function:
    """`kernel` for a function whose `prange` loops run on several threads.

    Raises:
        ImportError: where numba is missing.
    """
    import numba

    njit: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy", "parallel": True}
    try:
        compiled: Function = njit(cache=True, **options)(function)
    except RuntimeError:  # as in `kernel`
        compiled = njit(**options)(function)
    return compiled


@lru_cache(maxsize=1)
def parallel_layer() -> str | None:
    """The threading layer for kernels, which is then numba's for this process: omp, else tbb, else None.

    `NUMBA_THREADING_LAYER` decides where it is set. numba's third layer, workqueue, ends the process when two threads
    enter it and takes some 50 microseconds for a call: kernels then run on one thread.
    """
    if not numba_works():
        return None
    import numba

    config: Any = numba.config
    wanted = {"omp": ("omp",), "tbb": ("tbb",), "workqueue": ()}.get(config.THREADING_LAYER, ("omp", "tbb"))
    for layer in wanted:
        module = {"omp": "omppool", "tbb": "tbbpool"}[layer]
        try:
            importlib.import_module(f"numba.np.ufunc.{module}")
        except ImportError:
            continue
        config.THREADING_LAYER = layer
        return layer
    return None


class StepKernel:
    """A kernel that other machine code calls by its address, with the same five whole numbers as every other.

    Compiled at the first use of its address and kept as those of `kernel`.

    Args:
        function: `(arguments, start, end, state, worker) -> None`: the address of its own arguments, the part of its
            items to do, the address of what all kernels of a call share, and which of the workers it is.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @cached_property
    def _compiled(self) -> Any:
        import numba

        signature = numba.void(*[numba.int64] * 5)
        cfunc: Any = numba.cfunc
        options = {"error_model": "numpy", "_nrt": False}
        try:
            return cfunc(signature, cache=True, **options)(self.function)
        except RuntimeError:  # no folder can be written to
            return cfunc(signature, **options)(self.function)

    @property
    def address(self) -> int:
        """Where the machine code begins."""
        return int(self._compiled.address)

    def __call__(self, arguments: int, start: int, end: int, state: int, worker: int) -> None:
        """Run it from Python."""
        self._compiled.ctypes(arguments, start, end, state, worker)


def compiled_before(source: Path) -> bool:
    """Whether machine code of a file of kernels is kept from an earlier process, as far as names and dates tell.

    A wrong answer costs time only: numba looks itself, and compiles what it does not find.

    Args:
        source: the `x_numba.py`.
    """
    own = os.environ.get("NUMBA_CACHE_DIR")
    name = f"{source.stem}.*.nbi"
    # Where numba keeps it, see `kernel`; the last two have a folder for each folder of sources.
    found = [*(source.parent / "__pycache__").glob(name)]
    for folder in (Path(own) if own else None, user_cache_path("numba", appauthor=False)):
        found += folder.glob(f"*/{name}") if folder else []
    return any(path.stat().st_mtime >= source.stat().st_mtime for path in found)
