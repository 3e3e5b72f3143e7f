"""What a bug report needs: versions, processor, device, and which fast paths are on and why."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

from groundup import __version__
from groundup.core.execution import available_cpus, cpu_info, has_fast_bfloat16
from groundup.core.jit import numba_works, parallel_layer, target_features
from groundup.data.download import cache_folder, is_offline

PACKAGES = ("torch", "numpy", "safetensors", "regex", "pydantic", "jinja2", "transformers", "tokenizers")
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def environment_facts() -> list[tuple[str, str]]:
    """Pairs of name and value, in the order to print them."""
    import torch

    name, flags = cpu_info()
    facts = [
        ("groundup", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        *((package, _version(package)) for package in PACKAGES),
        ("processor", f"{name}, {available_cpus()} of {os.cpu_count()} CPUs usable"),
        ("cpu features", ", ".join(f for f in CPU_FEATURES if f in flags) or "not listed by this platform"),
        ("torch threads", str(torch.get_num_threads())),
        ("torch kernels", torch.backends.cpu.get_cpu_capability()),
        ("oneDNN", _onednn()),
        ("bfloat16", _bfloat16()),
        ("cuda", _cuda()),
        ("mps", "available" if torch.backends.mps.is_available() else "not available"),
        ("torch.compile", _compiler()),
        ("kernels", _kernels()),
        ("fast paths", _fast_paths()),
        ("cache", str(cache_folder())),
        ("offline", "yes (HF_HUB_OFFLINE or GROUNDUP_OFFLINE)" if is_offline() else "no"),
    ]
    return facts


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _onednn() -> str:
    import torch

    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return "on" if available else "off: bfloat16 products will be slow"


def _bfloat16() -> str:
    if has_fast_bfloat16():
        return "native products: training probes it against float32"
    return "emulated on this CPU: training stays in float32"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "not available" + ("" if torch.version.cuda else " (this torch is built without it)")
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _compiler() -> str:
    import shutil

    compiler = next((name for name in ("g++", "clang++", "c++", "cl") if shutil.which(name)), None)
    return f"possible ({compiler})" if compiler else "not possible: no C++ compiler found"


def _kernels() -> str:
    """Whether compiled kernels can be used, on what threads, and with which dot product of bytes."""
    if not numba_works():
        return "none: numba cannot be used, torch computes instead"
    layer = parallel_layer()
    threads = f"threads by {layer}" if layer else "one thread: neither libgomp nor tbb is here"
    products = [name for name in ("avx512vnni", "avxvnni", "avx2") if name in target_features()]
    return (
        f"numba {_version('numba')}, {threads}, bytes multiplied by {products[0] if products else 'plain arithmetic'}"
    )


def _fast_paths() -> str:
    """The registered pairs of reference and fast path."""
    import groundup.model.ops.pairs
    import groundup.tokenizer.pairs  # noqa: F401
    from groundup.core.registry import pairs

    return ", ".join(sorted(pairs()))
