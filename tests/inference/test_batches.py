"""Rows of a batch equal their runs alone."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.inference.generate import complete_batch, generate, generate_batch, stream_batch
from groundup.inference.sampling import Sampling

PAD = 60


def random_prompts(seed: int, count: int, longest: int = 20) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(61) for _ in range(source.randint(1, longest))] for _ in range(count)]


def alone(model, prompt: list[int], sampling: Sampling, **options) -> list[int]:
    return [step.token for step in generate(model, prompt, sampling, **options)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_each_row_equals_its_run_alone(tiny, family: str, temperature: float, seed: int) -> None:
    model, prompts = tiny(family, seed), random_prompts(seed, 6)
    sampling = Sampling(temperature=temperature, max_new_tokens=10, seed=seed, repetition_penalty=1.1)
    stops = [3, 17, 29, 41, 50]
    rows = complete_batch(model, prompts, sampling, stop_ids=stops, pad_id=PAD)
    for prompt, row in zip(prompts, rows, strict=True):
        expected = list(generate(model, prompt, sampling, stop_ids=stops))
        assert row.tokens == [step.token for step in expected]
        assert row.finish_reason == expected[-1].finish_reason
        assert [step.logprob for step in row.steps] == pytest.approx([step.logprob for step in expected], abs=1e-4)


def test_logits_of_a_padded_row_equal_the_row_alone(tiny, family: str) -> None:
    model, prompts = tiny(family, 7), random_prompts(7, 5)
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
    with torch.no_grad():
        together = model.logits(model(ids, mask=mask)[:, -1:])[:, 0]
        for prompt, row in zip(prompts, together, strict=True):
            single = model.logits(model(torch.tensor([prompt]))[:, -1:])[0, 0]
            assert (row - single).abs().max() <= 1e-5 * single.abs().max()


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 7), split=st.integers(1, 6))
def test_a_sample_does_not_depend_on_its_batch(tiny, seed: int, count: int, split: int) -> None:
    model, prompts = tiny("qwen3", 0), random_prompts(seed, count)
    sampling = Sampling(max_new_tokens=6)
    seeds = list(range(seed, seed + count))
    together = generate_batch(model, prompts, sampling, pad_id=PAD, seeds=seeds)
    parts = [
        generate_batch(model, prompts[part], sampling, pad_id=0, seeds=seeds[part])
        for part in (slice(0, split), slice(split, None))
    ]
    assert together == parts[0] + parts[1]


def test_seeds_tell_equal_prompts_apart(tiny) -> None:
    model, prompt = tiny(), [5, 6, 7]
    same = generate_batch(model, [prompt] * 3, Sampling(max_new_tokens=10, seed=4), pad_id=PAD)
    assert same[0] == same[1] == same[2] == alone(model, prompt, Sampling(max_new_tokens=10, seed=4))
    different = generate_batch(model, [prompt] * 3, Sampling(max_new_tokens=10), pad_id=PAD, seeds=[1, 2, 3])
    assert len({tuple(row) for row in different}) == 3
    with pytest.raises(UsageError, match="2 seeds for 3 prompts"):
        generate_batch(model, [prompt] * 3, Sampling(), pad_id=PAD, seeds=[1, 2])


def test_a_short_row_goes_on_after_a_long_one_fills_the_context(tiny, family: str) -> None:
    model, prompts = tiny(family, 1), [[7] * 25, [9] * 47, [8] * 39, [6] * 48]
    sampling = Sampling(max_new_tokens=200, seed=2)
    rows = complete_batch(model, prompts, sampling, pad_id=PAD)
    for prompt, row in zip(prompts, rows, strict=True):
        assert row.finish_reason == "context" and len(row.tokens) == 48 - len(prompt) + 1
        assert row.tokens == alone(model, prompt, sampling)


def test_finished_rows_are_dropped_once_half_are_done(tiny) -> None:
    model, prompts = tiny("llama3", 2), [[1, 2], [3], [4, 5, 6], [7]]
    sampling = Sampling(temperature=0, max_new_tokens=12)
    batch_sizes: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: batch_sizes.append(args[0].shape[0]), with_kwargs=True
    )
    limits = [2, 5, 3, 9]
    rows = [0] * 4

    def should_stop(row: int, step: object) -> bool:
        rows[row] += 1
        return rows[row] == limits[row]

    completions = complete_batch(model, prompts, sampling, pad_id=PAD, should_stop=should_stop)
    handle.remove()
    assert [len(completion.tokens) for completion in completions] == limits
    assert all(completion.finish_reason == "stop_string" for completion in completions)
    # Two of four are done after step 3, one of two after step 5; the last row ends at step 9.
    assert batch_sizes == [4, 4, 4, 2, 2, 1, 1, 1, 1]
    for prompt, completion in zip(prompts, completions, strict=True):
        assert completion.tokens == alone(model, prompt, sampling)[: len(completion.tokens)]


def test_steps_come_row_by_row_and_an_empty_batch_is_empty(tiny) -> None:
    model = tiny()
    order = [row for row, _ in stream_batch(model, [[1], [2], [3]], Sampling(max_new_tokens=2), pad_id=PAD)]
    assert order == [0, 1, 2, 0, 1, 2]
    assert generate_batch(model, [], Sampling(), pad_id=PAD) == []
    with pytest.raises(UsageError, match="the prompt is empty"):
        generate_batch(model, [[1], []], Sampling(), pad_id=PAD)
