"""The folders read like the life of a model: import-linter holds the order, and would find a breach of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter with the project's contract over the package below `source`."""
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r})\n"
        "from importlinter.cli import lint_imports\n"
        f"sys.exit(lint_imports(config_filename={str(ROOT / 'pyproject.toml')!r}, no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=source)


def test_the_contract_holds() -> None:
    result = lint_imports(ROOT / "src")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/errors.py", "import groundup.train.config"),
        ("tokenizer/base.py", "from groundup.data.document import Document"),
        ("train/schedule.py", "def later():\n    from groundup.inference import sampling"),
        ("evaluate/intervals.py", "import groundup.recipes.settings"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(ROOT / "src/groundup", tmp_path / "groundup", ignore=shutil.ignore_patterns("__pycache__"))
    planted = tmp_path / "groundup" / file
    planted.write_text(planted.read_text(encoding="utf-8") + f"\n\n{line}\n", encoding="utf-8")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    module = "groundup." + file.removesuffix(".py").replace("/", ".")
    assert f"{module} -> groundup." in result.stdout
