"""Installs the `oracles` extra; wheels that need a compiler are built once and kept in the user's cache.

Run by `make oracles` in the project's environment. llama-cpp-python compiles llama.cpp for minutes; a later checkout,
or a later environment of the same Python, takes the wheel from the cache.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parents[1]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(f"failed: {' '.join(command)}\nThe lines above say why; a C++ compiler is needed once.")


def main() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    folder = user_cache_path("groundup") / "oracles"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"wheels of {', '.join(extras['oracles'])} are kept in {folder}", flush=True)
    # `pip wheel` looks into its own find-links first, so a wheel that is there is not built again.
    pip("wheel", "-c", "constraints.txt", "--find-links", str(folder), "--wheel-dir", str(folder), *extras["oracles"])
    pip("install", "--no-index", "--find-links", str(folder), "-c", "constraints.txt", *extras["oracles"])


if __name__ == "__main__":
    main()
