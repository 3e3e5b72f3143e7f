"""Errors that say what is wrong, with the actual values, and what to do about it."""

from __future__ import annotations

from difflib import get_close_matches


class GroundupError(Exception):
    """Base of all errors a user can cause or mend. The command line prints its text and no traceback."""

    exit_code = 1


class UsageError(GroundupError):
    """The command or call was worded wrongly (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value is unknown, of the wrong type, or contradicts another."""


class DataError(GroundupError):
    """A source, corpus or shard cannot be used as it is."""


class DownloadError(GroundupError):
    """A download failed, was refused (offline) or did not match its checksum."""


class TokenizerError(GroundupError):
    """A tokenizer file or a special token cannot be used."""


class ModelError(GroundupError):
    """A model directory, configuration or weight file does not fit."""


class CheckpointError(GroundupError):
    """A checkpoint is damaged, incomplete or belongs to another run."""


class PlanError(GroundupError):
    """The recorded execution plan cannot be repeated on this machine."""


class TrainingError(GroundupError):
    """Training cannot go on (non-finite loss, empty loss mask, ...)."""


class KernelsMissingError(GroundupError):
    """Compiled kernels cannot be had: none are kept, and numba does not work here."""


class MissingExtraError(GroundupError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run  pip install '.[{extra}]'  in groundup's folder")


class Interrupted(GroundupError):
    """The user asked to stop; what was done is saved and the same command goes on from there."""

    exit_code = 130


def suggest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known name, or the list of names when none is near."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(sorted(known))})"
