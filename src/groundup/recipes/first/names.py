"""Lessons `bigram`, `mlp` and `wavenet`: models of names or words, one character after the other, each better than the last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from groundup.core import console
from groundup.foundations.backward import softmax_forward
from groundup.foundations.classic.components import principal_components
from groundup.foundations.names.bigram import BigramNetwork, bigram_table, count_bigram, train_bigram_network
from groundup.foundations.names.data import BOUNDARY, NameData
from groundup.foundations.names.hierarchy import HierarchicalModel
from groundup.foundations.names.mlp import ContextMLP
from groundup.foundations.names.training import draw_words, mean_loss, sample, train
from groundup.foundations.ngram import NGramModel
from groundup.foundations.optimizers import AdamW
from groundup.recipes.first.classic import VOWELS
from groundup.recipes.first.heat import draw_heat
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.points import draw_curves, draw_letters, trailing_mean
from groundup.recipes.report.charts import CHAT, INK
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import count, decimal, label, percent, scientific

Floats = NDArray[np.float64]

NUM_SAMPLES = 20
#: Characters that a picture has room for.
MAX_DRAWN = 30
#: The list of 32,033 first names with which makemore was published: the SHA-256 of its lines.
PUBLISHED_LIST = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
#: Losses published for it (github.com/karpathy/makemore and its lectures): all names counted and measured for the bigram, the
#: validation part for the others.
PUBLISHED = {"bigram": 2.454, "mlp": 2.17, "wavenet": 1.993}
MAX_STEPS = 6_000


@dataclass(frozen=True)
class Recipe:
    """How a network is trained here: passes over the contexts, batch, and the highest rate and decay of AdamW."""

    passes: float
    batch_size: int
    rate: float
    weight_decay: float

    def steps(self, pace: Pace, num_contexts: int) -> int:
        """Updates for so many contexts."""
        return pace.steps(min(MAX_STEPS, max(1, round(self.passes * num_contexts / self.batch_size))))


MLP_RECIPE = Recipe(passes=14, batch_size=512, rate=0.01, weight_decay=0.01)
WAVENET_RECIPE = Recipe(passes=14, batch_size=512, rate=0.006, weight_decay=0.1)


# ------------------------------------------------------------------------------------------------ bigram


def show_bigram(page: Page, material: Material, pace: Pace) -> None:
    """The table of pairs, and a network of one layer that arrives at it."""
    data = _data(material, pace)
    model = count_bigram(data)
    table = bigram_table(model)
    steps = pace.steps(1_500)
    network = BigramNetwork(data.vocab_size, np.random.default_rng(pace.seed))
    with console.progress("train", steps, "updates") as ticker:
        losses = train_bigram_network(network, data, steps=steps, progress=console.Running(ticker))
    learned = softmax_forward(network.weight.data)
    counted = {part: _counted_loss(model, data, words) for part, words in _parts(data).items()}
    trained = {part: mean_loss(network, *data.contexts(words, 1)) for part, words in _parts(data).items()}

    page.section("A table of pairs")
    page.text(
        f"{_told(data)} How often does each character follow each other one? The dot is the boundary: its row says how words begin, "
        "its column how they end. One is added to every count, so that no pair is impossible."
    )
    drawn = _most_frequent(data)
    names = _names_of(data)
    page.chart(
        "Bigram table",
        "The probability of the next character (across) after one (down): the fuller, the likelier.",
        draw_heat(table[np.ix_(drawn, drawn)], [names[i] for i in drawn], [names[i] for i in drawn],
                  across="next character", up="character"),
        height_in=4.7,
        left_in=0.5,
    )  # fmt: skip
    _same_by_gradients(page, losses, _loss_of_pairs(table, data))
    difference = float(np.abs(learned - table).max())
    listing = Table("Nats a character, each end counted as one.", ("part", "#counted", "#network", "#a guess"))
    for part in counted:
        listing.add(part, decimal(counted[part], 4), decimal(trained[part], 4), decimal(np.log(data.vocab_size), 4))
    page.table(listing)
    page.section("Made-up words")
    draws = {
        name: draw_words(
            lambda x, rows=probabilities: rows[x[:, -1]],  # type: ignore[misc]
            data, np.random.default_rng(pace.seed), NUM_SAMPLES, block_size=1,
        )
        for name, probabilities in (("counted", table), ("network", learned))
    }  # fmt: skip
    same = sum(one == other for one, other in zip(*draws.values(), strict=True))
    page.text(
        f"With the same random numbers both models draw the same word in {same} of {NUM_SAMPLES} cases: the longer the network is trained, "
        "the more nearly they are one model."
    )
    for name, words in draws.items():
        page.code(f"{name}:\n" + _listed(words))
    page.fact(
        "loss, counted", decimal(counted["test"], 4), _published(material, "bigram", "nats a character, held out")
    )
    page.fact("loss, network", decimal(trained["test"], 4), "nats a character, held out")
    page.fact("largest difference", scientific(difference), "of a probability, counted and learned")


def _same_by_gradients(page: Page, losses: Floats, least: float) -> None:
    """The training of the network, beside the loss of the counted table."""
    page.section("The same by gradients")
    page.text(
        "A network of one layer: a row of scores for the character before, and softmax makes probabilities of them. It begins at "
        "random and follows the gradient of the mean of -log p(next). Where that is least, its probabilities are the table's."
    )
    early = max(2, len(losses) // 10)
    page.chart(
        "Loss by update",
        f"The loss over all pairs in the first tenth of the training, and that of the counted table, {decimal(least, 4)} nats.",
        draw_curves(
            [("network", CHAT, losses[:early]), ("counted", INK, np.full(early, least))],
            across="update", up="loss (nats)",
        ),
    )  # fmt: skip
    page.chart(
        "Loss above the table's",
        "What is left above the counted table's loss, which nothing of this form can pass.",
        draw_curves([("", CHAT, np.maximum(losses - least, 1e-12))], across="update", up="nats above", log=True),
        left_in=0.9,
    )


def _loss_of_pairs(table: Floats, data: NameData) -> float:
    """The loss that the network is trained on, of a table: over all pairs, each counted once more."""
    x, y = data.contexts(data.train, 1)
    counts = np.bincount(x[:, 0] * data.vocab_size + y, minlength=table.size).reshape(table.shape) + 1.0
    return float(-(counts * np.log(table)).sum() / counts.sum())


def _counted_loss(model: NGramModel, data: NameData, words: list[str]) -> float:
    """Nats a character of an n-gram model."""
    documents = [data.encode(word)[1:] for word in words]
    return float(model.document_bits(documents).sum() * np.log(2) / sum(map(len, documents)))


# --------------------------------------------------------------------------------------------------- mlp


def show_mlp(page: Page, material: Material, pace: Pace) -> None:
    """Three characters of context, a vector for each, one hidden layer."""
    data = _data(material, pace)
    model, losses = train_mlp(data, pace)
    page.section("A vector for each character")
    page.text(
        f"{_told(data)} A table of counts for three characters of context would have {data.vocab_size**3:,} rows, most of them empty. "
        f"The network has {count(sum(p.size for p in model.parameters()))} numbers: a vector of {model.embed.weight.shape[1]} for each "
        "character, a hidden layer of 200 units that sees three of them, and scores. Characters that behave alike get like vectors, "
        "and what is learned of one holds for the other (Bengio et al. 2003)."
    )
    page.chart("Loss by update", "The loss of each batch, as a running mean.", _smooth_curve(losses))
    drawn = [i for i in _most_frequent(data) if i != BOUNDARY]
    vectors = model.embed.weight.data.astype(np.float64)
    if len(drawn) >= 3:
        parts = principal_components(vectors[drawn], 2)
        flat, letters = parts.project(vectors[drawn]), [_names_of(data)[i] for i in drawn]
        page.chart(
            "Letters in the plane",
            f"The learned vectors, in the two directions in which they differ most ({percent(float(parts.shares.sum()))} of their "
            "variance); vowels in blue.",
            lambda axes: draw_letters(axes, letters, flat, [CHAT if x in VOWELS else INK for x in letters]),
            height_in=3.2,
            left_in=0.1,
        )
    _compare(page, material, data, {"mlp": _losses_of(model, data)})
    _samples(page, model, data, pace)


def train_mlp(data: NameData, pace: Pace) -> tuple[ContextMLP, Floats]:
    """The perceptron as this lesson trains it, and the losses of its batches."""
    random = np.random.default_rng(pace.seed)
    model = ContextMLP(data.vocab_size, random)
    return model, _train(model, data, random, MLP_RECIPE, pace, "train the MLP")


# ----------------------------------------------------------------------------------------------- wavenet


def show_wavenet(page: Page, material: Material, pace: Pace) -> None:
    """Eight characters of context, joined two by two; all models side by side."""
    data = _data(material, pace)
    mlp, _ = train_mlp(data, pace)
    model, losses = train_wavenet(data, pace)
    page.section("Two by two")
    page.text(
        f"{_told(data)} Eight characters of context pressed into one hidden layer lose their order in one go. Here a first layer joins "
        "neighbours, a second one pairs, a third one fours: the tree of WaveNet's dilated convolutions (van den Oord et al. 2016). "
        f"Every layer is a matrix, batch norm and tanh, with the same weights at all of its places; {count(sum(p.size for p in model.parameters()))} "
        "numbers in all."
    )
    page.code(
        "c1 c2 c3 c4 c5 c6 c7 c8     8 vectors\n"
        " \\_/   \\_/   \\_/   \\_/      4 pairs\n"
        "   \\____/      \\____/       2 fours\n"
        "       \\________/           1 eight, and from it the scores of what comes next"
    )
    page.chart("Loss by update", "The loss of each batch, as a running mean.", _smooth_curve(losses))
    _compare(page, material, data, {"mlp": _losses_of(mlp, data), "wavenet": _losses_of(model, data)})
    _samples(page, model, data, pace)


def train_wavenet(data: NameData, pace: Pace) -> tuple[HierarchicalModel, Floats]:
    """The hierarchy as this lesson trains it, and the losses of its batches."""
    random = np.random.default_rng(pace.seed)
    model = HierarchicalModel(data.vocab_size, random)
    return model, _train(model, data, random, WAVENET_RECIPE, pace, "train the hierarchy")


# ------------------------------------------------------------------------------------------ what they share


def _data(material: Material, pace: Pace) -> NameData:
    return NameData(material.words(), pace.seed)


def _parts(data: NameData) -> dict[str, list[str]]:
    return {"training": data.train, "validation": data.validation, "test": data.test}


def _told(data: NameData) -> str:
    """How many words of what."""
    whole = [*data.train, *data.validation, *data.test]
    examples = ", ".join(label(word, 20) for word in data.train[:4])
    again = len(whole) - len(set(whole))
    repeats = f" ({again:,} of them repeat another)" if again else ""
    return (
        f"{len(whole):,} words such as {examples}{repeats}: {len(data.train):,} to learn from, {len(data.validation):,} and "
        f"{len(data.test):,} held out; {data.vocab_size - 1} characters and the boundary."
    )


def _names_of(data: NameData) -> list[str]:
    """The characters as pictures have them; the boundary as a dot."""
    return ["·", *(label(character, 2) for character in data.vocabulary[1:])]


def _most_frequent(data: NameData) -> list[int]:
    """The ids that a picture has room for, in order: the boundary and the most frequent characters."""
    counts = np.bincount([id for word in data.train for id in data.encode(word)], minlength=data.vocab_size)
    return sorted(np.argsort(-counts, kind="stable")[:MAX_DRAWN].tolist())


def _train(
    model: ContextMLP | HierarchicalModel,
    data: NameData,
    random: np.random.Generator,
    recipe: Recipe,
    pace: Pace,
    title: str,
) -> Floats:
    model.convert(np.float32)
    x, y = data.contexts(data.train, model.block_size)
    steps = recipe.steps(pace, len(y))
    optimizer = AdamW(model.parameters(), recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
    with console.progress(title, steps, "updates") as ticker:
        return train(
            model, x, y, random, optimizer, steps=steps, batch_size=min(recipe.batch_size, len(y)),
            progress=console.Running(ticker),
        )  # fmt: skip


def _losses_of(model: ContextMLP | HierarchicalModel, data: NameData) -> dict[str, float]:
    return {part: mean_loss(model, *data.contexts(words, model.block_size)) for part, words in _parts(data).items()}


def _compare(page: Page, material: Material, data: NameData, found: dict[str, dict[str, float]]) -> None:
    """The table of all losses, beside the published ones where the material is that list."""
    names = {"bigram": "bigram, counted", "mlp": "MLP, 3 characters", "wavenet": "WaveNet-like, 8 characters"}
    model = count_bigram(data)
    losses = {"bigram": {part: _counted_loss(model, data, words) for part, words in _parts(data).items()}, **found}
    known = is_published(material)
    page.section("Losses")
    page.text(
        "Nats a character, each word's end counted as one. The validation and the test part were not learned from."
    )
    if known:
        page.text(
            "The published figures are of the same list. 2,539 names repeat another, of which some stand in training and in the "
            "held-out part; without them the losses are up to 0.02 higher. The bigram's is of the names that were counted, as one for "
            "training."
        )
    head = ("model", "#training", "#validation", "#test", *(("#published",) if known else ()))
    table = Table("Losses of the models.", head)
    guess = decimal(np.log(data.vocab_size), 3)
    table.add("a guess", guess, guess, guess, *(("",) if known else ()))
    for name, parts in losses.items():
        cells = [decimal(parts[part], 4) for part in ("training", "validation", "test")]
        table.add(names[name], *cells, *((decimal(PUBLISHED[name], 3),) if known else ()))
    page.table(table)
    for name, parts in losses.items():
        page.fact(
            f"loss, {names[name]}", decimal(parts["validation"], 4), _published(material, name, "nats, validation")
        )


def _samples(page: Page, model: ContextMLP | HierarchicalModel, data: NameData, pace: Pace) -> None:
    words = sample(model, data, np.random.default_rng(pace.seed), NUM_SAMPLES)
    known = {*data.train, *data.validation, *data.test}
    page.section("Made-up words")
    new = [word for word in words if word and word not in known]
    page.text(f"{len(new)} of {len(words)} draws are no word of the list.")
    page.code(_listed(words))
    page.fact("made-up words", ", ".join(label(word, 16) for word in new[:4]) or "none", "not in the list")


def _listed(words: list[str]) -> str:
    """Words in lines of five."""
    shown = [label(word, 24) or "(empty)" for word in words]
    return "\n".join("  ".join(f"{word:<14}" for word in shown[i : i + 5]).rstrip() for i in range(0, len(shown), 5))


def _smooth_curve(losses: Floats) -> Callable[[Axes], None]:
    return draw_curves([("", CHAT, trailing_mean(losses, len(losses) // 100))], across="update", up="loss (nats)")


def is_published(material: Material) -> bool:
    """Whether the material is the list with which makemore was published."""
    return hashlib.sha256("\n".join(material.words()).encode()).hexdigest() == PUBLISHED_LIST


def _published(material: Material, name: str, note: str) -> str:
    return f"{note}; published {PUBLISHED[name]:g}" if is_published(material) else note
