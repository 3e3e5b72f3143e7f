"""One text cut by tokenizers of all schools, side by side: spans, ids, counts, languages, and what they cost."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from groundup.core import console
from groundup.core.errors import DataError, UsageError
from groundup.core.files import check_writable, write_text
from groundup.data.readers import explained, read_text
from groundup.data.sources import read_source
from groundup.model.sources import locate_model
from groundup.model.weights.gguf_read import open_gguf
from groundup.recipes.corpus import train_school
from groundup.recipes.first.page import Page
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import NOTHING, clean, decimal, label, shorten
from groundup.recipes.settings import TokenizerKind
from groundup.tokenizer import Tokenizer, load_tokenizer
from groundup.tokenizer.base import replace_surrogates
from groundup.tokenizer.gguf_vocabulary import tokenizer_from_gguf

#: The schools in the order in which they are shown, and how each cuts.
SCHOOLS: dict[TokenizerKind, str] = {
    "char": "one token for each character",
    "word": "one token for each frequent word, the rest unknown",
    "bpe": "byte-level BPE: the pair that occurs most often becomes a token",
    "sentencepiece": "the same over characters, blanks as ▁, rare characters as bytes",
    "wordpiece": "the longest token from the left within each word",
    "unigram": "the most probable way to cut",
}
#: How much of a source is trained on: enough for a few thousand tokens, and done in a minute.
TRAINED_CHARACTERS = 1_000_000
# One sentence in eight languages, where the user gives none.
SENTENCES = {
    "English": "The old baker opens his shop before sunrise, and the whole street smells of warm bread.",
    "German": "Der alte Bäcker öffnet seinen Laden vor Sonnenaufgang, und die ganze Straße duftet nach warmem Brot.",
    "French": "Le vieux boulanger ouvre sa boutique avant le lever du soleil, et toute la rue sent le pain chaud.",
    "Finnish": "Vanha leipuri avaa kauppansa ennen auringonnousua, ja koko katu tuoksuu lämpimälle leivälle.",
    "Russian": "Старый пекарь открывает свою лавку до восхода солнца, и вся улица пахнет тёплым хлебом.",
    "Arabic": "يفتح الخباز العجوز دكانه قبل شروق الشمس، وتفوح رائحة الخبز الساخن في الشارع كله.",
    "Hindi": "बूढ़ा नानबाई सूरज निकलने से पहले अपनी दुकान खोलता है, और पूरी गली गरम रोटी की खुशबू से भर जाती है।",
    "Chinese": "老面包师在日出之前打开店门，整条街都飘着热面包的香味。",
}
# Scripts without blanks between words (Chinese, Japanese, Thai, Khmer) have far longer "words" than any other.
_LONGEST_MEAN_WORD = 18
_SHOWN_TOKENS = 200
_SHOWN_ON_PAGE = 2_000
_STYLES = ("black on bright_cyan", "black on bright_yellow")
_UNKNOWN_STYLE = "white on red"


@dataclass(frozen=True)
class Contender:
    """A tokenizer with the name it is shown under."""

    name: str
    how: str
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Span:
    """A token of a text: what it stands for, made visible, its id, and whether it is the unknown token."""

    text: str
    id: int
    is_unknown: bool


@dataclass(frozen=True)
class Measure:
    """What a tokenizer makes of a text, in numbers."""

    num_tokens: int
    num_unknown: int
    num_words: int
    num_characters: int
    num_bytes: int
    comes_back: bool

    @property
    def tokens_per_word(self) -> float | None:
        """The fertility, or None for a text without blanks between words."""
        has_words = 0 < self.num_characters <= _LONGEST_MEAN_WORD * self.num_words
        return self.num_tokens / self.num_words if has_words else None


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What to compare.

    Attributes:
        text: what is cut.
        source: what the tokenizers are trained on.
        vocab_size: of each that is trained.
        others: tokenizers by path or by the name of a model.
        languages: folder of texts, one language a file; None for one built-in sentence in eight.
        price: of a million tokens; None where cost is not asked for.
        page: file of the page; None for none.
        file: where the text stands, if the user named one.
    """

    text: str
    source: str
    vocab_size: int
    others: Sequence[str] = ()
    languages: Path | None = None
    price: float | None = None
    page: Path | None = None
    file: Path | None = None


def read_compared(text: str | None, file: Path | None) -> str:
    """Return the text to cut, which is given or stands in a file.

    Raises:
        UsageError: when both or none are given, or the text is empty.
        DataError: when the file cannot be read.
    """
    if (text is None) == (file is None):
        raise UsageError("give a text, or a file of one with --file, " + ("and not both" if text is not None else ""))
    found = text if file is None else read_text(file)
    if not found or not found.strip():
        raise UsageError(f"{'the text' if file is None else file} is empty: there is nothing to cut")
    return replace_surrogates(found)


