"""`groundup env`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def run(*, json: Annotated[bool, Parameter(help="as JSON, for a machine", negative="")] = False) -> None:
    """Print what a bug report needs: versions, processor, threads, device, and which fast paths are on and why."""
    import json as json_format

    from groundup.core import console
    from groundup.recipes.environment import environment_facts

    facts = environment_facts()
    if json:
        console.say(json_format.dumps(dict(facts), indent=2))
    else:
        console.facts([[name, value] for name, value in facts])
