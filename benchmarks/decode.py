"""Tokens per second of SmolLM2-135M: the compiled step beside llama.cpp and transformers, in one run, in turn.

python -m benchmarks.decode                   all rows; writes benchmarks/results/decode.json (needs make models oracles)
python -m benchmarks.decode prompt batch      the rows whose name holds one of these words; printed only

First it validates: the next-token distributions of the compiled step are compared with those of the modules on the
dequantised weights, and the perplexities of the block formats are taken. Both sides decode with 2 threads and greedily,
sampling included, from the same prompt; llama.cpp keeps keys and values in its default float16, the step in its default.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import llama_cpp_peer
from benchmarks.harness import Row, bytes_per_s, compare, machine, show, write_results
from groundup.core.console import fail, format_bytes, say
from groundup.inference.compiled import load_compiled
from groundup.inference.contracts import Speaker
from groundup.inference.fast import FastModel
from groundup.inference.generate import generate
from groundup.inference.sampling import Sampling
from groundup.inference.tensors import as_tensors
from groundup.model.load import load_model
from groundup.model.ops.integers import integer_format
from groundup.model.sources import locate_model
from groundup.recipes.export import export_directory

TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "shakespeare" / "input.txt"
PROMPT = "The history of the city of Rome begins with"
THREADS = 2
DECODED, LONG, BATCH = 64, 4_096, 16
#: Tokens of Shakespeare on which perplexity is taken, and the window in which they are read.
PERPLEXITY_TOKENS, WINDOW = 20_000, 512
FORMATS = ("Q4_0", "Q4_K_M", "Q8_0")
#: Model directories that `groundup quantize` writes, and the format of llama.cpp that is nearest.
DIRECTORIES = {"int8": "Q8_0", "int4-g32": "Q4_0"}
#: A format counts where its perplexity is at most this times that of the file as given.
NEAR = 1.01
#: Mean divergence in nats from the modules on the same weights; rounding activations to eight bits gives some 0.003.
LARGEST_KL = 0.01


class Files:
    """The Q4_1 file as given, and copies: in other formats by llama.cpp's own quantiser, as directories by ours."""

    def __init__(self, folder: Path) -> None:
        self.given = locate_model("smollm2-135m")
        self.paths = {"Q4_1": self.given}
        for name in FORMATS:
            self.paths[name] = folder / f"{name}.gguf"
            llama_cpp_peer.quantize(self.given, self.paths[name], name)
        self.directories = {}
        for name in DIRECTORIES:
            self.directories[name] = export_directory(str(self.given), folder / name, rounded=integer_format(name))
        self._ours: dict[str, Speaker] = {}
        self._theirs: dict[tuple[str, int], Any] = {}

    def ours(self, name: str) -> FastModel:
        """The compiled step of a file."""
        return self.speaker(name).model  # type: ignore[return-value]

    def speaker(self, name: str) -> Speaker:
        if name not in self._ours:
            self._ours[name] = load_compiled((self.paths | self.directories)[name], threads=THREADS)
        return self._ours[name]

    def theirs(self, name: str, context: int = 1024) -> Any:
        """llama.cpp's model of a file, with its defaults."""
        key = (name, context)
        if key not in self._theirs:
            self._theirs[key] = llama_cpp.Llama(
                str(self.paths[name]),
                n_ctx=context,
                n_batch=512,
                n_ubatch=512,
                n_threads=THREADS,
                n_threads_batch=THREADS,
                verbose=False,
            )
        return self._theirs[key]


def validate(files: Files, ids: list[int]) -> dict[str, float]:
    """Mean divergence of the step's distributions from those of the modules, for the file as given.

    Raises:
        SystemExit: when it is above `LARGEST_KL`.
    """
    modules, step = load_model(files.given).model, as_tensors(files.ours("Q4_1"))
    text = torch.tensor([ids[:WINDOW]])
    with torch.no_grad():
        expected = modules.logits(modules(text))[0].double().log_softmax(-1)
    got = step.logits(step(text))[0].double().log_softmax(-1)
    divergence = float((expected.exp() * (expected - got)).sum(-1).mean())
    agreement = float((expected.argmax(-1) == got.argmax(-1)).double().mean())
    say(f"validated: KL from the modules {divergence:.2e} nats, likeliest token equal at {agreement:.1%}")
    if not divergence <= LARGEST_KL:
        fail(
            f"the compiled step is {divergence:.3g} nats from the modules, {LARGEST_KL} are allowed: nothing was timed"
        )
        sys.exit(1)
    return {"kl": divergence, "top1": agreement}


def perplexity(model: FastModel, ids: list[int]) -> float:
    """Of the tokens after the first of each window."""
    total, count, read = 0.0, 0, as_tensors(model)
    for start in range(0, len(ids) - 1, WINDOW):
        window = torch.tensor([ids[start : start + WINDOW]])
        if window.shape[1] < 2:
            break
        log_probs = read.logits(read(window)[:, :-1])[0].log_softmax(-1)
        total -= float(log_probs.gather(1, window[0, 1:, None]).double().sum())
        count += window.shape[1] - 1
    return math.exp(total / count)


