"""What an open GGUF file holds as a model: its composition, and where each of our tensors lies. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.model.config import TransformerConfig
from groundup.model.ops.blocks import dequantize
from groundup.model.shapes import parameter_shapes
from groundup.model.weights.gguf_config import config_from_gguf
from groundup.model.weights.gguf_names import GGUF_TABLES, gguf_slots
from groundup.model.weights.gguf_read import GgufFile, open_gguf
from groundup.model.weights.names import Slot, check_tensors


def read_gguf_config(path: Path) -> TransformerConfig:
    """The composition of the model in a file, without its weights.

    Raises:
        ModelError: when the file is damaged, or holds no model known here, naming the field.
    """
    with open_gguf(path) as file:
        return gguf_config(file)


def gguf_config(file: GgufFile) -> TransformerConfig:
    """The composition of the model in an open file.

    Raises:
        ModelError: when it holds no model known here, naming the field.
    """
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    factors = gguf_values(file, "rope_freqs.weight") if "rope_freqs.weight" in shapes else None
    try:
        return config_from_gguf(file.metadata, shapes, factors)
    except ModelError as error:
        raise ModelError(f"{file.path}: {error}") from None


def check_gguf_tensors(file: GgufFile, config: TransformerConfig) -> tuple[dict[str, Slot], dict[str, tuple[int, ...]]]:
    """Where each tensor of a model lies in an open file, and its shape here.

    Raises:
        ModelError: when one is missing, unexpected or of another shape, or holds no weights.
    """
    architecture = file.metadata["general.architecture"]
    shapes = parameter_shapes(config)
    where = gguf_slots(architecture, list(shapes))
    expected = {slot.theirs: slot.stored_shape(shapes[name]) for name, slot in where.items()}
    found = {name: tensor.shape for name, tensor in file.tensors.items()}
    check_tensors(str(file.path), "the metadata", found, expected, ignored=GGUF_TABLES[architecture].ignored)
    return where, shapes


def gguf_values(file: GgufFile, name: str) -> NDArray[np.float32]:
    """The values of a tensor in an open file, in the file's shape.

    Raises:
        ModelError: when it holds no weights.
    """
    tensor = file.tensors[name]
    if tensor.format[0] == "I" and tensor.format[1:].isdigit():
        raise ModelError(f"{file.path}: tensor {name!r} holds whole numbers ({tensor.format}), not weights")
    return dequantize(file.raw(name), tensor.format).reshape(tensor.shape)
