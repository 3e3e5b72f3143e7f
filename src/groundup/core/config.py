"""The base of every configuration: frozen, keyword-only, unknown keys refused with the nearest name.

Only pydantic is imported here, so that a verb's `--help` can read the fields without loading torch.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from groundup.core.errors import ConfigError, suggest


class Config(BaseModel):
    """A frozen, validated set of values that goes to JSON and back unchanged.

    Raises:
        ConfigError: for an unknown key (the nearest known name is suggested) or a value that does not fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self).__name__, error)) from None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = tuple(cls.model_fields)
            for key in values:
                if key not in known:
                    raise ConfigError(f"{cls.__name__} has no field {key!r}{suggest(str(key), known)}")
        return values

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes` applied (nested dicts are merged) and everything validated again."""
        return type(self)(**merge(self.to_dict(), changes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types (paths as strings, tuples as lists)."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


def merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Merge `override` into `base`, table by table; a non-table value replaces what stood there.

    A table whose `kind` changes replaces the old table whole, since its fields belong to another type.
    """
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            other_kind = "kind" in value and value["kind"] != old.get("kind")
            merged[key] = dict(value) if other_kind else merge(old, value)
        else:
            merged[key] = value
    return merged


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a `.toml` or `.json` file of settings.

    Raises:
        ConfigError: when the file cannot be read, is neither of the two, or is malformed (with the position).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from None
    try:
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            values = json.loads(text)
            if isinstance(values, dict):
                return values
            raise ConfigError(f"{path} holds a JSON {type(values).__name__}; a config file holds an object")
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is malformed: {error}") from None
    raise ConfigError(f"{path}: a config file ends in .toml or .json, not {path.suffix or 'nothing'!r}")


def _explain(name: str, error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] in ("missing", "value_error") else f" (got {item['input']!r})"
        lines.append(f"{name}{'.' + where if where else ''}: {message}{got}")
    return "\n".join(lines)
