"""Corpus: splits by group, reproducible files, hashes, and the leak test."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core import files
from groundup.core.errors import DataError
from groundup.data.corpus import find_leaks, read_corpus, write_corpus
from groundup.data.document import SPLITS, Document, normalize_text


def collection(sizes: list[int], per_group: int = 3) -> list[Document]:
    return [
        Document(
            text=f"{group} {part} " + "x" * size, id=f"{group}/{part}", group=f"g{group}", source="made", license="MIT"
        )
        for group, size in enumerate(sizes)
        for part in range(per_group)
    ]


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=3, max_size=40),
    validation=st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.45]),
    test=st.sampled_from([0.0, 0.05, 0.3]),
    seed=st.integers(0, 5),
)
def test_no_group_is_torn_and_nothing_is_lost(sizes: list[int], validation: float, test: float, seed: int) -> None:
    made = collection(sizes)
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(made, Path(folder), validation_fraction=validation, test_fraction=test, seed=seed)
        read = {split: list(read_corpus(Path(folder)).documents(split)) for split in SPLITS}
    groups = {split: {d.group for d in found} for split, found in read.items()}
    assert not groups["train"] & groups["validation"]
    assert not groups["train"] & groups["test"]
    assert not groups["validation"] & groups["test"]
    assert sorted(d.id for found in read.values() for d in found) == sorted(d.id for d in made)
    assert {d.id: d.text for found in read.values() for d in found} == {d.id: d.text for d in made}
    assert all(d.split == split for split, found in read.items() for d in found)
    assert bool(read["validation"]) == (validation > 0)
    assert bool(read["test"]) == (test > 0)
    assert read["train"]
    for split, found in read.items():
        assert corpus.manifest["splits"][split]["documents"] == len(found)
        assert corpus.num_bytes(split) == sum(len(d.text.encode()) for d in found)
        assert corpus.manifest["splits"][split]["groups"] == len(groups[split])


def test_many_equal_groups_hit_the_fractions(tmp_path: Path) -> None:
    corpus = write_corpus(collection([500] * 100), tmp_path, validation_fraction=0.1, test_fraction=0.05, seed=7)
    groups = {split: corpus.manifest["splits"][split]["groups"] for split in SPLITS}
    assert groups == {"train": 85, "validation": 10, "test": 5}


def test_same_seed_same_bytes_other_seed_other_split(tmp_path: Path) -> None:
    made = collection([100] * 30)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_corpus(made, tmp_path / name, seed=seed)
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "corpus.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a/test.jsonl").read_bytes() != (tmp_path / "c/test.jsonl").read_bytes()


def test_the_split_does_not_depend_on_the_order_of_documents(tmp_path: Path) -> None:
    made = collection([100] * 30, per_group=1)
    write_corpus(made, tmp_path / "a")
    write_corpus(made[::-1], tmp_path / "b")
    for split in SPLITS:
        ids = [sorted(d.id for d in read_corpus(tmp_path / name).documents(split)) for name in "ab"]
        assert ids[0] == ids[1]


def test_prescribed_splits_are_kept(tmp_path: Path) -> None:
    made = [
        Document(text=f"{split} {n}", id=f"{split}{n}", group=split, source="s", split=split)
        for split in SPLITS
        for n in range(4)
    ]
    corpus = write_corpus(made, tmp_path, validation_fraction=0.5)
    assert [d.text for d in corpus.documents("test")] == [f"test {n}" for n in range(4)]
    with pytest.raises(DataError, match=r"group 'train' has documents for two splits \('train' and 'test'\)"):
        write_corpus([*made, Document(text="z", id="z", group="train", source="s", split="test")], tmp_path / "x")
    with pytest.raises(DataError, match="asks for the split 'dev': use train, validation, test"):
        write_corpus([Document(text="z", id="z", group="g", source="s", split="dev")], tmp_path / "x")


def test_exact_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    made = collection([50] * 9)
    copies = [
        Document(text=f"\n{d.text}  ", id=f"copy of {d.id}", group=f"copy{n}", source="made")
        for n, d in enumerate(made[:5])
    ]
    blank = Document(text=" \n", id="blank", group="blank", source="made")
    corpus = write_corpus([*made, *copies, blank], tmp_path)
    assert corpus.manifest["duplicates_dropped"] == 5
    assert sum(corpus.manifest["splits"][split]["documents"] for split in SPLITS) == len(made)
    assert corpus.manifest["licenses"] == {"MIT": len(made)}
    assert find_leaks(corpus) == []


def test_errors_name_the_values(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"form 2 group\(s\), and 3 are needed for train and test and validation"):
        write_corpus(collection([10, 10]), tmp_path)
    with pytest.raises(DataError, match="there is no document with text"):
        write_corpus([], tmp_path)
    with pytest.raises(DataError, match=r"validation_fraction \(0.7\) and test_fraction \(0.3\)"):
        write_corpus(collection([10] * 9), tmp_path, validation_fraction=0.7, test_fraction=0.3)
    twice = [Document(text=text, id="same", group=text, source="s") for text in "abcd"]
    with pytest.raises(DataError, match="'same' occurs more than once"):
        write_corpus(twice, tmp_path)
    with pytest.raises(DataError, match="no split 'dev': use train, validation, test"):
        write_corpus(collection([10] * 9), tmp_path).documents("dev").__next__()


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    write_corpus(collection([200] * 30), tmp_path)
    target = tmp_path / "validation.jsonl"
    whole = target.read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 4
    for wrong, message in (
        (bytes(flipped), "sha256"),
        (whole[:-7], f"has {len(whole) - 7:,} bytes.*says {len(whole):,}"),
    ):
        target.write_bytes(wrong)
        with pytest.raises(DataError, match=rf"validation\.jsonl is damaged: .*{message}"):
            read_corpus(tmp_path)
    target.unlink()
    with pytest.raises(DataError, match=r"validation\.jsonl is missing"):
        read_corpus(tmp_path)
    target.write_bytes(whole)
    read_corpus(tmp_path)
    (tmp_path / "corpus.json").write_text('{"format": "groundup-corpus", "version": 99}')
    with pytest.raises(DataError, match="version 99, this program reads version 1"):
        read_corpus(tmp_path)
    (tmp_path / "corpus.json").unlink()
    with pytest.raises(DataError, match=r"holds no finished corpus \(corpus.json is missing\)"):
        read_corpus(tmp_path)


def test_a_full_disk_keeps_the_old_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(collection([200] * 30), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DataError, match=r"no space left on the disk while writing .*\.jsonl"):
        write_corpus(collection([300] * 30), tmp_path)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    read_corpus(tmp_path)


def test_planted_leaks_are_found(tmp_path: Path) -> None:
    line = "The quick brown fox jumps over the lazy dog, and then it rests beneath the old oak tree for an hour."
    made = collection([100] * 30, per_group=1)
    corpus = write_corpus(made, tmp_path)
    assert find_leaks(corpus) == []

    def plant(split: str, document: dict[str, str]) -> None:
        with (tmp_path / f"{split}.jsonl").open("a") as file:
            file.write(json.dumps({"source": "s", "license": "x", "split": split} | document) + "\n")

    stolen = next(corpus.documents("train"))
    plant("test", {"text": "something of its own", "id": "p1", "group": stolen.group})
    plant("validation", {"text": "One two\nThree!", "id": "p2", "group": "p2"})
    plant("test", {"text": "one TWO three", "id": "p3", "group": "p3"})
    plant("train", {"text": f"before\n{line}\nafter", "id": "p4", "group": "p4"})
    plant("validation", {"text": f'other\n    "{line.upper().replace(", ", " -- ")}"', "id": "p5", "group": "p5"})
    found = {(leak.kind, leak.splits, leak.documents) for leak in find_leaks(corpus)}
    assert found == {
        ("group", ("train", "test"), (stolen.id, "p1")),
        ("text", ("validation", "test"), ("p2", "p3")),
        ("line", ("train", "validation"), ("p4", "p5")),
    }
    assert find_leaks(corpus, min_line_chars=200) != [] and len(find_leaks(corpus, min_line_chars=200)) == 2


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=40))
def test_normalized_text_can_always_be_written(text: str) -> None:
    normal = normalize_text(text)
    assert normal.encode("utf-8").decode("utf-8") == normal
    assert "\r" not in normal
    assert normalize_text(normal) == normal or normal.startswith("\ufeff")


def test_normalize_keeps_decomposed_characters_unless_asked() -> None:
    assert normalize_text("\ufeffe\u0301\r\na\rb \ud800") == "e\u0301\na\nb \ufffd"
    assert normalize_text("e\u0301", nfc=True) == "\u00e9"
