"""Downloads that are verified, go on where they were cut, and can come from a mirror or a folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
from platformdirs import user_cache_path

from groundup.core import console
from groundup.core.errors import DownloadError
from groundup.core.files import atomic_write, explain_write_error, sha256_file, write_json

log = logging.getLogger("groundup.data.download")

#: Connections in a row that bring no new byte before a download is given up.
ATTEMPTS = 5
#: Connections in all, so that a server that cuts after every few bytes ends too.
MAX_CONNECTIONS = 100
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 8.0
TIMEOUT_S = 30.0
LOCK_POLL_S = 0.2
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file that can be downloaded.

    Attributes:
        name: its path in the cache and in a mirror folder, such as `shakespeare/input.txt`.
        url: where it comes from.
        sha256: of its bytes.
        size: in bytes; a server that sends more is cut off.
    """

    name: str
    url: str
    sha256: str
    size: int


def cache_folder() -> Path:
    """Return the folder of downloads: `GROUNDUP_CACHE`, or the platform's cache directory for groundup."""
    own = os.environ.get("GROUNDUP_CACHE")
    return Path(own).expanduser() if own else user_cache_path("groundup", appauthor=False)


def is_offline() -> bool:
    """Return True when `GROUNDUP_OFFLINE` or `HF_HUB_OFFLINE` is set to 1, true, yes or on."""
    return any(
        os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")
        for name in ("GROUNDUP_OFFLINE", "HF_HUB_OFFLINE")
    )


