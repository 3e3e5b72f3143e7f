"""`groundup embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def run(
    model: Annotated[str, Parameter(help="a sentence encoder: a name such as minilm, a hub id, or a directory")],
    texts: Annotated[list[str] | None, Parameter(help="the texts", show_default=False, negative="")] = None,
    *,
    file: Annotated[Path | None, Parameter(help="further texts, one a line", show_default=False)] = None,
    query: Annotated[
        str | None, Parameter(help="rank the texts by their likeness to this one", show_default=False)
    ] = None,
    top: Annotated[int, Parameter(help="ranked texts to show")] = 10,
    out: Annotated[
        Path | None, Parameter(help="write the vectors to a .npy or .jsonl file", show_default=False)
    ] = None,
    batch_size: Annotated[int, Parameter(help="texts in one pass")] = 32,
    device: Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps")] = "cpu",
) -> None:
    """Turn texts into vectors: one JSON line for each, or the texts ranked by --query."""
    from groundup.recipes.embed import embed

    embed(model, texts or [], file=file, query=query, out=out, top=top, batch_size=batch_size, device=device)
