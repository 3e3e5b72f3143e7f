"""Installs the `oracles` extra; wheels that need a compiler are built once and kept in the user's cache.

Run by `make oracles` in the project's environment. llama-cpp-python compiles llama.cpp for minutes; a later checkout,
or a later environment of the same Python, takes the wheel from the cache.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parents[1]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(f"failed: {' '.join(command)}\nThe lines above say why; a C++ compiler is needed once.")


def extract_vocabularies(folder: Path, requirement: str) -> None:
    """Keep llama.cpp's vocabulary files, with texts and the ids they should give, from its source distribution."""
    target = folder / "vocabs"
    if target.is_dir() and any(target.glob("*.gguf")):
        return
    with tempfile.TemporaryDirectory() as scratch:
        pip(
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            requirement.split("==")[0],
            "--dest",
            scratch,
            requirement,
        )
        (archive,) = Path(scratch).glob("*.tar.gz")
        target.mkdir(exist_ok=True)
        with tarfile.open(archive) as files:
            for member in files:
                name = Path(member.name).name
                content = files.extractfile(member) if name.startswith("ggml-vocab-") else None
                if content is not None:
                    (target / name).write_bytes(content.read())
    print(f"{sum(1 for _ in target.glob('*.gguf'))} vocabulary files are kept in {target}", flush=True)


def main() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    folder = user_cache_path("groundup") / "oracles"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"wheels of {', '.join(extras['oracles'])} are kept in {folder}", flush=True)
    llama_cpp = next(name for name in extras["oracles"] if name.startswith("llama-cpp-python"))
    extract_vocabularies(folder, llama_cpp)
    # `pip wheel` looks into its own find-links first, so a wheel that is there is not built again.
    pip("wheel", "-c", "constraints.txt", "--find-links", str(folder), "--wheel-dir", str(folder), *extras["oracles"])
    pip("install", "--no-index", "--find-links", str(folder), "-c", "constraints.txt", *extras["oracles"])


if __name__ == "__main__":
    main()
