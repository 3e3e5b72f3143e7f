"""word2vec: a word's vector is what helps to tell its neighbours from words drawn at random.

Every word has two vectors, u as the word in the middle and v as one beside it. For a pair (c, o) that the text holds, and k noise
words n that are drawn anew,

    loss  =  -log s(u_c . v_o)  -  sum over n: log s(-u_c . v_n),        s(z) = 1 / (1 + e^-z)

whose derivatives are (s(z) - target) times the other vector. Words in the same company get pulled towards the same v, and so to
each other; without the noise all vectors would run into one corner.

Here the noise words are shared: each batch draws M of them, and every pair is compared with all, with the weight k / M. The
expectation is that of the paper's k words for each pair, the variance is smaller, and three matrix products take the place of k
gathered rows for each pair (which made it three times slower).

Sources: Mikolov et al. 2013a (arXiv:1301.3781) and 2013b (arXiv:1310.4546), equation 4; Levy and Goldberg 2014 for what it factorises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError, UsageError
from groundup.core.progress import Progress
from groundup.foundations.words.rows import AdaGradRows
from groundup.foundations.words.vocabulary import Ids, Stream, Vocabulary, keep_probabilities, pairs_within, subsample

Array = NDArray[Any]


def skipgram_pairs(stream: Stream, window: int, random: np.random.Generator | None = None) -> tuple[Ids, Ids]:
    """The words in the middle and those beside them.

    Args:
        window: the farthest distance that counts.
        random: draws for each word how far it sees, 1 to `window`, so that near words count more; without it all see `window`.

    Returns:
        (P,) and (P,) numbers of words.
    """
    reach = np.full(len(stream), window) if random is None else random.integers(1, window + 1, len(stream))
    centres: list[Ids] = [np.zeros(0, np.int64)]
    contexts: list[Ids] = [np.zeros(0, np.int64)]
    for distance, earlier, later in pairs_within(stream, window):
        for middle, beside in ((earlier, later), (later, earlier)):
            seen = reach[middle] >= distance
            centres.append(stream.words[middle[seen]])
            contexts.append(stream.words[beside[seen]])
    return np.concatenate(centres), np.concatenate(contexts)


def noise_distribution(counts: Ids, power: float = 0.75) -> NDArray[np.float64]:
    """How likely each word is drawn as noise: its count to a power, which favours the rare ones a little."""
    weights = counts.astype(np.float64) ** power
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def draw_words(cumulated: NDArray[np.float64], count: int, random: np.random.Generator) -> Ids:
    """Words drawn with replacement.

    Args:
        cumulated: the sums of the probabilities up to each word, (V,).
    """
    places = np.searchsorted(cumulated, random.random(count) * cumulated[-1], side="right")
    result: Ids = np.minimum(places, len(cumulated) - 1)
    return result


def loss_and_gradients(
    centres: Array, contexts: Array, noise: Array, negatives: float
) -> tuple[float, Array, Array, Array]:
    """The loss of a batch, summed over its pairs, and its derivatives.

    Args:
        centres, contexts: the vectors u and v of the pairs, (B, D) each.
        noise: the vectors v of the noise words, (M, D).
        negatives: k, how much all noise words together weigh.

    Returns:
        the loss in nats, and the derivatives by the three.
    """
    weight = negatives / len(noise)
    true_scores = (centres * contexts).sum(axis=1)  # (B,)
    noise_scores = centres @ noise.T  # (B, M)
    true_loss, away = _softplus(-true_scores)
    noise_loss, towards = _softplus(noise_scores)
    by_true, by_noise = -away[:, None], weight * towards
    return (
        float(true_loss.sum() + weight * noise_loss.sum()),
        by_true * contexts + by_noise @ noise,
        by_true * centres,
        by_noise.T @ centres,
    )


def _softplus(z: Array) -> tuple[Array, Array]:
    """log(1 + e^z) = -log s(-z), and its derivative s(z), from one exponential that cannot overflow.

    `np.logaddexp` is as safe, and ten times slower in float32.
    """
    power = np.exp(-np.abs(z))
    return np.maximum(z, 0) + np.log(1 + power), np.where(z > 0, 1, power) / (1 + power)


@dataclass(frozen=True)
class SkipgramSettings:
    """How word2vec learns.

    Attributes:
        size: D, numbers in a vector.
        window: the farthest distance, drawn anew from 1 to this for each word unless `is_window_fixed`.
        negatives: k.
        num_noise_words: M, drawn for each batch.
        epochs: passes through the text.
        batch_size: pairs in an update.
        rate: of AdaGrad.
        threshold: of the subsampling.
    """

    size: int = 64
    window: int = 5
    is_window_fixed: bool = False
    negatives: float = 5
    num_noise_words: int = 64
    epochs: int = 10
    batch_size: int = 1024
    rate: float = 0.1
    threshold: float = 1e-3


@dataclass(frozen=True)
class Skipgram:
    """What was learned.

    Attributes:
        centres: u, (V, D), the word vectors.
        contexts: v, (V, D).
        losses: the mean loss of a pair in each batch, in nats.
    """

    centres: Array
    contexts: Array
    losses: tuple[float, ...]


def train_skipgram(
    stream: Stream,
    vocabulary: Vocabulary,
    settings: SkipgramSettings,
    random: np.random.Generator,
    *,
    max_steps: int | None = None,
    progress: Progress | None = None,
) -> Skipgram:
    """Learn vectors of words from a text.

    Args:
        max_steps: ends after so many batches.
        progress: told the updates that are done, and about how many there will be.

    Raises:
        DataError: when the text holds no two words side by side.
    """
    _check(settings)
    shape = (len(vocabulary), settings.size)
    # As in the original program: u small at random, v at zero.
    centres = AdaGradRows(((random.random(shape) - 0.5) / settings.size).astype(np.float32), settings.rate)
    contexts = AdaGradRows(np.zeros(shape, np.float32), settings.rate)
    cumulated = np.cumsum(noise_distribution(vocabulary.counts))
    keep = keep_probabilities(vocabulary, settings.threshold)
    losses: list[float] = []
    for _ in range(settings.epochs):
        kept = subsample(stream, keep, random)
        middle, beside = skipgram_pairs(kept, settings.window, None if settings.is_window_fixed else random)
        order = random.permutation(len(middle))
        # Each pass draws other words and windows: what is ahead is known about.
        total = min(max_steps or 10**9, -(-len(order) // settings.batch_size) * settings.epochs)
        for start in range(0, len(order), settings.batch_size):
            if max_steps is not None and len(losses) >= max_steps:
                return Skipgram(centres.table, contexts.table, tuple(losses))
            batch = order[start : start + settings.batch_size]
            noise = draw_words(cumulated, settings.num_noise_words, random)
            c, o = middle[batch], beside[batch]
            loss, by_centres, by_contexts, by_noise = loss_and_gradients(
                centres.table[c], contexts.table[o], contexts.table[noise], settings.negatives
            )
            centres.step(c, by_centres)
            contexts.step(np.concatenate([o, noise]), np.concatenate([by_contexts, by_noise]))
            losses.append(loss / len(batch))
            if progress is not None:
                progress(len(losses), max(total, len(losses)))
    if not losses:
        raise DataError(f"a text of {len(stream)} known words holds no two side by side: nothing to learn from")
    return Skipgram(centres.table, contexts.table, tuple(losses))


def _check(settings: SkipgramSettings) -> None:
    numbers = (settings.size, settings.window, settings.num_noise_words, settings.epochs, settings.batch_size)
    if min(numbers) < 1 or not settings.negatives > 0:
        raise UsageError(
            f"size, window, num_noise_words, epochs and batch_size {numbers} must be 1 or more, negatives "
            f"({settings.negatives}) above 0"
        )
