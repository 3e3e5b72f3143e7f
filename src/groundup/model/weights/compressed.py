"""Model directories with rounded weights, in the layout of compressed-tensors: settings and tensors. Imports no torch.

transformers (with the package compressed-tensors) and vLLM load these. The `quantization_config` of the config.json says how
the weights of linear maps are rounded; in the safetensors files such a weight is three tensors, `weight_packed` (int32),
`weight_scale` and `weight_shape`, or (read here and not written) two, `weight` (int8) and `weight_scale`.
Source: https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.model.ops.integers import IntegerFormat, Integers, unpack
from groundup.model.weights.safetensors_read import StoredTensor, printable

SETTINGS = "quantization_config"
_METHOD, _PLAIN, _PACKED = "compressed-tensors", "int-quantized", "pack-quantized"
_MAX_GROUP = 1 << 24
#: Endings of what a rounded weight consists of.
WEIGHT, PACKED, SCALE, SHAPE = "weight", "weight_packed", "weight_scale", "weight_shape"


def write_settings(format: IntegerFormat, left_out: list[str]) -> dict[str, Any]:
    """The `quantization_config` of a model whose linear maps are rounded.

    Args:
        format: of their weights. Nothing is said of activations: who computes decides, and rounds them or not.
        left_out: linear maps, by the names of their modules, that are not rounded.

    Returns:
        a JSON object.
    """
    weights = {
        "num_bits": format.bits,
        "type": "int",
        "symmetric": True,
        "strategy": "channel" if format.group is None else "group",
        "group_size": format.group,
        "dynamic": False,
    }
    return {
        "quant_method": _METHOD,
        "format": _PACKED,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
        "ignore": left_out,
        "kv_cache_scheme": None,
    }


def read_settings(config: Mapping[str, Any]) -> IntegerFormat | None:
    """How the weights beside a config.json are rounded; None where they are not.

    Raises:
        ModelError: for a method or a setting that is not known here, naming it.
    """
    values = config.get(SETTINGS)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ModelError(f"{SETTINGS} is a JSON {type(values).__name__}, not an object")
    _only(values, "quant_method", _METHOD)
    _only(values, "format", _PLAIN, _PACKED)
    if values.get("quantization_status") is not None:
        _only(values, "quantization_status", "compressed")
    # These change what is computed.
    _only(values, "kv_cache_scheme", None)
    for key in ("transform_config", "sparsity_config"):
        if values.get(key):
            raise ModelError(f"{SETTINGS}: {key} is not known here")
    groups = values.get("config_groups")
    if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
        raise ModelError(f"{SETTINGS} has no config_groups that say how the weights are rounded")
    found = {_format(group.get("weights")) for group in groups.values()}
    if len(found) > 1:
        names = ", ".join(sorted(format.name for format in found))
        raise ModelError(f"{SETTINGS} rounds some weights otherwise than others ({names}), which is not known here")
    return found.pop()


def _format(weights: Any) -> IntegerFormat:
    if not isinstance(weights, dict):
        raise ModelError(f"{SETTINGS} says of a group of modules nothing about its weights")
    _only(weights, "type", "int")
    _only(weights, "num_bits", 4, 8)
    _only(weights, "strategy", "channel", "group", "tensor")
    _only(weights, "symmetric", True)
    _only(weights, "actorder", None, "weight", "static", False)
    group = weights.get("group_size") if weights["strategy"] == "group" else None
    if weights["strategy"] == "group" and (isinstance(group, bool) or not isinstance(group, int) or group < 1):
        raise ModelError(f"{SETTINGS}: group_size is {printable(repr(group))}, not a number of columns")
    if group is not None and group > _MAX_GROUP:
        raise ModelError(f"{SETTINGS}: group_size is above {_MAX_GROUP}: no matrix is so wide")
    return IntegerFormat(int(weights["num_bits"]), group)


def _only(values: Mapping[str, Any], key: str, *known: Any) -> None:
    value = values.get(key)
    # True is 1 in Python.
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in known):
        names = ", ".join(repr(one) for one in known if one is not None) or "null"
        raise ModelError(f"{SETTINGS}: {key} = {printable(repr(value))} is not known here (known: {names})")


@dataclass(frozen=True, slots=True)
class CompressedTensor:
    """A rounded weight in safetensors files (`StoredTensor` is one that is not).

    Attributes:
        codes: int8, or words of packed codes.
        scales: floating-point, of shape (rows, groups), or one for all.
        shape: of the weight.
        format: its bits and group.
    """

    codes: StoredTensor
    scales: StoredTensor
    shape: tuple[int, int]
    format: IntegerFormat

    @property
    def dtype_name(self) -> str:
        """As a user writes it, such as `int8`."""
        return self.format.name

    @property
    def place(self) -> tuple[Path, int]:
        """Sorted by this, tensors are read from front to back."""
        return self.codes.place

    @property
    def is_floating(self) -> bool:
        """True: its values are."""
        return True

    def integers(self) -> Integers:
        """Codes and scales.

        Raises:
            ModelError: when the file cannot be read, or a scale is not finite.
        """
        numbers = self.codes.numbers()
        codes = numbers if self.codes.dtype_name == "I8" else unpack(numbers, self.format.bits, self.shape[1])
        scales = self.scales.floats()
        if not np.isfinite(scales).all():
            raise ModelError(f"{self.scales.file}: a scale of a rounded weight is not finite: the weights are damaged")
        rows, groups = self.shape[0], self.format.num_groups(self.shape[1])
        by_row = scales.reshape(rows, groups) if scales.size > 1 else scales.reshape(1, 1)
        return Integers(self.format, codes, np.ascontiguousarray(np.broadcast_to(by_row, (rows, groups))))

    def floats(self) -> NDArray[np.float32]:
        """All values."""
        return self.integers().floats()


def join_rounded(
    tensors: Mapping[str, StoredTensor], format: IntegerFormat
) -> dict[str, StoredTensor | CompressedTensor]:
    """The tensors of a directory with each rounded weight as one, under the name that it has unrounded.

    Raises:
        ModelError: when the parts of a weight are incomplete or contradict each other.
    """
    joined: dict[str, StoredTensor | CompressedTensor] = dict(tensors)
    for name in tensors:
        stem, _, ending = name.rpartition(".")
        if ending != SCALE:
            continue
        parts = {part: tensors[f"{stem}.{part}"] for part in (WEIGHT, PACKED, SHAPE) if f"{stem}.{part}" in tensors}
        if set(parts) not in ({WEIGHT}, {PACKED, SHAPE}):
            raise ModelError(
                f"{printable(name)} belongs to {', '.join(sorted(parts)) or 'nothing'}: a rounded weight is "
                f"{WEIGHT} and {SCALE}, or {PACKED}, {SCALE} and {SHAPE}"
            )
        for part in (SCALE, *parts):
            del joined[f"{stem}.{part}"]
        joined[f"{stem}.{WEIGHT}"] = _joined(stem, parts, tensors[name], format)
    return joined


def _joined(stem: str, parts: dict[str, StoredTensor], scales: StoredTensor, format: IntegerFormat) -> CompressedTensor:
    codes = parts.get(WEIGHT) or parts[PACKED]
    shape = codes.shape
    words = 0
    if PACKED in parts:
        stored = parts[SHAPE]
        is_pair = stored.shape == (2,) and stored.dtype_name in ("I64", "I32")
        shape = tuple(int(size) for size in stored.numbers()) if is_pair else ()
        words = -(-shape[1] * format.bits // 32) if len(shape) == 2 else 0
    expected = ("I8", shape) if WEIGHT in parts else ("I32", (*shape[:1], words))
    if len(shape) != 2 or min(shape) < 1 or (codes.dtype_name, codes.shape) != expected:
        raise ModelError(
            f"{printable(stem)}: its codes are {codes.dtype_name} of shape {list(codes.shape)}, which is no matrix of "
            f"{format.bits} bits"
        )
    rows, columns = shape
    allowed: list[tuple[int, ...]] = [(rows, format.num_groups(columns))]
    if format.group is None:
        allowed += [(rows,), (1,), (), (1, 1)]
    if not scales.is_floating or scales.shape not in allowed:
        raise ModelError(
            f"{printable(stem)}: its scales are {scales.dtype_name} of shape {list(scales.shape)}, "
            f"{format.name} makes it {list(allowed[0])}"
        )
    return CompressedTensor(codes, scales, (rows, columns), format)
