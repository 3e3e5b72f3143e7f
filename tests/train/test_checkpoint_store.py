"""Checkpoints: atomic, verified, pruned, and what happens when one is damaged."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from groundup.core.errors import CheckpointError, DataError
from groundup.train import checkpoint as checkpoint_module
from groundup.train.checkpoint import Checkpoint, CheckpointStore


def make(step: int, best: int | None = None, size: int = 100) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weights = {"w": torch.randn(size, generator=generator), "b": torch.arange(3)}
    moments = {"mean.w": torch.randn(size, generator=generator)}
    return Checkpoint(step, weights, moments, {"step": step, "best_step": best, "rate": 0.1})


def equal(a: Checkpoint, b: Checkpoint) -> bool:
    same_tensors = all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
        for x, y in ((a.model, b.model), (a.optimizer, b.optimizer))
    )
    return same_tensors and (a.step, a.state) == (b.step, b.state)


def test_round_trip_and_no_pickle(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.newest_intact() is None and store.steps() == []
    folder = store.save(make(3))
    assert store.newest_intact() == 3
    assert equal(store.read(3), make(3))
    assert sorted(p.name for p in folder.iterdir()) == [
        "index.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert json.loads((store.folder / "latest.json").read_text()) == {"name": "step-00000003"}


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    best = None
    for step in range(10, 80, 10):
        best = step if step in (10, 30) else best
        store.save(make(step, best))
    assert store.steps() == [30, 60, 70]
    store.save(make(80, 80))
    assert store.steps() == [30, 70, 80], "the best of the one before stays, in case the newest is damaged"
    store.save(make(90, 80))
    assert store.steps() == [80, 90]


def test_saving_an_earlier_step_drops_the_abandoned_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (10, 20, 30):
        store.save(make(step))
    store.save(make(25))
    assert store.steps() == [20, 25]
    assert store.newest_intact() == 25


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "index.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_damage_is_named_and_the_previous_checkpoint_is_used(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(make(1))
    path = store.save(make(2)) / name
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        store.read(2)
    # A flipped bit in the index may hit the digest of another file; then that file is named.
    assert "step-00000002" in str(error.value)
    if name != "index.json":
        assert name in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert store.newest_intact() == 1
    assert "passing over the checkpoint of step 2" in caplog.text and "step-00000002" in caplog.text
    assert equal(store.read(1), make(1))
    store.save(make(2))
    assert store.newest_intact() == 2 and equal(store.read(2), make(2))


def test_every_bit_of_the_small_files_is_guarded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    folder = store.save(make(1, size=2))
    for name in ("index.json", "state.json", "model.safetensors"):
        data = (folder / name).read_bytes()
        for position in range(0, len(data), 7):
            flipped = bytearray(data)
            flipped[position] ^= 1 << position % 8
            (folder / name).write_bytes(flipped)
            try:
                read = store.read(1)
            except CheckpointError:
                continue
            # A bit in the white space of the index changes nothing.
            assert name == "index.json" and equal(read, make(1, size=2))
        (folder / name).write_bytes(data)
    assert equal(store.read(1), make(1, size=2))


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        (store.save(make(step)) / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"every checkpoint in .*step-00000002.*1 bytes instead of.*Delete"):
        store.newest_intact()


def test_a_damaged_or_missing_latest_falls_back_to_the_newest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save(make(step))
    for text in ("{", '{"name": 5}', '{"other": 1}', "[]"):
        (tmp_path / "latest.json").write_text(text)
        assert store.newest_intact() == 2
    (tmp_path / "latest.json").unlink()
    assert store.newest_intact() == 2


def test_a_folder_renamed_without_latest_is_not_the_first_choice(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(make(1))
    latest = (tmp_path / "latest.json").read_bytes()
    store.save(make(2))
    (tmp_path / "latest.json").write_bytes(latest)  # as if killed between the rename and the pointer
    assert store.newest_intact() == 1


def test_a_half_written_folder_is_invisible_and_swept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(make(1))
    leftover = tmp_path / ".step-00000002.12345.part"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert store.steps() == [1] and store.newest_intact() == 1
    store.save(make(3))
    assert not leftover.exists()


def test_another_format_is_refused_with_its_number(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = store.save(make(1)) / "index.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(CheckpointError, match="format 7, this version reads 1"):
        store.read(1)


@pytest.mark.parametrize("fails_at", ["save_file", "write_json", "fsync", "replace"])
def test_a_simulated_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(make(1))

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if fails_at == "fsync":
            patch.setattr(os, "fsync", full)
        elif fails_at == "replace":
            patch.setattr(Path, "replace", full)
        else:
            patch.setattr(checkpoint_module, fails_at, full)
        with pytest.raises(
            DataError, match=r"no space left on the disk while writing .*step-00000002.*free some space"
        ):
            store.save(make(2))
    assert store.steps() == [1] and equal(store.read(1), make(1))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    store.save(make(2))
    assert store.newest_intact() == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("needs the command mount to make a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints")
    store.save(make(1, size=5_000))
    with pytest.raises(DataError, match=r"no space left on the disk while writing .*step-00000002"):
        store.save(make(2, size=50_000))
    assert store.newest_intact() == 1 and equal(store.read(1), make(1, size=5_000))
    store.save(make(2, size=6_000))
    assert store.newest_intact() == 2
