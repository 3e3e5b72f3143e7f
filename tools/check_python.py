"""Ends with a clear message when this Python cannot run groundup (runs before anything is installed)."""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    found = ".".join(str(part) for part in sys.version_info[:3])
    sys.exit(
        f"groundup needs Python 3.11, 3.12 or 3.13; {sys.executable} is {found}.\n"
        "Name another one:  make PYTHON=python3.12 ..."
    )
