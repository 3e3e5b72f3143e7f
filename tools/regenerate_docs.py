"""Runs the commands that the documentation shows and compares, or rewrites, their output.

A block is run when a comment stands before it:

    <!-- run: first-model -->
    ```console
    $ groundup speedrun --name demo
    plan: 1,234 parameters
    ...
    ```

`first-model` names a scenario: all blocks of a page with that name run in order in one temporary folder, which
starts as a copy of `examples/first-model/` where that exists. Words after the name: `slow` (the scenario runs only
with --slow), `fails` (the command must fail). A command may go on in the next line after a backslash (`> ` before the
rest is dropped), runs through `sh`, and finds `groundup`, `python` and `benchmarks` of this project. Output and errors
are shown together.

What is compared:

- A line `...` stands for any number of lines.
- Colours, line ends and the amount of white space and of table rules do not matter; the temporary folder is `.`.
- Durations, rates, sizes in bytes, dates, versions and absolute paths are blanked, and so are all other numbers in
  their line.
- Elsewhere a number with a decimal point or a percent sign may differ by 5 % (or 0.05); anything else must be equal.

    python tools/regenerate_docs.py                 compare; exit code 1 where something differs
    python tools/regenerate_docs.py --write         rewrite the pages with what the commands print now
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WILDCARD = "..."
TOLERANCE = 0.05

_MARK = re.compile(r"^<!-- run: (?P<name>[\w-]+)(?P<words>(?: [a-z]+)*) -->$")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NUMBER = r"[-+]?\d[\d,_]*(?:\.\d+)?(?:[eE][-+]?\d+)?"
# Order matters: a duration of two parts before one of a single part, a date before the numbers in it.
_VARYING = [
    (re.compile(r"\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?Z?"), "DATE"),
    (re.compile(rf"{_NUMBER} ?h {_NUMBER} ?min\b|{_NUMBER} ?min {_NUMBER} ?s\b"), "TIME"),
    (re.compile(rf"{_NUMBER} ?(?:ns|µs|us|ms|s|min|h|seconds?|minutes?|hours?)\b"), "TIME"),
    (re.compile(rf"{_NUMBER} ?[kMGT]?(?: ?[A-Za-z]+)?/s\b"), "RATE"),
    (re.compile(rf"{_NUMBER} ?(?:B|[kKMGT]i?B)\b"), "BYTES"),
    (re.compile(r"\b\d+\.\d+\.\d+[\w.+-]*"), "VERSION"),
    (re.compile(r"(?<![\w.<])(?:[A-Za-z]:)?(?:[/\\][\w.+-]+){2,}"), "PATH"),
]


@dataclass
class Command:
    """One command of a block: its text for the shell, the lines it is shown in, and the output shown below it."""

    text: str
    shown: list[str]
    expected: list[str] = field(default_factory=list)


@dataclass
class Block:
    """A runnable block of a page.

    Attributes:
        page: the file.
        line: 1-based line of the opening fence.
        scenario: name of the temporary folder it shares with other blocks of the page.
        words: `slow`, `fails`.
        commands: in order.
        start, end: 0-based range of the lines between the fences.
    """

    page: Path
    line: int
    scenario: str
    words: frozenset[str]
    commands: list[Command]
    start: int
    end: int


class PageError(Exception):
    """A page is written in a way that cannot be run, or a command ended otherwise than the page says."""


def parse(page: Path) -> list[Block]:
    """Find the runnable blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").split("\n")
    blocks = []
    index = 0
    while index < len(lines):
        mark = _MARK.match(lines[index].strip())
        index += 1
        if not mark:
            if lines[index - 1].strip().startswith("<!-- run"):
                raise PageError(f"{page}:{index}: write  <!-- run: NAME -->  or  <!-- run: NAME slow fails -->")
            continue
        words = frozenset(mark["words"].split())
        if words - {"slow", "fails"}:
            raise PageError(f"{page}:{index}: unknown word {sorted(words - {'slow', 'fails'})}: use slow or fails")
        if index >= len(lines) or lines[index].strip() != "```console":
            raise PageError(f"{page}:{index}: the line after the comment must be ```console")
        start = index + 1
        try:
            end = next(i for i in range(start, len(lines)) if lines[i].strip() == "```")
        except StopIteration:
            raise PageError(f"{page}:{index + 1}: the block is not closed") from None
        commands = _commands(lines[start:end], f"{page}:{index + 1}")
        blocks.append(Block(page, index + 1, mark["name"], words, commands, start, end))
        index = end + 1
    return blocks


