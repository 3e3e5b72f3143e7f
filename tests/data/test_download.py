"""The real download code against a server on loopback: cuts, lies, errors, full disks, offline machines, mirrors."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from groundup.core.errors import DataError, DownloadError
from groundup.data import download
from groundup.data.download import Remote, cache_folder, fetch, is_offline
from groundup.data.named import SHAKESPEARE, read_shakespeare

CONTENT = random.Random(7).randbytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` under any path. Each request takes the next of `acts`; without one it is served well.

    Acts: a number of bytes after which the connection is cut, a status code, `no range`, `wrong range`, `endless`,
    `hang`, or `redirect`.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"v1"'
        self.modified = ""
        self.acts: list[int | str] = []
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_args: Any) -> None: ...

    def end_headers(self) -> None:
        # Said aloud, or the client would try the closed connection once more and the counts below would vary.
        self.send_header("Connection", "close")
        super().end_headers()

    def do_GET(self) -> None:
        server = self.server
        server.requests.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        act = server.acts.pop(0) if server.acts else ""
        self.close_connection = True
        if act == "hang":
            threading.Event().wait(1.5)
            return
        if act == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{server.url}/moved")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if isinstance(act, int) and 400 <= act < 600:
            self.send_response(act)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start() if act != "no range" else 0
        if start > len(server.content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            told = 0 if act == "wrong range" else start
            self.send_header("Content-Range", f"bytes {told}-{len(server.content) - 1}/{len(server.content)}")
        for name, value in (("ETag", server.etag), ("Last-Modified", server.modified)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) * (50 if act == "endless" else 1)))
        self.end_headers()
        try:
            if act == "endless":
                for _ in range(50):
                    self.wfile.write(body)
            else:
                self.wfile.write(body[:act] if isinstance(act, int) else body)
        except OSError:
            pass

    def _start(self) -> int:
        condition = self.headers.get("If-Range")
        if condition and condition not in (self.server.etag, self.server.modified):
            return 0
        wanted = self.headers.get("Range", "")
        return int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "HF_HUB_OFFLINE",
        "GROUNDUP_OFFLINE",
        "GROUNDUP_MIRROR",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    return tmp_path / "cache"


def remote(server: Server, **changes: Any) -> Remote:
    values = {"name": "set/file.bin", "url": f"{server.url}/some/file.bin", "sha256": SHA, "size": len(CONTENT)}
    return Remote(**values | changes)


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_download_is_verified_and_cached(server: Server, cache: Path) -> None:
    path = fetch(remote(server))
    assert path == cache / "downloads" / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(remote(server)) == path
    assert len(server.requests) == 1 and server.requests[0]["accept-encoding"] == "identity"
    assert leftovers(cache) == ["file.bin"]
    path.write_bytes(CONTENT[:-1] + b"!")
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_cut_connection_is_resumed(server: Server, cache: Path) -> None:
    server.acts = [100_000, 50_000]
    assert fetch(remote(server)).read_bytes() == CONTENT
    asked = [(r.get("range"), r.get("if-range")) for r in server.requests]
    assert asked == [(None, None), ("bytes=100000-", '"v1"'), ("bytes=150000-", '"v1"')]
    assert leftovers(cache) == ["file.bin"]


def test_many_cuts_at_random_places(server: Server) -> None:
    cuts = random.Random(3)
    server.acts = [cuts.randrange(399) if cuts.random() < 0.2 else cuts.randrange(600, 20_000) for _ in range(25)]
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert len(server.requests) > 20


def test_a_second_run_goes_on_where_the_first_gave_up(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.acts = [120_000, 0, 0]
    with pytest.raises(DownloadError, match=rf"120,000 of 300,000 bytes are kept.*sha256 {SHA}\) at .*file\.bin"):
        fetch(remote(server))
    assert leftovers(cache) == ["file.bin.part", "file.bin.part.json"]
    server.requests.clear()
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert [r.get("range") for r in server.requests] == ["bytes=120000-"]


def test_a_file_that_changed_in_between_is_fetched_whole(server: Server) -> None:
    server.acts = [100_000]
    server.content = bytes(len(CONTENT))
    original = Handler._start

    def swap(self: Handler) -> int:
        if len(server.requests) == 2:
            server.content, server.etag = CONTENT, '"v2"'
        return original(self)

    Handler._start = swap  # type: ignore[method-assign]
    try:
        assert fetch(remote(server)).read_bytes() == CONTENT
    finally:
        Handler._start = original  # type: ignore[method-assign]
    assert server.requests[1]["if-range"] == '"v1"' and len(server.requests) == 2


@pytest.mark.parametrize(
    ("etag", "modified", "condition"),
    [
        ('W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ('W/"weak"', "", None),
        ("", "", None),
    ],
)
def test_weak_tags_are_not_used(server: Server, etag: str, modified: str, condition: str | None) -> None:
    server.etag, server.modified, server.acts = etag, modified, [100_000]
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert server.requests[1].get("if-range") == condition and server.requests[1]["range"] == "bytes=100000-"


@pytest.mark.parametrize("act", ["no range", "wrong range"])
def test_servers_that_cannot_continue(server: Server, act: str) -> None:
    server.acts = [100_000, act]
    assert fetch(remote(server)).read_bytes() == CONTENT


def test_a_part_beyond_the_end_is_thrown_away(server: Server, cache: Path) -> None:
    folder = cache / "downloads" / "set"
    folder.mkdir(parents=True)
    for size in (len(CONTENT) + 5, len(CONTENT)):
        (folder / "file.bin.part").write_bytes(bytes(size))
        assert fetch(remote(server)).read_bytes() == CONTENT
        assert leftovers(cache) == ["file.bin"]
        (folder / "file.bin").unlink()


def test_a_spoilt_part_is_fetched_again_from_the_beginning(server: Server, cache: Path) -> None:
    folder = cache / "downloads" / "set"
    folder.mkdir(parents=True)
    (folder / "file.bin.part").write_bytes(bytes(1000))
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert [r.get("range") for r in server.requests] == ["bytes=1000-", None]
    assert leftovers(cache) == ["file.bin"]


def test_a_wrong_checksum_names_both_and_deletes(server: Server, cache: Path) -> None:
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DownloadError, match=f"its sha256 is {found}, {SHA} is expected. The file was deleted"):
        fetch(remote(server))
    assert leftovers(cache) == []


def test_more_bytes_than_expected_are_cut_off(server: Server, cache: Path) -> None:
    server.acts = ["endless"]
    with pytest.raises(DownloadError, match="is larger than the 300,000 bytes expected"):
        fetch(remote(server))
    assert leftovers(cache) == []


def test_fewer_bytes_than_expected(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.content = CONTENT[:200_000]
    with pytest.raises(DownloadError, match="the connection ended 100,000 bytes early"):
        fetch(remote(server))


def test_absent_files_are_not_asked_for_twice(server: Server, cache: Path) -> None:
    for status in (404, 403):
        server.acts, server.requests = [status], []
        with pytest.raises(
            DownloadError, match=rf"HTTP {status}\. Put the file \(sha256 {SHA}\) at .*or set GROUNDUP_MIRROR"
        ):
            fetch(remote(server))
        assert len(server.requests) == 1


def test_server_errors_are_waited_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.acts = [500, 503, 429]
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert waits == [1.0, 2.0, 4.0]
    server.acts = [500] * 99
    server.requests.clear()
    shutil.rmtree(cache_folder())
    with pytest.raises(DownloadError, match=r"the server answered HTTP 500\. 0 of 300,000 bytes are kept"):
        fetch(remote(server))
    assert len(server.requests) == download.ATTEMPTS
    assert max(waits) <= download.LONGEST_WAIT_S


def test_a_server_that_hangs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.15)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.acts = ["hang"] * 5
    with pytest.raises(DownloadError, match="ReadTimeout"):
        fetch(remote(server))


def test_nobody_listens(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=rf"cannot download http://127\.0\.0\.1:{port}/f: ConnectError"):
        fetch(remote(server, url=f"http://127.0.0.1:{port}/f"))


def test_redirects_are_followed(server: Server) -> None:
    server.acts = ["redirect"]
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert [r["path"] for r in server.requests] == ["/some/file.bin", "/moved"]


def test_a_full_disk_keeps_what_came_and_goes_on(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.written = file, 0

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            if self.written + len(data) > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.written += len(data)
            return int(self.file.write(data))

    def open_full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = real(self, mode, *args, **options)
        return Full(file) if self.name.endswith(".part") and mode in ("ab", "wb") and "json" not in self.name else file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(DataError, match=r"no space left on the disk while writing .*file\.bin\.part: free some space"):
        fetch(remote(server))
    monkeypatch.setattr(Path, "open", real)
    kept = (cache / "downloads" / "set" / "file.bin.part").stat().st_size
    assert 0 < kept <= 100_000
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert server.requests[-1]["range"] == f"bytes={kept}-"


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "GROUNDUP_OFFLINE"])
def test_an_offline_machine_is_told_what_to_do(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert is_offline()
    path = cache / "downloads" / "set" / "file.bin"
    with pytest.raises(
        DownloadError, match=rf"put the file from {server.url}/some/file\.bin \(sha256 {SHA}\) at {path}"
    ):
        fetch(remote(server))
    assert server.requests == []
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(remote(server)) == path
    monkeypatch.setenv(name, "0")
    assert not is_offline()


def test_a_mirror_url_replaces_the_base(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDUP_MIRROR", f"{server.url}/mirror/")
    assert fetch(remote(server, url="https://example.invalid/a/b/file.bin")).read_bytes() == CONTENT
    assert server.requests[0]["path"] == "/mirror/a/b/file.bin"


@pytest.mark.parametrize("layout", ["set/file.bin", "a/b/file.bin"])
@pytest.mark.parametrize("as_url", [False, True])
def test_a_mirror_folder_works_offline(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, as_url: bool
) -> None:
    mirror = tmp_path / "my mirror"
    (mirror / layout).parent.mkdir(parents=True)
    (mirror / layout).write_bytes(CONTENT)
    monkeypatch.setenv("GROUNDUP_MIRROR", mirror.as_uri() if as_url else str(mirror))
    monkeypatch.setenv("GROUNDUP_OFFLINE", "1")
    wanted = remote(server, url="https://example.invalid/a/b/file.bin")
    assert fetch(wanted).read_bytes() == CONTENT
    shutil.rmtree(cache_folder())
    (mirror / layout).write_bytes(b"other")
    with pytest.raises(DownloadError, match=rf"sha256 {hashlib.sha256(b'other').hexdigest()}, {SHA} is expected"):
        fetch(wanted)
    (mirror / layout).unlink()
    with pytest.raises(
        DownloadError, match=r"my mirror \(GROUNDUP_MIRROR\) has neither set/file\.bin nor a/b/file\.bin"
    ):
        fetch(wanted)
    assert server.requests == []


def test_two_at_once_download_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LOCK_POLL_S", 0.01)
    server.acts = [50_000, 50_000]
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(fetch(remote(server)).read_bytes() == CONTENT)
        except Exception as error:  # handed to the main thread
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [True] * 4
    assert len(server.requests) == 3


def test_a_cache_that_cannot_be_written(server: Server, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot write .*file\.bin: "):
        fetch(remote(server))


def test_the_platforms_cache_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUNDUP_CACHE")
    assert cache_folder().name == "groundup" or "groundup" in cache_folder().parts
    monkeypatch.setenv("GROUNDUP_CACHE", "~/x")
    assert cache_folder() == Path.home() / "x"


def test_shakespeare_over_the_wire(server: Server, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = (shared_data / "shakespeare" / "input.txt").read_bytes()
    assert len(server.content) == SHAKESPEARE.size
    assert hashlib.sha256(server.content).hexdigest() == SHAKESPEARE.sha256
    monkeypatch.setenv("GROUNDUP_MIRROR", server.url)
    server.acts = [400_001, 503, 300_000]
    assert read_shakespeare()[0].text.startswith("First Citizen:\nBefore we proceed")
    assert [r["path"] for r in server.requests] == ["/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"] * 4
