"""What the repository holds beside the code: versions, the two commands, CI, README, and nothing of a registry."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.pin_versions import canonical

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Put together here, so that this file does not name them either.
REGISTRIES = [
    "".join(parts) for parts in (("py", "pi.org"), ("python", "hosted.org"), ("npm", "js.org"), ("deb", "ian.org"))
] + ["".join(parts) for parts in (("crates", ".io"), ("proxy.", "golang"), ("download.", "py", "torch"))]
LOCK_FILES = {"poetry.lock", "uv.lock", "pdm.lock", "pipfile.lock", "package-lock.json", "yarn.lock", "cargo.lock"}


def tracked_files() -> list[Path]:
    """The files that git tracks or would track; outside a checkout, all that stand in the tree."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        paths = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        skipped = {".venv", ".git", "site", "runs", "build", "dist"}
        paths = [p for p in ROOT.rglob("*") if not skipped & set(p.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def requirements() -> list[Requirement]:
    extras = MANIFEST["project"]["optional-dependencies"].values()
    groups = (MANIFEST["build-system"]["requires"], MANIFEST["project"]["dependencies"], *extras)
    return [Requirement(text) for group in groups for text in group]


def test_no_registry_and_no_lock_file_stands_in_the_tree() -> None:
    found = []
    for path in tracked_files():
        if path.name.lower() in LOCK_FILES:
            found.append(f"{path.relative_to(ROOT)}: a lock file")
        text = path.read_bytes().decode("utf-8", errors="replace").lower()
        found += [f"{path.relative_to(ROOT)}: {host}" for host in REGISTRIES if host in text]
    assert not found, "\n".join(found)


def test_the_constraints_hold_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if not re.fullmatch(r"#.*|[a-z0-9-]+==\d[0-9a-z.]*", line)]
    assert not wrong, wrong
    names = [line.split("==")[0] for line in lines if not line.startswith("#")]
    assert names == sorted(set(names))


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    pinned = constraints()
    for requirement in requirements():
        version = pinned.get(canonical(requirement.name))
        assert version, f"{requirement} has no version in constraints.txt: run tools/pin_versions.py"
        assert requirement.specifier.contains(version), f"{requirement}, but constraints.txt has {version}"


def test_this_environment_is_the_pinned_one() -> None:
    """Otherwise a green run says nothing about what `make test` installs."""
    from importlib import metadata

    pinned = constraints()
    runtime = [Requirement(text).name for text in MANIFEST["project"]["dependencies"]]
    other = {
        name: metadata.version(name)
        for name in runtime
        if metadata.version(name).partition("+")[0] != pinned[canonical(name)]
    }
    if os.environ.get("CI"):
        assert not other, f"constraints.txt has other versions: {other}"
    elif other:
        pytest.skip(f"not the versions of constraints.txt: {other}")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_its_targets_and_they_exist() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE))
    assert {"test", "speedrun", "oracles", "docs", "bench", "slow", "clean", "help"} <= targets
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


def test_another_python_is_refused_with_what_to_do() -> None:
    script = str(ROOT / "tools" / "check_python.py")
    code = f"import runpy, sys; sys.version_info = (3, 10, 4); runpy.run_path({script!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "groundup needs Python 3.11, 3.12 or 3.13" in result.stderr and "is 3.10.4" in result.stderr
    assert "make PYTHON=python3.12" in result.stderr


def test_ci_runs_the_tests_without_a_terminal() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text and text.rstrip().endswith("\nmake test")
    subprocess.run(["bash", "-n", str(script)], check=True)


def shown_commands(page: Path) -> list[str]:
    """The commands of this project that a page shows in its shell blocks, without their comments."""
    # A command may go on in the next line.
    text = re.sub(r" *\\\n(> *)?", " ", page.read_text(encoding="utf-8"))
    blocks = re.findall(r"^```(?:console|bash|sh|shell)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ").removeprefix(".venv/bin/") for block in blocks for line in block.splitlines()]
    return [line.split(" #")[0].strip() for line in lines if re.match(r"(groundup|make) \S", line)]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_is_short_and_leads_to_the_two_commands() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
    commands = shown_commands(ROOT / "README.md")
    assert {"make speedrun", "make test"} <= set(commands) and any(c.startswith("groundup chat") for c in commands)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_targets_verbs_and_options_that_a_page_shows_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wrong = []
    for command in shown_commands(page):
        program, *words = shlex.split(command)
        if program == "make":
            wrong += [f"make {w}" for w in words if "=" not in w and not re.search(rf"^{w}:", makefile, re.MULTILINE)]
            continue
        text = help_of(*words[:2]) or help_of(words[0])
        if words[0].startswith("-"):
            text = help_of()
        if text is None:
            wrong.append(f"{command}: no verb {words[0]}")
            continue
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        wrong += [f"{command}: no option {option}" for option in options if not re.search(rf"{option}\b", text)]
    assert not wrong, "\n".join(wrong)


@cache
def help_of(*verbs: str) -> str | None:
    """The help text of a verb, None where there is no such verb."""
    if any(verb.startswith("-") for verb in verbs):
        return None
    command = [str(Path(sys.executable).parent / "groundup"), *verbs, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    # A verb takes its directory as an argument, so `chat DIR --help` prints the help of `chat`.
    return result.stdout if result.returncode == 0 else None


def test_the_version_is_one() -> None:
    import groundup

    assert groundup.__version__ == MANIFEST["project"]["version"]
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
