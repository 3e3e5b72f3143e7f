"""Text to ids and back: byte-level and SentencePiece BPE, WordPiece, characters; chat templates are in `chat`."""

from __future__ import annotations

from groundup.tokenizer import pairs as _pairs
from groundup.tokenizer.base import SPECIAL_TOKENS, StreamDecoder, Tokenizer
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.characters import CharTokenizer
from groundup.tokenizer.load import load_tokenizer
from groundup.tokenizer.sentencepiece_bpe import SentencePieceBPE
from groundup.tokenizer.train import train_bpe
from groundup.tokenizer.wordpiece import WordPiece

_pairs.register_all()

__all__ = [
    "SPECIAL_TOKENS",
    "ByteBPE",
    "CharTokenizer",
    "SentencePieceBPE",
    "StreamDecoder",
    "Tokenizer",
    "WordPiece",
    "load_tokenizer",
    "train_bpe",
]
