"""The tokenizer beside tiktoken, tokenizers and rustbpe: encoding and training on 30 MB of Shakespeare and Python source.

python -m benchmarks.tokenizer                 everything; writes benchmarks/results/tokenizer.json
python -m benchmarks.tokenizer encode train    these parts alone; printed only (encode, train, threads, memory, start)

Half of the text is Shakespeare again and again, half the standard library of the running Python. Our tokenizer learns
its merges with GPT-4's split pattern; tiktoken and tokenizers get the same merges, and nothing is timed before all give
the same ids. rustbpe cannot take merges from elsewhere and encodes with its own. One thread each, but for the part
`threads`; peak memory is that of a process of its own, and `start` the time until the kernels run in a new process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

# Both peers' thread pools read these once, when they are loaded.
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.harness import Row, ValidationError, compare, machine, show, write_results
from groundup.core.console import fail, format_bytes, say
from groundup.core.execution import peak_memory_bytes
from groundup.tokenizer import ByteBPE, compiled, train_bpe, train_compiled
from groundup.tokenizer.patterns import PATTERNS

SHAKESPEARE = Path(__file__).resolve().parents[2] / "shared" / "data" / "shakespeare" / "input.txt"
PATTERN = "gpt4"
VOCABULARIES = (4096, 32768)
PARTS = ("encode", "train", "threads", "memory", "start")
SIDES = ("ours", "tiktoken", "tokenizers", "rustbpe")
# Equal counts are ordered in another way, so two trainers do not learn the very same tokens; one that is wrong would
# share far fewer.
_LEAST_SHARED = 0.9


@lru_cache(maxsize=1)
def documents(num_bytes: int) -> list[str]:
    """Texts of about so many bytes in all: half of them source files, the rest Shakespeare again and again."""
    texts, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if size < num_bytes // 2 and "site-packages" not in path.parts:
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
            size += len(texts[-1].encode())
    prose = SHAKESPEARE.read_text(encoding="utf-8")
    while size < num_bytes:
        texts.append(prose[: num_bytes - size])
        size += len(texts[-1])
    return texts


def train_ours(texts: Sequence[str], vocab_size: int) -> ByteBPE:
    """Our tokenizer on the compiled path."""
    return train_bpe(texts, vocab_size, pattern=PATTERN, special_tokens=())


def train_rustbpe(texts: Sequence[str], vocab_size: int) -> Any:
    """rustbpe's tokenizer."""
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=PATTERNS[PATTERN].portable[0])
    return tokenizer


