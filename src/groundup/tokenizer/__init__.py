"""Text to ids and back: byte-level and SentencePiece BPE, Unigram, WordPiece, words, characters; chat is in `chat`."""

from __future__ import annotations

from groundup.tokenizer import pairs as _pairs
from groundup.tokenizer.base import SPECIAL_TOKENS, StreamDecoder, Tokenizer
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.characters import CharTokenizer
from groundup.tokenizer.load import load_tokenizer
from groundup.tokenizer.sentencepiece_bpe import SentencePieceBPE
from groundup.tokenizer.train import train_bpe
from groundup.tokenizer.train_schools import train_sentencepiece, train_unigram, train_word_level, train_wordpiece
from groundup.tokenizer.unigram import Unigram
from groundup.tokenizer.word_level import WordLevel
from groundup.tokenizer.wordpiece import WordPiece

_pairs.register_all()

__all__ = [
    "SPECIAL_TOKENS",
    "ByteBPE",
    "CharTokenizer",
    "SentencePieceBPE",
    "StreamDecoder",
    "Tokenizer",
    "Unigram",
    "WordLevel",
    "WordPiece",
    "load_tokenizer",
    "train_bpe",
    "train_sentencepiece",
    "train_unigram",
    "train_word_level",
    "train_wordpiece",
]