def compare_tokenizers(request: CompareRequest) -> list[tuple[Contender, Measure]]:
    """Train and read the tokenizers, print how they cut the text, and write the page.

    Returns:
        each with its numbers.

    Raises:
        UsageError: for a negative price, or a page that is a folder.
        DataError: when a source, a file of the languages, or the page cannot be read or written.
        TokenizerError, ModelError: when a tokenizer cannot be read.
    """
    if request.price is not None and not 0 <= request.price < 1e9:
        raise UsageError(f"--price {request.price:g} must be 0 or more: the price of a million tokens")
    if request.page is not None:
        if request.page.is_dir():
            raise UsageError(f"--page {request.page} is a folder: name a file, such as {request.page / 'tokens.html'}")
        check_writable(request.page)
    languages = SENTENCES if request.languages is None else read_languages(request.languages)
    given = [_given(name) for name in request.others]  # before the minute of training
    contenders = [*train_all(request.source, request.vocab_size), *given]
    found = [(contender, measure(contender.tokenizer, request.text)) for contender in contenders]
    for contender, numbers in found:
        _print_spans(contender, numbers, request.text)
    overview = overview_table(found, request.price)
    tables = [overview, *language_tables(contenders, languages)]
    for table in tables:
        console.say()
        console.table(
            [name.removeprefix("#") for name in table.head], [list(cells) for _, cells in table.rows], table.caption
        )
    if request.page is not None:
        write_text(request.page, _page(request, found, tables))
        console.say(f"written: {request.page}")
    return found


def train_all(source: str, vocab_size: int) -> list[Contender]:
    """Train a tokenizer of each school on the same text, spread over the source."""
    texts = _some([document.text for document in read_source(source)], TRAINED_CHARACTERS)
    return [Contender(kind, how, train_school(iter(texts), kind, vocab_size)) for kind, how in SCHOOLS.items()]


def read_languages(folder: Path) -> dict[str, str]:
    """Return the texts of a folder by the names of their files without ending.

    Raises:
        DataError: when it is no folder, holds no .txt file, or one of them is empty or cannot be read.
    """
    with explained(folder):
        files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} is no folder of .txt files: give one with a file for each language")
    texts = {file.stem: read_text(file) for file in files}
    empty = next((name for name, text in texts.items() if not text.strip()), None)
    if empty is not None:
        raise DataError(f"{folder / empty}.txt is empty: a language needs a text")
    return texts


def measure(tokenizer: Tokenizer, text: str) -> Measure:
    """Count what a tokenizer makes of a text."""
    ids = tokenizer.encode(text)
    return Measure(
        num_tokens=len(ids),
        num_unknown=0 if tokenizer.unknown_id is None else ids.count(tokenizer.unknown_id),
        num_words=len(text.split()),
        num_characters=len(text),
        num_bytes=len(text.encode("utf-8", "replace")),
        comes_back=tokenizer.decode(ids) == text,
    )


def spans_of(tokenizer: Tokenizer, text: str) -> list[Span]:
    """Return the tokens of a text; bytes that are no whole character are shown as `\\xe6`, line ends as `⏎`."""
    return [Span(_visible(tokenizer.token_bytes(id)), id, id == tokenizer.unknown_id) for id in tokenizer.encode(text)]


def overview_table(found: Iterable[tuple[Contender, Measure]], price: float | None) -> Table:
    """One row for each tokenizer. Attention looks from every token at every other: its work grows as their square."""
    found = list(found)
    fewest = min(max(numbers.num_tokens, 1) for _, numbers in found)
    head = ["tokenizer", "#ids", "#tokens", "#unk", "#chars", "#bytes", "#per word", "#attention", "lossless"]
    head += ["#cost"] if price is not None else []
    caption = (
        "The text, cut by each: unknown tokens, characters and bytes of a token, tokens a word; the work of attention "
        "against that of the fewest tokens; whether the text comes back"
    )
    caption += "; what a million such characters cost." if price is not None else "."
    table = Table(caption, tuple(head))
    for contender, numbers in found:
        tokens = max(numbers.num_tokens, 1)
        table.add(
            contender.name,
            f"{contender.tokenizer.vocab_size:,}",
            f"{numbers.num_tokens:,}",
            f"{numbers.num_unknown:,}",
            decimal(numbers.num_characters / tokens, 2),
            decimal(numbers.num_bytes / tokens, 2),
            NOTHING if numbers.tokens_per_word is None else decimal(numbers.tokens_per_word, 2),
            f"{decimal((tokens / fewest) ** 2, 1)}x",
            "yes" if numbers.comes_back else "no",
            *([decimal(price * numbers.num_tokens / numbers.num_characters, 3)] if price is not None else []),
        )
    return table


