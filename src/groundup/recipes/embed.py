"""Embedding texts from the command line: vectors as JSON lines, or texts ranked by likeness."""

from __future__ import annotations

import json
from pathlib import Path

from groundup.core import console
from groundup.core.errors import UsageError
from groundup.core.files import explain_write_error
from groundup.data.readers import read_text
from groundup.inference.embed import embed_texts
from groundup.recipes.loading import open_model


def embed(
    source: str,
    texts: list[str],
    *,
    file: Path | None,
    query: str | None,
    out: Path | None,
    top: int,
    batch_size: int,
    device: str,
) -> None:
    """Embed texts and print or save what was asked for.

    Args:
        source: the model.
        texts: given on the command line.
        file: further texts, one a line.
        query: rank the texts by cosine with this one instead of printing vectors.
        out: write the vectors to a `.npy` or `.jsonl` file.
        top: how many ranked texts are shown.
        batch_size: texts in one pass.
        device: where the model runs.
    """
    if file is not None:
        # At line ends only: str.splitlines also cuts at U+2028, which stands inside of texts.
        texts = [*texts, *(line for line in read_text(file).replace("\r\n", "\n").split("\n") if line.strip())]
    if not texts:
        raise UsageError('there is nothing to embed: give texts, as in  groundup embed minilm "a text", or --file')
    for name, value in (("batch-size", batch_size), ("top", top)):
        if value < 1:
            raise UsageError(f"--{name} {value}: give a number of at least 1")
    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise UsageError(f"--out {out}: vectors are written as .npy or .jsonl")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    loaded = open_model(source, device=device, writes=False)
    with console.progress("embed", len(texts), "texts", to=console.err) as ticker:
        vectors = embed_texts(loaded.model, loaded.tokenizer, texts, batch_size=batch_size, on_progress=ticker.advance)
    if query is not None:
        likeness = vectors @ embed_texts(loaded.model, loaded.tokenizer, [query])[0]
        order = likeness.argsort(descending=True, stable=True)[:top].tolist()
        console.table(["likeness", "text"], [[f"{likeness[index]:.3f}", texts[index]] for index in order])
    lines = (
        json.dumps({"text": t, "vector": v}, ensure_ascii=False) for t, v in zip(texts, vectors.tolist(), strict=True)
    )
    if out is None:
        if query is None:
            for line in lines:
                console.stream(line + "\n")
        return
    try:
        if out.suffix == ".npy":
            import numpy as np

            np.save(out, vectors.numpy())
        else:
            out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise explain_write_error(out, error) from error
    console.say(f"{out}: {len(texts):,} vectors of {vectors.shape[1]} values")
