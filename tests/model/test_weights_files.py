"""Weights in safetensors files: saved as safetensors does, in shards, loaded strictly and without a second copy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

import groundup.model.weights.files as files
from groundup.core.errors import ConfigError, DataError, ModelError
from groundup.model.hf_config import model_type, to_hf
from groundup.model.transformer import Transformer, assemble
from groundup.model.weights.files import INDEX_FILE, WEIGHTS_FILE, load_weights, save_weights
from groundup.model.weights.names import slots
from groundup.model.weights.safetensors_read import MAX_JSON_BYTES, StoredTensors

Make = Callable[..., Transformer]
FAMILIES = ["gpt2", "llama3", "qwen3"]


def on_meta(model: Transformer, dtype: torch.dtype = torch.float32) -> Transformer:
    with torch.device("meta"):
        return assemble(model.config).to(dtype)


def same_state(first: Transformer, second: Transformer) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# Saving ----------------------------------------------------------------------------------------------------------


def to_stored(kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names, fused and transposed as they store them."""
    groups: dict[str, list[tuple[int, bool, Tensor]]] = {}
    for name, slot in slots(kind, state).items():
        groups.setdefault(slot.theirs, []).append((slot.part, slot.transposed, state[name]))
    whole = {
        name: torch.cat([tensor for _, _, tensor in sorted(parts, key=lambda part: part[0])])
        for name, parts in groups.items()
    }
    return {name: (tensor.t() if groups[name][0][1] else tensor).contiguous() for name, tensor in whole.items()}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.bfloat16,), (torch.float16, torch.float64, torch.float32)])
def test_a_file_is_what_safetensors_would_write(
    name: str, dtypes: tuple[torch.dtype, ...], tmp_path: Path, small_model: Make
) -> None:
    model = small_model(name)
    for index, layer in enumerate(model.layers):
        layer.to(dtypes[index % len(dtypes)])
        layer.attn.k_proj.to(dtypes[-1])  # gpt2 stores it in one tensor with the queries and values
    stored = to_stored(model_type(model.config), model.state_dict())
    expected = save({name: tensor.clone() for name, tensor in stored.items()}, metadata={"format": "pt"})
    assert save_weights(tmp_path / WEIGHTS_FILE, model) == [tmp_path / WEIGHTS_FILE]
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS_FILE]


@pytest.mark.parametrize("name", FAMILIES)
def test_shards_and_their_index(name: str, tmp_path: Path, small_model: Make) -> None:
    model = small_model(name, tie_word_embeddings=False)
    limit = 40_000
    written = save_weights(tmp_path / WEIGHTS_FILE, model, max_shard_bytes=limit)
    count = len(written)
    assert count > 2
    assert [path.name for path in written] == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    parts = {path.name: load_file(path) for path in written}
    assert index["weight_map"] == {name: file for file, part in parts.items() for name in part}
    tensors = {name: tensor for part in parts.values() for name, tensor in part.items()}
    assert index["metadata"] == {
        "total_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "total_size": sum(tensor.nbytes for tensor in tensors.values()),
    }
    sizes = [sum(tensor.nbytes for tensor in part.values()) for part in parts.values()]
    assert all(size <= limit or len(part) == 1 for size, part in zip(sizes, parts.values(), strict=True))
    assert all(first + second > limit for first, second in pairwise(sizes)), "no needless file"
    loaded = on_meta(model)
    load_weights(tmp_path, loaded)
    assert same_state(loaded, model)


