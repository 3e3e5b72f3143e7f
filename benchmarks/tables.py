"""The tables of the README and of pages of the docs, made from the JSON files that the benchmarks left in benchmarks/results.

python -m benchmarks.tables            say whether the tables are those of the results
python -m benchmarks.tables --write    put them in, between `<!-- table: NAME -->` and `<!-- end -->`
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS
from groundup.core.console import fail, format_bytes, format_count, say
from groundup.core.files import read_json

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
#: What holds tables of results.
PAGES = (README, ROOT / "docs" / "concepts" / "levels.md")
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table_of(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def measured_on(result: dict[str, Any]) -> str:
    """`2026-11-26, Intel(R) Xeon(R) Processor, AVX512, torch 2.13.0+cpu, 2 threads`."""
    fingerprint = result["machine"]["fingerprint"].replace(" | ", ", ")
    return f"{result['date'].split()[0]}, {fingerprint}, {result['machine']['threads']} threads"


def train_table(result: dict[str, Any]) -> str:
    """Tokens per second of training steps, beside a GPT-2 of transformers with the same weights."""
    rows = []
    for name, work in result["workloads"].items():
        of_work = [row for row in result["rows"] if row["name"].startswith(f"{name}, ")]
        own = of_work[0]["ours"]["median_s"]
        beside = "; ".join(
            f"{row['peer_name'].removeprefix('transformers, ')} {format_count(work['tokens'] / row['peer']['median_s'])} "
            f"({row['ratio']:.2f} times)"
            for row in of_work
        )
        peaks = work["peak_bytes"]
        memory = ", ".join(format_bytes(peaks[kind]) for kind in work["kinds"])
        rows.append(
            [
                f"training, {name}, {work['plan']}",
                f"{format_count(work['tokens'] / own)} tokens/s, {format_bytes(peaks['ours'])}",
                f"transformers: {beside}; {memory}",
            ]
        )
    return table_of(["what", "result", "beside it"], rows)


def time_to_loss_table(result: dict[str, Any]) -> str:
    """Seconds until tiny Shakespeare reaches a validation loss."""
    runs, loss = result["runs"], result["equal_loss"]
    own, peer = (_median_run(runs[side]) for side in ("ours", "peer"))
    ended = statistics.median(run["losses"][-1][0] for run in runs["peer"])
    theirs = f"{peer[0]:.0f} s" if math.isfinite(peer[0]) else f"not reached in its {ended:.0f} s"
    row = [
        f"tiny Shakespeare by characters to a validation loss of {result['target']}, median of {len(runs['ours'])}",
        f"{own[0]:.1f} s, {format_count(own[1])} tokens",
        f"GPT-2 4 x 128 of transformers, 2,000 updates: {theirs}, {format_count(peer[1])} tokens; "
        f"to {loss:.2f}, which both reach, {result['ratio']:.1f} times as long",
    ]
    return table_of(["what", "result", "beside it"], [row])


def _median_run(runs: list[dict[str, Any]]) -> tuple[float, float]:
    seconds = [math.inf if run["seconds"] is None else run["seconds"] for run in runs]
    return statistics.median(seconds), statistics.median(run["tokens"] for run in runs)


def tokenizer_table(result: dict[str, Any]) -> str:
    """Encoding and training of tokenizers."""
    num_bytes, memory = result["machine"]["text"]["bytes"], result["machine"]["memory"]
    rows = []
    for row in result["rows"]:
        own, theirs = (num_bytes / row[side]["median_s"] / 1e6 for side in ("ours", "peer"))
        rows.append(
            [
                f"tokenizer, {num_bytes / 1e6:.0f} MB: {row['name']}",
                f"{own:.1f} MB/s",
                f"{row['peer_name']} {theirs:.1f} MB/s ({row['ratio']:.1f} times as fast)",
            ]
        )
    added = {side: format_bytes(use["peak_bytes"] - use["before_bytes"]) for side, use in memory.items()}
    others = ", ".join(f"{side} {size}" for side, size in added.items() if side != "ours")
    rows.append(["memory that encoding adds", added["ours"], others])
    return table_of(["what", "result", "beside it"], rows)


def comparisons_table(result: dict[str, Any]) -> str:
    """What `groundup compare` said of four published ideas."""
    rows = [
        [
            f"{one['names']['b']} beside {one['names']['a']}",
            one["match"],
            str(one["machine"]["threads"]),
            one["verdict"].split(". ")[0].rstrip("."),
        ]
        for one in result["comparisons"].values()
    ]
    return table_of(["ideas", "equal", "threads", "verdict on held-out text"], rows)


def decode_table(result: dict[str, Any]) -> str:
    """Tokens per second of SmolLM2-135M, and what a fresh process takes."""
    rows = []
    for name, tokens in result["tokens"].items():
        same = [row for row in result["rows"] if row["name"] == name]
        own = tokens / statistics.median(row["ours"]["median_s"] for row in same)
        share = same[0]["share_of_floor"]
        bound = "" if share is None else f", {share:.0%} of what memory allows"
        peers = [
            f"{row['peer_name']} {tokens / row['peer']['median_s']:,.0f} ({row['ratio']:.1f} times)" for row in same
        ]
        rows.append([name, f"{own:,.0f} tokens/s{bound}", "; ".join(peers)])
    first, peaks = result["first_token_s"], result["peak_bytes"]
    for name, own, theirs in (
        (
            "`groundup generate`, a fresh process, to the first token",
            *(f"{first[s]:.1f} s" for s in ("ours", "llama.cpp")),
        ),
        ("peak memory of that and 64 tokens", *(format_bytes(peaks[s]) for s in ("ours", "llama.cpp"))),
    ):
        rows.append([name, own, f"llama.cpp's Python {theirs}"])
    return table_of(["what", "result", "beside it"], rows)


def levels_table(result: dict[str, Any]) -> str:
    """Time and memory of a token of one GPT at four levels."""
    rows = []
    for name, level in result["levels"].items():
        model, _, kind = name.partition(", ")
        seconds = level["seconds_per_token"]
        shape = result["shapes"][model]
        torch = result["levels"][f"{model}, torch"]["seconds_per_token"]
        rows.append(
            [
                f"{model} ({format_count(shape['parameters'])} parameters)",
                kind,
                level["note"],
                f"{seconds * 1e6:,.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.3g} ms",
                format_count(1 / seconds),
                f"{torch / seconds:.2g}",
                format_bytes(level["bytes_per_token"]),
            ]
        )
    header = [
        "model",
        "level",
        "as chosen by the probe",
        "time a token",
        "tokens/s",
        "times plain torch",
        "kept a token",
    ]
    return table_of(header, rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "train": train_table,
    "time_to_loss": time_to_loss_table,
    "tokenizer": tokenizer_table,
    "decode": decode_table,
    "comparisons": comparisons_table,
    "levels": levels_table,
}


def with_tables(text: str, folder: Path = RESULTS) -> str:
    """The text with each of its tables made anew.

    Raises:
        KeyError: for a table that nothing makes.
    """

    def filled(match: re.Match[str]) -> str:
        result = read_json(folder / f"{match[2]}.json")
        return f"{match[1]}\n{measured_on(result)}:\n\n{TABLES[match[2]](result)}\n{match[4]}"

    return _BLOCK.sub(filled, text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into the pages")
    options = parser.parse_args(arguments)
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = with_tables(text)
        if made == text:
            continue
        stale.append(page)
        if options.write:
            page.write_text(made, encoding="utf-8")
            say(f"written to {page}")
    if stale and not options.write:
        names = ", ".join(page.name for page in stale)
        fail(f"the tables of {names} are not those of the results: python -m benchmarks.tables --write")
        return 1
    if not stale:
        say("all tables are those of the results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
