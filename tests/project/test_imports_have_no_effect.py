"""Importing any module of the package changes nothing outside it, alone and first, and the light ones stay light."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import groundup

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(groundup.__path__, "groundup.", onerror=lambda name: None)
    if not module.name.endswith("__main__")
)

# Each module is imported as the first of the package (the others are forgotten before), so that no module depends on
# another having been imported earlier; torch and the other libraries stay loaded, which keeps this to seconds.
PROBE = """
import gc, importlib, json, locale, logging, os, random, signal, sys, threading, warnings

import numpy, torch

def state():
    loggers = {name: logger for name, logger in logging.root.manager.loggerDict.items() if name.startswith("groundup")}
    return {
        "default dtype": str(torch.get_default_dtype()),
        "torch random state": hash(torch.random.get_rng_state().numpy().tobytes()),
        "numpy random state": hash(numpy.random.get_state()[1].tobytes()),
        "python random state": hash(random.getstate()),
        "torch threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "grad mode": torch.is_grad_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "root handlers": [type(handler).__name__ for handler in logging.root.handlers],
        "root level": logging.root.level,
        "handlers of groundup loggers": [n for n, l in loggers.items() if getattr(l, "handlers", [])],
        "levels of groundup loggers": [n for n, l in loggers.items() if getattr(l, "level", 0)],
        "working directory": os.getcwd(),
        "environment": dict(os.environ),
        "search path": list(sys.path),
        "warning filters": len(warnings.filters),
        "locale": locale.setlocale(locale.LC_ALL),
        "signal handlers": {int(s): str(signal.getsignal(s)) for s in signal.valid_signals()},
        "threads": sorted(t.name for t in threading.enumerate()),
        "excepthook": str(sys.excepthook),
        "files": sorted(os.listdir(".")),
        "recursion limit": sys.getrecursionlimit(),
    }

# Some libraries set themselves up when first imported; that is not ours.
import groundup
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
# Modules are made and forgotten by the thousand: what is loaded by now need not be looked through each time.
gc.collect()
gc.freeze()
for name in json.loads(sys.argv[1]):
    for loaded in [m for m in sys.modules if m == "groundup" or m.startswith("groundup.")]:
        del sys.modules[loaded]
    before = state()
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"{name} cannot be imported first: {error!r}")
        continue
    after = state()
    for key in before:
        if before[key] != after[key]:
            print(f"{name} changes the {key}: {before[key]} -> {after[key]}")
"""


def run(code: str, *arguments: str, cwd: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_every_module_imports_first_and_without_effect(tmp_path: Path) -> None:
    assert len(MODULES) > 60, MODULES
    assert run(PROBE, json.dumps(MODULES), cwd=tmp_path) == ""


def test_the_probe_finds_effects(tmp_path: Path) -> None:
    """A module with effects, put beside the package, is caught for each of them."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "loud.py").write_text(
        "import logging, os, torch\n"
        "torch.manual_seed(1)\ntorch.set_default_dtype(torch.float64 if torch.get_default_dtype() == torch.float32 "
        "else torch.float32)\n"
        "logging.basicConfig(force=True, level=10 + logging.root.level)\nlogging.getLogger('groundup').addHandler("
        "logging.NullHandler())\nos.chdir('elsewhere' if os.path.isdir('elsewhere') else '..')\n"
        "torch.rand(1)\n",
        encoding="utf-8",
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + PROBE.replace(
        'm.startswith("groundup.")', 'm == "loud"'
    )
    printed = run(code, json.dumps(["loud"]), cwd=tmp_path)
    for effect in ("default dtype", "root level", "working directory", "files"):
        assert f"loud changes the {effect}" in printed, printed


def test_the_light_modules_do_not_import_torch(tmp_path: Path) -> None:
    """The command line reads configs for its help; torch would add more than a second to it."""
    light = ["groundup", *(name for name in MODULES if name.endswith(".config") or name == "groundup.cli")]
    light += [f"groundup.core.{name}" for name in ("errors", "files", "seeds", "registry", "metrics", "execution")]
    assert "groundup.train.config" in light and "groundup.model.config" in light
    code = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'numpy', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "    if heavy:\n"
        "        sys.exit(f'{name} imports {sorted(heavy)}')\n"
    )
    assert run(code, json.dumps(light), cwd=tmp_path) == ""
