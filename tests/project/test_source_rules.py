"""Rules that hold for every file of the package: no pickle, no code from data, docstrings, registered fast paths."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from groundup.model.sources import PACKAGED_MODELS
from tools.pin_versions import canonical

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "groundup"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# What loads code from data or hides it in data. A call of `x.eval()` on an object is another thing.
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("os", "system"), ("os", "popen"), ("yaml", "load")}
FORBIDDEN_METHODS = {"exec_module", "load_module", "run_path"}

ALLOWED = {
    # The part of kind "file": a user's own source file, after `trust_code=True` only.
    ("model/parts/file.py", "exec_module"),
}


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each forbidden thing in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
                yield node.lineno, node.module or ""
            for alias in node.names:
                if (node.module, alias.name) in FORBIDDEN_ATTRIBUTES:
                    yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in FORBIDDEN_CALLS:
                yield node.lineno, function.id
            if isinstance(function, ast.Attribute) and function.attr in FORBIDDEN_METHODS:
                yield node.lineno, function.attr
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in ("shell", "allow_pickle") and value is not False:
                    yield node.lineno, f"{keyword.arg}="
        elif isinstance(node, ast.Attribute) and (ast.unparse(node.value), node.attr) in FORBIDDEN_ATTRIBUTES:
            yield node.lineno, ast.unparse(node)


def test_every_library_that_is_imported_is_declared() -> None:
    """A package that another one happens to bring may be gone with that one's next version.

    An extra's package may be imported inside a function only, so that the rest works without it.
    """
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {canonical(Requirement(text).name) for text in project["dependencies"]}
    users = [
        texts for name, texts in project["optional-dependencies"].items() if name not in ("dev", "oracles", "docs")
    ]
    lazily = declared | {canonical(Requirement(text).name) for texts in users for text in texts}
    undeclared = set()
    for path in FILES:
        tree = parse(path)
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"groundup"}:
                if canonical(name) not in (lazily if id(node) in inside else declared):
                    undeclared.add(f"{relative(path)}:{node.lineno}: {name}")
    assert not undeclared, "\n".join(sorted(undeclared))


def test_the_extra_of_models_is_what_the_names_stand_for() -> None:
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["models"] == [model.requirement for model in PACKAGED_MODELS.values()]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_no_file_loads_code_from_data() -> None:
    found = [(relative(path), *use) for path in FILES for use in uses(parse(path))]
    wrong = [f"{file}:{line}: {name}" for file, line, name in found if (file, name) not in ALLOWED]
    assert not wrong, "\n".join(wrong)
    stale = ALLOWED - {(file, name) for file, _, name in found}
    assert not stale, f"no longer needed in ALLOWED: {stale}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("import torch\nload = torch.load", "torch.load"),
        ("from torch import save", "torch.save"),
        ("eval('1')", "eval"),
        ("exec(text)", "exec"),
        ("import numpy\nnumpy.load('x', allow_pickle=True)", "allow_pickle="),
        ("import subprocess\nsubprocess.run('x', shell=True)", "shell="),
        ("spec.loader.exec_module(module)", "exec_module"),
    ],
)
def test_the_check_finds(source: str, name: str) -> None:
    assert name in [use for _, use in uses(ast.parse(source))]


def test_the_check_leaves_alone_what_is_harmless() -> None:
    harmless = "model.eval()\nre.compile('x')\ntorch.compile(model)\nsafetensors.torch.load_file('x')\nexec_ = 1"
    assert list(uses(ast.parse(harmless))) == []


def test_every_module_and_every_public_class_and_function_has_a_docstring() -> None:
    missing = []
    for path in FILES:
        tree = parse(path)
        if not ast.get_docstring(tree) and tree.body:
            missing.append(f"{relative(path)}: the module")
        missing += [
            f"{relative(path)}:{node.lineno}: {node.name}"
            for node in tree.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
            and not _says_all(node)
        ]
    assert not missing, "\n".join(missing)


def _says_all(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """An overload, or a function of one statement whose name and types say what a sentence would repeat."""
    if isinstance(node, ast.ClassDef):
        return False
    overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)
    return overload or (len(node.body) == 1 and len(ast.unparse(node.body[0])) <= 100)


def test_every_fast_path_is_registered_beside_its_reference() -> None:
    defined: dict[str, str] = {}
    registered: set[str] = set()
    for path in FILES:
        tree = parse(path)
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        defined |= {name: relative(path) for name in functions if name.endswith(("_fast", "_reference"))}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "register"]
        found = set().union(*map(_names, calls))
        # A pair may wrap what it compares in a function of its own, beside the call.
        wrappers = [functions[name] for name in found & set(functions)]
        registered |= found.union(*map(_names, wrappers))
    assert "attention_fast" in defined and "rms_norm" in registered
    missing = {f"{file}: {name}" for name, file in defined.items() if name not in registered}
    assert not missing, missing


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