def greedy_ours(model: FastModel, prompt: list[int], count: int) -> Callable[[], list[int]]:
    """Decode after a prompt; the time of the prompt is not counted, since it is read once, before."""
    cache = model.new_cache(1, len(prompt) + count + 1)
    sampling = Sampling(temperature=0.0, max_new_tokens=count)
    model.read(np.array([prompt[:-1]]), cache=cache)

    def run() -> list[int]:
        cache.truncate(len(prompt) - 1)
        return [step.token for step in generate(model, prompt, sampling, cache=cache)]

    return run


def greedy_theirs(model: Any, prompt: list[int], count: int) -> Callable[[], list[int]]:
    """The same in llama.cpp, by its own sampler."""
    model.reset()
    model.eval(prompt[:-1])

    def run() -> list[int]:
        model.n_tokens = len(prompt) - 1
        found: list[int] = []
        last = prompt[-1]
        while len(found) < count:
            model.eval([last])
            last = model.sample(temp=0.0)
            found.append(last)
        return found

    return run


def with_floor(row: Row, seconds: float) -> Row:
    """The row with the least time that reading the weights takes."""
    return dataclasses.replace(row, floor_s=seconds, share_of_floor=seconds / row.ours.median_s)


def decode_row(files: Files, label: str, ours: str, theirs: str, prompt: list[int], context: int = 1024) -> Row:
    """Decode `DECODED` tokens after a prompt."""
    model = files.ours(ours)
    row = compare(
        label,
        greedy_ours(model, prompt, DECODED),
        greedy_theirs(files.theirs(theirs, context), prompt, DECODED),
        peer_name=f"llama.cpp {theirs}",
        samples=9,
        sample_s=0.2,
        warm_up_s=1.0,
    )
    num_bytes = model.step.num_bytes + cache_bytes(model, len(prompt) + DECODED // 2)
    return with_floor(row, DECODED * num_bytes / (2 * bytes_per_s(2 * num_bytes)))


def cache_bytes(model: FastModel, length: int) -> int:
    """Bytes of keys and values that a token after `length` tokens reads."""
    cache = model.new_cache(1, length)
    cache.reserve(length)
    return sum(layer.data.nbytes for layer in cache._layers if layer.data is not None)


def prompt_row(files: Files, length: int, theirs: str, ids: list[int]) -> Row:
    """Read a prompt and give the logits after it."""
    prompt, model = ids[:length], files.ours("Q4_1")
    peer: Any = files.theirs(theirs)
    read = np.array([prompt])

    def ours() -> None:
        model.next_logits(read, cache=model.new_cache(1, length))

    def theirs_reads() -> None:
        peer.reset()
        peer.eval(prompt)

    return compare(
        f"prompt of {length} tokens",
        ours,
        theirs_reads,
        peer_name=f"llama.cpp {theirs}",
        samples=7,
        sample_s=0.2,
        warm_up_s=0.5,
    )


def batch_row(files: Files, ids: list[int], peer: str) -> Row:
    """One token for each of `BATCH` rows after 64 tokens each."""
    model, length = files.ours("Q4_1"), 64
    texts = np.array([ids[start * length : (start + 1) * length] for start in range(BATCH)])
    cache = model.new_cache(BATCH, length + 1)
    model.read(texts[:, :-1], cache=cache)
    last = texts[:, -1:]

    def ours() -> Any:
        cache.truncate(length - 1)
        return model.next_logits(last, cache=cache).argmax(-1)

    is_llama = peer in files.paths
    theirs = _llama_batch(files.paths[peer], texts) if is_llama else _transformers_batch(files.given, texts)
    return compare(
        f"batch of {BATCH}, a token each",
        ours,
        theirs,
        peer_name=f"llama.cpp {peer}" if is_llama else peer,
        samples=9,
        sample_s=0.3,
        warm_up_s=0.5,
    )


def _llama_batch(path: Path, texts: NDArray[np.int64]) -> Callable[[], Any]:
    rows, length = texts.shape
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = rows * 128, 2048, 512
    params.n_seq_max, params.n_threads, params.n_threads_batch = rows, THREADS, THREADS
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(rows * length, 0, 1)

    def decode(tokens: list[tuple[int, int, int]]) -> None:
        for place, (token, position, row) in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = position == length - 1
        batch.n_tokens = len(tokens)
        status = llama_cpp.llama_decode(context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    decode([(int(texts[row, p]), p, row) for row in range(rows) for p in range(length - 1)])
    memory, vocabulary = llama_cpp.llama_get_memory(context), llama_cpp.llama_model_get_vocab(model)
    size = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def run() -> list[int]:
        for row in range(rows):
            llama_cpp.llama_memory_seq_rm(memory, row, length - 1, -1)
        decode([(int(texts[row, -1]), length - 1, row) for row in range(rows)])
        return [
            int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, row), shape=(size,)).argmax())
            for row in range(rows)
        ]

    return run


