"""The output that the docs show is what the commands print; and the tool that compares them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools import regenerate_docs
from tools.regenerate_docs import PageError, check, mask, matches, parse, rewrite, same_line, scenarios

ROOT = Path(__file__).resolve().parents[2]
needs_sh = pytest.mark.skipif(os.name == "nt", reason="the docs' commands are for a POSIX shell")


def _shown_scenarios() -> list[object]:
    found = []
    for page in regenerate_docs.pages([ROOT / "docs", *ROOT.glob("README.md")]):
        for name, blocks in scenarios(parse(page)).items():
            marks = [pytest.mark.slow] if regenerate_docs.is_slow(blocks) else []
            found.append(pytest.param(blocks, id=f"{page.relative_to(ROOT)}:{name}", marks=marks))
    return found


@needs_sh
@pytest.mark.parametrize("blocks", _shown_scenarios())
def test_the_docs_show_what_the_commands_print(blocks: list[regenerate_docs.Block]) -> None:
    problems = check(blocks)
    assert not problems, "run  make docs-output  and look at the change:\n" + "\n".join(problems)


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def run(page: Path) -> list[str]:
    return [problem for blocks in scenarios(parse(page)).values() for problem in check(blocks)]


TWO_BLOCKS = """\
# Title

```console
$ never run
```

<!-- run: demo -->
```console
$ echo first > notes.txt; cat notes.txt
first
$ seq 1 4
1
...
4
```

text between

