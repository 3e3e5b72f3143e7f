"""The embedded corpus `python-docs`: the prose that every CPython carries on disk.

Two sources, both read as text and parsed with `ast`; nothing is imported or executed: the language reference in
`pydoc_data/topics.py`, and the docstrings of the standard library with the signatures they belong to.
"""

from __future__ import annotations

import ast
import inspect
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from groundup.core.errors import DataError
from groundup.data.document import Document

LICENSE = "PSF-2.0"
# Test suites, vendored wheels and generated tables are no prose; site-packages is not the standard library.
SKIPPED_FOLDERS = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "_bundled",
    "turtledemo", "ensurepip", "lib-dynload", "pydoc_data", "encodings",
}  # fmt: skip
MIN_DOCSTRING_CHARS = 20
# Two groups that share at least this many lines of at least this length hold (partly) the same text: pdb's
# docstring is also the topic `debugger`, posixpath's functions are also ntpath's. A line that more groups than
# this have is boilerplate.
LONG_LINE_CHARS = 45
SHARED_LINES_OF_A_FAMILY = 2
MAX_GROUPS_OF_A_LINE = 8
CONTAINED_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A public module, class or function with its docstring.

    Attributes:
        module: dotted module name, `textwrap`.
        name: qualified name inside the module, `TextWrapper.wrap`; empty for the module itself.
        kind: `module`, `class` or `function` (methods are functions).
        parameters: `((name, default or None), ...)` as written, without `self` and `cls`.
        signature: the call as written, `wrap(text, width=70, **kwargs)`; empty for modules.
        doc: the docstring, its indentation removed.
    """

    module: str
    name: str
    kind: str
    parameters: tuple[tuple[str, str | None], ...]
    signature: str
    doc: str

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module

    @property
    def text(self) -> str:
        """The entry as it stands in the corpus: a heading line, then the docstring."""
        if self.kind == "module":
            return f"module {self.module}\n\n{self.doc}\n"
        word = "class " if self.kind == "class" else ""
        owner = self.full_name.rpartition(".")[0]
        return f"{word}{owner}.{self.signature}\n\n{self.doc}\n"


def python_docs() -> list[Document]:
    """Return the embedded corpus, one document for each entry and topic, in a fixed order.

    Each document's group is its top-level module (`topic:NAME` for the language reference); groups that share
    text, such as `posixpath` and `ntpath`, count as one. A split by group thus tears no module apart and puts no
    passage on both sides.

    Raises:
        DataError: when this Python carries neither sources nor the language reference.
    """
    texts = [(entry.full_name, group_of(entry.module), entry.text) for entry in read_entries()]
    texts += [(f"topic:{name}", f"topic:{name}", text) for name, text in _read_topics(_standard_library())]
    family = _families(texts)
    documents = [
        Document(text=text, id=name, group=family[group], source="python-docs", license=LICENSE)
        for name, group, text in texts
    ]
    if not documents:
        raise DataError(
            f"this Python ({sys.executable}, {platform.python_version()}) carries no standard-library sources: "
            "give your own text instead, for example  groundup speedrun FOLDER"
        )
    return documents


def group_of(module: str) -> str:
    """The unit of the split that a module belongs to before families are formed: its top-level package."""
    return module.split(".")[0]


def read_entries() -> list[Entry]:
    """All public modules, classes and functions of the standard library that have a docstring, in a fixed order."""
    root = _standard_library()
    entries: list[Entry] = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS & set(relative.parts[:-1]):
            continue
        parts = [*relative.parts[:-1], relative.stem]
        if parts[-1] == "__init__":
            parts.pop()
        # A leading underscore marks an implementation module (_pydecimal); its public twin has the same text.
        if not parts or any(part.startswith("_") for part in parts) or "-" in relative.as_posix():
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # a file that this very interpreter cannot parse is no part of its library
        entries.extend(_entries_of(".".join(parts), tree))
    return _without_repeats(entries)


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _entries_of(module: str, tree: ast.Module) -> Iterator[Entry]:
    doc = _docstring(tree)
    if doc:
        yield Entry(module=module, name="", kind="module", parameters=(), signature="", doc=doc)
    yield from _members(module, "", tree.body)


def _members(module: str, prefix: str, body: list[ast.stmt]) -> Iterator[Entry]:
    for node in body:
        if isinstance(node, (ast.If, ast.Try)):
            # `if sys.platform == ...:` and `try: ... except ImportError:` around definitions
            yield from _members(module, prefix, node.body)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        doc = _docstring(node)
        if isinstance(node, ast.ClassDef):
            if doc:
                constructor = next(
                    (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None
                )
                parameters = _parameters(constructor.args) if constructor else ()
                yield _entry(module, prefix + node.name, "class", parameters, doc)
            yield from _members(module, f"{prefix}{node.name}.", node.body)
        elif doc:
            yield _entry(module, prefix + node.name, "function", _parameters(node.args), doc)


def _entry(module: str, name: str, kind: str, parameters: tuple[tuple[str, str | None], ...], doc: str) -> Entry:
    call = ", ".join(p if default is None else f"{p}={default}" for p, default in parameters)
    return Entry(module=module, name=name, kind=kind, parameters=parameters,
                 signature=f"{name.rpartition('.')[2]}({call})", doc=doc)  # fmt: skip


def _parameters(args: ast.arguments) -> tuple[tuple[str, str | None], ...]:
    """Names and defaults as written; annotations are left out, and so is the bound first argument."""
    positional = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults))
    found: list[tuple[str, str | None]] = [
        (arg.arg, None if default is None else ast.unparse(default))
        for arg, default in zip(positional, [*defaults, *args.defaults], strict=True)
    ]
    if found and found[0][0] in ("self", "cls", "metacls"):
        found.pop(0)
    if args.vararg:
        found.append((f"*{args.vararg.arg}", None))
    elif args.kwonlyargs:
        found.append(("*", None))
    for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        found.append((arg.arg, None if value is None else ast.unparse(value)))
    if args.kwarg:
        found.append((f"**{args.kwarg.arg}", None))
    return tuple(found)


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    doc = ast.get_docstring(node, clean=False)
    if doc is None:
        return ""
    cleaned = re.sub(r"[ \t]+\n", "\n", inspect.cleandoc(doc)).strip()
    return cleaned if len(cleaned) >= MIN_DOCSTRING_CHARS else ""


def _without_repeats(entries: list[Entry]) -> list[Entry]:
    seen: set[tuple[str, str]] = set()
    names: set[str] = set()
    kept = []
    for entry in entries:
        # The same docstring under the same last name is an alias or an override that says nothing new; the same
        # full name again is the setter of a property or the other branch of an `if`.
        key = (entry.signature.partition("(")[0], entry.doc)
        if key not in seen and entry.full_name not in names:
            seen.add(key)
            names.add(entry.full_name)
            kept.append(entry)
    return kept


def _families(texts: list[tuple[str, str, str]]) -> dict[str, str]:
    """Map each group to the name of its family: groups that share long lines are one (union-find)."""
    parent = {group: group for _, group, _ in texts}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    owners: dict[str, set[str]] = {}
    for _, group, text in texts:
        for line in text.split("\n"):
            if len(line.strip()) >= LONG_LINE_CHARS:
                owners.setdefault(line.strip(), set()).add(group)
    shared: dict[tuple[str, str], int] = {}
    for groups in owners.values():
        if len(groups) <= MAX_GROUPS_OF_A_LINE:
            for a in groups:
                for b in groups:
                    if a < b:
                        shared[a, b] = shared.get((a, b), 0) + 1
    for (a, b), lines in sorted(shared.items()):
        if lines >= SHARED_LINES_OF_A_FAMILY:
            first, second = sorted((root(a), root(b)))
            parent[second] = first
    return {group: root(group) for group in parent}


def _read_topics(root: Path) -> list[tuple[str, str]]:
    """The chapters of the language reference by name; a topic that stands whole inside a longer one is left out."""
    path = root / "pydoc_data" / "topics.py"
    if not path.is_file():
        return []
    found: dict[str, str] = {}
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for name, text in ast.literal_eval(node.value).items():
                found[name] = re.sub(r"[ \t]+\n", "\n", text).strip() + "\n"
    lines = {name: {line.strip() for line in text.split("\n") if line.strip()} for name, text in found.items()}
    kept: list[str] = []
    for name in sorted(found, key=lambda name: (-len(found[name]), name)):
        if not any(len(lines[name] & lines[other]) >= CONTAINED_SHARE * len(lines[name]) for other in kept):
            kept.append(name)
    return [(name, found[name]) for name in sorted(kept)]