def _commands(lines: list[str], where: str) -> list[Command]:
    commands: list[Command] = []
    open_command = False
    for line in lines:
        if open_command:
            command = commands[-1]
            command.shown.append(line)
            command.text = command.text[:-1].rstrip() + " " + line.removeprefix("> ").strip()
            open_command = command.text.endswith("\\")
        elif line.startswith("$ "):
            commands.append(Command(line[2:].strip(), [line]))
            open_command = line.rstrip().endswith("\\")
        elif commands:
            commands[-1].expected.append(line)
        else:
            raise PageError(f"{where}: a console block begins with a line  $ command")
    if not commands:
        raise PageError(f"{where}: the block holds no command")
    return commands


def clean(text: str, folder: Path) -> list[str]:
    """The lines of a command's output as a page may show them: no colours, no overwritten text, no temporary path."""
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    for spelling in {str(folder), str(folder.resolve())}:
        text = text.replace(spelling + os.sep, "").replace(spelling, ".")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def mask(line: str) -> str:
    """Blank what differs from run to run and from machine to machine."""
    line = re.sub(r"([─━═╌-])\1{2,}", r"\1", " ".join(line.split()))
    masked = line
    for pattern, name in _VARYING:
        masked = pattern.sub(f"<{name}>", masked)
    return re.sub(_NUMBER + r"[kMGT]?\b", "#", masked) if masked != line else line


def same_line(expected: str, actual: str) -> bool:
    """True where two lines agree after masking, decimals and percentages within 5 %."""
    expected, actual = mask(expected), mask(actual)
    if expected == actual:
        return True
    numbers = re.compile(_NUMBER + r"(?: ?%)?")
    if numbers.sub("#", expected) != numbers.sub("#", actual):
        return False
    pairs = zip(numbers.findall(expected), numbers.findall(actual), strict=True)
    return all(a == b or _close(a, b) for a, b in pairs)


def _close(a: str, b: str) -> bool:
    loose = [("." in text or "e" in text.lower() or text.endswith("%")) for text in (a, b)]
    if not any(loose) or a.endswith("%") != b.endswith("%"):
        return False
    x, y = (float(re.sub("[,_% ]", "", text)) for text in (a, b))
    slack = 100 * TOLERANCE if a.endswith("%") else TOLERANCE
    return abs(x - y) <= max(slack, TOLERANCE * max(abs(x), abs(y)))


def matches(expected: list[str], actual: list[str]) -> bool:
    """True where the lines agree one by one, a line `...` standing for any number of lines."""
    reachable = {0}
    for line in expected:
        if line.strip() == WILDCARD:
            reachable = set(range(min(reachable), len(actual) + 1)) if reachable else set()
        else:
            reachable = {i + 1 for i in reachable if i < len(actual) and same_line(line, actual[i])}
    return len(actual) in reachable


def rewritten(expected: list[str], actual: list[str]) -> list[str]:
    """The output to show: all of it, or as many lines before and after a single `...` as there were."""
    marks = [i for i, line in enumerate(expected) if line.strip() == WILDCARD]
    if len(marks) == 1:
        before, after = marks[0], len(expected) - marks[0] - 1
        if before + after < len(actual):
            return [*actual[:before], WILDCARD, *actual[len(actual) - after :]]
    return actual


