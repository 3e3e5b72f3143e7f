"""Parts of kind `file`: a mixer of one's own, read from a Python file."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from groundup.core.errors import ModelError, suggest
from groundup.core.seeds import seed_for
from groundup.model.config import FilePartConfig
from groundup.model.parts.builder import Builder
from groundup.model.parts.conformance import check_mixer


def build_file_part(config: FilePartConfig, hidden_size: int, build: Builder) -> nn.Module:
    """Make the mixer that `config` names, after checking that it behaves as one.

    The class is called as `NAME(hidden_size, **options)`; see `conformance` for what its module must do. What it
    draws while it is made comes from the model's seed.

    Raises:
        ModelError: without trust_code, when the file or the class cannot be used, or when a check fails.
    """
    if not build.trust_code:
        raise ModelError(
            f"this model has the part {config.name!r} of the file {config.path}, which would run its code: "
            "read the file, then pass trust_code=True to load it"
        )
    part_class = load_class(Path(config.path), config.name)
    build.num_file_parts += 1
    # On the CPU wherever the rest of the model is made: the checks need values.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(build.seed, "file part", build.num_file_parts))
        try:
            part = part_class(hidden_size, **config.options)
        except Exception as error:
            raise ModelError(
                f"{config.name}(hidden_size={hidden_size}, **{config.options}) of {config.path} failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        check_mixer(part, hidden_size, f"{config.name} of {config.path}")
    return part


def load_class(path: Path, name: str) -> type[nn.Module]:
    """Import the Python file at `path` and return its nn.Module class `name`.

    Raises:
        ModelError: when the file is missing, fails to import, or has no such class.
    """
    if not path.is_file():
        raise ModelError(f"the part {name!r} should be in {path.absolute()}, and there is no such file")
    module = _import(path)
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    if name not in classes:
        own = tuple(key for key, value in classes.items() if issubclass(value, nn.Module)) or ("none",)
        raise ModelError(f"{path} has no class {name!r}{suggest(name, own)}")
    if not issubclass(classes[name], nn.Module):
        raise ModelError(f"{name} of {path} is a {classes[name].__mro__[1].__name__}; a part is a torch.nn.Module")
    return classes[name]


def _import(path: Path) -> ModuleType:
    # The name carries the content's hash: an edited file is read anew, an unchanged one gives the same classes.
    name = f"groundup_file_part_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise ModelError(f"{path} failed to import: {type(error).__name__}: {error}") from error
    return module
