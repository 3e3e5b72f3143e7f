"""Lesson `words`: vectors of words by three methods, what they answer, and what they cannot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from groundup.core import console
from groundup.core.progress import Progress
from groundup.evaluate.intervals import Interval, bootstrap_ratio, wilson
from groundup.foundations.classic.components import principal_components
from groundup.foundations.classic.naive_bayes import words_of
from groundup.foundations.words.analogies import RELATED, Answers, ask, known_pairs, questions_for
from groundup.foundations.words.glove import GloveSettings, count_together, train_glove
from groundup.foundations.words.likeness import code_distance, edit_distance, id_distance, share_nearer
from groundup.foundations.words.ppmi import MOST_WORDS, factorise
from groundup.foundations.words.skipgram import SkipgramSettings, train_skipgram
from groundup.foundations.words.vectors import WordVectors
from groundup.foundations.words.vocabulary import Stream, Vocabulary, build_vocabulary, read_stream
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.word_lists import ASKED, SENTENCES, STRANGERS, TOPICS
from groundup.recipes.report.charts import BASE, CHAT, FONT_PT, GRID, INK, OTHER, SOFT, Bar, bar_chart
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import count, decimal, label, percent

Floats = NDArray[np.float64]
#: Numbers in a vector, and how far the words beside one count, for all three methods.
SIZE, WINDOW = 64, 5
#: Updates: about eight passes through the documentation of Python for word2vec, twelve through its counts for GloVe.
SKIPGRAM_STEPS, GLOVE_STEPS = 9_000, 1_800
#: A short text is not gone through more often than this.
MOST_EPOCHS = 40
#: Words of a text below which two occurrences are enough to get a vector.
SHORT_TEXT = 50_000
SKIPGRAM, GLOVE, PPMI = "word2vec", "GloVe", "PPMI and SVD"
COLOURS = {SKIPGRAM: CHAT, GLOVE: BASE, PPMI: OTHER}
TOPIC_COLOURS = (CHAT, BASE, OTHER, SOFT, INK)
#: Random pairs that related ones are compared with.
NUM_OTHER_PAIRS = 2_000
Models = dict[str, WordVectors]


def show_words(page: Page, material: Material, pace: Pace) -> None:
    """Learn vectors three ways, ask them, compare them with letters and numbers, and draw them."""
    texts = material.texts()
    num_words = sum(len(words_of(text)) for text in texts)
    least = 5 if num_words >= SHORT_TEXT else 2
    vocabulary = build_vocabulary(texts, min_count=least, max_size=MOST_WORDS)
    stream = read_stream(texts, vocabulary)
    page.fact("words of text", count(num_words), f"{percent(len(stream) / num_words)} of them have a vector")
    page.fact("different words", count(len(vocabulary)), f"each seen at least {least} times")
    models = _learn(page, stream, vocabulary, pace)
    _show_neighbours(page, models)
    _show_analogies(page, models, pace)
    _show_strangers(page, models)
    _show_sentences(page, models[SKIPGRAM])
    _show_halves(page, texts, vocabulary, pace)
    _compare_with_letters(page, models, pace)
    _draw_map(page, models[SKIPGRAM])


# ---------------------------------------------------------------------------------------------- learning


def _learn(page: Page, stream: Stream, vocabulary: Vocabulary, pace: Pace) -> Models:
    page.section("Three ways to the same vectors")
    page.text(
        f"A word is known by the company it keeps: here the {WINDOW} words to each side. `word2vec` learns to tell a word's neighbours from words "
        "drawn at random, `GloVe` fits dot products to the logarithms of how often two words meet, and the third way trains nothing: it "
        "takes how much oftener than by chance they meet (`PPMI`) and keeps the largest singular vectors of that table."
    )
    epochs = pace.steps(MOST_EPOCHS)
    steps, glove_steps = pace.steps(SKIPGRAM_STEPS), pace.steps(GLOVE_STEPS)
    settings = SkipgramSettings(size=SIZE, window=WINDOW, epochs=epochs)
    with console.progress(SKIPGRAM, steps, "updates") as ticker:
        skipgram = train_skipgram(
            stream,
            vocabulary,
            settings,
            np.random.default_rng(pace.seed),
            max_steps=steps,
            progress=_tick(ticker.advance),
        )
    counts = count_together(stream, len(vocabulary), WINDOW)
    with console.progress(GLOVE, glove_steps, "updates") as ticker:
        glove = train_glove(
            counts,
            GloveSettings(size=SIZE, epochs=epochs),
            np.random.default_rng(pace.seed),
            max_steps=glove_steps,
            progress=_tick(ticker.advance),
        )
    size = min(SIZE, len(vocabulary))
    with console.progress(PPMI, 1, "table") as ticker:
        factors = factorise(counts, size, np.random.default_rng(pace.seed))
        ticker.advance(1)
    for name, colour, losses, unit in (
        (SKIPGRAM, CHAT, skipgram.losses, "nats for a pair and its five noise words"),
        (GLOVE, BASE, glove.losses, "weighted squared error of an entry"),
    ):
        page.chart(
            f"Loss of {name}",
            f"{name}: {unit}, over {count(len(losses))} updates, each point the mean of {max(1, len(losses) // 200)}.",
            _draw_losses(losses, colour),
        )
    page.text(
        f"{count(len(counts.values))} of {count(len(vocabulary) ** 2)} possible pairs of words were seen together. The table that is factorised "
        "has an entry above zero for those of them that met oftener than by chance; a vector of "
        f"{size} numbers for each word stands for all of it."
    )
    return {
        SKIPGRAM: WordVectors(vocabulary, skipgram.centres),
        GLOVE: WordVectors(vocabulary, glove.vectors),
        PPMI: WordVectors(vocabulary, factors),
    }


def _tick(advance: Callable[[int], None]) -> Progress:
    return lambda done, total: advance(1)


def _draw_losses(losses: Sequence[float], colour: str) -> Callable[[Axes], None]:
    width = max(1, len(losses) // 200)
    means = np.array(losses[: len(losses) // width * width]).reshape(-1, width).mean(axis=1)

    def draw(axes: Axes) -> None:
        axes.plot((np.arange(len(means)) + 0.5) * width, means, color=colour, linewidth=1.6)
        axes.set_xlabel("update")
        axes.set_ylabel("loss")
        axes.yaxis.grid(color=GRID, linewidth=0.7)

    return draw


# ---------------------------------------------------------------------------------------------- questions


def _show_neighbours(page: Page, models: Models) -> None:
    page.section("Neighbours")
    vocabulary = next(iter(models.values())).vocabulary
    # A text that knows none of the list is asked about words of middling frequency.
    asked = [word for word in ASKED if word in vocabulary][:8] or list(vocabulary.words[30:60:4])
    table = Table(
        "The four nearest words by the cosine of the angle, which ignores how long the vectors are.",
        ("word", "#occurrences", *models),
    )
    for word in asked:
        near = (", ".join(label(other, 24) for other, _ in model.neighbours(word, 4)) for model in models.values())
        table.add(label(word, 24), count(int(vocabulary.counts[vocabulary.number(word)])), *near)
    page.table(table)


@dataclass(frozen=True)
class _Scores:
    """Shares of right answers of one method, over all relations."""

    right: Interval
    by_neighbour: float
    unrestricted: float
    by_relation: list[Interval]
    questions: int


def _show_analogies(page: Page, models: Models, pace: Pace) -> None:
    page.section("Analogies, honestly counted")
    vocabulary = next(iter(models.values())).vocabulary
    asked = questions_for(vocabulary)
    if not asked:
        page.text("None of the listed analogies has all of its words in this text, so nothing can be said about them.")
        return
    page.text(
        "`a is to b as c is to ?` is answered by the word nearest to b − a + c. Asked is every analogy of a fixed list whose four words the "
        "text knows, and all of them count. The three given words may not be the answer: without that rule the answer would nearly "
        "always be one of them. The nearest neighbour of c alone shows how much the difference b − a adds."
    )
    scores = {name: _score([ask(model, one) for one in asked], pace.seed) for name, model in models.items()}
    total = next(iter(scores.values())).questions
    chart = bar_chart(
        "words-analogies",
        "Right answers of each method",
        [
            (name, [Bar(s.right.value, s.right.low, s.right.high, COLOURS[name], percent(s.right.value)), *_below(s)])
            for name, s in scores.items()
        ],
        f"share of {count(total)} questions",
        [(SOFT, "nearest neighbour of c alone, and b − a + c with no word left out")],
    )
    page.drawing(
        chart,
        "Right answers with their 95 % interval (drawn again by pairs of words, since questions that ask for the same word are not "
        f"independent). Guessing gets 1 in {count(len(vocabulary) - 3)}.",
    )
    table = Table(
        "Right answers by relation. Pairs: known of listed.",
        ("relation", "example", "#pairs", "#questions", *(f"#{name}" for name in models)),
    )
    for place, one in enumerate(asked):
        first, second = one.pairs[0]
        table.add(
            one.relation,
            f"{first} : {second}",
            f"{len(one.pairs)} of {one.num_listed}",
            count(len(one.places)),
            *(_share(s.by_relation[place]) for s in scores.values()),
        )
    page.table(table)
    _show_answers(page, models, asked[0].pairs)
    for name, s in scores.items():
        page.fact(
            f"analogies right, {name}",
            percent(s.right.value),
            f"{percent(s.right.low)} to {percent(s.right.high)}; by the neighbour of c alone {percent(s.by_neighbour)}",
        )


def _below(scores: _Scores) -> list[Bar]:
    return [
        Bar(scores.by_neighbour, None, None, SOFT, f"{percent(scores.by_neighbour)} by the neighbour of c alone"),
        Bar(scores.unrestricted, None, None, SOFT, f"{percent(scores.unrestricted)} with no word left out"),
    ]


def _score(answers: list[Answers], seed: int) -> _Scores:
    questions = sum(len(one.right) for one in answers)
    tops = [np.bincount(one.questions.targets, one.right) for one in answers]
    bottoms = [np.bincount(one.questions.targets).astype(np.float64) for one in answers]
    asked = [bottom > 0 for bottom in bottoms]
    pairs = [(top[seen], bottom[seen]) for top, bottom, seen in zip(tops, bottoms, asked, strict=True)]
    return _Scores(
        right=bootstrap_ratio(
            np.concatenate([top for top, _ in pairs]), np.concatenate([bottom for _, bottom in pairs]), seed=seed
        ),
        by_neighbour=sum(int(one.right_by_neighbour.sum()) for one in answers) / questions,
        unrestricted=sum(int(one.right_unrestricted.sum()) for one in answers) / questions,
        by_relation=[bootstrap_ratio(top, bottom, seed=seed, num_resamples=2_000) for top, bottom in pairs],
        questions=questions,
    )


def _share(interval: Interval) -> str:
    return f"{percent(interval.value)} ({percent(max(interval.low, 0))} to {percent(min(interval.high, 1))})"


def _show_answers(page: Page, models: Models, pairs: tuple[tuple[str, str], ...]) -> None:
    table = Table("Some answers, right or not.", ("question", "expected", *models))
    for (a, b), (c, d) in itertools.pairwise(pairs[:7]):
        found = (label(model.analogy(a, b, c, 1)[0][0], 24) for model in models.values())
        table.add(f"{a} : {b} = {c} : ?", d, *found)
    page.table(table)


def _show_strangers(page: Page, models: Models) -> None:
    vocabulary = next(iter(models.values())).vocabulary
    groups = [group.split() for group in STRANGERS if all(word in vocabulary for word in group.split())]
    if not groups:
        return
    page.section("The odd one out")
    table = Table("The word least like the mean of the four; the stranger stands last.", ("words", *models))
    right = dict.fromkeys(models, 0)
    for group in groups:
        answers = {name: model.odd_one_out(group) for name, model in models.items()}
        for name, answer in answers.items():
            right[name] += answer == group[-1]
        table.add(" ".join(group), *answers.values())
    page.table(table)
    interval = wilson(right[SKIPGRAM], len(groups))
    page.fact(
        "odd one found, word2vec",
        f"{right[SKIPGRAM]} of {len(groups)}",
        f"{percent(interval.low)} to {percent(interval.high)}; a guess gets a quarter",
    )


def _show_sentences(page: Page, vectors: WordVectors) -> None:
    page.section("Sentences as means, and where that fails")
    page.text(
        "The mean of the vectors of its words stands for a sentence. It knows the topic. It cannot know the order: the same words in another "
        "order are the same vector to the last bit. A `not` moves it by one word of many, and a word without a vector does not count."
    )
    table = Table(
        "Likeness of two sentences (cosine of the means).",
        ("what differs", "first", "second", "#words with a vector", "#cosine"),
    )
    for what, first, second in SENTENCES:
        words = [words_of(sentence) for sentence in (first, second)]
        known = [sum(word in vectors.vocabulary for word in sentence) for sentence in words]
        # A sentence without a known word has no mean, and so no angle to another.
        cosine = decimal(vectors.sentence_likeness(first, second), 4) if all(known) else "none"
        table.add(what, first, second, f"{sum(known)} of {sum(map(len, words))}", cosine)
    page.table(table)


def _show_halves(page: Page, texts: list[str], vocabulary: Vocabulary, pace: Pace) -> None:
    """How far vectors of two halves of the text agree on neighbours, by how frequent the word is."""
    order = np.random.default_rng(pace.seed).permutation(len(texts))
    cut = [[texts[place] for place in order[start::2]] for start in range(2)]
    streams = [read_stream(half, vocabulary) for half in cut]
    if min(map(len, streams)) < SHORT_TEXT:
        return
    page.section("Rare words are known badly")
    halves = [
        WordVectors(
            vocabulary, factorise(count_together(s, len(vocabulary), WINDOW), SIZE, np.random.default_rng(pace.seed))
        )
        for s in streams
    ]
    seen = np.minimum(*(np.bincount(s.words, minlength=len(vocabulary)) for s in streams))
    table = Table(
        "The text cut into two halves at random, PPMI vectors of each: of the ten nearest words in one half, how many are so in the other.",
        ("occurrences in a half", "#words", "#of the ten neighbours in both"),
    )
    random = np.random.default_rng(pace.seed)
    shares = []
    for low, high in ((2, 5), (5, 20), (20, 100), (100, 500), (500, np.inf)):
        words = np.flatnonzero((seen >= low) & (seen < high))
        if len(words) < 5:
            continue
        chosen = random.choice(words, min(200, len(words)), replace=False)
        both = [
            len(set.intersection(*({word for word, _ in half.neighbours(vocabulary.words[w], 10)} for half in halves)))
            for w in chosen
        ]
        shares.append(float(np.mean(both)) / 10)
        table.add(
            f"{low} to {high - 1:.0f}" if high < np.inf else f"{low} and more", count(len(words)), percent(shares[-1])
        )
    page.table(table)
    if len(shares) > 1:
        page.fact(
            "neighbours that two halves share",
            percent(shares[-1]),
            f"of the most frequent words; {percent(shares[0])} of the rarest",
        )


# --------------------------------------------------------------------------- letters, numbers, vectors


def _compare_with_letters(page: Page, models: Models, pace: Pace) -> None:
    vocabulary = next(iter(models.values())).vocabulary
    related = known_pairs(RELATED, vocabulary)
    if len(related) < 5:
        return
    page.section("Letters, numbers and vectors")
    random = np.random.default_rng(pace.seed)
    words = list(dict.fromkeys(word for pair in related for word in pair))
    taken = {frozenset(pair) for pair in related}
    drawn = (tuple(words[i] for i in random.choice(len(words), 2, replace=False)) for _ in range(NUM_OTHER_PAIRS))
    others = [(a, b) for a, b in drawn if frozenset((a, b)) not in taken]
    page.text(
        f"{len(related)} pairs of words that belong together, such as {related[0][0]} and {related[0][1]}, against {count(len(others))} pairs of the "
        "same words drawn at random. A measure that knows of meaning finds the related ones nearer; a coin would in half of the cases. The codes of letters "
        "know spelling, the number of a word knows how frequent it is, and neither knows what it means."
    )
    measures: list[tuple[str, str, Callable[[str, str], float]]] = [
        ("codes of the letters (ASCII)", SOFT, code_distance),
        ("letters to change", SOFT, edit_distance),
        ("numbers of the words", SOFT, lambda a, b: id_distance(vocabulary, a, b)),
        *((f"vectors: {name}", COLOURS[name], _distance(model)) for name, model in models.items()),
    ]
    bars = []
    for name, colour, measure in measures:
        near, far = (np.array([measure(a, b) for a, b in pairs]) for pairs in (related, others))
        shares = share_nearer(near, far)
        interval = bootstrap_ratio(shares, np.ones(len(shares)), seed=pace.seed)
        bars.append((name, [Bar(interval.value, interval.low, interval.high, colour, percent(interval.value))]))
        if name in (measures[0][0], f"vectors: {SKIPGRAM}"):
            between = f"{percent(interval.low)} to {percent(interval.high)}; a coin gets half"
            page.fact(f"related words nearer by {name}", percent(interval.value), between)
    chart = bar_chart("words-measures", "How often related words lie nearer", bars, "share of comparisons", limit=1.0)
    page.drawing(
        chart, "How often a related pair lies nearer than a random one, with the 95 % interval over the related pairs."
    )


def _distance(model: WordVectors) -> Callable[[str, str], float]:
    return lambda a, b: 1 - model.likeness(a, b)


# ---------------------------------------------------------------------------------------------- the map


def _draw_map(page: Page, vectors: WordVectors) -> None:
    vocabulary = vectors.vocabulary
    topics = {name: [word for word in words.split() if word in vocabulary] for name, words in TOPICS.items()}
    topics = dict([(name, words) for name, words in topics.items() if len(words) >= 4][: len(TOPIC_COLOURS)])
    if not topics:
        topics = {"frequent words": list(vocabulary.words[20:44])}
    words = [word for own in topics.values() for word in own]
    if len(words) < 3:
        return
    page.section("A map")
    units = vectors.units[vocabulary.numbers(words)]
    components = principal_components(units, 2)
    places = _apart(components.project(units), words)
    colours = [colour for own, colour in zip(topics.values(), TOPIC_COLOURS, strict=False) for _ in own]

    def draw(axes: Axes) -> None:
        axes.scatter(places[:, 0], places[:, 1], s=0)
        for word, (x, y), colour in zip(words, places, colours, strict=True):
            axes.text(x, y, label(word, 20), color=colour, ha="center", va="center", fontsize=FONT_PT)
        axes.margins(0.12)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines["bottom"].set_visible(False)

    page.chart(
        "Words in the plane",
        f"{', '.join(topics)}: vectors of word2vec on their first two principal components, which hold "
        f"{percent(float(components.shares.sum()))} of their variance. What lies together here may lie apart in the other "
        f"{SIZE - 2} dimensions. One colour for each topic; labels that would cover each other stand a little apart.",
        draw,
        height_in=4.6,
        left_in=0.1,
    )


def _apart(places: Floats, words: Sequence[str]) -> Floats:
    """The places with labels that would cover each other moved up and down, by as little as a few rounds need."""
    span = np.maximum(np.ptp(places, axis=0), 1e-9)
    moved = places / span
    for _ in range(60):
        for a, b in itertools.combinations(range(len(words)), 2):
            # Of the drawing's width and height, a letter takes about a seventieth and a line a thirtieth.
            wide = (len(words[a]) + len(words[b])) / 140
            gap = moved[b] - moved[a]
            if abs(gap[0]) < wide and abs(gap[1]) < 1 / 30:
                push = (1 / 30 - abs(gap[1])) / 2 * (1 if gap[1] >= 0 else -1)
                moved[a, 1] -= push
                moved[b, 1] += push
    result: Floats = moved * span
    return result
