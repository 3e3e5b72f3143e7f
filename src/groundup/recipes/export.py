"""Taking a model elsewhere: a GGUF file for llama.cpp, or a directory for transformers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from groundup.core import console
from groundup.core.errors import ModelError, UsageError
from groundup.core.files import check_writable, read_json
from groundup.model.companions import CONFIG_FILE
from groundup.model.counts import count_parameters
from groundup.model.directory import LoadedModel, check_replaceable, save_model_directory
from groundup.model.hf_config import model_type
from groundup.model.load import read_config
from groundup.model.ops.integers import IntegerFormat
from groundup.model.shapes import parameter_shapes
from groundup.model.sources import locate_model
from groundup.model.weights.compressed import read_settings
from groundup.model.weights.files import is_map, stored_dtype, unrounded_maps
from groundup.model.weights.gguf_config import config_to_gguf
from groundup.model.weights.gguf_mix import mix_named
from groundup.model.weights.gguf_model import save_gguf
from groundup.model.weights.gguf_read import open_gguf
from groundup.recipes.loading import check_not_source, lineage_digest, open_model
from groundup.tokenizer.chat import turn_end_id


def check_gguf(source: str, out: Path | None, *, type: str) -> Path:
    """Refuse what `export_gguf` would, before any weights are read, and say what is rounded twice.

    Returns:
        the path of the file that it writes.
    """
    mix_named(type)
    locate_model(source)
    path = out or _default_path(source, f"-{type.upper()}.gguf")
    if path.suffix != ".gguf":
        raise UsageError(f"--out {path}: a GGUF file ends in .gguf")
    check_not_source(path, source)
    check_writable(path)
    config_to_gguf(read_config(source))
    _warn_of_rounding_twice(source, type.upper())
    return path


def export_gguf(source: str, out: Path | None, *, type: str, loaded: LoadedModel | None = None) -> Path:
    """Write a model as one GGUF file.

    Args:
        source: what `load_model` takes.
        out: the file; by default beside a model directory, named after it and the type.
        type: a mix, such as Q4_K_M.
        loaded: the model, where it is open and everything was checked.

    Returns:
        the path of the file.
    """
    path = check_gguf(source, out, type=type) if loaded is None or out is None else out
    if loaded is None:
        folder = locate_model(source)
        # A checkpoint in bfloat16 is quantised from its own numbers, and not held twice as large.
        loaded = open_model(source, dtype=stored_dtype(folder) if folder.is_dir() else "float32")
    template = None if loaded.chat_template is None else loaded.chat_template.source
    end = None if loaded.chat_template is None else turn_end_id(loaded.tokenizer, loaded.chat_template)
    count = sum(parameter.numel() for parameter in loaded.model.parameters())
    with console.progress("export", len(loaded.model.state_dict()), "tensors") as ticker:
        done = 0

        def advance(written: int, total: int) -> None:
            nonlocal done
            ticker.advance(written - done)
            done = written

        formats = save_gguf(
            path,
            loaded.model,
            loaded.tokenizer,
            type=type,
            chat_template=template,
            end_of_turn_id=end,
            on_progress=advance,
        )
    size = path.stat().st_size
    kinds = ", ".join(f"{number} {name}" for name, number in Counter(formats.values()).most_common())
    console.say(
        f"{path}: {console.format_bytes(size)}, {8 * size / max(1, count):.2f} bits per weight; tensors: {kinds}"
    )
    return path


def check_directory(source: str, out: Path | None, *, rounded: IntegerFormat | None = None) -> Path:
    """Refuse what `export_directory` would, before any weights are read, and say what stays unrounded.

    Returns:
        the path of the directory that it writes.
    """
    if out is None and rounded is None:
        raise UsageError("--out is needed: the directory to write")
    folder = out or _default_path(source, "" if rounded is None else f"-{rounded.name}")
    if rounded is not None and folder.suffix == ".gguf":
        raise UsageError(
            f"--out {folder}: {rounded.name} makes a model directory; for a GGUF file choose another --type"
        )
    check_not_source(folder, source)
    check_replaceable(folder)
    check_writable(folder)
    if rounded is not None:
        config = read_config(source)
        shapes = parameter_shapes(config)
        left = len([name for name in unrounded_maps(model_type(config), shapes, rounded) if name != "lm_head"])
        count = len([name for name, shape in shapes.items() if is_map(name, shape)])
        columns = f"their rows are no multiple of {rounded.group} columns"
        if left == count:
            raise ModelError(
                f"{rounded.name} fits none of the {count} matrices of {source}: {columns}; try int4-g32 or int8"
            )
        if left:
            console.warn(f"{left} of {count} matrices stay in bfloat16: {columns}. int4-g32 rounds more of them")
        _warn_of_rounding_twice(source, rounded.name)
    return folder


def export_directory(
    source: str,
    out: Path | None,
    *,
    dtype: str = "float32",
    rounded: IntegerFormat | None = None,
    loaded: LoadedModel | None = None,
) -> Path:
    """Write a model as a directory in the Hugging Face layout.

    Args:
        source: what `load_model` takes.
        out: the directory; needed, but for rounded weights, which by default go beside the model.
        dtype: of the weights.
        rounded: the weights of the linear maps are rounded so, and the rest is stored in bfloat16.
        loaded: the model, where it is open and everything was checked.

    Returns:
        the path of the directory.
    """
    folder = check_directory(source, out, rounded=rounded) if loaded is None or out is None else out
    if loaded is None:
        loaded = open_model(source, dtype=dtype)
    template = None if loaded.chat_template is None else loaded.chat_template.source
    lineage = {
        "stage": "export" if rounded is None else "quantize",
        "parent": {
            "folder": str(source),
            "name": loaded.lineage.get("name"),
            "lineage": lineage_digest(loaded.folder),
        },
        "recipe": f"export --to hf --dtype {dtype}" if rounded is None else f"quantize --type {rounded.name}",
    }
    save_model_directory(
        folder,
        loaded.model,
        loaded.tokenizer,
        chat_template=template,
        lineage=lineage,
        generation=loaded.generation,
        rounded=rounded,
    )
    total = count_parameters(loaded.model.config).total
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    kind = dtype if rounded is None else f"{rounded.name} and bfloat16"
    console.say(f"{folder}: {console.format_count(total)} parameters in {kind}, {console.format_bytes(size)}")
    return folder


def _warn_of_rounding_twice(source: str, type: str) -> None:
    if type.upper() in ("F32", "F16", "BF16", "Q8_0", "INT8"):
        return
    path = locate_model(source)
    if path.is_dir():
        rounded = read_settings(read_json(path / CONFIG_FILE, ModelError))
        kinds = set() if rounded is None else {rounded.name}
    else:
        with open_gguf(path) as file:
            kinds = {tensor.format for tensor in file.tensors.values()} - {"F32", "F16", "BF16", "Q8_0"}
    if kinds - {"int8"}:
        console.warn(
            f"{source} holds {', '.join(sorted(kinds))} weights: what was rounded is rounded again as {type}, which may "
            "be larger and worse than the model itself. Begin with unquantised weights, or choose Q8_0 or int8"
        )


def _default_path(source: str, ending: str) -> Path:
    given = Path(source)
    if given.name in ("", ".."):  # the folder one stands in, and the one above
        given = given.resolve()
    name = f"{(given.stem if given.suffix == '.gguf' else given.name)}{ending}"
    return given.with_name(name) if given.exists() else Path(name)
