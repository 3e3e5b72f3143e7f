"""The command line: one thin file for each verb, imported only when it is called."""

from __future__ import annotations

import sys
from pathlib import Path

HELP = Path(__file__).parent / "help"


def main() -> None:
    """Entry point of the `groundup` command; ends the process with 0, 1, 2 or 130."""
    arguments = sys.argv[1:]
    text = stored_help(arguments)
    if text is not None:
        sys.stdout.write(text)
        sys.exit(0)
    from groundup.cli.app import run

    sys.exit(run(arguments))


def stored_help(arguments: list[str]) -> str | None:
    """The help text of a call that only asks for help, from a file made by `python tools/make_help.py`.

    Building the app and its options takes half a second; a test compares the files with what the app says.
    """
    asked = [argument for argument in arguments if argument not in ("--help", "-h")]
    if len(asked) == len(arguments) and arguments:
        return None
    name = "-".join(asked) or "root"
    path = HELP / f"{name}.txt"
    if not name.replace("-", "").isalpha() or not path.is_file():
        return None
    return path.read_text(encoding="utf-8")
