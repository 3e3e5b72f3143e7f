"""Loading a model for a verb: what takes long says so, and what cannot work is refused before it."""

from __future__ import annotations

from pathlib import Path

from groundup.core import console
from groundup.core.errors import UsageError
from groundup.core.execution import resolve_device
from groundup.core.files import read_json, sha256_json
from groundup.model.directory import LoadedModel
from groundup.model.load import load_model, read_config
from groundup.model.sources import locate_model


def open_model(
    source: Path | str, *, device: str = "cpu", dtype: str = "float32", writes: bool | None = None
) -> LoadedModel:
    """`load_model` of a model that has weights, with progress on the standard error where it takes over a second.

    Args:
        source, dtype: as there; a preset is refused.
        device: as a user names it; `auto` is the best there is.
        writes: True where a language model is needed, False for an encoder of texts, None for either.

    Raises:
        UsageError: when the model is of the other sort.
        ModelError: as `load_model`.
    """
    locate_model(source)  # a preset has no weights, and says so here
    if writes is not None:
        check_writes(source, writes)
    with console.progress_if_slow(f"load {source}", "tensors") as report:
        return load_model(source, device=resolve_device(device), dtype=dtype, on_progress=report)


def check_writes(source: Path | str, writes: bool) -> None:
    """Raise UsageError, before any weights are read, unless the model is a language model (or, False, an encoder)."""
    config = read_config(source)
    if writes and not config.has_head:
        raise UsageError(f"{source} is a sentence encoder and writes no text: use it with  groundup embed")
    if not writes and config.pooling is None:
        raise UsageError(
            f"{source} gives one vector for each token, not for a text: use a sentence encoder, such as minilm"
        )


def check_not_source(out: Path, source: Path | str) -> None:
    """Raise UsageError where a result would replace the model that it is made from."""
    if out.resolve() == locate_model(source).resolve():
        raise UsageError(f"--out {out} is the model itself: name another place, so that it stays")


def lineage_digest(source: Path | str) -> str | None:
    """A hash of what a model directory of ours says of its origin; None for models that others made."""
    path = Path(source) / "lineage.json"
    return sha256_json(read_json(path)) if path.is_file() else None
