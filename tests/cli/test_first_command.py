"""`groundup first`: the list, a lesson end to end in a process of its own, and what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import command, environment, run, run_here

from groundup.recipes.first.catalog import LESSONS


def test_without_a_lesson_it_lists_them_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom groundup.cli.app import run\ncode = run(['first'])\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'numba'} & set(sys.modules)\nsys.exit(f'{heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(COLUMNS="170"))
    assert done.returncode == 0, done.stderr
    assert all(lesson.name in done.stdout and lesson.summary[:40] in done.stdout for lesson in LESSONS)
    assert "groundup first LESSON [SOURCE]" in done.stdout


def test_a_lesson_in_a_process_of_its_own_leaves_its_page_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("first", "tree", "--seed", "5")
    assert done.returncode == 0, done.stderr
    page = tmp_path / "runs" / "first" / "tree.html"
    assert str(page.relative_to(tmp_path)) in done.stdout and "best depth" in done.stdout
    assert "groundup first tree --seed 5" in page.read_text(encoding="utf-8")
    assert [path.name for path in page.parent.iterdir()] == ["tree.html"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["logistics"], 2, "there is no lesson 'logistics' (did you mean 'logistic'?)"),
        (["tree", "some.txt"], 2, "tree makes its own data and reads no source: leave 'some.txt' away"),
        (["tree", "--effort", "0"], 2, "--effort 0 is not above 0 and at most 1000"),
        (["tree", "--effort", "much"], 2, "groundup first --help"),
        (["tree", "--seed", "-2"], 2, "--seed -2 is negative"),
        (["--out", "x.html"], 2, "--out is the page of a lesson"),
        (["kmeans", "nothing-here"], 1, "neither a file, a folder nor a named source"),
        (["tree", "a", "b"], 2, "groundup first --help"),
    ],
)
def test_wrong_input_gets_one_line_and_a_code(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_here("first", *arguments)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert message in " ".join((done.stderr + done.stdout).split())
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_knows_no_letters_but_ascii_gets_marks_and_no_traceback(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    letters = "אבגדהוזחטיכל"
    words.write_text("\n".join(a + b + c for a in letters for b in letters[:3] for c in letters[:4]), encoding="utf-8")
    done = run(
        "first",
        "mlp",
        words,
        "--effort",
        "0.001",
        "--out",
        tmp_path / "page.html",
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="0",
    )
    assert done.returncode == 0, done.stderr
    assert "made-up words" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_a_lesson_with_a_word_and_leaves_nothing(tmp_path: Path) -> None:
    page = tmp_path / "made" / "page.html"
    process = subprocess.Popen(
        command("first", "autograd", "--effort", "100", "--out", page),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("train: ")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "warning: interrupted\n"
    assert list(tmp_path.iterdir()) == []
