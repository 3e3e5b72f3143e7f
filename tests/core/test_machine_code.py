"""Machine code is kept for one processor, its versions and its sources, and read back or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.core import machine_code
from groundup.core.jit import numba_works
from groundup.core.machine_code import CodeStore, MachineCode, _is_own, load_code, sources_of

CODE = MachineCode("symbol", ("one", "two"), b"\x00code\n\xff")
SOURCES = (Path(__file__),)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    _is_own.cache_clear()


def test_what_is_written_is_read() -> None:
    store = CodeStore()
    assert not store.has_any and store.read("kernel", SOURCES) is None
    store.write("kernel", SOURCES, CODE)
    assert store.has_any and store.read("kernel", SOURCES) == CODE
    assert store.read("other", SOURCES) is None
    assert store.read("kernel", (Path(__file__), Path(os.__file__))) is None


def test_settings_of_numba_that_change_code_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CodeStore()
    store.write("kernel", SOURCES, CODE)
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "tbb")
    assert store.read("kernel", SOURCES) == CODE
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert store.read("kernel", SOURCES) is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"{}\n", lambda data: b"x" + data]
)
def test_a_damaged_file_counts_as_none(damage) -> None:
    store = CodeStore()
    store.write("kernel", SOURCES, CODE)
    assert store.folder is not None
    (path,) = store.folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert store.read("kernel", SOURCES) is None


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    store = CodeStore()
    store.write("kernel", SOURCES, CODE)
    assert not store.has_any


def test_the_sources_of_a_kernel_are_its_file_and_what_it_imports() -> None:
    names = {path.name for path in sources_of("groundup.model.ops.products_numba")}
    assert names >= {"products_numba.py", "vectors_numba.py", "step_kernels.py", "tiles.py"}
    assert names >= {"integers.py", "blocks.py"}, "what those import"
    assert names >= {"jit.py", "machine_code.py"}, "what compiles it"


def test_a_folder_that_others_can_write_to_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CodeStore()
    store.write("kernel", SOURCES, CODE)
    assert store.folder is not None and store.folder.stat().st_mode & 0o777 == 0o700
    store.folder.chmod(0o777)
    _is_own.cache_clear()
    assert store.read("kernel", SOURCES) is None and not store.has_any
    assert "others may write there" in caplog.text
    before = sorted(store.folder.iterdir())
    store.write("another", SOURCES, CODE)
    assert sorted(store.folder.iterdir()) == before
    store.folder.chmod(0o700)
    _is_own.cache_clear()
    assert store.read("kernel", SOURCES) == CODE


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> Path:
        raise RuntimeError("could not determine the home directory for '~/.cache'")

    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(machine_code, "user_cache_path", fails)
    store = CodeStore()
    store.write("kernel", SOURCES, CODE)
    assert store.folder is None and not store.has_any and store.read("kernel", SOURCES) is None


def test_what_is_left_of_an_interrupted_write_is_no_code() -> None:
    store = CodeStore()
    store.write("kernel", SOURCES, CODE)
    assert store.folder is not None
    (path,) = store.folder.iterdir()
    path.rename(path.with_name(".kernel.code.7.part"))
    assert not store.has_any


@pytest.mark.skipif(not numba_works(), reason="kernels are compiled by numba")
def test_a_kernel_is_compiled_once_and_then_loaded_without_numba(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from groundup.model.ops.step_kernels import cap

x = np.linspace(-9, 9, 32).astype(np.float32)
limit = int(np.array([4.0], np.float32).view(np.uint32)[0])
arguments = np.array([x.ctypes.data, x.nbytes, 2, limit], np.int64)
cap(arguments.ctypes.data, 0, 2, 0, 0)
assert np.allclose(x, 4 * np.tanh(np.linspace(-9, 9, 32) / 4), atol=1e-5), x
print("numba" in sys.modules)
"""
    found = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        for _ in range(2)
    ]
    assert [done.stdout.strip() for done in found] == ["True", "False"], found[0].stderr + found[1].stderr


@pytest.mark.skipif(not numba_works(), reason="code is loaded by llvmlite")
def test_code_runs_though_what_its_errors_need_is_not_there() -> None:
    import ctypes

    import llvmlite.binding as llvm

    from groundup.core.machine_code import code_from_ir

    text = f"""
target triple = "{llvm.get_process_triple()}"
declare void @groundup_is_nowhere()
define i64 @twice(i64 %x) {{
  %bad = icmp eq i64 %x, -1
  br i1 %bad, label %fail, label %good
fail:
  call void @groundup_is_nowhere()
  br label %good
good:
  %y = add i64 %x, %x
  ret i64 %y
}}"""
    code = code_from_ir(text, "twice", llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    assert code.externals == ("groundup_is_nowhere",)
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(load_code(code))(21) == 42
