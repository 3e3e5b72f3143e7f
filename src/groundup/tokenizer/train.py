"""Training a byte-level BPE tokenizer on texts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from groundup.core.errors import DataError, TokenizerError
from groundup.tokenizer import compiled, train_compiled
from groundup.tokenizer.base import SPECIAL_TOKENS, check_special_tokens
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.bpe_fast import Progress, train_merges
from groundup.tokenizer.bpe_reference import count_words
from groundup.tokenizer.patterns import SplitPattern, split_pattern
from groundup.tokenizer.scan_rules import SCAN_RULES

log = logging.getLogger("groundup.tokenizer")


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "llama3",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    on_progress: Progress | None = None,
) -> ByteBPE:
    """Learn a tokenizer: 256 bytes, the most frequent merges, and the special tokens.

    Special-token strings inside the texts are ordinary text. A pair that occurs once is not worth a token: a short
    text gives a smaller vocabulary than asked for, and says so in the log.

    Args:
        texts: the documents; nothing merges across two of them.
        vocab_size: how many ids the tokenizer shall have, special tokens included.
        pattern: `gpt2`, `gpt4`, `llama3`, or a regular expression.
        special_tokens: their texts; they get the last ids, in this order.
        on_progress: called with (merges learned, merges asked for) now and then.

    Returns:
        The tokenizer, the same one for the same texts in any order.

    Raises:
        TokenizerError: when the vocabulary has no room for the bytes and the special tokens.
        DataError: when the texts are empty.
    """
    check_special_tokens(special_tokens)
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise TokenizerError(
            f"vocab_size {vocab_size} is too small: 256 bytes and {len(special_tokens)} special tokens "
            f"need at least {smallest}"
        )
    merges = _learn(texts, split_pattern(pattern), vocab_size - smallest, on_progress)
    if len(merges) < vocab_size - smallest:
        log.warning(
            "the text has only %d pairs that occur twice: the vocabulary has %d tokens instead of %d",
            len(merges),
            smallest + len(merges),
            vocab_size,
        )
    return ByteBPE.from_merges(merges, pattern=pattern, special_tokens=special_tokens)


def _learn(
    texts: Iterable[str], pattern: SplitPattern, num_merges: int, on_progress: Progress | None
) -> list[tuple[bytes, bytes]]:
    """Count and learn, the compiled way as soon as so much text came that it is worth it."""
    rules = SCAN_RULES.get(pattern.portable)
    rest, kept = iter(texts), list[str]()

    def before_it_is_worth_it() -> Iterator[str]:
        for text in rest:
            if rules is not None and compiled.worth_it(len(text)) and train_compiled.load():
                kept.append(text)
                return
            yield text

    words = count_words(before_it_is_worth_it(), pattern)
    if kept and rules is not None:
        counts = train_compiled.WordCounts()
        counts.add(words)
        counts.count(chain(kept, rest), rules)
        if len(counts):
            return train_compiled.train_merges_compiled(counts, num_merges, on_progress=on_progress)
    if not words:
        raise DataError("there is no text to train a tokenizer on: every text is empty")
    return train_merges(words, num_merges, on_progress=on_progress)
