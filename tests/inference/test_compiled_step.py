"""The compiled step beside the modules: every family, every cut of a text, every batch, threads, caches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.families import CASES, load_ours, make_theirs
from groundup.core.errors import ModelError
from groundup.core.jit import numba_works
from groundup.inference.compiled import usable_threads, why_not_compiled
from groundup.inference.generate import generate, generate_batch, generate_reference
from groundup.inference.sampling import Sampling
from groundup.model.config import DynamicScaling, TransformerConfig
from groundup.model.load import load_model
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, assemble, build
from groundup.model.weights.gguf_model import save_gguf
from groundup.model.weights.gguf_read import open_gguf
from groundup.model.weights.module_tiles import ModuleTiles
from groundup.model.weights.tile_source import GgufTiles
from groundup.tokenizer import ByteBPE

if not numba_works():
    pytest.skip("the kernels need numba", allow_module_level=True)

from groundup.inference import step as step_module
from groundup.inference.fast import FastModel
from groundup.inference.fast_tensors import FastTensors
from groundup.inference.step_numba import work

sys.path.insert(0, str(Path(__file__).parent))
from rounded_modules import RoundedModules

alone = step_module._interpret

DECODERS = [name for name, config in CASES.items() if config["model_type"] != "bert"]
# Keys keep the angles of the length that the text had when they came in, so a cut text differs, here and in the modules.
CUTTABLE = [name for name in DECODERS if "dynamic" not in name]
LENGTH = 40


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Transformer]:
    @cache
    def make(case: str) -> Transformer:
        folder: Path = tmp_path_factory.mktemp("models")
        return load_ours(make_theirs(CASES[case]), folder)

    return make


def fast(model: Transformer, **options: object) -> FastTensors:
    return FastTensors(FastModel(model.config, ModuleTiles(model.state_dict()), **options))  # type: ignore[arg-type]


def ids_of(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("case", DECODERS)
def test_every_family_gives_the_logits_of_the_modules(models: Callable[[str], Transformer], case: str) -> None:
    model = models(case)
    assert why_not_compiled(model.config) is None
    ids = ids_of(2, LENGTH)
    with torch.no_grad():
        expected = model.logits(model(ids))
    ours = fast(model)
    assert relative(ours.logits(ours(ids)), expected) < 1e-5


@pytest.mark.parametrize("case", CUTTABLE)
def test_a_token_is_the_same_bits_however_the_text_comes_in(models: Callable[[str], Transformer], case: str) -> None:
    model = fast(models(case))
    ids = ids_of(3, LENGTH)
    whole = model(ids)
    kept = model.new_cache(3, LENGTH)
    cuts = (5, 1, 13, 1, 9, 11)
    pieces = [model(piece, cache=kept) for piece in ids.split(cuts, dim=1)]
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert torch.equal(model(ids[1:2]), whole[1:2])
    assert torch.equal(model.logits(whole)[2, 7], model.logits(whole[2, 7]))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_padding_and_neighbours_change_no_bit(models: Callable[[str], Transformer], data: st.DataObject) -> None:
    model = fast(models(data.draw(st.sampled_from(CUTTABLE))))
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    width = max(lengths)
    texts = [ids_of(1, length, seed=place) for place, length in enumerate(lengths)]
    rows = torch.cat([torch.nn.functional.pad(text, (width - text.shape[1], 0)) for text in texts])
    mask = torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]
    kept = model.new_cache(len(rows), width + 3)
    first = model(rows, mask=mask, cache=kept)
    for place, text in enumerate(texts):
        assert torch.equal(first[place, width - lengths[place] :], model(text)[0])
    # Then one token of every other row.
    more = ids_of(len(rows), 1, seed=9)
    reads = torch.arange(len(rows))[:, None] % 2 == 0
    second = model(more, mask=torch.cat([mask, reads], dim=1), cache=kept)
    for place, text in enumerate(texts):
        expected = model(torch.cat([text, more[place : place + 1]], dim=1))[0, -1]
        assert torch.equal(second[place, 0], expected if place % 2 == 0 else torch.zeros_like(expected))


@pytest.mark.parametrize("case", ["gpt2", "llama", "qwen3", "gemma3"])
def test_generation_equals_the_reference_loop(models: Callable[[str], Transformer], case: str) -> None:
    model = models(case)
    ours = fast(model)
    for seed, temperature in enumerate((0.0, 0.9)):
        sampling = Sampling(temperature=temperature, max_new_tokens=20, seed=seed, repetition_penalty=1.5)
        prompt = ids_of(1, 9, seed)[0].tolist()
        expected = list(generate_reference(model, prompt, sampling))
        steps = list(generate(ours.model, prompt, sampling, prefill_chunk=4))
        assert [step.token for step in steps] == [step.token for step in expected]
        assert np.allclose([step.logprob for step in steps], [step.logprob for step in expected], atol=1e-4)
        prompts = [prompt, ids_of(1, 3, 5)[0].tolist(), ids_of(1, 14, 6)[0].tolist()]
        together = generate_batch(ours.model, prompts, sampling, pad_id=0)
        assert together == [[step.token for step in generate(ours.model, p, sampling)] for p in prompts]


@pytest.fixture
def three_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans are run by three threads of Python, however many CPUs there are; one of them comes late."""
    with ThreadPoolExecutor(3) as pool:

        def interpret(threads: int, plan: np.ndarray, counters: np.ndarray, state: np.ndarray) -> None:
            assert threads == 3
            counters[:] = 0
            arguments = (plan.ctypes.data, len(plan), counters.ctypes.data, state.ctypes.data)
            early = [pool.submit(work, *arguments, worker) for worker in range(2)]
            late = pool.submit(work, *arguments, 2)
            for worker in (*early, late):
                worker.result()

        monkeypatch.setattr(step_module, "_interpret", interpret)
        yield


