"""Sources that have a name: where they come from, their licence and checksum."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from groundup.core.errors import DataError
from groundup.data.document import Document, normalize_text
from groundup.data.download import Remote, fetch
from groundup.data.readers import read_text

#: Name -> function that returns its documents, imported when it is asked for.
NAMED_SOURCES = {
    "python-docs": "groundup.data.python_docs:python_docs",
    "shakespeare": "groundup.data.named:read_shakespeare",
}

SHAKESPEARE = Remote(
    name="shakespeare/input.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
)


def read_named(name: str) -> list[Document]:
    """Return the documents of a named source."""
    module, _, function = NAMED_SOURCES[name].partition(":")
    read: Callable[[], list[Document]] = getattr(import_module(module), function)
    return read()


def read_shakespeare() -> list[Document]:
    """Return tiny Shakespeare (1.1 MB of plays), cut at blank lines between speeches.

    The split is the customary one: the first 90 % to train, then 5 % for validation and 5 % for the test, each
    contiguous (Karpathy's char-rnn and nanoGPT hold out the last tenth in the same way).

    Raises:
        DownloadError: when it is not cached and cannot be downloaded.
    """
    from groundup.data.sources import PIECE_CHARACTERS, cut_text

    text = normalize_text(read_text(fetch(SHAKESPEARE)))
    pieces = cut_text(text, PIECE_CHARACTERS)
    documents, seen = [], 0
    for index, piece in enumerate(pieces):
        share = seen / len(text)
        split = "train" if share < 0.9 else "validation" if share < 0.95 else "test"
        seen += len(piece)
        documents.append(
            Document(
                text=piece,
                id=f"shakespeare#{index}",
                group=f"shakespeare {split}",
                source="shakespeare",
                license="public domain",
                split=split,
            )
        )
    if {document.split for document in documents} != {"train", "validation", "test"}:
        raise DataError(f"shakespeare has only {len(text):,} characters: delete the cached file and try again")
    return documents
