"""The filters against transformers' logits processors, and the draw against its own distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from groundup.core.errors import ConfigError
from groundup.inference.sampling import (
    Sampling,
    choose_token,
    filter_logits,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    sampling_generator,
    scale_temperature,
)

seeds = st.integers(0, 2**31)


def random_case(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows, vocab = 3, int(torch.randint(2, 60, (), generator=generator))
    logits = torch.randn(rows, vocab, generator=generator) * 4
    ids = torch.randint(0, vocab, (rows, 7), generator=generator)
    seen = torch.zeros(rows, vocab, dtype=torch.bool).scatter(1, ids, True)
    return logits, ids, seen


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.05, 5), st.integers(1, 70), st.floats(0.01, 0.999), st.floats(0.0, 1.0), st.floats(0.3, 3))
def test_each_filter_equals_transformers(
    seed: int, temperature: float, k: int, p: float, min_p: float, penalty: float
) -> None:
    logits, ids, seen = random_case(seed)
    torch.testing.assert_close(
        penalize_repetition(logits, seen, penalty), RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    )
    torch.testing.assert_close(
        scale_temperature(logits, temperature), TemperatureLogitsWarper(temperature)(ids, logits)
    )
    assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(ids, logits))
    assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(ids, logits))
    assert torch.equal(keep_min_p(logits, min_p), MinPLogitsWarper(min_p)(ids, logits))


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.2, 3), st.integers(1, 30), st.floats(0.2, 0.99), st.floats(0.0, 0.3), st.floats(0.5, 2))
def test_all_filters_together_in_the_order_of_transformers(
    seed: int, temperature: float, k: int, p: float, min_p: float, penalty: float
) -> None:
    logits, ids, seen = random_case(seed)
    logits = logits.double()
    sampling = Sampling(temperature=temperature, top_k=k, top_p=p, min_p=min_p, repetition_penalty=penalty)
    theirs = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(penalty),
            TemperatureLogitsWarper(temperature),
            TopKLogitsWarper(k),
            TopPLogitsWarper(p),
            MinPLogitsWarper(min_p),
        ]
    )(ids, logits.clone())
    torch.testing.assert_close(filter_logits(logits, sampling, seen).softmax(-1), theirs.softmax(-1))


def test_top_k_keeps_ties_and_top_p_keeps_one() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0]])
    assert keep_top_k(logits, 1).isfinite().tolist() == [[True, True, False]]
    assert keep_top_p(logits, 1e-9).isfinite().sum() == 1
    assert keep_min_p(logits, 1.0).isfinite().tolist() == [[True, True, False]]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, float("-inf"), -1.0])
    probs = logits.softmax(-1)
    generator, seen = sampling_generator(5), torch.zeros(5, dtype=torch.bool)
    count = 4_000
    drawn = torch.bincount(
        torch.tensor([choose_token(logits, Sampling(), seen, generator) for _ in range(count)]), minlength=5
    )
    # Five standard deviations of each count.
    slack = 5 * (count * probs * (1 - probs)).sqrt()
    assert ((drawn - count * probs).abs() <= slack).all()
    assert drawn[3] == 0


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 40), st.floats(1e-300, 10))
def test_a_token_of_probability_zero_is_never_drawn(seed: int, k: int, temperature: float) -> None:
    logits = random_case(seed)[0][0]
    seen = torch.zeros(len(logits), dtype=torch.bool)
    token = choose_token(logits, Sampling(top_k=k, temperature=temperature), seen, sampling_generator(seed))
    assert token in logits.topk(min(k, len(logits))).indices.tolist()


def test_drawing_leaves_the_global_generator_alone_and_repeats() -> None:
    logits, seen = torch.randn(50, generator=torch.Generator().manual_seed(1)), torch.zeros(50, dtype=torch.bool)
    before = torch.get_rng_state()
    first = [
        choose_token(logits, Sampling(), seen, generator) for generator in [sampling_generator(7)] for _ in range(9)
    ]
    again = [
        choose_token(logits, Sampling(), seen, generator) for generator in [sampling_generator(7)] for _ in range(9)
    ]
    other = [
        choose_token(logits, Sampling(), seen, generator) for generator in [sampling_generator(8)] for _ in range(9)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert first == again != other


def test_greedy_takes_the_lowest_of_equals_and_ignores_the_filters() -> None:
    seen = torch.tensor([False, True, False])
    logits = torch.tensor([1.0, 1.5, 1.0])
    assert choose_token(logits, Sampling(temperature=0), seen, sampling_generator(0)) == 1
    assert choose_token(logits, Sampling(temperature=0, top_k=1, min_p=1.0), seen, sampling_generator(0)) == 1
    assert choose_token(logits, Sampling(temperature=0, repetition_penalty=2.0), seen, sampling_generator(0)) == 0


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("temperature", -0.5, "got -0.5"),
        ("temperature", float("nan"), "temperature"),
        ("temperature", float("inf"), "got inf"),
        ("top_k", -1, "got -1"),
        ("top_p", 0.0, "got 0.0"),
        ("top_p", 1.5, "got 1.5"),
        ("min_p", 1.5, "got 1.5"),
        ("repetition_penalty", 0.0, "got 0.0"),
        ("max_new_tokens", 0, "got 0"),
        ("stop", ("x", ""), "empty text"),
        ("top_q", 1, "did you mean 'top_p'"),
    ],
)
def test_settings_that_cannot_be_are_refused(field: str, value: object, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        Sampling(**{field: value})


def test_settings_go_to_json_and_back() -> None:
    sampling = Sampling(temperature=0.7, stop=("\n\n", "User:"), seed=3, top_k=5)
    assert Sampling.from_json(sampling.to_json()) == sampling
