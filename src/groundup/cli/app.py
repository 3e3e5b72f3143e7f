"""The verbs by name, and what happens to their errors."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from cyclopts import App, CycloptsError

from groundup import __version__
from groundup.core.errors import GroundupError

#: verb -> its function, imported when it is called.
VERBS = {
    "speedrun": "groundup.cli.speedrun:run",
    "corpus": "groundup.cli.corpus:run",
    "tokenizer": "groundup.cli.tokenizer:app",
    "pretrain": "groundup.cli.pretrain:run",
    "sft": "groundup.cli.sft:run",
    "eval": "groundup.cli.evaluate:run",
    "report": "groundup.cli.report:run",
    "chat": "groundup.cli.chat:run",
    "generate": "groundup.cli.generate:run",
    "env": "groundup.cli.env:run",
}


def build_app() -> App:
    """The cyclopts app with every verb, none of them imported yet."""
    app = App(
        name="groundup",
        help="A language model from the ground up: trained, tuned, measured and talked to on your own machine.",
        version=__version__,
        result_action="return_value",
    )
    for name, target in VERBS.items():
        app.command(target, name=name)
    return app


def run(arguments: list[str]) -> int:
    """Run one command line.

    Returns:
        0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    from groundup.core import console

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        build_app()(arguments, exit_on_error=False, print_error=False)
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