@pytest.mark.parametrize("case", ["qwen3", "gemma2", "gpt2"])
def test_workers_change_no_bit(models: Callable[[str], Transformer], three_workers: None, case: str) -> None:
    model = models(case)
    ids = ids_of(4, LENGTH)
    together = fast(model, threads=3)
    found = [together.logits(together(ids)) for _ in range(20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "_interpret", alone)
        single = fast(model, threads=1)
        expected = single.logits(single(ids))
    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize("case", ["llama", "qwen2-window"])
@pytest.mark.parametrize("cache_type", ["float32", "int8"])
def test_divided_segments_change_no_bit(
    models: Callable[[str], Transformer], three_workers: None, case: str, cache_type: str
) -> None:
    """Workers share the segments of a long text; alone, a worker reads them one after the other."""
    model = with_config(models(case), models(case).config.replace(max_position_embeddings=2600))
    ids = ids_of(2, 2570)
    together = fast(model, threads=3, cache_type=cache_type)
    kept = together.new_cache(2)
    found = [together(piece, cache=kept) for piece in ids.split((2500, 1, 5, 1, 63), dim=1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "_interpret", alone)
        assert torch.equal(torch.cat(found, dim=1), fast(model, threads=1, cache_type=cache_type)(ids))


def test_the_threads_of_numba_change_no_bit(models: Callable[[str], Transformer]) -> None:
    if usable_threads(2) < 2:
        pytest.skip("one CPU, or no threading layer for kernels")
    model = models("qwen3")
    ids = ids_of(4, LENGTH)
    single, together = fast(model, threads=1), fast(model, threads=2)
    expected = single.logits(single(ids))
    for _ in range(50):
        assert torch.equal(together.logits(together(ids)), expected)


@pytest.mark.parametrize("cache_type", ["bfloat16", "int8"])
@pytest.mark.parametrize("case", ["llama", "gemma2", "qwen2-window"])
def test_small_caches_are_near_and_do_not_depend_on_cuts(
    models: Callable[[str], Transformer], case: str, cache_type: str
) -> None:
    model = models(case)
    ids = ids_of(2, LENGTH)
    ours = fast(model, cache_type=cache_type)
    whole = ours(ids)
    kept = ours.new_cache(2, LENGTH)
    assert torch.equal(torch.cat([ours(piece, cache=kept) for piece in ids.split((7, 1, 32), dim=1)], dim=1), whole)
    with torch.no_grad():
        assert 1e-6 < relative(whole, model(ids)) < 0.05


def test_long_texts_go_through_segments_and_pieces(models: Callable[[str], Transformer]) -> None:
    """Longer than a call of the plan, a segment of attention and the first tables of angles."""
    config = models("llama").config.replace(max_position_embeddings=1400)
    model = with_config(models("llama"), config)
    ids = ids_of(1, 1301)
    with torch.no_grad():
        expected = model(ids)
    ours = fast(model)
    whole = ours(ids)
    assert relative(whole, expected) < 1e-5
    kept = ours.new_cache(1)
    assert torch.equal(torch.cat([ours(piece, cache=kept) for piece in ids.split((600, 1, 700), dim=1)], dim=1), whole)


def with_config(model: Transformer, config: TransformerConfig) -> Transformer:
    other = assemble(config)
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_a_cache_is_cut_forked_and_restored(models: Callable[[str], Transformer]) -> None:
    model = fast(models("mistral"))
    ids = ids_of(2, 30)
    kept = model.new_cache(2)
    whole = model(ids, cache=kept)
    saved = kept.snapshot()
    kept.truncate(12)
    assert torch.equal(model(ids[:, 12:], cache=kept), whole[:, 12:])
    copy = kept.fork([1, 1, 0])
    more = ids_of(3, 2, seed=3)
    after = model(more, cache=copy)
    assert torch.equal(after[0], model(torch.cat([ids[1:2], more[:1]], dim=1))[0, 30:])
    assert torch.equal(after[2], model(torch.cat([ids[:1], more[2:]], dim=1))[0, 30:])
    kept.restore(saved)
    assert kept.length == 30
    kept.truncate(0)
    assert torch.equal(model(ids, cache=kept), whole)
    with pytest.raises(ModelError, match=r"cannot truncate a cache of 30 tokens to 31"):
        kept.truncate(31)
    with pytest.raises(ModelError, match=r"cannot fork rows \[2\] of a cache of 2 rows: use 0 to 1"):
        kept.fork([2])


def test_what_the_step_cannot_read_is_refused(models: Callable[[str], Transformer]) -> None:
    model = fast(models("llama"))
    with pytest.raises(ModelError, match=r"a token id is 97, this model has 0 to 96"):
        model(torch.tensor([[3, 97]]))
    with pytest.raises(ModelError, match=r"the input is 65 tokens long, this model takes 64"):
        model(ids_of(1, 65))
    with pytest.raises(ModelError, match=r"the cache holds at most 8 tokens, 9 are needed"):
        model(ids_of(1, 9), cache=model.new_cache(1, 8))
    with pytest.raises(ModelError, match="use the model itself for segments and memory"):
        model(ids_of(1, 4), segments=torch.zeros(1, 4, dtype=torch.long))


def test_weights_that_are_not_finite_are_seen(models: Callable[[str], Transformer]) -> None:
    model = models("llama")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    broken = FastTensors(FastModel(model.config, ModuleTiles(state)))
    assert not torch.isfinite(broken.logits(broken(ids_of(1, 4)))).any()


def test_embeddings_in_the_place_of_ids(models: Callable[[str], Transformer]) -> None:
    model = models("gpt2")
    ours = fast(model)
    ids = ids_of(1, 6)
    with torch.no_grad():
        assert torch.equal(ours(model.embed(ids)), ours(ids))


def test_dynamic_scaling_is_that_of_the_modules_in_every_cut(models: Callable[[str], Transformer]) -> None:
    model = models("llama-dynamic")
    assert any(
        layer.mixer.rotary is not None and isinstance(layer.mixer.rotary.scaling, DynamicScaling)  # type: ignore[union-attr]
        for layer in model.config.layers()
    )
    ours, ids = fast(model), ids_of(1, LENGTH)
    kept, theirs = ours.new_cache(1), model.new_cache(1)
    for piece in ids.split((6, 1, 20, 1, 12), dim=1):
        with torch.no_grad():
            assert relative(ours(piece, cache=kept), model(piece, cache=theirs)) < 1e-5


# Block formats --------------------------------------------------------------------------------------------------------


def _wide_model(case: str) -> Transformer:
    """A small model of one layer whose rows fill blocks of 256."""
    fields = {"num_key_value_heads": 2, "head_dim": 32} if case != "gpt2" else {}
    config = preset(
        case,
        vocab_size=256,
        hidden_size=256,
        num_hidden_layers=1,
        num_attention_heads=8,
        intermediate_size=512,
        max_position_embeddings=64,
        initializer_range=0.08,
        **fields,
    )
    return build(config, seed=3).eval()


@pytest.mark.parametrize("cache_type", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    ("case", "type"),
    [("llama3", "Q4_1"), ("llama3", "Q4_K_M"), ("qwen3", "Q8_0"), ("gpt2", "Q4_0"), ("qwen3", "Q5_0"), ("gpt2", "Q6_K"),
     ("llama3", "Q5_K_M"), ("qwen3", "BF16"), ("llama3", "F16")],
)  # fmt: skip
def test_a_gguf_file_gives_what_its_rounded_modules_give(tmp_path: Path, case: str, type: str, cache_type: str) -> None:
    save_gguf(tmp_path / "m.gguf", _wide_model(case), ByteBPE.from_merges([], special_tokens=()), type=type)
    with open_gguf(tmp_path / "m.gguf") as file:
        weights = GgufTiles(file)
    model = load_model(tmp_path / "m.gguf").model
    reference = RoundedModules(model, cache_type, rounds_activations=type not in ("BF16", "F16"))
    step = FastTensors(FastModel(weights.config, weights, cache_type=cache_type))
    ids = ids_of(
        60, 2
    )  # short: where a value lies between two codes, the last bit decides, for all tokens after it too
    expected = reference.logits(reference(ids))
    apart = (step.logits(step(ids)) - expected).abs().amax(-1) / expected.abs().max()
    assert float((apart < 1e-5).double().mean()) > 0.6
    assert float(apart.max()) < 0.05  # as far as rounding itself moves them


def test_a_thousand_generations_do_not_grow(models: Callable[[str], Transformer]) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("this platform does not tell how much memory is in use")
    model = fast(models("llama")).model
    sampling = Sampling(temperature=0.0, max_new_tokens=8)

    def generations(count: int) -> int:
        for seed in range(count):
            list(generate(model, ids_of(1, 1 + seed % 40, seed)[0].tolist(), sampling))
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = generations(100)
    assert generations(1000) - before < 2 << 20


def test_two_threads_of_python_do_not_mix(models: Callable[[str], Transformer]) -> None:
    model = fast(models("llama"))
    texts = [ids_of(1, 30, seed) for seed in range(4)]
    expected = [model.logits(model(text)) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            found = list(pool.map(lambda text: model.logits(model(text)), texts))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
