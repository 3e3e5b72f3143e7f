"""From config to module: one table, from config type to module class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from groundup.core.config import Config
from groundup.core.errors import ConfigError


class Builder:
    """Builds a part from its config; handed to every part, so that parts can hold parts.

    Args:
        table: config type -> `make(config, size, builder)`, a module class or a function.
        seed: seed of the parts that draw values while they are made (those of kind `file`).
        trust_code: allow parts that are read from Python files.
    """

    def __init__(self, table: Mapping[type[Config], Callable[..., nn.Module]], seed: int, trust_code: bool) -> None:
        self.table, self.seed, self.trust_code = table, seed, trust_code
        self.num_file_parts = 0

    def __call__(self, config: Config, size: int) -> Any:
        """Build the part of `config` for vectors of `size` values."""
        if type(config) not in self.table:
            raise ConfigError(f"no module is known for {type(config).__name__}: add it to the table in model/parts")
        return self.table[type(config)](config, size, self)