<!-- run: demo -->
```console
$ cat \\
> notes.txt
first
```
"""


@needs_sh
def test_blocks_of_a_scenario_share_a_folder_and_unmarked_blocks_are_not_run(tmp_path: Path) -> None:
    page = page_of(tmp_path, TWO_BLOCKS)
    blocks = parse(page)
    assert [(b.scenario, b.line, len(b.commands)) for b in blocks] == [("demo", 8, 2), ("demo", 20, 1)]
    assert blocks[1].commands[0].text == "cat notes.txt"
    assert run(page) == []


@needs_sh
def test_a_difference_is_found_shown_and_rewritten(tmp_path: Path) -> None:
    page = page_of(tmp_path, TWO_BLOCKS.replace("\nfirst\n$ seq", "\nsecond\n$ seq"))
    (problem,) = run(page)
    assert "-second" in problem and "+first" in problem and f"{page}:8" in problem
    assert rewrite(page, list(scenarios(parse(page)).values()))
    assert page.read_text(encoding="utf-8") == TWO_BLOCKS
    assert not rewrite(page, list(scenarios(parse(page)).values()))


@needs_sh
def test_main_compares_then_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(tmp_path, "<!-- run: a -->\n```console\n$ echo one\ntwo\n```\n")
    assert regenerate_docs.main([str(page)]) == 1
    assert "differs" in capsys.readouterr().out
    assert regenerate_docs.main(["--write", str(tmp_path)]) == 0
    assert "$ echo one\none\n```" in page.read_text(encoding="utf-8")
    assert regenerate_docs.main([str(page)]) == 0


@needs_sh
def test_slow_scenarios_run_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(tmp_path, "<!-- run: a slow -->\n```console\n$ echo one\ntwo\n```\n")
    assert regenerate_docs.main([str(page)]) == 0
    assert capsys.readouterr().out == ""
    assert regenerate_docs.main(["--slow", str(page)]) == 1


@needs_sh
def test_exit_codes_are_part_of_what_a_page_says(tmp_path: Path) -> None:
    good = page_of(tmp_path, "<!-- run: a fails -->\n```console\n$ echo no >&2; exit 3\nno\n```\n")
    assert run(good) == []
    page = page_of(tmp_path, "<!-- run: a -->\n```console\n$ echo no >&2; exit 3\nno\n```\n")
    with pytest.raises(PageError, match=r"page.md:2: `echo no >&2; exit 3` ended with exit code 3; it should succeed"):
        run(page)
    page = page_of(tmp_path, "<!-- run: a fails -->\n```console\n$ true\n```\n")
    with pytest.raises(PageError, match="exit code 0; it should fail"):
        run(page)


@needs_sh
def test_a_scenario_starts_from_its_example_folder_without_network_or_cache(tmp_path: Path) -> None:
    (tmp_path / "examples/demo").mkdir(parents=True)
    (tmp_path / "examples/demo/words.txt").write_text("from the example\n", encoding="utf-8")
    text = "<!-- run: demo -->\n```console\n$ cat words.txt; echo $GROUNDUP_OFFLINE; pwd; echo $GROUNDUP_CACHE\n```\n"
    page = page_of(tmp_path, text)
    (group,) = scenarios(parse(page)).values()
    ((_, printed),) = regenerate_docs.run_scenario(group, examples=tmp_path / "examples")
    assert printed == ["from the example", "1", ".", ".cache"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- run: a -->\n\n```console\n$ true\n```\n", "must be ```console"),
        ("<!-- run: a -->\n```console\n$ true\n", "not closed"),
        ("<!-- run: a -->\n```console\n```\n", "holds no command"),
        ("<!-- run: a -->\n```console\ntext\n$ true\n```\n", r"begins with a line  \$ command"),
        ("<!-- run: a quick -->\n```console\n$ true\n```\n", r"unknown word \['quick'\]: use slow or fails"),
        ("<!-- run -->\n```console\n$ true\n```\n", "write  <!-- run: NAME -->"),
    ],
)
def test_a_page_that_cannot_be_run_says_why_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PageError, match=message) as caught:
        parse(page_of(tmp_path, text))
    assert "page.md:" in str(caught.value)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("trained 400 steps in 3 min 20 s", "trained 400 steps in 41.7 s"),
        ("pretrain: 10/20 steps, 12.3k tokens/s, 2 h 05 min left", "pretrain: 15/20 steps, 9k tokens/s, 7 s left"),
        ("peak memory 812 MB", "peak memory 1.25 GB"),
        ("torch 2.13.0+cpu", "torch 2.11.1"),
        ("2026-11-22 06:06:18Z done", "2027-01-02 10:00:00Z done"),
        ("│ loss │   3.412 │", "│ loss │ 3.40 │"),
        ("━━━━━━━━", "━━━━━━━━━━━"),
        ("python at /usr/bin/python3", "python at /work/main/.venv/bin/python"),
        ("accuracy 63 %", "accuracy 60 %"),
        ("accuracy 63% of 120", "accuracy 66% of 120"),
        ("loss 1.02e-3", "loss 1.00e-3"),
    ],
)
def test_lines_that_differ_only_in_what_varies_are_the_same(shown: str, printed: str) -> None:
    assert same_line(shown, printed) and same_line(printed, shown)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("trained in 41 s", "tuned in 41 s"),
        ("400 steps", "401 steps"),
        ("3 modules", "3 module"),
        ("written to runs/demo", "written to runs/other"),
        ("loss 3.412", "loss 2.9"),
        ("accuracy 63 %", "accuracy 43 %"),
        ("accuracy 63 %", "accuracy 63"),
        ("depth 4", "depth 4.0 wide"),
        ("4.56M parameters", "4.56k parameters"),
    ],
)
def test_lines_that_differ_in_substance_are_not_the_same(shown: str, printed: str) -> None:
    assert not same_line(shown, printed) and not same_line(printed, shown)


def test_a_wildcard_stands_for_any_number_of_lines_and_nothing_else_does() -> None:
    assert matches(["a", "...", "z"], ["a", "z"])
    assert matches(["a", "...", "z"], ["a", "b", "z", "c", "z"])
    assert matches(["..."], [])
    assert matches(["...", "m", "...", "z"], ["a", "m", "z"])
    assert not matches(["a", "...", "z"], ["a", "b"])
    assert not matches(["a"], ["a", "b"])
    assert not matches(["a", "b"], ["a"])


def test_rewriting_keeps_one_wildcard_where_it_stood() -> None:
    new = [str(number) for number in range(9)]
    assert regenerate_docs.rewritten(["x", "...", "y", "z"], new) == ["0", "...", "7", "8"]
    assert regenerate_docs.rewritten(["x", "y"], new) == new
    assert regenerate_docs.rewritten(["x", "...", "y"], ["only"]) == ["only"]


def test_colours_overwritten_text_and_the_temporary_folder_are_not_shown(tmp_path: Path) -> None:
    text = f"\x1b[1mbold\x1b[0m  \nstep 1\rstep 2\n{tmp_path}/runs/a is in {tmp_path}\n\n"
    assert regenerate_docs.clean(text, tmp_path) == ["bold", "step 2", "runs/a is in ."]


def test_masking_blanks_the_other_numbers_of_a_line_with_a_time() -> None:
    assert mask(
        "step 40/400  loss 3.21  12.3k tokens/s  2 min 05 s left"
    ) == "step #/#  loss #  <RATE>  <TIME> left".replace("  ", " ")
    assert mask("400 steps") == "400 steps"
