"""Machine code that is kept from one process to the next and loaded without numba.

numba keeps code too, but to load it needs itself and all it knows of Python's types: 0.9 s, where the code of a model's
kernels is loaded by LLVM's linker in 0.1 s.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import logging
import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from groundup.core.errors import DataError
from groundup.core.files import atomic_write

log = logging.getLogger("groundup.core.machine_code")

# What holds the memory of loaded code.
_loaded: list[Any] = []
_IMPORT = re.compile(r"^from (groundup\S*) import (?:\(([^()]*)\)|([^()\n]*))", re.MULTILINE)
# Settings of numba that change no code.
_NO_MATTER = ("NUMBA_CACHE_DIR", "NUMBA_THREADING_LAYER", "NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT")


@dataclass(frozen=True)
class MachineCode:
    """One function in an object file.

    Attributes:
        symbol: its name there.
        externals: what the file refers to and does not hold.
        data: the content of the object file.
    """

    symbol: str
    externals: tuple[str, ...]
    data: bytes


def code_from_ir(text: str, symbol: str, cpu: str, features: str) -> MachineCode:
    """Compile optimised LLVM code for this machine, with the settings of numba's own compiler.

    Args:
        text: a module.
        symbol: the function of it that will be called.
        cpu, features: of the processor, as LLVM names them.
    """
    import llvmlite.binding as llvm

    _initialize(llvm)
    module = llvm.parse_assembly(text)
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(
        cpu=cpu,
        features=features,
        opt=3,
        reloc="static" if target.name.startswith("x86") else "default",
        codemodel="jitdefault",
        jit=True,
    )
    declared = [*module.functions, *module.global_variables]
    externals = sorted(v.name for v in declared if v.is_declaration and not v.name.startswith("llvm."))
    return MachineCode(symbol, tuple(externals), machine.emit_object(module))


def load_code(code: MachineCode) -> int:
    """Put a function into memory, where it stays until the process ends; returns its address."""
    import llvmlite.binding as llvm

    _initialize(llvm)
    for name in code.externals:
        # Only a kernel that raises an error gets to what is not there, and none does.
        if llvm.address_of_symbol(name) is None:
            llvm.add_symbol(name, _abort())
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(llvm))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.data))
    engine.finalize_object()
    _loaded.append(engine)
    return int(engine.get_function_address(code.symbol))


class CodeStore:
    """Where machine code of this machine and these libraries is kept: `NUMBA_CACHE_DIR`, else the user's cache directory.

    Code belongs to one processor, to the versions of Python, numba and llvmlite, and to the text of its sources.
    """

    @property
    def folder(self) -> Path | None:
        """For this processor and these versions; it need not exist. None for a user who has no place for such files."""
        own = os.environ.get("NUMBA_CACHE_DIR")
        try:
            base = Path(own) if own else user_cache_path("groundup", appauthor=False)
        except (RuntimeError, KeyError):  # no HOME, and no entry for the user that would name one
            return None
        return base / "kernels" / _digest(*_toolchain(), *_settings())

    @property
    def has_any(self) -> bool:
        """Whether code was kept here before, so that numba was once seen to work."""
        folder = self.folder
        return folder is not None and any(folder.glob("*.code")) and _is_own(folder)

    def read(self, name: str, sources: tuple[Path, ...]) -> MachineCode | None:
        """What is kept of a function; None where there is nothing, it is damaged, or others could have put it there."""
        folder = self.folder
        if folder is None or not folder.is_dir() or not _is_own(folder):
            return None
        try:
            head, _, data = (folder / _file_name(name, sources)).read_bytes().partition(b"\n")
            facts = json.loads(head)
            if facts["sha256"] == hashlib.sha256(data).hexdigest():
                return MachineCode(facts["symbol"], tuple(facts["externals"]), data)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def write(self, name: str, sources: tuple[Path, ...], code: MachineCode) -> None:
        """Keep the code of a function; where that is not possible it is compiled anew in the next process."""
        facts = {
            "symbol": code.symbol,
            "externals": list(code.externals),
            "sha256": hashlib.sha256(code.data).hexdigest(),
        }
        folder = self.folder
        if folder is None:
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if not _is_own(folder):
                return
            with atomic_write(folder / _file_name(name, sources)) as file:
                file.write(json.dumps(facts).encode() + b"\n" + code.data)
        except (OSError, DataError) as error:
            log.info("the machine code of %s is not kept: %s", name, error)


def _file_name(name: str, sources: tuple[Path, ...]) -> str:
    return f"{name}-{_digest(*(_content_digest(path) for path in sources))}.code"


@lru_cache(maxsize=8)
def _is_own(folder: Path) -> bool:
    """Whether nobody else can have put code into a folder: it would be run as this user's. Says so in the log once."""
    if os.name == "nt":  # below the user's own profile
        return True
    status = folder.stat()
    if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
        return True
    log.warning("%s belongs to another user or others may write there: machine code is compiled anew each time", folder)
    return False


@lru_cache(maxsize=256)
def sources_of(module: str) -> tuple[Path, ...]:
    """The files of ours that the machine code of a module depends on.

    Its own, those that it imports names from (their constants become part of the code), those that they import, and what
    compiles it.
    """
    found: dict[str, Path] = {}
    left = [module, "groundup.core.jit", "groundup.core.machine_code"]
    while left:
        name = left.pop()
        if name in found:
            continue
        found[name] = path = _file_of(name)
        for package, lines, line in _IMPORT.findall(path.read_text(encoding="utf-8")):
            left.append(package)
            inside = (f"{package}.{part}" for part in re.findall(r"\w+", lines or line))
            left += [part for part in inside if _file_of(part).is_file()]
    return tuple(path for _, path in sorted(found.items()))


def _file_of(module: str) -> Path:
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache(maxsize=256)
def _content_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


@lru_cache(maxsize=1)
def _toolchain() -> tuple[str, ...]:
    """Versions, and the processor as LLVM knows it."""
    import llvmlite
    import llvmlite.binding as llvm

    spec = importlib.util.find_spec("numba")
    # numba writes its version there when it is built; importing numba to ask would cost what is to be saved.
    path = None if spec is None or spec.origin is None else Path(spec.origin).with_name("_version.py")
    numba = path.read_text(encoding="utf-8") if path is not None and path.is_file() else "unknown"
    features = llvm.get_host_cpu_features().flatten()
    return sys.version, numba, llvmlite.__version__, llvm.get_process_triple(), llvm.get_host_cpu_name(), features


def _settings() -> list[str]:
    file = Path(".numba_config.yaml")  # numba looks for it where a process is started
    own = [file.read_text(encoding="utf-8", errors="replace")] if file.is_file() else []
    return own + sorted(
        f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_") and name not in _NO_MATTER
    )


@lru_cache(maxsize=1)
def _abort() -> int:
    library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
    address = ctypes.cast(library.abort, ctypes.c_void_p).value
    assert address is not None
    return address


@lru_cache(maxsize=1)
def _initialize(llvm: Any) -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _machine(llvm: Any) -> Any:
    return llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
