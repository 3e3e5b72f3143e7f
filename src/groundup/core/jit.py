"""Compiling kernels with numba: one decorator, and whether it can be used here."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_cache_path

from groundup.core.machine_code import CodeStore, MachineCode, code_from_ir, load_code, sources_of

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


def kernels_work() -> bool:
    """`numba_works`, without importing numba where machine code is kept from an earlier process."""
    if sys.byteorder != "little" or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        return CodeStore().has_any or numba_works()
    except Exception:  # a broken llvmlite, of which numba says more
        return numba_works()


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
def openmp_parallel() -> Any:
    """`GOMP_parallel(function, data, threads, 0)` of libgomp: machine code on several threads at once.

    None where there is no libgomp, or `NUMBA_THREADING_LAYER` asks for another layer.
    """
    if os.environ.get("NUMBA_THREADING_LAYER", "default") not in ("", "default", "omp"):
        return None
    try:
        parallel = ctypes.CDLL("libgomp.so.1").GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = [ctypes.c_int64, ctypes.c_int64, ctypes.c_uint, ctypes.c_uint], None
    return parallel


@lru_cache(maxsize=1)
def parallel_layer() -> str | None:
    """The threading layer for kernels: omp, else tbb, else None.

    Where it is not `openmp_parallel` itself, it is then numba's for this process. `NUMBA_THREADING_LAYER` decides where
    it is set. numba's third layer, workqueue, ends the process when two threads enter it and takes some 50 microseconds
    for a call: kernels then run on one thread.
    """
    if not kernels_work():
        return None
    if openmp_parallel() is not None:
        return "omp"
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
    """A kernel that other machine code calls by its address, with whole numbers alone.

    Its machine code is kept (`machine_code.CodeStore`); the module of its body, and numba, are imported only where there
    is none yet. A kernel allocates nothing and raises nothing.

    Args:
        body: `module:function`, of arguments that are int64. For the kernels of a plan these are the address of its own
            arguments, the part of its items to do, the address of what all kernels of a call share, and which of the
            workers it is.
        options: where there are any, the function returns the body for them.
        num_arguments: of the body.
    """

    def __init__(self, body: str, *options: int, num_arguments: int = 5) -> None:
        self.body, self.options, self.num_arguments = body, options, num_arguments

    @property
    def is_kept(self) -> bool:
        """Whether its machine code is there, so that `address` needs no numba."""
        return self._kept is not None

    @cached_property
    def address(self) -> int:
        """Where the machine code begins."""
        code = self._kept
        if code is None:
            module, function = self._place
            code = self._compile(getattr(importlib.import_module(module), function))
            CodeStore().write(self._name, sources_of(module), code)
        return load_code(code)

    @cached_property
    def _kept(self) -> MachineCode | None:
        return CodeStore().read(self._name, sources_of(self._place[0]))

    @property
    def _place(self) -> tuple[str, str]:
        module, _, function = self.body.partition(":")
        return module, function

    @property
    def _name(self) -> str:
        module, function = self._place
        return "-".join([module.rpartition(".")[2], function, *map(str, self.options)])

    def _compile(self, function: Any) -> MachineCode:
        import numba
        from numba.core.registry import cpu_target

        body = function(*self.options) if self.options else function
        cfunc: Any = numba.cfunc
        compiled = cfunc(numba.void(*[numba.int64] * self.num_arguments), error_model="numpy", _nrt=False)(body)
        codegen: Any = cpu_target.target_context.codegen()
        _, cpu, features = codegen.magic_tuple()
        return code_from_ir(compiled.inspect_llvm(), compiled.native_name, cpu, features)

    @cached_property
    def _function(self) -> Any:
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * self.num_arguments)(self.address)

    def __call__(self, *arguments: int) -> None:
        """Run it from Python, without the interpreter lock."""
        self._function(*arguments)


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