def fetch(remote: Remote) -> Path:
    """Return the path of a verified copy, downloading it when the cache has none.

    `GROUNDUP_MIRROR` replaces the address: a folder (or `file:` URL) that holds the file by its name or by the path of
    its URL, or the base of a URL to which the path of the original is appended. A folder is used offline too.

    Raises:
        DownloadError: offline, not found, cut too often, or with a wrong checksum (the wrong file is deleted).
        DataError: when the disk is full.
    """
    path = cache_folder() / "downloads" / remote.name
    if path.is_file() and sha256_file(path) == remote.sha256:
        return path
    mirror = os.environ.get("GROUNDUP_MIRROR", "").strip()
    url_path = urlsplit(remote.url).path.lstrip("/")
    if mirror and urlsplit(mirror).scheme not in ("http", "https"):
        return _copy_from_folder(remote, mirror, url_path, path)
    if is_offline():
        raise DownloadError(
            f"{remote.name} is not in the cache and the machine is set to offline (GROUNDUP_OFFLINE or HF_HUB_OFFLINE): "
            f"put the file from {remote.url} (sha256 {remote.sha256}) at {path}, or unset the variable"
        )
    url = f"{mirror.rstrip('/')}/{url_path}" if mirror else remote.url
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(path.name + ".lock")):
            # Another process may have fetched it while this one waited.
            if not path.is_file() or sha256_file(path) != remote.sha256:
                _Download(remote, url, path).run()
    except OSError as error:
        raise explain_write_error(path, error) from error
    return path


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is inside; the system lets go of the lock even when a process is killed."""
    with lock.open("ab") as file:
        told = False
        while not _try_lock(file.fileno()):
            if not told:
                log.warning("another process is downloading %s: waiting for it", lock.stem)
            told = True
            time.sleep(LOCK_POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks answers something else: then two downloads may disturb each other, which the
        # checksum finds.
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def _copy_from_folder(remote: Remote, mirror: str, url_path: str, path: Path) -> Path:
    parts = urlsplit(mirror)
    folder = Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(mirror).expanduser()
    found = next((folder / name for name in (remote.name, url_path) if (folder / name).is_file()), None)
    if found is None:
        raise DownloadError(
            f"the mirror folder {folder} (GROUNDUP_MIRROR) has neither {remote.name} nor {url_path}: put the file "
            f"from {remote.url} there"
        )
    digest = sha256_file(found)
    if digest != remote.sha256:
        raise DownloadError(
            f"{found} in the mirror folder has sha256 {digest}, {remote.sha256} is expected: replace it"
        )
    with found.open("rb") as source, atomic_write(path) as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)
    return path


class _Download:
    """One download: bytes arrive in `NAME.part`, beside it `NAME.part.json` says which version of the file it is."""

    def __init__(self, remote: Remote, url: str, path: Path) -> None:
        self.remote, self.url, self.path = remote, url, path
        self.part = path.with_name(path.name + ".part")
        self.note = path.with_name(path.name + ".part.json")
        self.resumed = False

    def run(self) -> None:
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as client:
            self._transfer(client)
            digest = sha256_file(self.part)
            if digest != self.remote.sha256 and self.resumed:
                # The beginning may come from another version of the file, or from a disk that failed: once from zero.
                log.warning("%s is wrong after it was resumed; fetching it again from the beginning", self.remote.name)
                self._forget()
                self._transfer(client)
                digest = sha256_file(self.part)
        if digest != self.remote.sha256:
            self._forget()
            raise DownloadError(
                f"{self.url} does not have the expected content: its sha256 is {digest}, {self.remote.sha256} is "
                "expected. The file was deleted; try again, or set GROUNDUP_MIRROR to another source"
            )
        self.part.replace(self.path)
        self.note.unlink(missing_ok=True)

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _transfer(self, client: httpx.Client) -> None:
        """Connect until the file is complete, waiting longer after each connection that brought nothing."""
        start = self._have()
        if start > self.remote.size:
            self._forget()
            start = 0
        self.resumed = start > 0
        failures, problem = 0, ""
        with console.progress(f"downloading {self.remote.name}", self.remote.size, "bytes", done=start) as bar:
            for _ in range(MAX_CONNECTIONS):
                before = self._have()
                if before == self.remote.size:
                    return
                problem = self._connect(client, before, bar)
                if not problem:
                    return
                failures = 0 if self._have() > before else failures + 1
                if failures >= ATTEMPTS:
                    break
                log.info("%s: %s; trying again", self.url, problem)
                time.sleep(min(FIRST_WAIT_S * 2**failures, LONGEST_WAIT_S))
        raise DownloadError(
            f"cannot download {self.url}: {problem}. {self._have():,} of {self.remote.size:,} bytes are kept, the same "
            f"command goes on from there; or put the file (sha256 {self.remote.sha256}) at {self.path}"
        )

    def _connect(self, client: httpx.Client, have: int, bar: console.Ticker) -> str:
        """Make one connection; return what went wrong, or an empty string when the file is complete."""
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            validator = self._validator()
            if validator:
                headers["If-Range"] = validator
        try:
            with client.stream("GET", self.url, headers=headers) as response:
                status = response.status_code
                if status == 416 or (status == 206 and not self._continues(response, have)):
                    self._forget()
                    bar.advance(-have)
                    return f"the server cannot continue at byte {have:,}"
                if status in (408, 429) or status >= 500:
                    return f"the server answered HTTP {status}"
                if status not in (200, 206):
                    raise DownloadError(
                        f"cannot download {self.url}: the server answered HTTP {status}. Put the file (sha256 "
                        f"{self.remote.sha256}) at {self.path}, or set GROUNDUP_MIRROR to another source"
                    )
                if status == 200:
                    bar.advance(-have)
                self._receive(response, append=status == 206, bar=bar)
        except httpx.InvalidURL as error:
            raise DownloadError(f"{self.url} is not a URL: {error}") from None
        except httpx.RequestError as error:
            return f"{type(error).__name__}: {error}"
        missing = self.remote.size - self._have()
        return f"the connection ended {missing:,} bytes early" if missing > 0 else ""

    def _continues(self, response: httpx.Response, have: int) -> bool:
        return str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")

    def _validator(self) -> str:
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return str(note["validator"]) if note["url"] == self.url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _receive(self, response: httpx.Response, *, append: bool, bar: console.Ticker) -> None:
        if not append:
            # If-Range takes strong validators only (RFC 9110, 13.1.5); a weak ETag begins with W/.
            etag = response.headers.get("ETag", "")
            validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
            write_json(self.note, {"url": self.url, "validator": validator})
        try:
            with self.part.open("ab" if append else "wb") as file:
                for chunk in self._bounded(response, self._have() if append else 0):
                    file.write(chunk)
                    bar.advance(len(chunk))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise explain_write_error(self.part, error) from error

    def _bounded(self, response: httpx.Response, have: int) -> Iterator[bytes]:
        # Pieces as they arrive: with a fixed size httpx would hold back, and on a cut lose, the last part.
        for chunk in response.iter_raw():
            have += len(chunk)
            if have > self.remote.size:
                self._forget()
                raise DownloadError(
                    f"{self.url} is larger than the {self.remote.size:,} bytes expected: it is not the right file, and "
                    "was deleted"
                )
            yield chunk
