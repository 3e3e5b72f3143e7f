"""llama.cpp as a peer: logits, greedy text, its own quantiser. Used by the benchmarks and by the parity tests."""

from __future__ import annotations

import atexit
import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

F32_CACHE = 0  # ggml's number of float32: keys and values are kept as they are computed
#: Name of a mix -> its number in llama.cpp (`llama_ftype`).
FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "BF16": 32,
}


def open_model(path: Path, *, context: int = 512, threads: int = 2, **options: Any) -> Any:
    """A model that keeps the logits of every position, with a float32 cache."""
    return llama_cpp.Llama(
        str(path),
        n_ctx=context,
        n_batch=context,
        n_ubatch=context,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        type_k=F32_CACHE,
        type_v=F32_CACHE,
        verbose=False,
        **options,
    )


def logits(path: Path, ids: Sequence[int], *, context: int = 512, threads: int = 2) -> NDArray[np.float32]:
    """Logits of every position; a text longer than the context is read in pieces, each from its own beginning.

    Args:
        path: the GGUF file.
        ids: tokens.
        context: tokens of a piece.
        threads: of the CPU.

    Returns:
        float32 of shape (len(ids), V).
    """
    model = open_model(path, context=context, threads=threads)
    try:
        pieces = []
        for start in range(0, len(ids), context):
            piece = list(ids[start : start + context])
            model.reset()
            model.eval(piece)
            pieces.append(np.array(model.scores[: len(piece)], dtype=np.float32))
        return np.concatenate(pieces)
    finally:
        model.close()


def tokenize(path: Path, text: str, *, special: bool = False) -> list[int]:
    """The ids of a text, nothing added around it."""
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    try:
        ids: list[int] = model.tokenize(text.encode(), add_bos=False, special=special)
        return ids
    finally:
        model.close()


def greedy(path: Path, ids: Sequence[int], count: int, stop_ids: set[int], *, threads: int = 2) -> list[int]:
    """The likeliest tokens after `ids`, up to `count`; ends before a stop token."""
    model = open_model(path, context=max(64, len(ids) + count), threads=threads)
    try:
        model.eval(list(ids))
        found: list[int] = []
        while len(found) < count:
            token = int(np.argmax(model.scores[model.n_tokens - 1]))
            if token in stop_ids:
                break
            found.append(token)
            model.eval([token])
        return found
    finally:
        model.close()


def chat_prompt(path: Path, messages: list[dict[str, str]]) -> str:
    """A conversation as llama-cpp-python writes it by the template in the file, ready for an answer."""
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    try:
        template = model.metadata["tokenizer.chat_template"]
        ends = {
            name: model.detokenize([id], special=True).decode()
            for name, id in (("eos_token", model.token_eos()), ("bos_token", model.token_bos()))
            if id >= 0
        }
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        formatter = Jinja2ChatFormatter(
            template=template, eos_token=ends.get("eos_token", ""), bos_token=ends.get("bos_token", "")
        )
        return str(formatter(messages=messages).prompt)  # type: ignore[arg-type]
    finally:
        model.close()


def quantize(source: Path, target: Path, type: str, *, threads: int = 2) -> None:
    """llama.cpp's own quantiser; blocks that are quantised already are unpacked first."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = FILE_TYPES[type], threads, True
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status:
        raise RuntimeError(f"llama_model_quantize({source}, {type}) returned {status}")


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(level: int, text: bytes, data: Any) -> None:
    del level, text, data


llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
# It opens these at import and leaves closing them to the interpreter, which then warns.
atexit.register(llama_cpp._utils.outnull_file.close)
atexit.register(llama_cpp._utils.errnull_file.close)
