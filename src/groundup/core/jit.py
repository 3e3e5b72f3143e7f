"""Compiling kernels with numba: one decorator, and whether it can be used here."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import lru_cache
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
