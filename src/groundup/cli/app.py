"""The verbs by name, and what happens to their errors."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys

from cyclopts import App, CycloptsError

from groundup import __version__
from groundup.core.errors import GroundupError

HELP_FLAGS = ("--help", "-h")

#: verb -> (its function, imported when it is called; its line in the root help).
VERBS = {
    "speedrun": ("groundup.cli.speedrun:run", "Text in, a chat model out: every stage, with a report."),
    "first": ("groundup.cli.first:run", "Train and show one piece of what a language model stands on."),
    "corpus": ("groundup.cli.corpus:run", "Read text, split it, and make chat data from it."),
    "tokenizer": ("groundup.cli.tokenizer:app", "Train a tokenizer, or show how it cuts a text."),
    "pretrain": ("groundup.cli.pretrain:run", "Train a model on a corpus."),
    "compare": ("groundup.cli.compare:run", "Train two ideas with an equal budget, and tell them apart or not."),
    "sft": ("groundup.cli.sft:run", "Tune a model on conversations; --preview shows the trained tokens."),
    "eval": ("groundup.cli.evaluate:run", "Measure a model on held-out text and questions."),
    "doctor": ("groundup.cli.doctor:run", "Say what is wrong with a training run, and the fix."),
    "explain": ("groundup.cli.explain:run", "Show a model's forward pass and what each line costs."),
    "pull": ("groundup.cli.pull:run", "Fetch a model from the Hugging Face hub."),
    "report": ("groundup.cli.report:run", "Write the page of a run from what it measured."),
    "chat": ("groundup.cli.chat:run", "Talk to a model."),
    "generate": ("groundup.cli.generate:run", "Complete a text."),
    "embed": ("groundup.cli.embed:run", "Turn texts into vectors, or rank them by likeness."),
    "export": ("groundup.cli.export:run", "Take a model elsewhere: a GGUF file, or a directory for transformers."),
    "quantize": ("groundup.cli.quantize:run", "Make a model small, and measure what that costs."),
    "env": ("groundup.cli.env:run", "Print what a bug report needs."),
}


def build_app(*, root: bool = False) -> App:
    """The cyclopts app with every verb, none of them imported yet.

    Args:
        root: give each verb its line of the root help, which then stands in the place of its own text.
    """
    app = App(
        name="groundup",
        help="A language model from the ground up: trained, tuned, measured and talked to on your own machine.",
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, (target, summary) in VERBS.items():
        if root:
            app.command(target, name=name, help=summary)
        else:
            app.command(target, name=name)
    return app


def run(arguments: list[str]) -> int:
    """Run one command line.

    Returns:
        0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    from groundup.core import console

    for stream in (sys.stdout, sys.stderr):
        # A pipe on Windows is cp1252, and `−` or a word of another script is not in it: a mark is better than a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        build_app(root=not arguments or arguments[0] in HELP_FLAGS)(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        console.fail(f"{error}\nTry: groundup {' '.join(arguments[:1])} --help")
        return 2
    except GroundupError as error:
        if error.exit_code == 130:
            console.warn(str(error))
        else:
            console.fail(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        console.warn("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output left (`groundup ... | head`): nothing more to say.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0
