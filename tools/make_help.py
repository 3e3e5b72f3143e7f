"""Write the help text of every verb to src/groundup/cli/help, so that asking for help builds nothing.

`python tools/make_help.py` writes them; a test compares them with what the app says.
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from groundup.cli.app import VERBS, build_app

FOLDER = Path(__file__).resolve().parents[1] / "src" / "groundup" / "cli" / "help"
WIDTH = 100


def help_texts() -> dict[str, str]:
    """Name of the file -> text, for the root, every verb and every verb of a verb."""
    calls = {"root": [], **{verb: [verb] for verb in VERBS}}
    calls |= {f"tokenizer-{verb}": ["tokenizer", verb] for verb in ("train", "show", "compare")}
    texts = {}
    for name, call in calls.items():
        written = io.StringIO()
        console = Console(file=written, width=WIDTH, no_color=True, force_terminal=False, legacy_windows=False)
        build_app(root=not call).help_print(call, console=console)
        texts[name] = written.getvalue()
    return texts


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for name, text in help_texts().items():
        (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
