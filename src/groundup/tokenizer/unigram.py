"""Unigram: every token has a probability, and a text is cut the way whose product of probabilities is greatest.

Kudo 2018 (arXiv:1804.10959); T5, ALBERT, XLNet and XLM-R use it by way of SentencePiece. The best way is found by
Viterbi's dynamic program (1967). Learning the probabilities is in `unigram_train`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import regex

from groundup.core.errors import TokenizerError
from groundup.tokenizer import hf_files
from groundup.tokenizer.added_tokens import AddedTokens, Side
from groundup.tokenizer.blanks import BlankFirst, mark_blanks, words_of
from groundup.tokenizer.common import TokenizerBase, remember
from groundup.tokenizer.normalizers import Normalizer
from groundup.tokenizer.sentencepiece_bpe import BYTE_TOKENS, sentencepiece_bytes

# SentencePiece: an unknown character costs this much more than the rarest token.
_UNKNOWN_PENALTY = 10.0
_WORDS = regex.compile(r"\S++")
_INSIDE_A_TEXT = -1  # no token has this id

#: One way on: (where the token begins, its id or -1 for an unknown character, log-probability).
Step = tuple[int, int, float]


class Unigram(TokenizerBase):
    """A Unigram tokenizer (a `Tokenizer`).

    Blanks become U+2581 as in `SentencePieceBPE`. A character that no token covers becomes the tokens of its bytes
    where the vocabulary has them, else the unknown token, of which several in a row are one.

    A text comes back from its ids as there when all bytes have tokens and the normalizer changes nothing; with
    `splits_at_whitespace` (T5, ALBERT, XLNet) every run of whitespace comes back as one blank.

    Args:
        scores: text of each ordinary token, with U+2581 for blanks, and its log-probability.
        ids: text of each ordinary token and its id.
        special_tokens: text and id of each special token.
        added_tokens: text and id of tokens that are always matched whole; they may be ordinary tokens too.
        strips: special or added tokens that take the whitespace on a side with them.
        roles: which special token is `unk` (needed), `bos`, `eos`, `pad`, `cls`, `sep`, `mask`.
        prefix, suffix: special tokens that the model expects around a text.
        blank_first: whether a blank is put before a text.
        splits_at_blanks: each blank begins a new piece, so no token holds two.
        splits_at_whitespace: cut the text at whitespace of any kind first; each word gets the blank of `blank_first`.
        falls_back_to_bytes: write unknown characters as bytes.
        normalizer: what is done to a text first.
        special_scores: scores of special tokens; they count where the price of an unknown character is found, which
            goes by the lowest score of all.

    Raises:
        TokenizerError: when two tokens share an id, a score is no number, or there is no unknown token.
    """

    def __init__(
        self,
        scores: Mapping[str, float],
        ids: Mapping[str, int],
        *,
        special_tokens: Mapping[str, int],
        added_tokens: Mapping[str, int] | None = None,
        strips: Mapping[str, Side] | None = None,
        roles: Mapping[str, str | None],
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        blank_first: BlankFirst = "prepend",
        splits_at_blanks: bool = True,
        splits_at_whitespace: bool = False,
        falls_back_to_bytes: bool = True,
        normalizer: Normalizer | None = None,
        special_scores: Mapping[str, float] | None = None,
    ) -> None:
        self.vocab, self.scores = dict(ids), dict(scores)
        self.special_scores = dict(special_scores or {})
        every = {**self.scores, **self.special_scores}
        for token, score in every.items():
            if not token or not math.isfinite(score):
                raise TokenizerError(
                    f"the token {token!r} has the score {score!r}: a text and a finite number are needed"
                )
        if splits_at_whitespace and blank_first == "prepend":
            raise TokenizerError(
                "splits_at_whitespace goes with blank_first 'always', 'first' or 'never', not 'prepend'"
            )
        self.blank_first: BlankFirst = blank_first
        self.strips_first_blank = blank_first != "never"
        self.splits_at_blanks, self.splits_at_whitespace = splits_at_blanks, splits_at_whitespace
        self.falls_back_to_bytes = falls_back_to_bytes
        self.normalizer = normalizer or Normalizer()
        added = AddedTokens(special_tokens, added_tokens or {}, strips or {})
        token_bytes = sentencepiece_bytes(self.vocab, added, falls_back_to_bytes)
        super().__init__(added, token_bytes, roles=roles, prefix=prefix, suffix=suffix)
        if self.unknown_id is None:
            raise TokenizerError("there is no unknown token (unk): a character without tokens has no ids")
        self._unknown = self.unknown_id
        self._byte_ids = {byte: self.vocab[name] for byte, name in enumerate(BYTE_TOKENS) if name in self.vocab}
        bytes_names = set(BYTE_TOKENS) if falls_back_to_bytes else set()
        self._found = {token: (self.vocab[token], score) for token, score in scores.items() if token not in bytes_names}
        self._lengths = _lengths_by_first(self._found)
        self._unknown_score = min(every.values(), default=0.0) - _UNKNOWN_PENALTY
        self._cache: dict[str, list[int]] = {}

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`."""
        return hf_files.unigram_to_json(self)

    def sample(self, text: str, generator: np.random.Generator, *, sharpness: float = 1.0) -> list[int]:
        """Return the ids of one way to cut `text`, drawn at random (subword regularization, Kudo 2018, section 3).

        A way is drawn with a probability in proportion to (product of its tokens' probabilities) ** sharpness; models
        trained on drawn ways are less fragile. Ids and special tokens otherwise as from `encode`.

        Args:
            text: any string.
            generator: where chance comes from.
            sharpness: 0 draws all ways alike, large values the best one.
        """
        ids = [self._draw(piece, generator, sharpness) for piece in self._pieces(text, None)]
        return [id for piece in ids for id in piece]

    def log_probability(self, text: str) -> float:
        """Return the log-probability of the best way to cut `text` (natural logarithm)."""
        return sum(self._best(piece)[1] for piece in self._pieces(text, None))

    def _pieces(self, text: str, after: int | None) -> list[str]:
        """What is cut on its own, with blanks written as U+2581."""
        text = self.normalizer(text)
        if not self.splits_at_whitespace:
            marked = mark_blanks(text, self.blank_first, after, self.added.known_ids) if text else ""
            return words_of(marked) if self.splits_at_blanks else [marked] * bool(marked)
        pieces: list[str] = []
        for match in _WORDS.finditer(text):
            # What goes on after an ordinary token takes no blank; each further word begins anew, but not the text.
            if match.start():
                after = _INSIDE_A_TEXT if self.blank_first == "first" else None
            marked = mark_blanks(match[0], self.blank_first, after, self.added.known_ids)
            pieces += words_of(marked) if self.splits_at_blanks else [marked]
        return pieces

    def _encode_ordinary(self, text: str, after: int | None) -> list[int]:
        cache = self._cache
        ids: list[int] = []
        for piece in self._pieces(text, after):
            known = cache.get(piece)
            if known is None:
                known = self._ids_of(piece, self._best(piece)[0])
                remember(cache, piece, known)
            ids.extend(known)
        return ids

    def _steps(self, piece: str, start: int) -> list[Step]:
        """Return (end, id, score) of every token that begins at `start`, the shortest first."""
        found = self._found
        steps: list[Step] = []
        for length in self._lengths.get(piece[start], ()):
            token = found.get(piece[start : start + length])
            if token is not None and start + length <= len(piece):
                steps.append((start + length, *token))
        if not steps or steps[0][0] != start + 1:
            steps.append((start + 1, -1, self._unknown_score))
        return steps

    def _best(self, piece: str) -> tuple[list[tuple[int, int]], float]:
        """Viterbi: the best score of each beginning of the piece, then the way back.

        Of equally good ways the one whose last token is longest wins, as in SentencePiece.

        Returns:
            (end, id) of each token, and the log-probability.
        """
        best: list[float] = [0.0] + [-math.inf] * len(piece)
        back: list[tuple[int, int]] = [(0, 0)] * (len(piece) + 1)
        for start in range(len(piece)):
            here = best[start]
            for end, id, score in self._steps(piece, start):
                if here + score > best[end]:
                    best[end], back[end] = here + score, (start, id)
        path: list[tuple[int, int]] = []
        end = len(piece)
        while end:
            start, id = back[end]
            path.append((end, id))
            end = start
        return path[::-1], best[-1]

    def _draw(self, piece: str, generator: np.random.Generator, sharpness: float) -> list[int]:
        """Sum over all ways to each place, then draw tokens backwards in proportion to the ways that they end."""
        sums: list[float] = [0.0] + [-math.inf] * len(piece)
        into: list[list[Step]] = [[] for _ in range(len(piece) + 1)]
        for start in range(len(piece)):
            for end, id, score in self._steps(piece, start):
                weight = sums[start] + sharpness * score
                into[end].append((start, id, weight))
                sums[end] = float(np.logaddexp(sums[end], weight))
        path: list[tuple[int, int]] = []
        end = len(piece)
        while end:
            chances = np.exp(np.array([weight for *_, weight in into[end]]) - sums[end])
            start, id, _ = into[end][int(generator.choice(len(chances), p=chances / chances.sum()))]
            path.append((end, id))
            end = start
        return self._ids_of(piece, path[::-1])

    def _ids_of(self, piece: str, path: list[tuple[int, int]]) -> list[int]:
        ids: list[int] = []
        unknown = ""
        for end, id in path:
            if id < 0:
                unknown += piece[end - 1]
                continue
            ids += [*self._fall_back(unknown), id]
            unknown = ""
        return [*ids, *self._fall_back(unknown)]

    def _fall_back(self, characters: str) -> list[int]:
        """The ids of unknown characters in a row: their bytes, or one unknown token for all of them."""
        content = characters.encode("utf-8")
        if self.falls_back_to_bytes and all(byte in self._byte_ids for byte in content):
            return [self._byte_ids[byte] for byte in content]
        return [self._unknown] * bool(content)


def _lengths_by_first(tokens: Mapping[str, Any]) -> dict[str, list[int]]:
    """The lengths that tokens have, by their first character, the shortest first."""
    lengths: dict[str, set[int]] = {}
    for token in tokens:
        lengths.setdefault(token[0], set()).add(len(token))
    return {first: sorted(found) for first, found in lengths.items()}
