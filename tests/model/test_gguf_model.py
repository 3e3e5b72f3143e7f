"""Models to GGUF and back, and in llama.cpp: the same logits, the same bytes where it quantises, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundup.core.errors import ModelError
from groundup.model.config import Llama3Scaling, PoolingConfig, TransformerConfig
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build
from groundup.model.weights.gguf_config import _llama3_scaling, config_from_gguf, config_to_gguf, llama3_factors
from groundup.model.weights.gguf_contents import read_gguf_config
from groundup.model.weights.gguf_format import Typed
from groundup.model.weights.gguf_mix import MIXES, mix_named, tensor_format
from groundup.model.weights.gguf_model import load_gguf_weights, save_gguf
from groundup.model.weights.gguf_read import open_gguf
from groundup.tokenizer import ByteBPE, train_bpe

SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
ENDS = {"bos_token_id": 256, "eos_token_id": 257}
LLAMA3_ROPE = {"kind": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
YARN = {"kind": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-untied": ("gpt2", {"tie_word_embeddings": False}),
    "llama": ("llama3", {"num_key_value_heads": 2}),
    "llama-biases-untied": ("llama3", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "llama-3.1": ("llama3", {"rope_scaling": LLAMA3_ROPE, "head_dim": 32}),
    "llama-linear": ("llama3", {"rope_scaling": {"kind": "linear", "factor": 4.0}}),
    "mistral-no-window": ("mistral", {"sliding_window": None, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen2-yarn": ("qwen2", {"rope_scaling": YARN, "max_position_embeddings": 128, "rope_theta": 1e4}),
    "llama-yarn-factor": (
        "llama3",
        {"rope_scaling": {**YARN, "attention_factor": 2.0}, "max_position_embeddings": 128},
    ),
    "llama-yarn-one": ("llama3", {"rope_scaling": {**YARN, "attention_factor": 1.0}, "max_position_embeddings": 128}),
    "llama-3-short": ("llama3", {"rope_scaling": {**LLAMA3_ROPE, "original_max_position_embeddings": 64}}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 32}),
    "gemma2": ("gemma2", {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}),
    "gemma3": (
        "gemma3",
        {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 5, "num_key_value_heads": 2}),
    "olmo2": ("olmo2", {"num_key_value_heads": 2}),
    "olmo2-tied": ("olmo2", {"tie_word_embeddings": True}),
}


@pytest.fixture(scope="session")
def tokenizer() -> ByteBPE:
    """256 bytes, three special tokens and 38 merges: 297 ids."""
    text = "the quick brown fox jumps over the lazy dog and then the dog sleeps in the sun " * 20
    return train_bpe([text], 297, special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


def made(case: str, tokenizer: ByteBPE, **changes: Any) -> Transformer:
    """A model of the case with weights large enough that every part matters, and more ids than the tokenizer has."""
    name, fields = CASES[case]
    fields = {"max_position_embeddings": 64, "vocab_size": 320, "initializer_range": 0.15, **SMALL, **fields, **changes}
    fields |= {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    model = build(preset(name, **fields), seed=3).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def ids_of(model: Transformer, count: int = 48) -> Tensor:
    return torch.randint(250, (1, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", CASES)
def test_a_float32_file_gives_the_same_model_back(case: str, tokenizer: ByteBPE, tmp_path: Path) -> None:
    model = made(case, tokenizer)
    formats = save_gguf(tmp_path / "m.gguf", model, tokenizer, type="F32")
    assert set(formats.values()) == {"F32"}
    with open_gguf(tmp_path / "m.gguf") as file:
        again = load_gguf_weights(file)
    assert same_but_head(again.config, model.config)
    text = ids_of(model)
    with torch.no_grad():
        assert torch.equal(again.logits(again(text)), model.logits(model(text)))


def same_but_head(got: TransformerConfig, expected: TransformerConfig) -> bool:
    """Equal, but for what a file does not say: initializer_range, ids of roles without a token, a tied OLMo 2."""
    unsaid = {"initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"}
    first, second = (
        {key: value for key, value in c.model_copy(update={"stack": c.layers()}) if key not in unsaid}
        for c in (got, expected)
    )
    return first == second


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_computes_the_same(case: str, tokenizer: ByteBPE, tmp_path: Path) -> None:
    peer = llama_cpp_peer()
    model = made(case, tokenizer)
    path = tmp_path / "m.gguf"
    save_gguf(path, model, tokenizer, type="F32")
    text = ids_of(model)
    theirs = peer.logits(path, text[0].tolist(), context=64, threads=1)
    with torch.no_grad():
        ours = model.logits(model(text))[0].numpy()
    # llama.cpp looks its GELU up in a table of float16, which has 11 bits.
    tolerance = 2e-3 if case.startswith(("gpt2", "gemma")) else 2e-5
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def llama_cpp_peer() -> Any:
    pytest.importorskip("llama_cpp", reason="needs llama.cpp: make oracles")
    from benchmarks import llama_cpp_peer

    return llama_cpp_peer


def test_a_sentence_encoder_in_llama_cpp(tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama.cpp: make oracles")
    llama_cpp_peer()
    from groundup.inference.embed import embed_texts
    from groundup.model.load import load_model
    from groundup.model.sources import MissingModelError

    try:
        loaded = load_model("minilm")
    except MissingModelError as error:
        pytest.skip(str(error))
    save_gguf(tmp_path / "minilm.gguf", loaded.model, loaded.tokenizer, type="F32")
    texts = ["The cat sat on the mat.", "Kittens rest on rugs", "Naïve café, déjà vu"]
    peer = llama_cpp.Llama(str(tmp_path / "minilm.gguf"), embedding=True, n_ctx=128, n_threads=1, verbose=False)
    theirs = np.array([peer.embed(text, normalize=True) for text in texts])
    peer.close()
    ours = embed_texts(loaded.model, loaded.tokenizer, texts).numpy()
    # llama.cpp's GELU is the tanh approximation, and looked up in float16.
    assert np.abs(ours - theirs).max() < 5e-3
    again = load_model(tmp_path / "minilm.gguf")
    assert torch.equal(embed_texts(again.model, again.tokenizer, texts), torch.from_numpy(ours))


@pytest.mark.parametrize("width", [256, 576])
@pytest.mark.parametrize("mix", [name for name in MIXES if name != "F32"])
def test_the_same_bytes_as_llama_cpps_quantiser(mix: str, width: int, tokenizer: ByteBPE, tmp_path: Path) -> None:
    peer = llama_cpp_peer()
    heads = {256: 4, 576: 9}[width]
    shape = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": 9, "intermediate_size": 2 * width}
    model = made("llama", tokenizer, **shape, num_key_value_heads=1, initializer_range=0.02)
    formats = save_gguf(tmp_path / "ours.gguf", model, tokenizer, type=mix)
    save_gguf(tmp_path / "whole.gguf", model, tokenizer, type="F32", name="ours")
    peer.quantize(tmp_path / "whole.gguf", tmp_path / "theirs.gguf", mix, threads=1)
    with open_gguf(tmp_path / "ours.gguf") as ours, open_gguf(tmp_path / "theirs.gguf") as theirs:
        assert {name: tensor.format for name, tensor in theirs.tensors.items()} == formats
        for name in formats:
            assert np.array_equal(ours.raw(name), theirs.raw(name)), name
        for key, value in ours.metadata.items():
            assert np.array_equal(value, theirs.metadata[key]), key


@pytest.mark.parametrize("case", ["llama", "qwen2"])
@pytest.mark.parametrize("mix", ["Q4_K_M", "Q4_K_S"])
def test_the_same_formats_as_llama_cpp_in_eighty_layers(
    case: str, mix: str, tokenizer: ByteBPE, tmp_path: Path
) -> None:
    """What it takes for Llama 70B or Qwen 2 72B gets more bits for the values that many heads share."""
    peer = llama_cpp_peer()
    shape = {"hidden_size": 256, "num_attention_heads": 2, "num_hidden_layers": 80, "intermediate_size": 256}
    model = made(case, tokenizer, **shape, num_key_value_heads=1, head_dim=128, initializer_range=0.02)
    formats = save_gguf(tmp_path / "ours.gguf", model, tokenizer, type=mix)
    save_gguf(tmp_path / "whole.gguf", model, tokenizer, type="F16")
    peer.quantize(tmp_path / "whole.gguf", tmp_path / "theirs.gguf", mix, threads=1)
    with open_gguf(tmp_path / "theirs.gguf") as theirs:
        assert {name: tensor.format for name, tensor in theirs.tensors.items()} == formats
    assert {formats[f"blk.{index}.attn_v.weight"] for index in range(80)} == {"Q5_K", "Q6_K"} - (
        {"Q6_K"} if mix == "Q4_K_S" else set()
    )


def test_mixes_give_more_bits_where_it_matters() -> None:
    mix = mix_named("q4_k_m")

    def of(name: str, *shape: int, has_output: bool = True) -> str:
        return tensor_format(mix, name, shape, num_layers=16, has_output=has_output)

    assert of("token_embd.weight", 1000, 256) == "Q4_K"
    assert of("token_embd.weight", 1000, 256, has_output=False) == "Q6_K"
    assert of("token_embd.weight", 1000, 576, has_output=False) == "Q8_0"
    assert of("output.weight", 1000, 256) == "Q6_K"
    assert [of(f"blk.{i}.ffn_down.weight", 256, 512) for i in (0, 2, 4, 15)] == ["Q6_K", "Q4_K", "Q6_K", "Q6_K"]
    assert of("blk.2.ffn_up.weight", 512, 576) == "Q5_0", "a row that is no multiple of 256"
    assert of("blk.2.ffn_up.weight", 512, 40) == "F16", "nor of 32"
    assert of("blk.0.attn_norm.weight", 256) == "F32"
    assert of("blk.0.attn_q.bias", 256) == "F32"
    assert of("position_embd.weight", 64, 256) == "F32"


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llama", {"hidden_act": "gelu"}, "llama has the activation silu, this model gelu"),
        (
            "llama",
            {"rope_scaling": {"kind": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32}},
            "no dynamic",
        ),
        ("qwen2", {"head_dim": 32}, r"heads of hidden_size / num_attention_heads \(64 / 4\), this model of 32"),
        ("qwen3", {"attention_bias": True}, "qwen3 has no bias of the attention's output"),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1, 1]}, "turns all layers but every fourth"),
        ("gemma2", {"query_pre_attn_scalar": 20}, "by the root of 16, this model by that of 20"),
        ("gemma2", {"attn_logit_softcapping": None}, "gemma2 needs attn_logit_softcapping"),
        ("gemma2", {"tie_word_embeddings": False}, "gemma2 has tied embeddings"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    case: str, changes: dict[str, Any], message: str, tokenizer: ByteBPE, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        save_gguf(tmp_path / "m.gguf", made(case, tokenizer, **changes), tokenizer, type="F32")
    assert not list(tmp_path.iterdir())


def test_a_composition_of_no_architecture_is_refused(tokenizer: ByteBPE, tmp_path: Path) -> None:
    config = made("llama", tokenizer).config.with_layers(lambda layer: layer.replace(placement="post"))
    with pytest.raises(ModelError, match=r"none of the architectures that can be written as GGUF \(llama, qwen2,"):
        save_gguf(tmp_path / "m.gguf", build(config), tokenizer, type="F32")


def test_weights_that_are_not_finite_are_refused(tokenizer: ByteBPE, tmp_path: Path) -> None:
    model = made("llama", tokenizer)
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight: 1 "):
        save_gguf(tmp_path / "m.gguf", model, tokenizer, type="Q8_0")
    assert not list(tmp_path.iterdir())


def test_a_window_that_llama_cpp_lacks_is_said(
    tokenizer: ByteBPE, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_gguf(tmp_path / "m.gguf", made("mistral-no-window", tokenizer, sliding_window=16), tokenizer, type="F32")
    assert "past the window of 16 tokens" in caplog.text


def test_an_unknown_type_suggests_the_nearest(tokenizer: ByteBPE, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no GGUF type named 'Q4_K_L' \(did you mean 'Q4_K_[MS]'"):
        save_gguf(tmp_path / "m.gguf", made("llama", tokenizer), tokenizer, type="Q4_K_L")


def test_files_that_describe_no_model_here(tokenizer: ByteBPE, tmp_path: Path) -> None:
    from groundup.model.weights.gguf_write import TensorSource, write_gguf

    save_gguf(tmp_path / "good.gguf", made("llama", tokenizer), tokenizer, type="F32")
    with open_gguf(tmp_path / "good.gguf") as good:
        typed = dict(good.typed)
        tensors = [TensorSource(t.name, t.shape, t.format, lambda t=t: good.raw(t.name)) for t in good.tensors.values()]

        def changed(drop: str = "", only: int | None = None, **metadata: Typed) -> Path:
            values = {
                k: v for k, v in {**typed, **{f"general.{a}": b for a, b in metadata.items()}}.items() if k != drop
            }
            write_gguf(tmp_path / "bad.gguf", values, tensors if only is None else tensors[:only])
            return tmp_path / "bad.gguf"

        with pytest.raises(
            ModelError, match=r"bad\.gguf: general\.architecture 'mamba' is not known here \(known: llama"
        ):
            read_gguf_config(changed(architecture=Typed("string", "mamba")))
        with pytest.raises(ModelError, match=r"lack llama\.embedding_length"):
            read_gguf_config(changed(drop="llama.embedding_length"))
        with pytest.raises(ModelError, match=r"tensors are missing \(blk\."), open_gguf(changed(only=9)) as file:
            load_gguf_weights(file)
        with pytest.raises(ModelError, match=r"no tensor token_embd\.weight"):
            read_gguf_config(changed(only=0))


RAMPS = st.builds(
    Llama3Scaling,
    factor=st.floats(1.5, 64),
    low_freq_factor=st.floats(0.5, 1.9),
    high_freq_factor=st.floats(2, 8),
    original_max_position_embeddings=st.integers(32, 1 << 17),
)


@settings(max_examples=200, deadline=None)
@given(scaling=RAMPS, head_dim=st.sampled_from([8, 16, 64, 80, 128]), theta=st.sampled_from([1e4, 5e5]))
def test_a_scaling_is_read_off_its_factors(scaling: Llama3Scaling, head_dim: int, theta: float) -> None:
    """A file holds the factors alone; whatever scaling is read must give them again."""
    factors = llama3_factors(scaling, head_dim, theta)
    assume(factors.max() > scaling.factor * (1 - 1e-6))  # else the file does not say the factor
    read = _llama3_scaling(factors.astype(np.float64), theta)
    assert np.allclose(llama3_factors(read, head_dim, theta), factors, rtol=1e-4)


def test_factors_that_are_no_scaling_are_refused() -> None:
    for factors, message in (
        (np.array([]), "holds 0 factors"),
        (np.array([1.0, np.nan]), "numbers of at least 1"),
        (np.array([0.5, 1.0]), "numbers of at least 1"),
        (np.array([1.0, 3.0, 1.0, 9.0, 2.0]), "does not give"),
    ):
        with pytest.raises(ModelError, match=message):
            _llama3_scaling(factors, 1e4)


ODD = [
    Typed("[string]", ["a"]),
    Typed("[f32]", np.array([1.5, 2.5], np.float32)),
    Typed("[i32]", np.array([], np.int32)),
    Typed("string", "x"),
    Typed("bool", True),
    Typed("f32", float("nan")),
    Typed("i32", -1),
    Typed("u64", 2**63),
    Typed("[array]", [Typed("[u8]", [1])]),
]


@pytest.mark.parametrize("case", ["llama-3.1", "qwen2-yarn", "gemma2", "gemma3", "gpt2", "smollm3", "bert"])
def test_metadata_of_another_kind_are_typed_errors(case: str, tokenizer: ByteBPE, tmp_path: Path) -> None:
    """Every key of every architecture gets values that do not fit: an error that names the key, or a model."""
    if case == "bert":
        config = preset("bert", **SMALL, vocab_size=320, max_position_embeddings=64, pooling=PoolingConfig())
    else:
        config = made(case, tokenizer).config
    _, typed, factors = config_to_gguf(config)
    metadata = {key: value.value for key, value in typed.items()}
    shapes = {"token_embd.weight": (320, 64), "output.weight": (320, 64)}
    name = metadata["general.architecture"]
    extra = ["rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor", "expert_count", "pooling_type"]
    extra += ["attention.sliding_window", "attention.sliding_window_pattern", "final_logit_softcapping"]
    keys = {*metadata, *(f"{name}.{key}" for key in extra), *(f"tokenizer.ggml.{r}_token_id" for r in ("bos", "eot"))}
    for key in sorted(keys):
        for value in (plain(one) for one in ODD):
            try:
                config_from_gguf({**metadata, key: value}, shapes, factors)
            except ModelError as error:
                assert len(str(error)) < 600, error


def plain(typed: Typed) -> Any:
    return [plain(one) for one in typed.value] if typed.type == "[array]" else typed.value


def test_an_id_that_no_token_has_is_left_out(tokenizer: ByteBPE, caplog: pytest.LogCaptureFixture) -> None:
    """Converters write -1, for "none", as the largest u32; llama.cpp passes over it."""
    _, typed, _ = config_to_gguf(made("llama", tokenizer).config)
    metadata = {key: value.value for key, value in typed.items()} | {"tokenizer.ggml.padding_token_id": 2**32 - 1}
    config = config_from_gguf(metadata, {"token_embd.weight": (320, 64)})
    assert config.pad_token_id is None and "padding_token_id is 4294967295" in caplog.text
