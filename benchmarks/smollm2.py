"""SmolLM2-135M here and in llama.cpp: how far the next-token distributions are apart on Shakespeare.

`python -m benchmarks.smollm2` (needs `make models oracles` and the text in ../shared/data). llama.cpp computes with
activations rounded to 8 bits on quantised files, so its own F32 copy of the file is what can be equalled; its distance
from that copy is the yardstick for ours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import llama_cpp_peer
from groundup.evaluate.divergence import divergence_of, summarize
from groundup.model.load import load_model
from groundup.model.sources import locate_model

POSITIONS, CONTEXT = 2_048, 512
TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "shakespeare" / "input.txt"


def our_logits(source: str | Path, ids: list[int], *, context: int = CONTEXT) -> NDArray[np.float32]:
    """Logits of every position, the text in pieces as `llama_cpp_peer.logits` reads it."""
    model = load_model(source).model
    with torch.no_grad():
        pieces = [model.logits(model(torch.tensor([ids[i : i + context]])))[0] for i in range(0, len(ids), context)]
    return torch.cat(pieces).numpy()


def distance(expected: NDArray[np.float32], got: NDArray[np.float32]) -> dict[str, Any]:
    """How far a distribution is from the expected one, over positions (`Divergence`, without its perplexities)."""
    found = summarize(divergence_of(torch.from_numpy(expected), torch.from_numpy(got)))
    return {name: getattr(found, name) for name in ("top1", "kl", "largest", "margin")}


def measure(positions: int = POSITIONS) -> dict[str, dict[str, Any]]:
    """Our distance and llama.cpp's from the F32 copy, over the first positions of the text."""
    path = locate_model("smollm2-135m")
    ids = llama_cpp_peer.tokenize(path, TEXT.read_text(encoding="utf-8")[: 8 * positions])[:positions]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "f32.gguf"
        llama_cpp_peer.quantize(path, copy, "F32")
        reference = llama_cpp_peer.logits(copy, ids, context=CONTEXT)
        ours = our_logits(path, ids)
        ours_of_copy = our_logits(copy, ids)
    theirs = llama_cpp_peer.logits(path, ids, context=CONTEXT)
    return {
        "ours, of the Q4_1 file": distance(reference, ours),
        "ours, of the F32 copy": distance(reference, ours_of_copy),
        "llama.cpp, of the Q4_1 file": distance(reference, theirs),
    }


def main() -> None:
    print(f"SmolLM2-135M against llama.cpp on an F32 copy of the file, {POSITIONS:,} positions of Shakespeare")
    print(f"{'':30} {'top-1 equal':>12} {'mean KL':>10} {'largest':>10} {'margin':>10}")
    for name, row in measure().items():
        print(f"{name:30} {row['top1']:>11.2%} {row['kl']:>10.1e} {row['largest']:>10.1e} {row['margin']:>10.1e}")


if __name__ == "__main__":
    main()