def language_tables(contenders: Sequence[Contender], languages: Mapping[str, str]) -> list[Table]:
    """Fertility by language: tokens a word, and a character, which also scripts without blanks have."""
    head = ("language", *(f"#{contender.name}" for contender in contenders))
    words = Table("Tokens a word, by language; in brackets the share of tokens that are the unknown one.", head)
    characters = Table("Tokens for 100 characters, by language.", head)
    with console.progress("tokenizer: languages", len(languages), "languages") as ticker:
        for language, text in languages.items():
            numbers = [measure(contender.tokenizer, text) for contender in contenders]
            name = label(language, 24)
            words.add(name, *(_fertility(one) for one in numbers))
            characters.add(name, *(decimal(100 * one.num_tokens / one.num_characters, 0) for one in numbers))
            ticker.advance()
    return [words, characters]


def _fertility(numbers: Measure) -> str:
    unknown = f" ({100 * numbers.num_unknown / max(numbers.num_tokens, 1):.0f}%)" if numbers.num_unknown else ""
    return (NOTHING if numbers.tokens_per_word is None else decimal(numbers.tokens_per_word, 2)) + unknown


def _some(texts: list[str], most: int) -> list[str]:
    """Every n-th text, so that they have about so many characters in all."""
    step = max(1, round(sum(map(len, texts)) / most))
    return texts[::step]


def _given(name: str) -> Contender:
    """A tokenizer by its folder, or that of a model."""
    path = Path(name)
    if not (path.name == "tokenizer.json" or (path / "tokenizer.json").is_file() or (path / "vocab.txt").is_file()):
        path = locate_model(name)
    is_file = path.name == "tokenizer.json"
    shown = label(name if path != Path(name) else path.parent.name if is_file else path.stem, 16)
    if path.is_dir() or is_file:
        return Contender(shown, name, load_tokenizer(path))
    with open_gguf(path) as file:
        return Contender(shown, name, tokenizer_from_gguf(file.metadata))


def _visible(content: bytes) -> str:
    text = content.decode("utf-8", "backslashreplace")
    return clean(text).replace("\t", "→").replace("\n", "⏎")


def _print_spans(contender: Contender, numbers: Measure, text: str) -> None:
    console.heading(f"{contender.name}: {numbers.num_tokens:,} tokens ({contender.how})")
    spans = spans_of(contender.tokenizer, text)
    pieces: list[tuple[str, str]] = []
    for index, span in enumerate(spans[:_SHOWN_TOKENS]):
        # Without colours, as in a file, a bar says where a token ends.
        bar = "" if console.out.is_terminal or not index else "|"
        pieces += [(bar, ""), (span.text, _UNKNOWN_STYLE if span.is_unknown else _STYLES[index % 2])]
    console.coloured(pieces)
    rest = f" ... and {len(spans) - _SHOWN_TOKENS:,} more" if len(spans) > _SHOWN_TOKENS else ""
    console.say(" ".join(str(span.id) for span in spans[:_SHOWN_TOKENS]) + rest)


def _page(request: CompareRequest, found: Sequence[tuple[Contender, Measure]], tables: Sequence[Table]) -> str:
    page = Page("tokenizer compare", "One text, cut by tokenizers of all schools.")
    page.section("The text, cut")
    page.text("Neighbouring tokens have two colours, unknown ones are red; the number under each is its id.")
    for contender, numbers in found:
        page.text(f"`{contender.name}`: {numbers.num_tokens:,} tokens; {contender.how}.")
        page.html(spans_markup(spans_of(contender.tokenizer, request.text)))
    page.section("In numbers")
    page.table(tables[0])
    page.section("By language")
    page.text(
        "A language whose texts are cut finely costs more for the same words, and fewer of them fit into a context. "
        "Scripts without blanks between words have no tokens a word."
    )
    for table in tables[1:]:
        page.table(table)
    return page.render(
        _command(request),
        [("The ideas", "docs/concepts/tokenizer-schools.md"), ("The code", "src/groundup/tokenizer/")],
    )


def _command(request: CompareRequest) -> str:
    parts = ["groundup", "tokenizer", "compare"]
    parts += [shorten(request.text, 200)] if request.file is None else ["--file", str(request.file)]
    parts += ["--on", request.source, "--vocab-size", str(request.vocab_size)]
    for name in request.others:
        parts += ["--with", name]
    options = {"--languages": request.languages, "--price": request.price, "--page": request.page}
    for option, value in options.items():
        parts += [] if value is None else [option, str(value)]
    return shlex.join(parts)


def spans_markup(spans: Sequence[Span]) -> Markup:
    """Return tokens as HTML, every text escaped."""
    shown = [
        Markup('<span class="token{}">{}<small>{}</small></span>').format(
            " unknown" if span.is_unknown else "", escape(span.text), span.id
        )
        for span in spans[:_SHOWN_ON_PAGE]
    ]
    rest = len(spans) - len(shown)
    more = Markup("<span>and {} more</span>").format(f"{rest:,}") if rest else Markup()
    return Markup('<div class="tokens" dir="auto">{}{}</div>').format(Markup().join(shown), more)
