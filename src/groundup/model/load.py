"""`groundup.load`: a model from a directory, a GGUF file, a name, a hub id, or the preset of a family."""

from __future__ import annotations

from pathlib import Path

from groundup.core.execution import torch_dtype
from groundup.core.progress import Progress
from groundup.model.companions import gguf_companions, is_preset, read_config
from groundup.model.directory import LoadedModel, load_model_directory
from groundup.model.presets import preset
from groundup.model.sources import locate_model
from groundup.model.transformer import build
from groundup.model.weights.gguf_model import load_gguf_weights
from groundup.model.weights.gguf_read import open_gguf
from groundup.tokenizer.bpe import ByteBPE

__all__ = ["load_gguf", "load_model", "read_config"]


def load_model(
    source: Path | str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    trust_code: bool = False,
    on_progress: Progress | None = None,
) -> LoadedModel:
    """Load a model with its tokenizer and chat template.

    Args:
        source: a model directory or `.gguf` file; the name of a packaged model (`smollm2-135m`) or a hub id that was
            pulled; or a preset (`qwen3`), which gives an untrained model of that shape and a tokenizer of bytes.
        device: where the weights go.
        dtype: `float32`, `bfloat16`, `float16` or `float64`, whatever is stored.
        trust_code: allow parts of kind `file`, whose Python file in the directory is then run.
        on_progress: called with (tensors read, all tensors).

    Raises:
        ModelError: when nothing goes by that name, or something is missing, damaged, unknown, or
            does not fit, naming the file and the field.
    """
    if is_preset(source):
        model = build(preset(str(source))).to(dtype=torch_dtype(dtype), device=device).eval()
        tokenizer = ByteBPE.from_merges([], special_tokens=())
        return LoadedModel(
            model=model, tokenizer=tokenizer, chat_template=None, generation={}, lineage={}, folder=Path(source)
        )
    path = locate_model(source)
    if path.is_dir():
        return load_model_directory(path, device=device, dtype=dtype, trust_code=trust_code, on_progress=on_progress)
    return load_gguf(path, device=device, dtype=dtype, on_progress=on_progress)


def load_gguf(
    path: Path, *, device: str = "cpu", dtype: str = "float32", on_progress: Progress | None = None
) -> LoadedModel:
    """Load a GGUF file: its blocks become plain numbers of `dtype`.

    Raises:
        ModelError: when the file is damaged, or the model is not known here.
        TokenizerError: when its tokenizer is not.
    """
    with open_gguf(path) as file:
        model = load_gguf_weights(file, dtype=dtype, on_progress=on_progress)
        tokenizer, template, generation = gguf_companions(file, model.config)
        name = file.metadata.get("general.name")
    return LoadedModel(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        chat_template=template,
        generation=generation,
        lineage={"source": path.name, "name": name},
        folder=path,
    )