def environment(folder: Path) -> dict[str, str]:
    """Plain output of a fixed width, this Python first in the path, an empty cache, and no network."""
    return {
        **os.environ,
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONUTF8": "1",
        "GROUNDUP_CACHE": str(folder / ".cache"),
        "GROUNDUP_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }


def run_scenario(blocks: list[Block], *, examples: Path = ROOT / "examples") -> Iterator[tuple[Command, list[str]]]:
    """Run the blocks of one scenario in a fresh folder and yield each command with the lines it printed.

    Raises:
        PageError: when a command's exit code is not what the page says.
    """
    with tempfile.TemporaryDirectory(prefix="groundup-docs-") as name:
        folder = Path(name)
        if (examples / blocks[0].scenario).is_dir():
            shutil.copytree(examples / blocks[0].scenario, folder, dirs_exist_ok=True)
        for block in blocks:
            for command in block.commands:
                done = subprocess.run(
                    ["sh", "-c", command.text],
                    cwd=folder,
                    env=environment(folder),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    encoding="utf-8",
                )
                actual = clean(done.stdout, folder)
                if (done.returncode != 0) != ("fails" in block.words):
                    wanted = "it should fail" if "fails" in block.words else "it should succeed"
                    raise PageError(
                        f"{block.page}:{block.line}: `{command.text}` ended with exit code {done.returncode}; "
                        f"{wanted}\n" + "\n".join(actual)
                    )
                yield command, actual


def scenarios(blocks: list[Block]) -> dict[str, list[Block]]:
    """The blocks of one page by scenario; a scenario is slow where one of its blocks says so."""
    grouped: dict[str, list[Block]] = {}
    for block in blocks:
        grouped.setdefault(block.scenario, []).append(block)
    return grouped


def is_slow(blocks: list[Block]) -> bool:
    return any("slow" in block.words for block in blocks)


def difference(block: Block, command: Command, actual: list[str]) -> str:
    """A unified diff of what the page shows and what was printed, both masked."""
    lines = difflib.unified_diff(
        [mask(line) for line in command.expected],
        [mask(line) for line in actual],
        f"{block.page}:{block.line} `{command.text}`",
        "printed now",
        lineterm="",
    )
    return "\n".join(lines)


def check(blocks: list[Block], *, examples: Path = ROOT / "examples") -> list[str]:
    """Run one scenario; return a difference for each command whose output is not what the page shows."""
    owner = {id(command): block for block in blocks for command in block.commands}
    return [
        difference(owner[id(command)], command, actual)
        for command, actual in run_scenario(blocks, examples=examples)
        if not matches([line for line in command.expected if line.strip()], [line for line in actual if line.strip()])
    ]


def rewrite(page: Path, chosen: list[list[Block]], *, examples: Path = ROOT / "examples") -> bool:
    """Run the chosen scenarios of a page and write what they print into it; True where the page changed."""
    printed = {id(command): actual for group in chosen for command, actual in run_scenario(group, examples=examples)}
    before = page.read_text(encoding="utf-8")
    lines = before.split("\n")
    for block in sorted((block for group in chosen for block in group), key=lambda block: -block.start):
        new = []
        for command in block.commands:
            new += [*command.shown, *rewritten(command.expected, printed[id(command)])]
        lines[block.start : block.end] = new
    after = "\n".join(lines)
    if after != before:
        page.write_text(after, encoding="utf-8")
    return after != before


def pages(paths: list[Path]) -> list[Path]:
    """The Markdown pages among and below `paths`."""
    return [page for path in paths for page in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the commands shown in the docs; compare or rewrite their output.")
    parser.add_argument("--write", action="store_true", help="rewrite the pages with what the commands print now")
    parser.add_argument("--slow", action="store_true", help="run the scenarios marked slow too")
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "README.md", ROOT / "docs"])
    options = parser.parse_args(arguments)
    failed = False
    for page in pages(options.paths):
        if not page.exists():
            sys.exit(f"{page} does not exist")
        groups = [g for g in scenarios(parse(page)).values() if options.slow or not is_slow(g)]
        if not groups:
            continue
        start = time.monotonic()
        try:
            if options.write:
                verdict = "rewritten" if rewrite(page, groups) else "unchanged"
            else:
                problems = [problem for group in groups for problem in check(group)]
                failed = failed or bool(problems)
                verdict = "\n".join(["differs", *problems]) if problems else "as shown"
        except PageError as error:
            failed, verdict = True, f"cannot be run\n{error}"
        print(f"{page}: {len(groups)} scenarios in {time.monotonic() - start:.1f} s, {verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
