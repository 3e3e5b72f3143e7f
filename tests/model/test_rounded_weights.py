"""Model directories with rounded weights: rounding, packing, what transformers and compressed-tensors make of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from groundup.core.errors import ModelError
from groundup.core.jit import numba_works
from groundup.model.companions import read_model_config
from groundup.model.config import TransformerConfig
from groundup.model.directory import load_model_directory, save_model_directory
from groundup.model.hf_config import from_hf
from groundup.model.ops.integers import IntegerFormat, integer_format, pack, round_to_integers, unpack
from groundup.model.ops.products import multiply_tiles, round_activations
from groundup.model.transformer import Transformer
from groundup.model.weights.compressed import read_settings, write_settings
from groundup.model.weights.directory_tiles import DirectoryTiles
from groundup.model.weights.files import WEIGHTS_FILE, save_weights
from groundup.tokenizer.bpe import ByteBPE

FORMATS = ["int8", "int4-g32", "int8-g32", "int4", "int4-g64"]
Make = Callable[..., Transformer]


def named(name: str) -> IntegerFormat:
    format = integer_format(name)
    assert format is not None
    return format


# Rounding ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 10_000),
    st.sampled_from([1e-30, 1e-4, 1.0, 1e6, 1e36]),
)
def test_a_value_is_rounded_to_the_nearest_multiple(name: str, rows: int, groups: int, seed: int, size: float) -> None:
    format = named(name)
    draw = np.random.default_rng(seed)
    values = (draw.standard_t(3, (rows, 64 * groups)) * size).astype(np.float32)
    values[draw.random(values.shape) < 0.1] = 0
    found = round_to_integers(values, format)
    scales = np.repeat(found.scales, format.group or values.shape[1], axis=1).astype(np.float64)
    low, high = -(2 ** (format.bits - 1)), 2 ** (format.bits - 1) - 1
    nearest = np.clip(np.rint(np.divide(values, scales, out=np.zeros_like(scales), where=scales > 0)), low, high)
    # Beside the nearest only where the quotient in float32 is a tie.
    assert (np.abs(found.codes - nearest) <= 1).all() and (found.codes != nearest).mean() < 0.01
    assert torch.equal(torch.from_numpy(found.scales), torch.from_numpy(found.scales).bfloat16().float())
    if format.bits == 8:
        assert (np.abs(found.floats() - values.astype(np.float64)) <= 0.5001 * scales).all()
        assert found.codes.min() >= -127


def test_four_bits_take_the_best_of_the_scales_that_are_tried() -> None:
    values = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    found = round_to_integers(values, named("int4-g32"))
    error = np.square(found.floats() - values).sum()
    groups = values.reshape(-1, 32)
    largest = np.abs(groups).max(axis=1, keepdims=True)
    for reach in (7.0, 8.0):
        plain = np.clip(np.rint(groups / (largest / reach)), -8, 7) * (largest / reach)
        assert error < 0.98 * np.square(plain - groups).sum()


def test_rows_of_zeros_stay_zero_and_bad_values_are_refused() -> None:
    values = np.zeros((3, 64), np.float32)
    values[1] = 1
    assert np.array_equal(round_to_integers(values, named("int8")).floats()[[0, 2]], values[[0, 2]])
    for bad in (np.nan, np.inf):
        values[2, 5] = bad
        with pytest.raises(ModelError, match="1 of 192 values are infinite or NaN"):
            round_to_integers(values, named("int4-g32"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("int5", "5 bits are not known"), ("int4-g20", "a multiple of 32"), ("int8-g0", "of 0 columns")],
)
def test_names_of_formats(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        integer_format(name)
    assert integer_format("Q4_K_M") is None
    assert [named(name.upper()).name for name in FORMATS] == FORMATS


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([4, 8]), st.integers(1, 6), st.integers(1, 70), st.integers(0, 1000))
def test_packing_is_that_of_compressed_tensors(bits: int, rows: int, columns: int, seed: int) -> None:
    theirs = pytest.importorskip("compressed_tensors.compressors.pack_quantized")
    low = 2 ** (bits - 1)
    codes = np.random.default_rng(seed).integers(-low, low, (rows, columns)).astype(np.int8)
    words = pack(codes, bits)
    assert np.array_equal(words, theirs.pack_to_int32(torch.from_numpy(codes), bits).numpy())
    assert np.array_equal(unpack(words, bits, columns), codes)


# Directories ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rounded(tmp_path: Path, small_model: Make) -> Callable[..., tuple[Path, Transformer]]:
    def make(name: str = "int8", family: str = "qwen3", **options: Any) -> tuple[Path, Transformer]:
        model = small_model(
            family, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96, **options
        )
        folder = tmp_path / f"{family}-{name}"
        tokenizer = ByteBPE.from_merges([], special_tokens=())
        save_model_directory(folder, model, tokenizer, chat_template=None, lineage={}, rounded=named(name))
        return folder, model

    return make


def is_map(name: str, tensor: torch.Tensor) -> bool:
    return name.startswith("layers.") and tensor.dim() == 2


FAMILIES = ["llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "smollm3"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("family", ["llama3", "qwen3", "gemma3", "olmo2"])
def test_what_is_loaded_is_what_was_rounded(name: str, family: str, rounded: Any) -> None:
    folder, model = rounded(name, family, vocab_size=300)
    loaded = load_model_directory(folder).model
    for key, tensor in loaded.state_dict().items():
        was = model.state_dict()[key]
        if is_map(key, was) and named(name).fits(was.shape[1]):
            expected = torch.from_numpy(round_to_integers(was.numpy(), named(name)).floats())
            assert not torch.equal(tensor, was)
        else:
            expected = was.bfloat16().float()
        assert torch.equal(tensor, expected), key
    half = load_model_directory(folder, dtype="bfloat16").model.state_dict()
    assert all(torch.equal(half[key], tensor.bfloat16()) for key, tensor in loaded.state_dict().items())


@pytest.mark.skipif(not numba_works(), reason="the kernels need numba")
@pytest.mark.parametrize("name", FORMATS)
def test_tiles_hold_the_same_values(name: str, rounded: Any) -> None:
    folder, _ = rounded(name, vocab_size=300)
    config = read_model_config(folder)
    loaded = load_model_directory(folder).model.state_dict()
    tiles = DirectoryTiles(folder, config)
    draw = np.random.default_rng(0)
    for key, tensor in loaded.items():
        if tensor.dim() == 1:
            assert np.array_equal(tiles.vector(key), tensor.numpy())
            continue
        x = draw.normal(size=(3, tensor.shape[1])).astype(np.float32)
        read = round_activations(x) if is_map(key, tensor) and named(name).fits(tensor.shape[1]) else x
        expected = read.astype(np.float64) @ tensor.double().numpy().T
        assert np.abs(multiply_tiles(x, tiles.matrix(key)) - expected).max() < 1e-5 * np.abs(expected).max()
    ids = np.array([5, 0, 299])
    assert np.array_equal(tiles.rows("embed.weight", ids), loaded["embed.weight"][ids].numpy())
    assert tiles.vector("layers.0.attn.q_proj.bias") is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["int8", "int4-g32"])
def test_transformers_computes_the_same(name: str, family: str, rounded: Any) -> None:
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    folder, _ = rounded(name, family, vocab_size=300)
    ours = load_model_directory(folder).model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(0, 300, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = theirs(ids).logits, ours.logits(ours(ids))
    assert (a - b).abs().max() < 1e-4 * b.abs().max().clamp(min=1)
    scheme = theirs.model.layers[0].self_attn.q_proj.quantization_scheme  # it did read them as rounded weights
    assert scheme.weights.num_bits == named(name).bits


def test_a_directory_of_compressed_tensors_with_plain_codes(rounded: Any) -> None:
    """`int-quantized`, as the published W8A8 models are: codes in int8, a scale for each row."""
    theirs = pytest.importorskip("compressed_tensors.compressors.naive_quantized.base")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    folder, _ = rounded("int8", vocab_size=300)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["format"] = "int-quantized"
    (folder / "config.json").write_text(json.dumps(config))
    scheme = quantization.QuantizationScheme(
        targets=["Linear"], weights=quantization.QuantizationArgs(num_bits=8, strategy="channel")
    )
    stored = load_file(folder / WEIGHTS_FILE)
    state = {key: tensor for key, tensor in stored.items() if "weight_" not in key}
    expected, draw = {}, torch.Generator().manual_seed(0)
    for key in [key for key in stored if key.endswith("weight_packed")]:
        stem = key.removesuffix(".weight_packed")
        weight = torch.randn(tuple(stored[f"{stem}.weight_shape"].tolist()), generator=draw)
        scale = weight.abs().amax(1, keepdim=True) / 127
        made = theirs.IntQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
        state |= {f"{stem}.{part}": tensor.contiguous() for part, tensor in made.items()}
        expected[stem] = theirs.IntQuantizationCompressor.decompress(dict(made), scheme)["weight"]
    save_file(state, folder / WEIGHTS_FILE)
    loaded = load_model_directory(folder).model.state_dict()
    assert torch.equal(loaded["layers.1.attn.k_proj.weight"], expected["model.layers.1.self_attn.k_proj"])
    assert torch.equal(loaded["layers.0.mlp.down_proj.weight"], expected["model.layers.0.mlp.down_proj"])
    # One scale for a whole matrix, as `strategy: tensor` has it.
    stem = "model.layers.1.self_attn.k_proj"
    save_file(state | {f"{stem}.weight_scale": torch.tensor([0.5])}, folder / WEIGHTS_FILE)
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["strategy"] = "tensor"
    (folder / "config.json").write_text(json.dumps(config))
    again = load_model_directory(folder).model.state_dict()["layers.1.attn.k_proj.weight"]
    assert torch.equal(again, state[f"{stem}.weight"].float() * 0.5)


def test_matrices_whose_rows_are_no_whole_groups_are_left_and_named(tmp_path: Path, small_model: Make) -> None:
    model = small_model(
        "qwen3", hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=80, vocab_size=300
    )
    folder = tmp_path / "left"
    save_model_directory(
        folder,
        model,
        ByteBPE.from_merges([], special_tokens=()),
        chat_template=None,
        lineage={},
        rounded=named("int4-g32"),
    )
    config = json.loads((folder / "config.json").read_text())
    downs = [f"model.layers.{index}.mlp.down_proj" for index in range(len(model.layers))]
    assert config["quantization_config"]["ignore"] == ["lm_head", *downs]
    assert config["dtype"] == "bfloat16"
    stored = load_file(folder / WEIGHTS_FILE)
    assert stored[f"{downs[0]}.weight"].dtype == torch.bfloat16
    assert load_model_directory(folder).lineage["weights_sha256"]


def test_shards_hold_whole_parts(tmp_path: Path, rounded: Any) -> None:
    folder, model = rounded("int4-g32", vocab_size=300)
    whole = load_model_directory(folder).model.state_dict()
    files = save_weights(folder / WEIGHTS_FILE, model, rounded=named("int4-g32"), max_shard_bytes=20_000)
    assert len(files) > 2
    again = load_model_directory(folder).model.state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in whole.items())


def test_a_family_with_transposed_matrices_is_refused(tmp_path: Path, small_model: Make) -> None:
    with pytest.raises(ModelError, match=r"gpt2 stores its matrices transposed.*such as Q8_0"):
        save_weights(tmp_path / WEIGHTS_FILE, small_model("gpt2"), rounded=named("int8"))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not numba_works(), reason="the kernels need numba")
def test_rounded_weights_that_are_fused_or_transposed_are_taken_apart(tmp_path: Path, small_model: Make) -> None:
    """GPT-2's queries, keys and values lie in one tensor, turned round; nobody is known to round it, but one could."""
    model = small_model("gpt2", hidden_size=32, num_attention_heads=2, vocab_size=300)
    folder = tmp_path / "gpt2"
    save_model_directory(folder, model, ByteBPE.from_merges([], special_tokens=()), chat_template=None, lineage={})
    state = load_file(folder / WEIGHTS_FILE)
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc"):
        weight = state.pop(f"transformer.h.1.{name}.weight")
        scale = weight.abs().amax(1, keepdim=True) / 127
        state[f"transformer.h.1.{name}.weight"] = (weight / scale).round().to(torch.int8)
        state[f"transformer.h.1.{name}.weight_scale"] = scale
    save_file(state, folder / WEIGHTS_FILE)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = write_settings(named("int8"), []) | {"format": "int-quantized"}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_model_directory(folder).model.state_dict()
    tiles = DirectoryTiles(folder, read_model_config(folder))
    for key in [key for key, tensor in loaded.items() if tensor.dim() == 2]:
        made = tiles.matrix(key)
        assert (made.rows, made.columns) == tuple(loaded[key].shape) and made.kind in tiles.kinds()
        x = np.random.default_rng(0).normal(size=(2, made.columns)).astype(np.float32)
        expected = x.astype(np.float64) @ loaded[key].double().numpy().T
        assert np.abs(multiply_tiles(x, made) - expected).max() < 1e-5 * np.abs(expected).max()
    assert not torch.equal(loaded["layers.1.attn.k_proj.weight"], model.state_dict()["layers.1.attn.k_proj.weight"])


