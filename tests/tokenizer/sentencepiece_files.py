"""Models of the `sentencepiece` library, and what stands in their files (protocol buffers, read by hand)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any


def train_sentencepiece_model(text: str, **options: Any) -> bytes:
    """The bytes of a model file."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.split("\n")), model_writer=model, minloglevel=2, num_threads=1, **options
    )
    return model.getvalue()


def charsmap_of(model: bytes) -> bytes:
    """The compiled table of a model's normalizer: field 2 of field 3."""
    return bytes(dict(_fields(dict(_fields(model))[3]))[2])


def pieces_of_model(model: bytes) -> list[tuple[str, float]]:
    """The ordinary pieces and their scores."""
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    every = range(theirs.get_piece_size())
    ids = [id for id in every if not theirs.is_control(id) and not theirs.is_unknown(id) and not theirs.is_byte(id)]
    return [(theirs.id_to_piece(id), theirs.get_score(id)) for id in ids]


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or number()
            yield key >> 3, message[place : place + size]
            place += size
