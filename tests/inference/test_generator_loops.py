"""The reference loop and the cached loop give the same steps."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from groundup.core.errors import ModelError, UsageError
from groundup.inference.contracts import LanguageModel
from groundup.inference.generate import generate, generate_reference
from groundup.inference.request import Request
from groundup.inference.sampling import Sampling

SETTINGS = [
    Sampling(temperature=0, max_new_tokens=10),
    Sampling(temperature=0, max_new_tokens=10, repetition_penalty=1.5),
    Sampling(max_new_tokens=10, seed=1),
    Sampling(temperature=0.7, top_k=9, top_p=0.9, min_p=0.05, repetition_penalty=1.2, max_new_tokens=10, seed=2),
]


def random_prompt(seed: int, length: int | None = None) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(61) for _ in range(length or source.randint(1, 20))]


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize("seed", range(2))
def test_cached_steps_equal_reference_steps(tiny, family: str, sampling: Sampling, seed: int) -> None:
    model, prompt = tiny(family, seed), random_prompt(seed)
    expected = list(generate_reference(model, prompt, sampling, num_top=3))
    assert len(expected) == 10 and expected[-1].finish_reason == "length"
    for chunk in (None, 1, 5):
        steps = list(generate(model, prompt, sampling, num_top=3, prefill_chunk=chunk))
        assert [step.token for step in steps] == [step.token for step in expected]
        assert [step.finish_reason for step in steps] == [step.finish_reason for step in expected]
        for step, other in zip(steps, expected, strict=True):
            assert step.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [token for token, _ in step.top] == [token for token, _ in other.top]


def test_log_probabilities_are_those_of_the_unmodified_model(tiny, family: str) -> None:
    model, prompt = tiny(family, 4), random_prompt(4)
    sampling = Sampling(temperature=0.5, top_k=4, repetition_penalty=1.4, max_new_tokens=12, seed=3)
    steps = list(generate(model, prompt, sampling, num_top=61))
    ids = torch.tensor([prompt + [step.token for step in steps]])
    with torch.no_grad():
        logprobs = model.logits(model(ids)).log_softmax(-1)[0, len(prompt) - 1 : -1]
    for step, row in zip(steps, logprobs, strict=True):
        assert step.logprob == pytest.approx(float(row[step.token]), abs=1e-4)
        assert sum(math.exp(value) for _, value in step.top) == pytest.approx(1, abs=1e-4)
        assert step.top[0][1] == max(value for _, value in step.top)


def test_a_stop_token_ends_and_is_the_last_step(tiny) -> None:
    model, prompt = tiny("qwen3", 1), random_prompt(1)
    free = [step.token for step in generate(model, prompt, Sampling(temperature=0, max_new_tokens=12))]
    stop = free[5]
    for loop in (generate, generate_reference):
        steps = list(loop(model, prompt, Sampling(temperature=0, max_new_tokens=12), stop_ids=[stop]))
        assert [step.token for step in steps] == free[: free.index(stop) + 1]
        assert steps[-1].finish_reason == "stop_token"
        assert all(step.finish_reason is None for step in steps[:-1])


@pytest.mark.parametrize("length", [40, 47, 48])
def test_generation_ends_where_the_model_can_read_no_more(tiny, family: str, length: int) -> None:
    model, prompt = tiny(family, 2), random_prompt(2, length)
    for loop in (generate, generate_reference):
        steps = list(loop(model, prompt, Sampling(max_new_tokens=100, seed=5)))
        # The last token is predicted from all 48 positions.
        assert len(steps) == 48 - length + 1
        assert steps[-1].finish_reason == "context"
    exact = list(generate(model, prompt, Sampling(max_new_tokens=48 - length + 1, seed=5)))
    assert exact[-1].finish_reason == "length"


def test_a_cache_that_holds_the_beginning_is_read_on_from(tiny, family: str) -> None:
    model, prompt = tiny(family, 3), random_prompt(3, 15)
    sampling = Sampling(max_new_tokens=8, seed=9)
    expected = [step.token for step in generate(model, prompt, sampling)]
    cache = model.new_cache(1)
    first = list(generate(model, prompt, Sampling(temperature=0, max_new_tokens=5), cache=cache))
    assert len(first) == 5 and cache.length == len(prompt) + 4
    cache.truncate(9)
    assert [step.token for step in generate(model, prompt, sampling, cache=cache)] == expected
    with pytest.raises(UsageError, match=r"holds 22 tokens of a prompt of 15: truncate it to at most 14"):
        generate(model, prompt, sampling, cache=cache)


def test_only_what_is_new_passes_through_the_model(tiny) -> None:
    model, prompt = tiny("llama3", 3), random_prompt(3, 10)
    sizes: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(args[0].shape[1]), with_kwargs=True
    )
    list(generate(model, prompt, Sampling(max_new_tokens=4)))
    list(generate(model, prompt, Sampling(max_new_tokens=2), prefill_chunk=4))
    list(generate_reference(model, prompt, Sampling(max_new_tokens=3)))
    handle.remove()
    assert sizes == [10, 1, 1, 1, 4, 4, 2, 1, 10, 11, 12]


def test_a_suspended_generator_leaves_gradients_modes_and_randomness_alone(tiny) -> None:
    model = tiny("gpt2", 5)
    model.train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    steps = generate(model, [1, 2, 3], Sampling(max_new_tokens=5))
    next(steps)
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    model.logits(model(torch.tensor([[1, 2, 3]]))).sum().backward()
    state = torch.get_rng_state()
    next(steps)
    steps.close()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(state, torch.get_rng_state())


def test_the_model_fits_the_contract(tiny) -> None:
    assert isinstance(tiny(), LanguageModel)


@pytest.mark.parametrize(
    ("prompt", "options", "part"),
    [
        ([], {}, "the prompt is empty"),
        ([1] * 49, {}, "has 49 tokens and the model reads at most 48"),
        ([1, 61], {}, "holds the id 61, the model knows 0 to 60"),
        ([1, -2], {}, "holds the id -2"),
        ([1], {"stop": ("x",)}, r"stop strings \['x'\] need text"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_at_the_call(tiny, prompt: list[int], options: dict, part: str) -> None:
    for loop in (generate, generate_reference):
        with pytest.raises(UsageError, match=part):
            loop(tiny(), prompt, Sampling(**options))
    with pytest.raises(UsageError, match=r"prefill_chunk \(0\)"):
        generate(tiny(), [1], Sampling(), prefill_chunk=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_an_error_and_not_a_token(tiny, temperature: float) -> None:
    request = Request(tiny(), [1, 2], Sampling(temperature=temperature))
    logits = np.zeros(61, np.float32)
    logits[7:10] = np.nan
    with pytest.raises(ModelError, match="3 of 61 logits after 2 tokens"):
        request.advance(logits)