def test_weights_that_are_not_finite_are_named(tmp_path: Path, small_model: Make) -> None:
    model = small_model("qwen3")
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight: 1 of \d+ values are infinite or NaN"):
        save_weights(tmp_path / WEIGHTS_FILE, model, rounded=named("int8"))
    assert not (tmp_path / WEIGHTS_FILE).exists()


# Foreign and damaged ones -----------------------------------------------------------------------------------------


def test_settings_are_read_back() -> None:
    for name in FORMATS:
        assert read_settings({"quantization_config": write_settings(named(name), [])}) == named(name)
    assert read_settings({}) is None and read_settings({"quantization_config": None}) is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("quant_method",), "gptq", r"quant_method = 'gptq' is not known here \(known: 'compressed-tensors'\)"),
        (("quant_method",), None, "quant_method = None"),
        (("format",), "float-quantized", "format = 'float-quantized'"),
        (("quantization_status",), "frozen", "quantization_status = 'frozen'"),
        (("config_groups",), {}, "no config_groups"),
        (("config_groups",), ["W4A16"], "no config_groups"),
        (("config_groups", "group_0", "weights"), None, "nothing about its weights"),
        (("config_groups", "group_0", "weights", "type"), "float", "type = 'float'"),
        (("config_groups", "group_0", "weights", "num_bits"), 3, "num_bits = 3"),
        (("config_groups", "group_0", "weights", "num_bits"), True, "num_bits = True"),
        (("config_groups", "group_0", "weights", "strategy"), "block", "strategy = 'block'"),
        (("config_groups", "group_0", "weights", "symmetric"), False, "symmetric = False"),
        (("config_groups", "group_0", "weights", "actorder"), "group", "actorder = 'group'"),
        (("config_groups", "group_0", "weights", "group_size"), -1, "group_size is -1"),
        (("config_groups", "group_0", "weights", "group_size"), "32", "group_size is '32'"),
        (("config_groups", "group_0", "weights", "group_size"), 10**400, "group_size is above"),
        (("kv_cache_scheme",), {"num_bits": 8}, "kv_cache_scheme = .* is not known here .known: null"),
        (("transform_config",), {"config_groups": {}}, "transform_config is not known here"),
        (("sparsity_config",), {"format": "sparse-24"}, "sparsity_config is not known here"),
    ],
)
def test_settings_that_are_not_known_are_named(path: tuple[str, ...], value: Any, message: str) -> None:
    config = {"quantization_config": write_settings(named("int4-g32"), [])}
    place: Any = config["quantization_config"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ModelError, match=message):
        read_settings(config)


