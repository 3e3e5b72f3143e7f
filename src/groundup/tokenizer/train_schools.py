"""Training the tokenizers of the other schools: words, WordPiece, SentencePiece's BPE and Unigram."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import regex

from groundup.core.errors import DataError, TokenizerError
from groundup.core.progress import Progress
from groundup.tokenizer.base import END_OF_TEXT, IM_END, IM_START, PAD, check_special_tokens, replace_surrogates
from groundup.tokenizer.bert_text import BertNormalization, normalize
from groundup.tokenizer.bert_text import words as bert_words
from groundup.tokenizer.blanks import trained_words
from groundup.tokenizer.sentencepiece_bpe import BYTE_TOKENS, SentencePieceBPE
from groundup.tokenizer.symbol_pairs import PairScore, learn_pairs
from groundup.tokenizer.unigram import Unigram
from groundup.tokenizer.unigram_train import learn_unigram
from groundup.tokenizer.word_level import WordLevel, WordRule, cut_words
from groundup.tokenizer.wordpiece import INSIDE, WordPiece

log = logging.getLogger("groundup.tokenizer")

#: The special tokens of tokenizers over words: those that every model here needs, and the classic two.
WORD_SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, "[PAD]", "[UNK]")
#: Those of SentencePiece's kind, where bytes or `<unk>` stand for unknown characters.
PIECE_SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, PAD, "<unk>")
#: Share of a text's characters that get tokens of their own, the rarest left out (SentencePiece's default).
COVERAGE = 0.9995


def train_word_level(
    texts: Iterable[str],
    vocab_size: int,
    *,
    min_count: int = 2,
    rule: WordRule = "Whitespace",
    special_tokens: Sequence[str] = WORD_SPECIAL_TOKENS,
) -> WordLevel:
    """Take the most frequent words, among equals the first by code points; all others are unknown.

    Args:
        texts: the documents.
        vocab_size: how many ids there shall be at most, special tokens included.
        min_count: a word that occurs less often is not taken.
        rule: what a word is.
        special_tokens: their texts, `[UNK]` among them; they get the last ids, in this order.

    Raises:
        TokenizerError: when there is no room for a word, or `[UNK]` is missing.
        DataError: when the texts are empty.
    """
    room = _room(vocab_size, special_tokens, "[UNK]", 1, "one word")
    counts = _count(cut_words(replace_surrogates(text), rule) for text in texts)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [word for word, count in ranked if count >= min_count and word not in special_tokens][:room]
    if not kept:
        raise DataError(f"none of the {len(counts)} words occurs {min_count} times: give more text")
    vocab, special = _numbered(kept, special_tokens)
    return WordLevel(vocab, special_tokens=special, roles=_roles(special_tokens, "[UNK]"), rule=rule)


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    score: PairScore = "count",
    min_count: int = 2,
    normalization: BertNormalization | None = None,
    special_tokens: Sequence[str] = WORD_SPECIAL_TOKENS,
    on_progress: Progress | None = None,
) -> WordPiece:
    """Learn a WordPiece vocabulary: characters, and what joining pairs of tokens within words makes of them.

    Args:
        texts: the documents.
        vocab_size: how many ids there shall be at most, special tokens included.
        score: `count` joins the pair that occurs most often, as the trainer of `tokenizers` does; `ratio` the one of
            the highest count(ab) / (count(a) count(b)), which raises the likelihood of the text most for each time it
            occurs (Schuster and Nakajima 2012). The ratio prefers rare characters that always stand together.
        min_count: a pair that occurs less often is not joined.
        normalization: what is done to a text first (default: cleaned, case and accents kept).
        special_tokens: their texts, `[UNK]` among them; they get the last ids, in this order.
        on_progress: called with (tokens, tokens asked for) now and then.

    Raises:
        TokenizerError: when there is no room for a token, or `[UNK]` is missing.
        DataError: when the texts are empty.
    """
    room = _room(vocab_size, special_tokens, "[UNK]", 2, "a character at a beginning and one inside a word")
    how = normalization or BertNormalization(lowercases=False, strips_accents=False)
    counts = _count(bert_words(normalize(replace_surrogates(text), how)) for text in texts)
    # Each character may need two tokens; words with one of the rarest are left out, they will be unknown.
    known = _covered(counts, max(room // 2, 1), 1.0)
    words = {word: count for word, count in counts.items() if known.issuperset(word)}
    learned = learn_pairs(words, room, INSIDE, score, min_count, special_tokens, on_progress=on_progress)
    _tell_if_smaller(len(learned.tokens), room)
    vocab, special = _numbered(learned.tokens, special_tokens)
    roles = _roles(special_tokens, "[UNK]")
    return WordPiece(vocab, special_tokens=special, roles=roles, normalization=how)


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    coverage: float = COVERAGE,
    special_tokens: Sequence[str] = PIECE_SPECIAL_TOKENS[:-1],
    on_progress: Progress | None = None,
) -> SentencePieceBPE:
    """Learn BPE over the characters of raw text, blanks as U+2581, with a token for each byte.

    A word is what begins with a blank; no token spans two words, nor a line end or tab and anything else.

    Args:
        texts: the documents.
        vocab_size: how many ids there shall be at most, special tokens included.
        coverage: share of the characters of the text that get tokens of their own; the rarest are written as bytes.
        special_tokens: their texts; they get the last ids, in this order.
        on_progress: called with (tokens, tokens asked for) now and then.

    Raises:
        TokenizerError: when there is no room for the bytes and the characters.
        DataError: when the texts are empty.
    """
    room = _room(vocab_size, special_tokens, None, 257, "256 bytes and a character")
    words = _pieces(texts, room - 256, coverage)
    learned = learn_pairs(words, room - 256, reserved={*BYTE_TOKENS, *special_tokens}, on_progress=on_progress)
    _tell_if_smaller(len(learned.tokens) + 256, room)
    vocab, special = _numbered([*BYTE_TOKENS, *learned.tokens], special_tokens)
    return SentencePieceBPE(vocab, learned.merges, special_tokens=special, roles=_roles(special_tokens, None))


def train_unigram(
    texts: Iterable[str],
    vocab_size: int,
    *,
    coverage: float = COVERAGE,
    special_tokens: Sequence[str] = PIECE_SPECIAL_TOKENS,
    on_progress: Progress | None = None,
) -> Unigram:
    """Learn a Unigram vocabulary over raw text, blanks as U+2581, with a token for each byte.

    Args:
        texts: the documents.
        vocab_size: how many ids there shall be at most, special tokens included.
        coverage: share of the characters of the text that get tokens of their own; the rarest are written as bytes.
        special_tokens: their texts, `<unk>` among them; they get the last ids, in this order.
        on_progress: called with (tokens pruned, tokens to prune) after each round.

    Raises:
        TokenizerError: when there is no room for the bytes and the characters, or `<unk>` is missing.
        DataError: when the texts are empty.
    """
    room = _room(vocab_size, special_tokens, "<unk>", 257, "256 bytes and a character")
    scores = learn_unigram(
        _pieces(texts, room - 256, coverage), room - 256, {*BYTE_TOKENS, *special_tokens}, on_progress=on_progress
    )
    _tell_if_smaller(len(scores) + 256, room)
    vocab, special = _numbered([*BYTE_TOKENS, *scores], special_tokens)
    return Unigram(
        {**dict.fromkeys(BYTE_TOKENS, 0.0), **scores},
        vocab,
        special_tokens=special,
        roles=_roles(special_tokens, "<unk>"),
        special_scores=dict.fromkeys(special, 0.0),
    )


def _pieces(texts: Iterable[str], most: int, coverage: float) -> dict[str, int]:
    """Count the words of SentencePiece's kind, cut at the characters that get no token."""
    counts = _count(trained_words(replace_surrogates(text)) for text in texts if text)
    if not 0 < coverage <= 1:
        raise TokenizerError(f"coverage ({coverage}) must be above 0 and at most 1")
    known = _covered(counts, most, coverage)
    characters = {character for word in counts for character in word}
    if len(known) == len(characters):
        return counts
    unknown = regex.compile("[" + "".join(map(regex.escape, sorted(characters - known))) + "]+")
    cut: Counter[str] = Counter()
    for word, count in counts.items():
        for part in unknown.split(word):
            if part:
                cut[part] += count
    return dict(cut)