def train_tokenizers(texts: Sequence[str], vocab_size: int) -> Any:
    """The tokenizer of Hugging Face's library, with the same split pattern."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[PATTERN].portable[0]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return tokenizer


def as_tiktoken(tokenizer: ByteBPE) -> Any:
    """The same merges in tiktoken."""
    import tiktoken

    return tiktoken.Encoding(
        "ours", pat_str=tokenizer.pattern.portable[0], mergeable_ranks=dict(tokenizer.vocab), special_tokens={}
    )


def as_tokenizers(tokenizer: ByteBPE) -> Any:
    """The same merges in `tokenizers`."""
    from tokenizers import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def encode_functions(tokenizer: ByteBPE, text: str) -> dict[str, Callable[[], list[int]]]:
    """One call of each side, which encodes the whole text into a list of ids."""
    tiktoken, tokenizers = as_tiktoken(tokenizer), as_tokenizers(tokenizer)
    return {
        "ours": lambda: tokenizer.encode(text),
        "tiktoken": lambda: tiktoken.encode_ordinary(text),
        "tokenizers": lambda: tokenizers.encode(text, add_special_tokens=False).ids,
    }


def validate(functions: dict[str, Callable[[], list[int]]]) -> int:
    """Compare the ids of all sides; return how many there are.

    Raises:
        ValidationError: naming the side that gives others, and the first place.
    """
    ours = functions["ours"]()
    for name, function in functions.items():
        theirs = function()
        if theirs != ours:
            at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
            raise ValidationError(f"{name} gives other ids than ours, the first at {at} of {len(ours)}")
    return len(ours)


def encode_rows(texts: Sequence[str], samples: int, peers: Sequence[str]) -> list[Row]:
    """Encoding on one thread, with a warm and with a fresh cache of pieces, beside each peer."""
    text = "".join(texts)
    tokenizer = train_ours(texts, VOCABULARIES[-1])
    functions = {name: call for name, call in encode_functions(tokenizer, text).items() if name in ("ours", *peers)}
    say(f"{validate(functions):,} ids, the same in {', '.join(functions)}")
    if "rustbpe" in peers:
        other = train_rustbpe(texts, VOCABULARIES[-1])
        functions["rustbpe"] = lambda: other.encode(text)

    def fresh() -> list[int]:
        tokenizer._compiled = None
        return tokenizer.encode(text)

    sides = {"encode": functions["ours"], "encode, fresh cache": fresh}
    return [
        compare(name, ours, functions[peer], peer_name=peer, samples=samples, warm_up_s=0.0)
        for peer in peers
        for name, ours in sides.items()
        if peer == "tiktoken" or ours is not fresh
    ]


def thread_rows(texts: Sequence[str], samples: int, peers: Sequence[str]) -> list[Row]:
    """Encoding document by document with two threads on each side."""
    if "tiktoken" not in peers:
        return []
    tokenizer = train_ours(texts, VOCABULARIES[-1])
    tiktoken = as_tiktoken(tokenizer)
    with ThreadPoolExecutor(2) as pool:
        row = compare(
            "encode documents, 2 threads",
            lambda: [*pool.map(tokenizer.encode, texts)],
            lambda: tiktoken.encode_ordinary_batch(texts, num_threads=2),
            peer_name="tiktoken",
            tolerance=0.0,
            samples=samples,
            warm_up_s=0.0,
        )
    return [row]


def train_rows(texts: Sequence[str], samples: int, peers: Sequence[str]) -> list[Row]:
    """Training from text to tokenizer, beside each peer."""
    trainers = {"rustbpe": train_rustbpe, "tokenizers": train_tokenizers}
    rows = []
    for vocab_size in VOCABULARIES:
        if "rustbpe" in peers:
            learned = train_rustbpe(texts, vocab_size).get_mergeable_ranks()
            check_shared(train_ours(texts, vocab_size), {bytes(token) for token, _ in learned})
        rows += [
            compare(
                f"train {vocab_size}",
                partial(train_ours, texts, vocab_size),
                partial(trainers[peer], texts, vocab_size),
                peer_name=peer,
                samples=samples,
                warm_up_s=0.0,
            )
            for peer in peers
            if peer in trainers
        ]
    return rows


def check_shared(ours: ByteBPE, theirs: set[bytes]) -> float:
    """Return the share of our tokens that another trainer learned too.

    Raises:
        ValidationError: when it is small, or the vocabularies are of different sizes.
    """
    share = len(theirs & set(ours.vocab)) / len(ours.vocab)
    if share < _LEAST_SHARED or len(theirs) != len(ours.vocab):
        raise ValidationError(
            f"{share:.0%} of our {len(ours.vocab)} tokens are among the {len(theirs)} of the other trainer; "
            f"at least {_LEAST_SHARED:.0%} should be"
        )
    return share


def encode_once(side: str, num_bytes: int) -> tuple[int, int]:
    """Encode in this process; return its peak memory before and after, in bytes."""
    texts = documents(num_bytes)
    tokenizer = train_ours(texts[:50], 4096)
    text = "".join(texts)
    documents.cache_clear()
    del texts
    function: Callable[[], Any]
    if side == "rustbpe":
        function = partial(train_rustbpe([text[:1_000_000]], 4096).encode, text)
    else:
        function = encode_functions(tokenizer, text)[side]
    before = peak_memory_bytes()
    ids = function()
    assert ids
    return before, peak_memory_bytes()


def peak_memory(num_bytes: int, peers: Sequence[str]) -> dict[str, dict[str, int]]:
    """Peak memory of each side in a process of its own."""
    found: dict[str, dict[str, int]] = {}
    for side in ("ours", *peers):
        printed = _run("-m", "benchmarks.tokenizer", "--once", side, "--bytes", str(num_bytes))
        before, after = map(int, printed.split()[-2:])
        found[side] = {"before_bytes": before, "peak_bytes": after}
        say(f"memory of {side}: {format_bytes(after)}, {format_bytes(after - before)} of it for encoding")
    return found


def start_times() -> dict[str, float]:
    """Seconds until the kernels run in a new process: compiled anew, and kept from before."""
    code = (
        "import time\nfrom groundup.tokenizer import compiled, train_compiled\nstart = time.perf_counter()\n"
        "compiled.load()\nencode = time.perf_counter()\ntrain_compiled.load()\n"
        "print(encode - start, time.perf_counter() - encode)"
    )
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("compiled", "loaded"):
            encode, train = map(float, _run("-c", code, NUMBA_CACHE_DIR=folder).split())
            found |= {f"encode_{name}_s": encode, f"train_{name}_s": train}
            say(f"kernels {name}: {encode:.2f} s for encoding, {train:.2f} s more for training")
    return found


def _run(*arguments: str, **environment: str) -> str:
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=root, env={**os.environ, **environment}
    )
    if result.returncode:
        raise ValidationError(f"a process of its own failed:\n{result.stderr}")
    return result.stdout


def speeds(rows: Sequence[Row], num_bytes: int) -> None:
    """Print megabytes of text per second."""
    for row in rows:
        assert row.peer is not None
        ours, theirs = (num_bytes / timing.median_s / 1e6 for timing in (row.ours, row.peer))
        say(f"{row.name}: {ours:.1f} MB/s, {row.peer_name} {theirs:.1f} MB/s")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Encoding and training beside tiktoken, tokenizers and rustbpe.")
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--bytes", type=int, default=30_000_000, help="size of the text")
    parser.add_argument("--samples", type=int, default=3, help="how many times each side is timed")
    parser.add_argument("--peers", nargs="+", choices=SIDES[1:], default=SIDES[1:], help="beside which")
    parser.add_argument("--once", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown or not SHAKESPEARE.is_file():
        fail(f"no part {', '.join(unknown)}: use {', '.join(PARTS)}" if unknown else f"needs {SHAKESPEARE}")
        return 2
    if not (compiled.load() and train_compiled.load()):
        return 1
    if options.once:
        say(" ".join(map(str, encode_once(options.once, options.bytes))))
        return 0
    chosen = options.parts or PARTS
    where, texts = machine(), documents(options.bytes)
    num_bytes = sum(len(text.encode()) for text in texts)
    where["text"] = {"documents": len(texts), "bytes": num_bytes, "pattern": PATTERN}
    where["rayon_threads"] = os.environ["RAYON_NUM_THREADS"]
    rows: list[Row] = []
    for part, measure in (("encode", encode_rows), ("train", train_rows), ("threads", thread_rows)):
        if part in chosen:
            found = measure(texts, options.samples, options.peers)
            show(found)
            speeds(found, num_bytes)
            rows += found
    if "memory" in chosen:
        where["memory"] = peak_memory(options.bytes, options.peers)
    if "start" in chosen:
        where["start"] = start_times()
    if not options.parts and list(options.peers) == list(SIDES[1:]):
        say(f"written to {write_results('tokenizer', rows, where)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