def test_groups_of_modules_that_differ_are_refused() -> None:
    one, other = (write_settings(named(name), []) for name in ("int8", "int4-g32"))
    one["config_groups"]["group_1"] = other["config_groups"]["group_0"]
    with pytest.raises(ModelError, match=r"otherwise than others \(int4-g32, int8\)"):
        read_settings({"quantization_config": one})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_settings_are_read_or_refused(data: st.DataObject) -> None:
    config: Any = {"quantization_config": copy.deepcopy(write_settings(named("int4-g32"), []))}
    place, key = config, "quantization_config"
    for _ in range(data.draw(st.integers(0, 4))):
        if isinstance(place[key], dict) and place[key]:
            place, key = place[key], data.draw(st.sampled_from(sorted(place[key])))
    place[key] = data.draw(JSON)
    try:
        found = read_settings(config)
        assert found is None or found.bits in (4, 8)
    except ModelError as error:
        assert "quantization_config" in str(error)


STEM = "model.layers.1.self_attn.k_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{STEM}.weight_scale": None}, r"tensors are missing.*weight.*are unexpected"),
        ({f"{STEM}.weight_packed": None}, "belongs to weight_shape: a rounded weight is"),
        ({f"{STEM}.weight_shape": None}, "belongs to weight_packed: a rounded weight is"),
        ({f"{STEM}.weight": torch.zeros(32, 64)}, "belongs to weight, weight_packed, weight_shape"),
        ({f"{STEM}.weight_shape": torch.tensor([32])}, "no matrix of 4 bits"),
        ({f"{STEM}.weight_shape": torch.tensor([32, -64])}, "no matrix of 4 bits"),
        ({f"{STEM}.weight_shape": torch.tensor([2**62, 2**62])}, "no matrix of 4 bits"),
        ({f"{STEM}.weight_shape": torch.tensor([32.0, 64.0])}, "no matrix of 4 bits"),
        ({f"{STEM}.weight_packed": torch.zeros(32, 7, dtype=torch.int32)}, r"I32 of shape \[32, 7\]"),
        ({f"{STEM}.weight_packed": torch.zeros(32, 8, dtype=torch.int64)}, r"I64 of shape \[32, 8\]"),
        (
            {f"{STEM}.weight_scale": torch.zeros(32, 3)},
            r"scales are F32 of shape \[32, 3\], int4-g32 makes it \[32, 2\]",
        ),
        ({f"{STEM}.weight_scale": torch.zeros(32, 2, dtype=torch.int32)}, "scales are I32"),
        ({f"{STEM}.weight_scale": torch.full((32, 2), float("nan"))}, "a scale of a rounded weight is not finite"),
        ({f"{STEM}.weight_zero_point": torch.zeros(4, 2, dtype=torch.int32)}, "are unexpected .*weight_zero_point"),
        ({f"{STEM}.input_scale": torch.ones(1)}, "are unexpected .*input_scale"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: dict[str, torch.Tensor | None], message: str, rounded: Any) -> None:
    folder, _ = rounded("int4-g32", vocab_size=300)
    state = load_file(folder / WEIGHTS_FILE)
    assert state[f"{STEM}.weight_packed"].shape == (32, 8)
    for name, tensor in change.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, folder / WEIGHTS_FILE)
    config: TransformerConfig = read_model_config(folder)
    with pytest.raises(ModelError, match=message):
        load_model_directory(folder)
    with pytest.raises(ModelError, match=message):
        tiles = DirectoryTiles(folder, config)
        tiles.matrix("layers.1.attn.k_proj.weight")


def test_rounded_weights_beside_a_config_that_says_nothing_of_it(rounded: Any) -> None:
    folder, _ = rounded("int8", vocab_size=300)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="tensors are missing"):
        load_model_directory(folder)


def test_a_config_is_refused_before_weights_are_looked_for() -> None:
    with pytest.raises(ModelError, match="quant_method = 'awq'"):
        from_hf({"model_type": "groundup", "quantization_config": {"quant_method": "awq"}})
