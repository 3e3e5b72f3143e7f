"""A Hugging Face hub on the loopback: as much of its protocol as fetching a model uses, and its ways to fail.

What it answers follows the hub's documented API: a listing with commit and sizes, file metadata on HEAD, and large
files behind a redirect to another host name, which takes ranges.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

#: Files from this size on are stored apart, as git-lfs does it.
LARGE_BYTES = 1000


@dataclass
class Repo:
    """A repository: commits in order, and what makes it difficult."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: str = ""  # "api" or "files": where the hub says no
    private: bool = False

    def commit(self, files: dict[str, bytes], *names: str) -> str:
        """Add a commit on `main` (and under further names); return its hash."""
        text = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in files.items()})
        commit = hashlib.sha1(text.encode() + str(len(self.commits)).encode()).hexdigest()
        self.commits[commit] = files
        self.refs |= dict.fromkeys(("main", *names), commit)
        return commit

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class FakeHub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repos: what it has.
        requests: `METHOD path [range]` of all that was asked, in order.
        cuts: how many more answers with a large file break off, each after `cut_after` bytes.
        broken: HTTP status of every answer of the API instead of the true one, 0 for none.
        garbage: text that the API answers with instead of JSON.
        watch: called with each entry of `requests` before it is answered.
        slow_s: seconds between the pieces of a large file.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.cuts, self.cut_after = 0, 0
        self.broken, self.garbage = 0, ""
        self.slow_s = 0.0
        self.watch: Callable[[str], None] | None = None
        self.token = "hf_right"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, part: str) -> list[str]:
        return [request for request in self.requests if part in request]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        wanted = self.headers.get("Range", "")
        self.server.requests.append(f"{self.command} {path} {wanted}".strip())
        if self.server.watch is not None:
            self.server.watch(self.server.requests[-1])
        if path.startswith("/store/"):
            return self._large(path.removeprefix("/store/"))
        if path.startswith("/api/models/") and (self.server.broken or self.server.garbage):
            return self._send(self.server.broken or 200, self.server.garbage.encode() or b'{"error": "out of order"}')
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self._listing(name, revision)
        name, _, rest = path[1:].partition("/resolve/")
        return self._file(name, *self._split(name, rest))

    def _split(self, name: str, rest: str) -> tuple[str, str]:
        """Cut `refs/pr/1/config.json` after the revision, which may hold slashes."""
        repo = self.server.repos.get(name, Repo())
        known = [r for r in [*repo.refs, *repo.commits] if rest.startswith(r + "/")]
        revision = max(known, key=len, default=rest.partition("/")[0])
        return revision, rest[len(revision) + 1 :]

    def _refused(self, name: str, where: str) -> bool:
        repo = self.server.repos.get(name)
        given = self.headers.get("authorization")
        may = given == f"Bearer {self.server.token}"
        if given and not may:
            self._fail(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not may):
            self._fail(404 if may else 401, "RepoNotFound", "Repository not found")
        elif repo.gated == where and not may:
            self._fail(403, "GatedRepo", f"Access to model {name} is restricted")
        else:
            return False
        return True

    def _listing(self, name: str, revision: str) -> None:
        if self._refused(name, "api"):
            return
        repo = self.server.repos[name]
        commit = repo.find(revision)
        if commit is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [{"rfilename": path, "size": len(data)} for path, data in repo.commits[commit].items()]
        body = {"_id": "1", "id": name, "modelId": name, "sha": commit, "private": repo.private, "siblings": siblings}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        if self._refused(name, "api") or self._refused(name, "files"):
            return
        repo = self.server.repos[name]
        commit = repo.find(revision)
        if commit is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in repo.commits[commit]:
            return self._fail(404, "EntryNotFound", "Entry not found")
        data = repo.commits[commit][path]
        headers = {"X-Repo-Commit": commit}
        if len(data) < LARGE_BYTES:
            return self._send(200, data, headers | {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
        digest = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        # Another name of this machine: the token must not follow there.
        headers["Location"] = f"http://localhost:{self.server.server_port}/store/{name}/{commit}/{path}"
        self._send(302, b"", headers)

    def _large(self, path: str) -> None:
        assert "authorization" not in self.headers
        owner, name, commit, file = path.split("/", 3)
        data = self.server.repos[f"{owner}/{name}"].commits[commit][file]
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        end = len(data)
        if self.server.cuts > 0:
            self.server.cuts -= 1
            end = min(start + self.server.cut_after, len(data) - 1)
            self.close_connection = True
        for position in range(start, end, 1 << 16):
            self.wfile.write(data[position : min(position + (1 << 16), end)])
            if self.server.slow_s:
                time.sleep(self.server.slow_s)

    def _fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub that answers while inside."""
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
