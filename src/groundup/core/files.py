"""Files written whole or not at all, and hashes of them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from groundup.core.errors import DataError, GroundupError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success flush it to the disk and rename it into place.

    On any failure the temporary file is removed and what stood at `path` stays as it was.

    Raises:
        GroundupError: when the disk is full or not writable, naming the path and the space that is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise explain_write_error(path, error) from error
    finally:
        with suppress(OSError):  # its folder may be missing or a file: the error above says so
            temporary.unlink(missing_ok=True)


def explain_write_error(path: Path, error: OSError) -> GroundupError:
    """Turn an OSError met while writing `path` into an error that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"no space left on the disk while writing {path}: free some space and run the same command again"
        )
    return DataError(f"cannot write {path}: {error.strerror or error}")


def check_writable(path: Path) -> None:
    """Raise DataError where nothing could be written at `path`, before hours of work are done for it."""
    folder = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if folder is not None and not folder.is_dir():
        raise DataError(f"cannot write {path}: {folder} is a file, not a folder")
    if folder is not None and not os.access(folder, os.W_OK):
        raise DataError(f"cannot write {path}: nothing may be written in {folder}")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable (a directory cannot be opened on Windows, where this does nothing)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, error: Callable[[str], GroundupError] = DataError) -> Any:
    """Read a JSON file; `error` builds the typed error when it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as problem:  # ValueError: no UTF-8, no JSON, a number of 5,000 digits
        raise error(f"{path} cannot be read: {problem}") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value with sorted keys: the same value gives the same hash."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
