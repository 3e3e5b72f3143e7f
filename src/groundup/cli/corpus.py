"""`groundup corpus`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from groundup.cli.options import with_settings
from groundup.recipes.settings import CorpusSettings


@with_settings({"corpus": CorpusSettings})
def run(
    source: Annotated[str | None, Parameter(help="python-docs, shakespeare, or a file or folder of your text")] = None,
    *,
    out: Annotated[Path, Parameter(help="folder for the corpus")] = Path("corpus"),
    seed: Annotated[int, Parameter(help="of the split and of the chat data")] = 0,
    overrides: dict[str, Any],
) -> None:
    """Read text, split it by document groups, and make chat data from it.

    Leaves train.jsonl, validation.jsonl and test.jsonl, corpus.json with counts, hashes and licences, and chat/.
    """
    from groundup.core import console
    from groundup.recipes.corpus import make_corpus

    values = dict(overrides.get("corpus", {}))
    if source is not None:
        values["source"] = source
    corpus = make_corpus(CorpusSettings(**values), out, seed=seed)
    rows = [
        [split, f"{entry['documents']:,}", f"{entry['groups']:,}", console.format_bytes(entry["text_bytes"])]
        for split, entry in corpus.manifest["splits"].items()
    ]
    console.table(["split", "documents", "groups", "text"], rows)
    console.say(f"written to {out}; next: groundup tokenizer train {out} --out tokenizer")