def _count(documents: Iterable[Iterable[str]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for words in documents:
        counts.update(words)
    if not counts:
        raise DataError("there is no text to train a tokenizer on: every text is empty")
    return dict(counts)


def _covered(words: Mapping[str, int], most: int, coverage: float) -> set[str]:
    """The most frequent characters, so many that they make up a share of the text, but at most so many."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    enough, seen = coverage * counts.total(), 0
    known: set[str] = set()
    for character, count in ranked[:most]:
        if seen >= enough:
            break
        known.add(character)
        seen += count
    if len(known) < len(ranked) and len(known) == most:
        log.warning("the vocabulary has room for %d of the text's %d characters: enlarge it", most, len(ranked))
    return known


def _room(vocab_size: int, special_tokens: Sequence[str], unknown: str | None, needed: int, what: str) -> int:
    """How many ids are left for ordinary tokens."""
    check_special_tokens(special_tokens)
    short = next((name for name in special_tokens if len(name) == 1), None)
    if short is not None:
        raise TokenizerError(f"the special token {short!r} is a character of a text too: choose a longer name")
    if unknown is not None and unknown not in special_tokens:
        raise TokenizerError(f"{unknown} must be among the special tokens ({', '.join(special_tokens)})")
    room = vocab_size - len(special_tokens)
    if room < needed:
        raise TokenizerError(
            f"vocab_size {vocab_size} is too small: {what} and {len(special_tokens)} special tokens need at least "
            f"{needed + len(special_tokens)}"
        )
    return room


def _numbered(tokens: Sequence[str], special_tokens: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    first = len(tokens)
    return (
        {token: id for id, token in enumerate(tokens)},
        {name: first + index for index, name in enumerate(special_tokens)},
    )


def _roles(special_tokens: Sequence[str], unknown: str | None) -> dict[str, str | None]:
    end = END_OF_TEXT if END_OF_TEXT in special_tokens else None
    pad = next((name for name in ("[PAD]", PAD) if name in special_tokens), None)
    return {"bos": end, "eos": end, "pad": pad, "unk": unknown}


def _tell_if_smaller(found: int, room: int) -> None:
    if found < room:
        log.warning("the text has no more pairs that occur often enough: %d ordinary tokens instead of %d", found, room)