def test_transformers_loads_our_shards(tmp_path: Path, small_model: Make, ids: Callable[..., Tensor]) -> None:
    transformers = pytest.importorskip("transformers")
    model = small_model("gpt2", bos_token_id=1, eos_token_id=2, pad_token_id=3)
    assert len(save_weights(tmp_path / WEIGHTS_FILE, model, max_shard_bytes=50_000)) > 2
    (tmp_path / "config.json").write_text(json.dumps(to_hf(model.config)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        got, expected = model.logits(model(ids(2, 9))), theirs(ids(2, 9)).logits
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_what_was_saved_last_counts(tmp_path: Path, small_model: Make) -> None:
    for seed, limit in enumerate((30_000, 10**9, 60_000, 10**9, 30_000)):
        model = small_model("llama3", seed=seed)
        written = save_weights(tmp_path / WEIGHTS_FILE, model, max_shard_bytes=limit)
        loaded = on_meta(model)
        load_weights(tmp_path, loaded)
        assert same_state(loaded, model)
        assert (tmp_path / INDEX_FILE).exists() is (len(written) > 1)


def test_a_limit_of_nothing_is_refused(tmp_path: Path, small_model: Make) -> None:
    with pytest.raises(ConfigError, match="max_shard_bytes is 0: give the bytes of the largest file"):
        save_weights(tmp_path / WEIGHTS_FILE, small_model("gpt2"), max_shard_bytes=0)


def test_a_dtype_that_is_not_stored_is_named(tmp_path: Path, small_model: Make) -> None:
    model = small_model("gpt2")
    model.embed.weight = nn.Parameter(torch.zeros(97, 48, dtype=torch.complex64))
    with pytest.raises(ModelError, match=r"embed\.weight is of torch\.complex64, which is not stored here"):
        save_weights(tmp_path / WEIGHTS_FILE, model)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, small_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / WEIGHTS_FILE, small_model("gpt2"))
    before = (tmp_path / WEIGHTS_FILE).read_bytes()

    def full(flat: Tensor) -> memoryview:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "bytes_of", full)
    with pytest.raises(DataError, match=r"no space left on the disk while writing .*model\.safetensors"):
        save_weights(tmp_path / WEIGHTS_FILE, small_model("gpt2", seed=1))
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("old", "new"), [(10**9, 30_000), (30_000, 10**9), (30_000, 30_000)])
def test_an_interrupted_save_leaves_no_mixture(
    old: int, new: int, tmp_path: Path, small_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before the n-th file that is written or deleted, for every n."""
    before, after = small_model("llama3"), small_model("llama3", seed=1)
    seen = set()
    for stop in range(50):
        folder = tmp_path / str(stop)
        save_weights(folder / WEIGHTS_FILE, before, max_shard_bytes=old)
        calls = iter(range(stop))

        def counted(real: Callable[..., Any], calls: Iterator[int] = calls) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(calls, None) is None:
                    raise KeyboardInterrupt
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(files, "_write_shard", counted(files._write_shard))
            patch.setattr(files, "write_json", counted(files.write_json))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            try:
                save_weights(folder / WEIGHTS_FILE, after, max_shard_bytes=new)
                finished = True
            except KeyboardInterrupt:
                finished = False
        loaded = on_meta(before)
        try:
            load_weights(folder, loaded)
            assert same_state(loaded, before) or same_state(loaded, after)
            seen.add("old" if same_state(loaded, before) else "new")
        except ModelError as error:
            assert "has neither" in str(error)
            seen.add("none")
        if finished:
            break
    assert finished and seen == ({"old", "new"} if old != new else {"old", "none", "new"})


# Loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float64])
def test_values_are_converted(
    name: str,
    stored: torch.dtype,
    wanted: torch.dtype,
    tmp_path: Path,
    small_model: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "_PIECE_BYTES", 1000)  # so that tensors come in many pieces, the last one shorter
    model = small_model(name).to(stored)
    save_weights(tmp_path / WEIGHTS_FILE, model, max_shard_bytes=100_000)
    expected = {key: value.to(wanted) for key, value in model.state_dict().items()}
    made, there = on_meta(model, wanted), small_model(name, seed=9).to(wanted)
    memory = {key: value.data_ptr() for key, value in there.state_dict().items()}
    for loaded in (made, there):
        load_weights(tmp_path, loaded)
        state = loaded.state_dict()
        assert all(torch.equal(state[key], value) and state[key].dtype == wanted for key, value in expected.items())
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in loaded.parameters())
    assert {key: value.data_ptr() for key, value in there.state_dict().items()} == memory, "filled where they are"


def test_parameters_are_where_torch_puts_them_and_not_in_the_file(tmp_path: Path, small_model: Make) -> None:
    model = small_model("llama3")
    save_weights(tmp_path / WEIGHTS_FILE, model)
    loaded = on_meta(model)
    load_weights(tmp_path, loaded)
    assert all(parameter.data_ptr() % 64 == 0 for parameter in loaded.parameters())
    (tmp_path / WEIGHTS_FILE).write_bytes(b"")
    assert same_state(loaded, model)


def test_what_stays_on_meta_is_named(tmp_path: Path, small_model: Make) -> None:
    model = small_model("gpt2")
    save_weights(tmp_path / WEIGHTS_FILE, model)
    loaded = on_meta(model)
    loaded.layers[0].register_buffer("table", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(ModelError, match=r"model\.safetensors gives no values for layers\.0\.table: make the model on"):
        load_weights(tmp_path, loaded)


@pytest.fixture
def saved(tmp_path: Path, small_model: Make) -> tuple[Path, Transformer]:
    model = small_model("llama3")
    save_weights(tmp_path / WEIGHTS_FILE, model)
    return tmp_path, model


def change(folder: Path, **changes: Tensor | None) -> None:
    """Replace tensors of the single file, or take them out."""
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors |= {name: tensor for name, tensor in changes.items() if tensor is not None}
    save_file({name: t for name, t in tensors.items() if changes.get(name, t) is not None}, folder / WEIGHTS_FILE)


def test_everything_that_does_not_fit_is_in_one_message(saved: tuple[Path, Transformer]) -> None:
    folder, model = saved
    up, down = "model.layers.1.mlp.up_proj.weight", "model.layers.2.mlp.down_proj.weight"
    wrong = {
        "model.norm.weight": None,
        "model.layers.0.self_attn.q_proj.weight": None,
        "extra": torch.zeros(2),
        up: torch.zeros(80, 47),
        down: torch.zeros(3),
        "model.embed_tokens.weight": torch.zeros(97, 48, dtype=torch.int8),
    }
    change(folder, **wrong)
    with pytest.raises(ModelError) as caught:
        load_weights(folder, model)
    assert str(caught.value) == (
        f"{folder / WEIGHTS_FILE} does not fit its config.json: "
        "2 of 29 tensors are missing (model.layers.0.self_attn.q_proj.weight, model.norm.weight) and "
        "1 are unexpected (model.extra) and "
        f"2 have another shape ({up} has shape [80, 47], the config.json makes it [80, 48], "
        f"{down} has shape [3], the config.json makes it [48, 80]) and "
        "1 hold another kind of number (model.embed_tokens.weight is stored as I8, not as floating-point numbers)"
    )


def test_long_lists_and_names_are_cut_and_printable(saved: tuple[Path, Transformer]) -> None:
    folder, model = saved
    change(
        folder,
        **{f"model.{index}": torch.zeros(1) for index in range(30)},
        **{"model.\x1b[2J" + "x" * 500: torch.zeros(1)},
    )
    with pytest.raises(ModelError, match=r"31 are unexpected .*, and 21 more\)") as caught:
        load_weights(folder, model)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_the_same_tensor_with_and_without_prefix(saved: tuple[Path, Transformer]) -> None:
    folder, model = saved
    change(folder, **{"norm.weight": torch.zeros(48)})
    with pytest.raises(ModelError, match=r"has both (model\.)?norm\.weight and (model\.)?norm\.weight: which of them"):
        load_weights(folder, model)


def test_a_file_that_shrinks_while_it_is_read(saved: tuple[Path, Transformer]) -> None:
    folder, _ = saved
    stored = StoredTensors(folder).tensors["model.norm.weight"]
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[: stored.offset + 4 * 47])
    stored.read(memoryview(bytearray(4 * 47)))
    with pytest.raises(ModelError, match=r"model\.safetensors became shorter while it was read"):
        stored.read(memoryview(bytearray(4 * 48)))
    path.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read: .*No such file"):
        stored.read(memoryview(bytearray(4 * 48)))


# Hostile indexes -------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path, small_model: Make) -> Path:
    assert len(save_weights(tmp_path / WEIGHTS_FILE, small_model("gpt2"), max_shard_bytes=60_000)) > 2
    return tmp_path


FIRST = "transformer.wte.weight"


def edit(index: Path, edit_map: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(index.read_text())
    edit_map(values["weight_map"])
    index.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "index.json is damaged or incomplete: Expecting value"),
        ('{"weight_map": {', "is damaged or incomplete: Expecting property name"),
        ("[" * 100_000, "is damaged or incomplete: .*recursion"),
        ('{"weight_map": ' + "9" * 5000 + "}", "is damaged or incomplete: Exceeds the limit"),
        ("[]", "is damaged or incomplete: it holds a JSON list, not an object"),
        ("null", "it holds a JSON NoneType"),
        ("{}", "index.json has no weight_map: it is not an index of safetensors files"),
        ('{"weight_map": ["a"]}', "has no weight_map"),
        ('{"weight_map": {"a": 5}}', "index.json: the file of a is 5, not a name"),
        ('{"weight_map": {"a": ["one"]}}', r"the file of a is \['one'\], not a name"),
        ('{"weight_map": {"a": null}}', "the file of a is None, not a name"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "is damaged or incomplete: a is there twice"),
        ('{"weight_map": {"a": "none.safetensors"}}', r"none\.safetensors does not exist, but .*index\.json lists it"),
        ('{"weight_map": {"a": ""}}', "does not exist"),
        ('{"weight_map": {"a": ".."}}', "does not exist"),
        ('{"weight_map": {"a": "a\\u0000b"}}', r"a\\x00b' does not exist"),
        ('{"weight_map": {"a": "' + "x" * 5000 + '"}}', "does not exist"),
        ('{"weight_map": {"a": "\\ud800"}}', "does not exist"),
        (b"\xff\xfe\xfd", "is damaged or incomplete"),
    ],
)
def test_a_malformed_index_is_named(sharded: Path, text: str | bytes, message: str, small_model: Make) -> None:
    (sharded / INDEX_FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=f"(?s){message}") as caught:
        load_weights(sharded, small_model("gpt2"))
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


@pytest.mark.parametrize("form", ["../{}", "/etc/../{}", "sub/{}", "./{}", "..\\{}", "C:{}", "C:\\x\\{}"])
def test_files_outside_of_the_folder_are_refused(sharded: Path, form: str, small_model: Make) -> None:
    inside = json.loads((sharded / INDEX_FILE).read_text())["weight_map"][FIRST]
    (sharded / "sub").mkdir()
    for elsewhere in (sharded / "sub", sharded.parent):
        (elsewhere / inside).write_bytes((sharded / inside).read_bytes())
    index = sharded / INDEX_FILE
    index.write_text(index.read_text().replace(json.dumps(inside), json.dumps(form.format(inside))))
    message = f"index.json lists {re.escape(form.format(inside))}: a name of a file in the same folder is needed"
    with pytest.raises(ModelError, match=message):
        load_weights(sharded, small_model("gpt2"))


def test_an_index_that_contradicts_its_files(sharded: Path, small_model: Make) -> None:
    model, index = small_model("gpt2"), sharded / INDEX_FILE
    text = index.read_text()
    files_of = json.loads(text)["weight_map"]
    last = files_of["transformer.ln_f.weight"]
    assert files_of[FIRST] != last
    for edited, message in (
        ({"ghost": last}, f"lists tensors that are not in .*{last}: ghost"),
        ({FIRST: last}, f"lists for other files what .*{files_of[FIRST]} holds too: {FIRST}|not in .*{last}: {FIRST}"),
    ):
        edit(index, lambda weight_map, edited=edited: weight_map.update(edited))
        with pytest.raises(ModelError, match=message):
            load_weights(sharded, model)
        index.write_text(text)
    edit(index, lambda weight_map: weight_map.pop(FIRST))
    with pytest.raises(ModelError, match=f"leaves out tensors of .*{files_of[FIRST]}: {FIRST}"):
        load_weights(sharded, model)
    index.write_text(text)
    twice = {**load_file(sharded / last), FIRST: torch.zeros(97, 48)}
    save_file(twice, sharded / last)
    with pytest.raises(ModelError, match=f"lists for other files what .*{last} holds too: {FIRST}"):
        load_weights(sharded, model)
    (sharded / last).write_bytes(b"")
    with pytest.raises(ModelError, match=f"{last} is damaged or incomplete"):
        load_weights(sharded, model)


@pytest.mark.parametrize(
    "entries",
    [
        {"a": [0, 4]},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"},
        {"__metadata__": {"format": 5}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {},
    ],
)
def test_headers_that_contradict_their_file(entries: dict[str, Any], tmp_path: Path) -> None:
    header = json.dumps(entries).encode()
    (tmp_path / WEIGHTS_FILE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or incomplete: .*Copy or make it again"):
        StoredTensors(tmp_path)


def test_a_giant_index_is_not_read(sharded: Path, small_model: Make) -> None:
    with (sharded / INDEX_FILE).open("r+b") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # sparse: takes no room
    model = small_model("gpt2")
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=f"index.json is damaged .* announces {MAX_JSON_BYTES + 1} bytes of JSON"):
            load_weights(sharded, model)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([FIRST, "x", "", "../a"]) | st.text(max_size=6)
FILES = st.sampled_from(["model.safetensors.index.json", "..", "/", "a/b"]) | st.text(max_size=6) | JSON
INDEXES = JSON | st.fixed_dictionaries(
    {"weight_map": st.dictionaries(NAMES, FILES, max_size=4) | JSON, "metadata": JSON}
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=INDEXES, junk=st.binary(max_size=4), cut=st.integers(0, 60))
def test_random_indexes_give_model_errors(sharded: Path, values: Any, junk: bytes, cut: int) -> None:
    data = json.dumps(values).encode()
    for content in (data, data[: len(data) - cut], data[:cut] + junk + data[cut:]):
        (sharded / INDEX_FILE).write_bytes(content)
        try:
            assert StoredTensors(sharded).tensors == {}, "only an index of no files can be right"
        except ModelError as error:
            assert INDEX_FILE in str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_safetensors_files(saved: tuple[Path, Transformer], data: st.DataObject) -> None:
    folder = saved[0] / "mutated"
    folder.mkdir(exist_ok=True)
    path = folder / WEIGHTS_FILE
    content = bytearray((saved[0] / WEIGHTS_FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, 3000))
        content[position : position + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    try:
        for tensor in StoredTensors(folder).tensors.values():
            if tensor.is_floating:
                tensor.floats()
    except ModelError as error:
        assert WEIGHTS_FILE in str(error)


# Memory ----------------------------------------------------------------------------------------------------------

MEMORY = """
import sys
from pathlib import Path

import torch

from groundup.model.presets import preset
from groundup.model.transformer import assemble, build
from groundup.model.weights.files import load_weights, save_weights

task, folder, family, dtype = sys.argv[1], Path(sys.argv[2]), sys.argv[3], getattr(torch, sys.argv[4])


def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))


