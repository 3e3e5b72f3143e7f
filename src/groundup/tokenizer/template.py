"""The sandboxed Jinja environment in which chat templates run, with the same extras as in `transformers`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from groundup.core.errors import TokenizerError

# A conversation of a million tokens is some 4 MB; what renders to more is a template gone wrong.
_LARGEST_RENDERING = 64 * 1024 * 1024
_MARKS = "_groundup_marks"


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: puts the two marks of the rendering around what stands inside."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: Context, caller: Macro) -> str:
        begin, end = context[_MARKS]
        return f"{begin}{caller()}{end}"


class _TemplateNamespace(Namespace):
    """Jinja's `namespace`, without the names through which a template could reach Python's internals."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args  # so that a template may use the name `self`
        values = dict(*rest, **values)
        for name in values:
            _refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.TemplateRuntimeError(f"a namespace cannot hold {name!r}: drop the underscore")


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template.

    Raises:
        TokenizerError: when it is not valid Jinja, with the line.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": _TemplateNamespace,
        "dict": _make_dict,
    }
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(f"the chat template has a mistake in line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise TokenizerError("the chat template is nested too deeply to be compiled") from None


def render_template(
    compiled: jinja2.Template,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
    marks: tuple[str, str],
) -> str:
    """Render a conversation.

    Args:
        compiled: the template.
        messages: the conversation.
        add_generation_prompt: what the template reads under this name.
        variables: other names that it may read.
        marks: put before and after what a `{% generation %}` block renders.

    Raises:
        TokenizerError: when the template refuses the conversation, reads what is not there, or fails otherwise.
    """
    values = {
        "tools": None,
        "documents": None,
        **variables,
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
        _MARKS: marks,
    }
    pieces: list[str] = []
    length = 0
    try:
        for piece in compiled.generate(values):
            pieces.append(piece)
            length += len(piece)
            if length > _LARGEST_RENDERING:
                raise TokenizerError(f"the chat template renders to more than {_LARGEST_RENDERING} characters")
    except jinja2.UndefinedError as error:
        raise TokenizerError(f"the chat template reads what is not there: {error.message}") from None
    except TokenizerError:
        raise
    except jinja2.TemplateError as error:
        raise TokenizerError(f"the chat template refuses the conversation: {error.message}") from None
    except Exception as error:  # a template is a program that others wrote: it can fail in any way
        raise TokenizerError(f"the chat template fails with {type(error).__name__}: {error}") from None
    return "".join(pieces)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters, which have no meaning here.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _make_dict(*args: Any, **values: Any) -> dict[Any, Any]:
    # A function instead of the class: `dict` has methods that a template has no use for.
    return dict(*args, **values)
