"""Text to ids and back: characters, byte-level BPE, and chat templates (`groundup.tokenizer.chat`)."""

from __future__ import annotations

from groundup.tokenizer import pairs as _pairs
from groundup.tokenizer.base import SPECIAL_TOKENS, StreamDecoder, Tokenizer
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.characters import CharTokenizer
from groundup.tokenizer.load import load_tokenizer
from groundup.tokenizer.train import train_bpe

_pairs.register_all()

__all__ = [
    "SPECIAL_TOKENS",
    "ByteBPE",
    "CharTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "load_tokenizer",
    "train_bpe",
]