def _transformers_batch(path: Path, texts: NDArray[np.int64]) -> Callable[[], Any]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.bfloat16)
    model.eval()
    ids = torch.from_numpy(texts)
    last = ids[:, -1:]
    with torch.no_grad():
        cache = model(ids[:, :-1], use_cache=True).past_key_values

    def run() -> Any:
        with torch.no_grad():
            chosen = model(last, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1)
        cache.crop(-1)
        return chosen

    return run


_FIRST_TOKEN = """
import sys, time, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=512, n_threads=2, verbose=False)
for piece in model.create_completion(sys.argv[2], max_tokens=1, temperature=0.0, stream=True):
    print(piece["choices"][0]["text"], end="", flush=True)
"""
_PEAK_OF_LLAMA = """
import sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=512, n_threads=2, verbose=False)
model.create_completion(sys.argv[2], max_tokens=64, temperature=0.0)
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024)
"""
_PEAK_OF_OURS = """
import sys
from groundup.cli import main
sys.argv = ["groundup", "generate", sys.argv[1], sys.argv[2], "--max-new-tokens", "64", "--temperature", "0"]
try:
    main()
except SystemExit:
    pass
print()
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024)
"""


def fresh_processes(files: Files) -> dict[str, Any]:
    """Seconds to the first token in a fresh process (median of five, in turn), and peak memory of 64 tokens."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    arguments = ["--max-new-tokens", "1", "--temperature", "0"]
    commands = {
        "ours": [sys.executable, "-m", "groundup", "generate", str(files.given), PROMPT, *arguments],
        "llama.cpp": [sys.executable, "-W", "ignore", "-c", _FIRST_TOKEN, str(files.given), PROMPT],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(6):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    peaks = {}
    for name, code in (("ours", _PEAK_OF_OURS), ("llama.cpp", _PEAK_OF_LLAMA)):
        command = [sys.executable, "-W", "ignore", "-c", code, str(files.given), PROMPT]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        peaks[name] = int(done.stdout.split()[-1])
    # The first run of each fills the caches of the disk and, of ours, of the kernels.
    first = {name: float(np.median(times[1:])) for name, times in seconds.items()}
    say(
        "fresh process, one token: "
        + ", ".join(f"{name} {value:.2f} s, peak {format_bytes(peaks[name])}" for name, value in first.items())
    )
    return {"first_token_s": first, "peak_bytes": peaks}


def main() -> None:
    words = sys.argv[1:]

    def wanted(name: str) -> bool:
        return not words or any(word in name for word in words)

    where = machine()
    rows: list[Row] = []
    more: dict[str, Any] = {"threads": THREADS, "decoded": DECODED, "batch": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        tokenizer = files.speaker("Q4_1").tokenizer
        prompt = tokenizer.encode(PROMPT)
        text = tokenizer.encode(TEXT.read_text(encoding="utf-8")[: 8 * PERPLEXITY_TOKENS])[:PERPLEXITY_TOKENS]
        more["validation"] = validate(files, text)
        near = ["Q4_1"]
        if wanted("perplexity"):
            kinds = [*files.paths, *files.directories]
            more["perplexity"] = {name: perplexity(files.ours(name), text) for name in kinds}
            limit = NEAR * more["perplexity"]["Q4_1"]
            near = [name for name in files.paths if more["perplexity"][name] <= limit]
            say("perplexity: " + ", ".join(f"{name} {value:.3f}" for name, value in more["perplexity"].items()))
        more["near"] = near
        measured: list[Callable[[], Row]] = []
        if wanted("decode as given"):
            label = "decode, the Q4_1 file as given"
            measured.append(lambda: decode_row(files, label, "Q4_1", "Q4_1", prompt))
        if wanted("decode formats"):
            measured += [
                partial(decode_row, files, f"decode, {name}", name, name, prompt)
                for name in files.paths
                if name != "Q4_1"
            ]
            measured += [
                partial(decode_row, files, f"decode, {name} (a directory)", name, peer, prompt)
                for name, peer in DIRECTORIES.items()
            ]
        if wanted("decode long"):
            name = f"decode after {LONG:,} tokens, Q4_1"
            measured.append(lambda: decode_row(files, name, "Q4_1", "Q4_1", text[:LONG], context=LONG + 2 * DECODED))
        if wanted("batch"):
            measured += [partial(batch_row, files, text, peer) for peer in ("Q4_1", "Q4_0", "transformers bfloat16")]
        if wanted("prompt"):
            measured += [
                partial(prompt_row, files, length, peer, text) for length in (128, 512) for peer in ("Q4_1", "Q4_0")
            ]
        for measure in measured:
            rows.append(measure())
            show(rows[-1:])
        more["tokens"] = {
            row.name: next(
                count
                for word, count in (("batch", BATCH), ("512", 512), ("128", 128), ("decode", DECODED))
                if word in row.name
            )
            for row in rows
        }
        if wanted("fresh"):
            more |= fresh_processes(files)
    if words:
        say(json.dumps(more, indent=1))
    else:
        say(f"wrote {write_results('decode', rows, where, more=more)}")


if __name__ == "__main__":
    main()
