"""The stored help texts are what the app says, and asking for help loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from groundup.cli import HELP, stored_help
from groundup.cli.app import VERBS

sys.path.insert(0, str(HELP.parents[3] / "tools"))


def test_stored_texts_are_current() -> None:
    from make_help import help_texts

    assert help_texts() == {path.stem: path.read_text(encoding="utf-8") for path in HELP.glob("*.txt")}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_loads_neither_torch_nor_the_app(verb: str) -> None:
    code = (
        "import sys\nfrom groundup.cli import main\n"
        f"sys.argv = ['groundup', *{[verb] if verb else []!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert not {'torch', 'cyclopts', 'pydantic'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Usage: groundup" in result.stdout


def test_only_plain_calls_for_help_are_answered_from_files() -> None:
    assert stored_help(["chat", "some/dir"]) is None
    assert stored_help(["../secret", "--help"]) is None
    assert stored_help(["nosuchverb", "--help"]) is None
    assert stored_help([]) == stored_help(["--help"])
