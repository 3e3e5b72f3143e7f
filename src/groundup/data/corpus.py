"""A corpus on the disk: documents in three splits that share no group, with hashes of every file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from groundup.core.errors import DataError
from groundup.core.files import atomic_write, read_json, sha256_file, write_json
from groundup.core.seeds import random_for
from groundup.data.document import SPLITS, Document

log = logging.getLogger("groundup.data.corpus")

MANIFEST = "corpus.json"
FORMAT_VERSION = 1

_NOT_A_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Corpus:
    """A corpus that was written by `write_corpus`.

    Attributes:
        folder: where it lies.
        manifest: counts, bytes and sha256 of each split, licences, number of dropped duplicates, seed, fractions.
    """

    folder: Path
    manifest: dict[str, Any]

    def path(self, split: str) -> Path:
        if split not in SPLITS:
            raise DataError(f"a corpus has no split {split!r}: use {', '.join(SPLITS)}")
        return self.folder / f"{split}.jsonl"

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of `train`, `validation` or `test` in the order they were written."""
        with self.path(split).open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield Document(**json.loads(line))

    def num_bytes(self, split: str) -> int:
        """Return the text of a split in UTF-8 bytes (the text alone, without the JSON around it)."""
        self.path(split)
        return int(self.manifest["splits"][split]["text_bytes"])

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises:
            DataError: naming the file that is missing or damaged.
        """
        for split in SPLITS:
            path, entry = self.path(split), self.manifest["splits"][split]
            if not path.is_file():
                raise DataError(f"{path} is missing: write the corpus again")
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise DataError(
                    f"{path} is damaged: it has {size:,} bytes, its manifest says {entry['bytes']:,}. "
                    "Write the corpus again"
                )
            digest = sha256_file(path)
            if digest != entry["sha256"]:
                raise DataError(
                    f"{path} is damaged: its sha256 is {digest}, its manifest says {entry['sha256']}. "
                    "Write the corpus again"
                )


def deduplicate(documents: Iterable[Document]) -> tuple[list[Document], int]:
    """Drop every document whose text (without leading and trailing white space) came before, or is empty.

    Returns:
        the documents that stay, and how many duplicates were dropped.
    """
    seen: set[bytes] = set()
    kept, dropped = [], 0
    for document in documents:
        stripped = document.text.strip()
        if not stripped:
            continue
        key = hashlib.sha256(stripped.encode("utf-8")).digest()
        if key in seen:
            dropped += 1
        else:
            seen.add(key)
            kept.append(document)
    return kept, dropped


def write_corpus(
    documents: Iterable[Document],
    folder: Path,
    *,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
    seed: int = 0,
) -> Corpus:
    """Split documents by group, drop exact duplicates, and write `{train,validation,test}.jsonl` and `corpus.json`.

    A document that names its own split goes there (a source with a customary split, such as Shakespeare's first
    90 %); the fractions are for the others. The same documents and seed give the same files byte for byte.

    Args:
        documents: at least one group for every split asked for; ids are unique.
        folder: made when missing; a corpus in it is replaced.
        validation_fraction: share of the text (in bytes) that becomes the validation split; 0 leaves it empty.
        test_fraction: the same for the test split.
        seed: chooses which groups are held out.

    Raises:
        DataError: too few groups, a repeated id, a group with two prescribed splits, or a full disk.
    """
    if not (0 <= validation_fraction < 1 and 0 <= test_fraction < 1 and validation_fraction + test_fraction < 1):
        raise DataError(
            f"validation_fraction ({validation_fraction}) and test_fraction ({test_fraction}) must not be negative "
            "and must leave something to train on: their sum must be below 1"
        )
    kept, duplicates = deduplicate(documents)
    if not kept:
        raise DataError("the corpus would be empty: there is no document with text in it")
    repeated = [name for name, count in Counter(document.id for document in kept).items() if count > 1]
    if repeated:
        raise DataError(f"document ids must be unique: {repeated[0]!r} occurs more than once")
    if duplicates:
        log.info("dropped %d exact duplicates of %d documents", duplicates, len(kept) + duplicates)
    split_of = assign_splits(kept, validation_fraction, test_fraction, seed)
    entries = _write_splits(kept, split_of, folder)
    manifest = {
        "format": "groundup-corpus",
        "version": FORMAT_VERSION,
        "splits": entries,
        "duplicates_dropped": duplicates,
        "licenses": dict(sorted(Counter(document.license for document in kept).items())),
        "sources": dict(sorted(Counter(document.source for document in kept).items())),
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "seed": seed,
    }
    write_json(folder / MANIFEST, manifest)
    return Corpus(folder, manifest)


def read_corpus(folder: Path) -> Corpus:
    """Open a corpus and compare its files with the hashes in its manifest.

    Raises:
        DataError: when there is no corpus, or naming the damaged file.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} holds no finished corpus ({MANIFEST} is missing): run the corpus stage again")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != "groundup-corpus":
        raise DataError(f"{path} is not the manifest of a corpus: write the corpus again")
    if manifest.get("version") != FORMAT_VERSION:
        raise DataError(f"{path} has version {manifest.get('version')!r}, this program reads version {FORMAT_VERSION}")
    corpus = Corpus(folder, manifest)
    corpus.verify()
    return corpus


