"""Settings as options: every field of a config becomes `--table.field`, typed and described, and is only collected.

Values merge in one place: the dial or the parent's settings, then the file of `--config`, then the options, then one
validation by the config class.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import BaseModel

from groundup.core.config import merge, read_config_file
from groundup.core.errors import ConfigError, suggest


def with_settings(
    tables: dict[str, type[BaseModel]],
    *,
    dialled: tuple[str, ...] = (),
    computed: Mapping[str, str] | None = None,
    also: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb one option for each field of the named configs, and `--config FILE`.

    The verb receives them as `overrides`, nested: only what the user gave. A table named "" stands at the root.

    Args:
        tables: option prefix -> config class.
        dialled: tables whose defaults depend on the dial; their help says so instead of giving a number.
        computed: option (`train.warmup_steps`) -> what its help says of a default that the verb chooses.
        also: further keys that a config file may hold at its root.

    A key of the file that the verb does not read is refused, so that no setting is ignored in silence.
    """
    known = sorted({*also, *(table for table in tables if table), *(tables[""].model_fields if "" in tables else ())})

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        collected: dict[str, tuple[str, str]] = {}
        parameters = [p for p in _resolved(verb) if p.name != "overrides"]
        for table, config in tables.items():
            for name, field in config.model_fields.items():
                kind = _option_type(field.annotation)
                # The one seed of a verb decides; a table's own is set from it.
                if kind is None or (table and name == "seed"):
                    continue
                variable = f"{table}__{name}" if table else f"setting__{name}"
                collected[variable] = (table, name)
                said = (computed or {}).get(f"{table}.{name}" if table else name)
                parameters.append(_option(variable, table, name, kind, field, table in dialled, said))

        @functools.wraps(verb)
        def wrapper(*args: Any, config: Path | None = None, **options: Any) -> Any:
            given: dict[str, Any] = {}
            for variable, (table, name) in collected.items():
                value = options.pop(variable, None)
                if isinstance(value, list):
                    value = tuple(value)
                if value is not None:
                    (given.setdefault(table, {}) if table else given)[name] = value
            from_file: dict[str, Any] = {}
            if config is not None:
                from groundup.recipes.composition import anchored  # the configs of all stages

                from_file = anchored(read_config_file(config), config.parent)
            for key in from_file:
                if key not in known:
                    raise ConfigError(f"{config} holds {key!r}, which this command does not read{suggest(key, known)}")
            return verb(*args, overrides=merge(from_file, given), **options)

        config_option = inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None,
                Parameter(
                    help="a .toml or .json file of settings, named as the options are, with _ for -", show_default=False
                ),
            ],
        )
        signature = inspect.Signature([*parameters, config_option])
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return wrapper

    return decorate


def _resolved(verb: Callable[..., Any]) -> list[inspect.Parameter]:
    signature = inspect.signature(verb, eval_str=True)
    return list(signature.parameters.values())


def _option(
    variable: str, table: str, name: str, kind: Any, field: Any, dialled: bool, said: str | None
) -> inspect.Parameter:
    default = "set by the dial" if dialled and field.default is not None else f"default: {field.default}"
    if field.default in (None, ()):
        default = ""
    if said is not None:
        default = f"default: {said}" if said else ""
    text = field.description or name.replace("_", " ")
    option = f"--{table + '.' if table else ''}{name.replace('_', '-')}"
    annotation = Annotated[
        kind | None,
        Parameter(
            name=option,
            help=f"{text} [{default}]" if default else text,
            show_default=False,
            group=Group(f"Settings: {table}" if table else "Settings"),
            negative="" if kind is not bool else None,
        ),
    ]
    return inspect.Parameter(variable, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option_type(annotation: Any) -> Any:
    """The plain type of a field; None for a nested config or table, which only a file can hold."""
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return None
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return inner[0] if len(inner) == 1 else Union[tuple(inner)]  # noqa: UP007
    if get_origin(annotation) is Literal or isinstance(annotation, type):
        return annotation
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (...,):
        return list[get_args(annotation)[0]]  # type: ignore[misc]  # may be given several times
    return str
