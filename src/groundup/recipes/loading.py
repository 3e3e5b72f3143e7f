"""Loading a model for a verb: what takes long says so, and what cannot work is refused before it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from groundup.core import console
from groundup.core.errors import KernelsMissingError, UsageError
from groundup.core.execution import resolve_device
from groundup.core.files import read_json, sha256_json
from groundup.inference.compiled import CacheType, load_compiled, why_not_compiled
from groundup.inference.contracts import Speaker
from groundup.model.companions import read_config
from groundup.model.config import TransformerConfig
from groundup.model.sources import locate_model
from groundup.model.weights.gguf_contents import gguf_config
from groundup.model.weights.gguf_read import open_gguf

if TYPE_CHECKING:
    from groundup.model.directory import LoadedModel


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
    from groundup.model.load import load_model  # torch, which the compiled step does without

    locate_model(source)  # a preset has no weights, and says so here
    if writes is not None:
        check_writes(source, writes)
    with console.progress_if_slow(f"load {source}", "tensors") as report:
        return load_model(source, device=resolve_device(device), dtype=dtype, on_progress=report)


Engine = Literal["auto", "compiled", "torch"]


def open_speaker(
    source: Path | str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    engine: Engine = "auto",
    cache_type: CacheType = "auto",
) -> Speaker:
    """A language model to generate with: as the compiled step where that can compute it, else as modules.

    Progress is shown where reading it, or compiling kernels for the first time, takes over a second.

    Args:
        source, device, dtype: as in `open_model`.
        engine: `compiled` refuses what the compiled step cannot compute, `torch` takes the modules; `auto` takes them
            where it must, and says why.
        cache_type: of keys and values of the compiled step.

    Raises:
        UsageError: for a model that writes no text, or where `compiled` was asked for and is not possible.
        ModelError: as `load_model`.
    """
    path = locate_model(source)
    device = resolve_device(device)
    with ExitStack() as stack:
        # Read once: the vocabulary in it takes a tenth of a second.
        file = None if path.is_dir() else stack.enter_context(open_gguf(path))
        config = read_config(source) if file is None else gguf_config(file)
        _check_kind(source, config, True)
        problem = why_not_compiled(config, device=device, dtype=dtype)
        if engine != "torch" and problem is None:
            on_load = stack.enter_context(console.progress_if_slow(f"load {source}", "parts"))
            on_compile = stack.enter_context(
                console.progress_if_slow("compile kernels, once for this machine", "kernels")
            )
            try:
                return load_compiled(
                    path, file=file, dtype=dtype, cache_type=cache_type, on_load=on_load, on_compile=on_compile
                )
            except KernelsMissingError as error:
                problem = str(error)
    if engine == "compiled" and problem is not None:
        raise UsageError(f"--engine compiled is not possible: {problem}")
    if cache_type not in ("auto", "float32"):
        raise UsageError(f"--cache-type {cache_type} needs the compiled step: {problem or '--engine torch is set'}")
    if problem is not None and device == "cpu":
        console.warn(f"torch computes, several times slower than the compiled step: {problem}")
    loaded = open_model(source, device=device, dtype=dtype)
    return Speaker(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        chat_template=loaded.chat_template,
        generation=loaded.generation,
        folder=path,
    )


def check_writes(source: Path | str, writes: bool) -> TransformerConfig:
    """Raise UsageError, before any weights are read, unless the model is a language model (or, False, an encoder).

    Returns:
        its composition.
    """
    config = read_config(source)
    _check_kind(source, config, writes)
    return config


def _check_kind(source: Path | str, config: TransformerConfig, writes: bool) -> None:
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