def assign_splits(
    documents: list[Document], validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, str]:
    """Choose a split for every group.

    Groups are shuffled by the seed; each held-out split takes the groups that bring it nearer to its share of the
    bytes, and at least one.

    Returns:
        group -> split.
    """
    fixed: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    for document in documents:
        if document.split and document.split not in SPLITS:
            raise DataError(f"document {document.id!r} asks for the split {document.split!r}: use {', '.join(SPLITS)}")
        before = fixed.setdefault(document.group, document.split)
        if before != document.split:
            raise DataError(
                f"group {document.group!r} has documents for two splits ({before or 'any'!r} and "
                f"{document.split or 'any'!r}): a group stays whole"
            )
        if not document.split:
            sizes[document.group] += document.num_bytes
    split_of = {group: split for group, split in fixed.items() if split}
    free = sorted(sizes)
    if not free:
        return split_of
    wanted = [("test", test_fraction), ("validation", validation_fraction)]
    held_out = [(split, fraction) for split, fraction in wanted if fraction > 0]
    if len(free) < len(held_out) + 1:
        raise DataError(
            f"the documents form {len(free)} group(s), and {len(held_out) + 1} are needed for "
            f"{' and '.join(['train', *(split for split, _ in held_out)])}, since a group is never torn apart: "
            "give more files or a longer text"
        )
    random_for(seed, "corpus", "split").shuffle(free)
    total = sum(sizes.values())
    for index, (split, fraction) in enumerate(held_out):
        # One group must be left for every split that is still to be filled, and one for training.
        reserve = len(held_out) - index
        for group in _take(free, sizes, fraction * total, reserve):
            split_of[group] = split
            free.remove(group)
    return split_of | dict.fromkeys(free, "train")


def _take(free: list[str], sizes: Counter[str], target: float, reserve: int) -> list[str]:
    taken: list[str] = []
    filled = 0
    for group in free:
        if len(free) - len(taken) <= reserve or filled >= target:
            break
        if filled + sizes[group] / 2 <= target:
            taken.append(group)
            filled += sizes[group]
    # Every group may be larger than the share: then the smallest is the nearest.
    return taken or [min(free, key=lambda group: sizes[group])]


def _write_splits(documents: list[Document], split_of: dict[str, str], folder: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {
        split: {"documents": 0, "groups": 0, "text_bytes": 0, "bytes": 0, "sha256": ""} for split in SPLITS
    }
    groups: dict[str, set[str]] = {split: set() for split in SPLITS}
    digests = {split: hashlib.sha256() for split in SPLITS}
    with ExitStack() as stack:
        files = {split: stack.enter_context(atomic_write(folder / f"{split}.jsonl")) for split in SPLITS}
        for document in documents:
            split = split_of[document.group]
            line = json.dumps(asdict(document) | {"split": split}, ensure_ascii=False).encode("utf-8") + b"\n"
            files[split].write(line)
            digests[split].update(line)
            groups[split].add(document.group)
            entry = entries[split]
            entry["documents"] += 1
            entry["text_bytes"] += document.num_bytes
            entry["bytes"] += len(line)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        # A full disk has shown by now and left the old corpus whole. From the first rename on its manifest describes
        # other files: without it nobody reads a mixture.
        (folder / MANIFEST).unlink(missing_ok=True)
    for split, entry in entries.items():
        entry["groups"] = len(groups[split])
        entry["sha256"] = digests[split].hexdigest()
    return entries


@dataclass(frozen=True, kw_only=True)
class Leak:
    """One thing found in two splits.

    Attributes:
        kind: `group` (of two splits), `text` (equal but for case, punctuation and white space) or
            `line` (a long line, compared in the same way).
        splits: the splits, in the order train, validation, test.
        documents: for each of them the id of a document.
        text: the group's name, or the beginning of the text.
    """

    kind: Literal["group", "text", "line"]
    splits: tuple[str, ...]
    documents: tuple[str, ...]
    text: str


def find_leaks(corpus: Corpus, *, min_line_chars: int = 80) -> list[Leak]:
    """Return every group, text and long line that occurs in more than one split.

    Texts and lines are compared by their words alone: case, punctuation and white space do not count, so that a copy
    with other quotes or indentation is found too. Lines of an identical text are not listed again.

    Args:
        corpus: the corpus.
        min_line_chars: shorter lines (counted in letters, digits and single spaces) are not compared: they are
            common phrases.
    """
    seen: dict[str, dict[bytes, dict[str, tuple[str, str]]]] = {
        kind: defaultdict(dict) for kind in ("group", "text", "line")
    }
    for split in SPLITS:
        for document in corpus.documents(split):
            seen["group"][document.group.encode()].setdefault(split, (document.id, document.group))
            seen["text"][_key(words(document.text))].setdefault(split, (document.id, document.text[:100]))
            for line in document.text.split("\n"):
                plain = words(line)
                if len(plain) >= min_line_chars:
                    seen["line"][_key(plain)].setdefault(split, (document.id, line.strip()[:100]))
    leaks: list[Leak] = []
    told: set[tuple[str, ...]] = set()
    for kind in ("group", "text", "line"):
        for places in seen[kind].values():
            if len(places) < 2:
                continue
            documents = tuple(name for name, _ in places.values())
            if kind == "text":
                told.add(documents)
            if kind == "line" and documents in told:
                continue
            text = next(iter(places.values()))[1]
            leaks.append(Leak(kind=kind, splits=tuple(places), documents=documents, text=text))
    return leaks


def words(text: str) -> str:
    """Return the words of `text` in lower case with single spaces: what the comparison looks at."""
    return _NOT_A_WORD.sub(" ", text.casefold()).strip()


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
