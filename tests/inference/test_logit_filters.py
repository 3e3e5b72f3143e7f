"""The filters against transformers' logits processors, and the draw against its own distribution."""

from __future__ import annotations

import numpy as np
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
from groundup.core.seeds import seed_for
from groundup.inference.sampling import (
    Sampling,
    UniformGenerator,
    choose_token,
    draw,
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
    own = logits.numpy()
    torch.testing.assert_close(
        torch.from_numpy(penalize_repetition(own, seen.numpy(), penalty)),
        RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone()),
    )
    torch.testing.assert_close(
        torch.from_numpy(scale_temperature(own, temperature)), TemperatureLogitsWarper(temperature)(ids, logits)
    )
    assert np.array_equal(keep_top_k(own, k), TopKLogitsWarper(k)(ids, logits))
    assert np.array_equal(keep_top_p(own, p), TopPLogitsWarper(p)(ids, logits))
    assert np.array_equal(keep_min_p(own, min_p), MinPLogitsWarper(min_p)(ids, logits))


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
    ours = torch.from_numpy(filter_logits(logits.numpy(), sampling, seen.numpy()))
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1))


def test_a_penalty_beyond_all_numbers_warns_nobody() -> None:
    logits = np.array([2.0, -1.0, 0.5], np.float32)
    token = choose_token(
        logits,
        Sampling(temperature=0, repetition_penalty=1e308),
        np.array([True, True, False]),
        sampling_generator(0),
    )
    assert token == 2


def test_top_k_keeps_ties_and_top_p_keeps_one() -> None:
    logits = np.array([[1.0, 1.0, 0.0]])
    assert np.isfinite(keep_top_k(logits, 1)).tolist() == [[True, True, False]]
    assert np.isfinite(keep_top_p(logits, 1e-9)).sum() == 1
    assert np.isfinite(keep_min_p(logits, 1.0)).tolist() == [[True, True, False]]


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from([0.1, 1.0, 6.0]), st.floats(0.01, 0.9999), st.booleans())
def test_top_p_of_a_large_vocabulary_equals_transformers(seed: int, spread: float, p: float, ties: bool) -> None:
    """Flat distributions, where many tokens are kept, and steep ones, of which only the likeliest are looked at."""
    logits = torch.randn(2, 5_003, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
    if ties:
        logits = (logits * 4).round() / 4
    ours = keep_top_p(logits.numpy(), p)
    theirs = TopPLogitsWarper(p)(torch.zeros(2, 1, dtype=torch.long), logits).numpy()
    for row, other, row_given in zip(ours, theirs, logits.numpy(), strict=True):
        kept = np.isfinite(row)
        assert np.array_equal(row[kept], row_given[kept])
        # A sum in another order may fall on the other side of p for one token of thousands. Which of equals are kept is
        # theirs to choose: their sort is not stable; here the first go.
        assert abs(int(kept.sum()) - int(np.isfinite(other).sum())) <= 1
        smallest = row_given[kept].min()
        assert kept[row_given > smallest].all()
        tied = kept[row_given == smallest]
        assert not tied[: len(tied) - int(tied.sum())].any()


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(1, 5_000), st.floats(0, 1, exclude_max=True), st.floats(0.1, 0.999))
def test_a_draw_is_where_the_running_sum_passes_the_share(seed: int, size: int, uniform: float, zeros: float) -> None:
    random = np.random.default_rng(seed)
    weights = random.random(size) * (random.random(size) > zeros)
    weights[random.integers(size)] = 1.0
    token = draw(weights, uniform)
    sums, target = weights.cumsum(), uniform * weights.sum()
    assert weights[token] > 0
    slack = 1e-12 * sums[-1]
    assert sums[token] > target - slack and sums[token] - weights[token] <= target + slack


def test_draws_follow_the_distribution() -> None:
    logits = np.array([2.0, 0.0, 1.0, float("-inf"), -1.0])
    probs = torch.from_numpy(logits).softmax(-1).numpy()
    generator, seen = sampling_generator(5), np.zeros(5, bool)
    count = 4_000
    drawn = np.bincount([choose_token(logits, Sampling(), seen, generator) for _ in range(count)], minlength=5)
    # Five standard deviations of each count.
    slack = 5 * np.sqrt(count * probs * (1 - probs))
    assert (np.abs(drawn - count * probs) <= slack).all()
    assert drawn[3] == 0


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 40), st.floats(1e-300, 10))
def test_a_token_of_probability_zero_is_never_drawn(seed: int, k: int, temperature: float) -> None:
    logits = random_case(seed)[0][0]
    seen = np.zeros(len(logits), bool)
    token = choose_token(logits.numpy(), Sampling(top_k=k, temperature=temperature), seen, sampling_generator(seed))
    assert token in logits.topk(min(k, len(logits))).indices.tolist()


def test_drawing_leaves_the_global_generator_alone_and_repeats() -> None:
    logits, seen = np.random.default_rng(1).normal(size=50), np.zeros(50, bool)
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


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**63 - 1))
def test_uniform_numbers_are_those_of_torch(seed: int) -> None:
    ours, theirs = UniformGenerator(seed), torch.Generator().manual_seed(seed)
    for _ in range(700):  # more than one state of 624 words
        assert ours.uniform() == float(torch.rand((), generator=theirs, dtype=torch.float64))


def choose_by_torch(logits: torch.Tensor, sampling: Sampling, seen: torch.Tensor, generator: torch.Generator) -> int:
    """What drew a token before the filters were numpy's: torch from end to end, by transformers' processors."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if 0 < sampling.top_k < len(logits):
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        processors.append(MinPLogitsWarper(sampling.min_p))
    probs = processors(seen.nonzero().T, logits.double()[None])[0].softmax(-1)
    cumulative = probs.cumsum(-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    return min(int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)), int(probs.nonzero()[-1]))


@settings(deadline=None, max_examples=60)
@given(
    seeds,
    st.sampled_from([5, 300, 49_152]),
    st.floats(0.2, 2),
    st.integers(0, 50),
    st.floats(0.3, 1.0),
    st.floats(0, 0.2),
)
def test_a_seed_gives_the_tokens_that_torch_gave(
    seed: int, vocab: int, temperature: float, k: int, p: float, min_p: float
) -> None:
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(vocab, generator=source) * 4
    seen = torch.rand(vocab, generator=source) < 0.1
    seen[0] = True
    sampling = Sampling(temperature=temperature, top_k=k, top_p=p, min_p=min_p, repetition_penalty=1.2)
    ours, theirs = sampling_generator(seed), torch.Generator().manual_seed(seed_for(seed, "sample"))
    for _ in range(5):
        assert choose_token(logits.numpy(), sampling, seen.numpy(), ours) == choose_by_torch(
            logits, sampling, seen, theirs
        )


def test_greedy_takes_the_lowest_of_equals_and_ignores_the_filters() -> None:
    seen = np.array([False, True, False])
    logits = np.array([1.0, 1.5, 1.0])
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
