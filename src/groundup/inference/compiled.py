"""Choosing and loading the compiled step: which models it computes, and a file or directory opened for it.

Nothing here imports numba before it is known to work, nor torch before a directory is opened.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from groundup.core.errors import UsageError
from groundup.core.execution import available_cpus, default_threads
from groundup.core.jit import kernels_work, parallel_layer
from groundup.core.progress import Progress
from groundup.inference.contracts import Speaker
from groundup.model.companions import directory_companions, gguf_companions, read_model_config
from groundup.model.config import AttentionConfig, TransformerConfig
from groundup.model.ops.tiles import F32
from groundup.model.weights.directory_tiles import DirectoryTiles
from groundup.model.weights.gguf_read import GgufFile, open_gguf
from groundup.model.weights.tile_source import GgufTiles, TileSource

CacheType = Literal["auto", "float32", "bfloat16", "int8"]


def why_not_compiled(config: TransformerConfig, *, device: str = "cpu", dtype: str = "float32") -> str | None:
    """Why a model cannot be computed by the compiled step here; None where it can.

    Args:
        config: the composition.
        device: where it is to run.
        dtype: asked for its weights.
    """
    if device != "cpu":
        return f"it runs on the CPU, not on {device}"
    if dtype == "float16":
        return "it keeps weights in float32 or bfloat16, not in float16"
    if not kernels_work():
        return "numba cannot be used here"
    if not config.has_head:
        return "the model encodes texts and predicts no tokens"
    if config.type_vocab_size:
        return "the model has kinds of text"
    for layer in config.layers():
        if not isinstance(layer.mixer, AttentionConfig):
            return f"a mixer of the model is of kind {layer.mixer.kind}"
        if not layer.mixer.is_causal:
            return "the model's attention reads tokens that are still to come"
        if layer.cross_attention is not None:
            return "the model has cross-attention"
    return None


def usable_threads(wanted: int | None = None) -> int:
    """Threads that kernels work on: the machine's number where none is wanted, at most the CPUs; 1 without a threading layer."""
    if parallel_layer() is None:
        return 1
    return max(1, min(wanted or default_threads(), available_cpus()))


def load_compiled(
    path: Path,
    *,
    file: GgufFile | None = None,
    dtype: str = "float32",
    cache_type: CacheType = "auto",
    threads: int | None = None,
    on_load: Progress | None = None,
    on_compile: Progress | None = None,
) -> Speaker:
    """Open a model for the compiled step.

    A GGUF file's blocks and a directory's rounded weights are used as they are. Other matrices of a directory are kept in
    bfloat16 where they are stored so, which changes no result, and in float32 otherwise.

    Args:
        path: a model directory or `.gguf` file, as `locate_model` returns it.
        file: that of `path` where it is open; it stays so.
        dtype: `bfloat16` rounds the matrices of a directory.
        cache_type: of keys and values; `auto` is float32 beside float32 matrices and bfloat16 beside smaller ones.
        threads: that work together (`usable_threads`).
        on_load: called with (tensors read, all tensors).
        on_compile: called with (kernels compiled, all kernels).

    Raises:
        ModelError: as `load_model`.
        UsageError: when the step cannot compute the model (`why_not_compiled`).
        KernelsMissingError: when kernels of it are not kept from an earlier process, and numba cannot compile them.
    """
    weights: TileSource
    if path.is_dir():
        config = read_model_config(path)
        _check(path, config)
        weights = DirectoryTiles(path, config, dtype)
        tokenizer, template, generation = directory_companions(path, config)
    else:
        with nullcontext(file) if file is not None else open_gguf(path) as opened:
            weights = GgufTiles(opened)
            config = weights.config
            _check(path, config)
            tokenizer, template, generation = gguf_companions(opened, config)
    from groundup.inference.fast import FastModel
    from groundup.inference.step import compile_kernels

    kinds, threads = weights.kinds(), usable_threads(threads)
    compile_kernels(config, kinds, threads, on_compile)
    chosen = ("float32" if F32 in kinds else "bfloat16") if cache_type == "auto" else cache_type
    model = FastModel(config, weights, threads=threads, cache_type=chosen, on_progress=on_load)
    return Speaker(model=model, tokenizer=tokenizer, chat_template=template, generation=generation, folder=path)


def _check(path: Path, config: TransformerConfig) -> None:
    problem = why_not_compiled(config)
    if problem is not None:
        raise UsageError(f"{path} has no compiled step: {problem}")
