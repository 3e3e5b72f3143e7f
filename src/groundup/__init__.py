"""groundup: one readable system from raw text to a chat model, on your own machine.

The names of the Python API are imported lazily, so that `import groundup` costs nothing:

    groundup.load(source)          a directory, GGUF file, NAME, hub id or preset: model, tokenizer, chat template
    groundup.speedrun(run=folder)  the main job, as the command does it
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load": ("groundup.model.load", "load_model"),
    "speedrun": ("groundup.recipes.speedrun", "speedrun"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'groundup' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