sizes = {"vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8}
if task == "nothing":
    build(preset(family, **{**sizes, "hidden_size": 16, "vocab_size": 32, "num_hidden_layers": 1}))
elif task == "save":
    model = assemble(preset(family, **sizes)).to(dtype)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.fill_(index)
    before = peak()
    save_weights(folder / "model.safetensors", model, max_shard_bytes=100_000_000)
    print(peak() - before)
else:
    with torch.device("meta"):
        model = assemble(preset(family, **sizes)).to(dtype)
    load_weights(folder, model)
    assert all(bool((p == i).all()) for i, p in enumerate(model.parameters()))
    print(sum(p.nbytes for p in model.parameters()))
print(peak())
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see a peak of memory")


def measure(task: str, folder: Path, family: str, dtype: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, task, str(folder), family, dtype],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("family", ["llama3", "gpt2"])  # gpt2's tensors are fused and transposed in the file
def test_no_second_copy_in_memory(family: str, tmp_path: Path) -> None:
    """240 to 320 MB of bfloat16 in shards: 100 MB above the weights is less than any second copy of them."""
    slack = 100 * 10**6
    extra, _ = measure("save", tmp_path, family, "bfloat16")
    assert extra < slack, f"saving took {extra / 1e6:.0f} MB"
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    (empty,) = measure("nothing", tmp_path, family, "float32")
    for dtype in ("bfloat16", "float32", "float16"):
        weights, peak = measure("load", tmp_path, family, dtype)
        assert weights > 2 * slack
        assert peak - empty < weights + slack, f"{dtype}: {(peak - empty) / 1e6:.0f} MB for {weights / 1e6:.0f}"
