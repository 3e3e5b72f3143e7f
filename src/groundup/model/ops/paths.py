"""Which way an operation is computed on the CPU: what a training plan sets for as long as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch
from torch import Tensor, nn

from groundup.core.execution import AttentionPath, MatmulPath

_matmul: ContextVar[MatmulPath] = ContextVar("matmul", default="torch")
_attention: ContextVar[AttentionPath] = ContextVar("attention", default="fused")


@contextmanager
def compute_paths(matmul: MatmulPath = "torch", attention: AttentionPath = "fused") -> Iterator[None]:
    """While it lasts, products and attention on the CPU take these paths, in this thread.

    Code under torch.compile keeps its own: it chooses kernels itself, and cannot read a context variable.
    """
    matmul_token, attention_token = _matmul.set(matmul), _attention.set(attention)
    try:
        yield
    finally:
        _matmul.reset(matmul_token)
        _attention.reset(attention_token)


@lru_cache(maxsize=1)
def has_onednn() -> bool:
    """True where this build of torch has oneDNN's linear map."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


def takes_onednn(x: Tensor) -> bool:
    """True when a product with `x` goes to oneDNN by its own call: float32 on the CPU, outside of autocast."""
    return (
        not torch.compiler.is_compiling()
        and _matmul.get() == "onednn"
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and type(x) in (Tensor, nn.Parameter)
        and not torch.is_autocast_enabled("cpu")
    )


def stores_pattern(query: Tensor) -> bool:
    """True when the pattern of attention is stored for the backward pass: in training on the CPU."""
    return (
        not torch.compiler.is_compiling()
        and _attention.get() == "stored"
        and query.device.type == "cpu"
        and query.requires_grad
    )
