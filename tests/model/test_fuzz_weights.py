"""The weight readers under a coverage-guided fuzzer: no crash, no hang, no memory beyond a gigabyte."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

#: Of each of the two readers.
SECONDS = int(os.environ.get("GROUNDUP_FUZZ_SECONDS", "300"))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["gguf", "index"])
def test_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer atheris is not installed")
    script = Path(__file__).with_name("fuzz_weights.py")
    command = [sys.executable, str(script), target, "--seconds", str(SECONDS), "--artifacts", str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=SECONDS + 120,
    )
    found = sorted(path.name for path in tmp_path.iterdir())
    assert done.returncode == 0 and not found, f"{found}\n{done.stderr[-4000:]}"
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert runs is not None and int(runs[1]) > 50 * SECONDS, done.stderr[-2000:]
