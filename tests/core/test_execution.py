"""What is asked of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from groundup.core.execution import default_threads, peak_memory_bytes


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is not told there")
def test_the_peak_of_a_process_is_its_own() -> None:
    """Linux hands the peak of the parent on in ru_maxrss."""
    code = (
        "import subprocess, sys\nfrom groundup.core.execution import peak_memory_bytes\n"
        "if len(sys.argv) > 1:\n    print(peak_memory_bytes())\n    sys.exit()\n"
        "before = peak_memory_bytes()\nheld = bytearray(b'x') * 300_000_000\n"
        "print(peak_memory_bytes() - before)\nsys.stdout.flush()\nsubprocess.run([sys.executable, '-c', CODE, 'child'])\n"
    )
    code = f"CODE = {code!r}\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, child = map(int, done.stdout.split())
    assert 290e6 < grown < 400e6
    assert 0 < child < 200e6
    assert peak_memory_bytes() > 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"OMP_NUM_THREADS": "1"}, {"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "64"}],
    ids=str,
)
def test_threads_are_those_that_torch_takes(settings: dict[str, str]) -> None:
    code = "import torch; from groundup.core.execution import default_threads; print(torch.get_num_threads(), default_threads())"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | settings, capture_output=True, text=True, check=True
    )
    theirs, ours = done.stdout.split()
    assert ours == theirs


@pytest.mark.parametrize("value", ["²", "1" * 5000, "-3", "abc", "", "0"])
def test_numbers_of_threads_that_are_none_are_passed_over(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    expected = default_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == expected
