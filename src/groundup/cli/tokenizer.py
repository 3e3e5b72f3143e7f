"""`groundup tokenizer train` and `groundup tokenizer show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from groundup.cli.options import with_settings
from groundup.recipes.settings import TokenizerSettings

app = App(name="tokenizer", help="Train a tokenizer, or show how it cuts a text.", result_action="return_value")


@app.command
@with_settings({"": TokenizerSettings}, computed={"vocab_size": "follows the amount of text"})
def train(
    corpus: Annotated[Path, Parameter(help="a corpus folder (groundup corpus)")],
    *,
    out: Annotated[Path, Parameter(help="folder for the tokenizer")] = Path("tokenizer"),
    max_length: Annotated[int, Parameter(help="longest sequence of the model it is for, in tokens")] = 512,
    overrides: dict[str, Any],
) -> None:
    """Train a tokenizer on the training split of a corpus; tokenizer.json also loads in transformers."""
    from groundup.core import console
    from groundup.data.corpus import read_corpus
    from groundup.recipes.corpus import make_tokenizer
    from groundup.recipes.dial import vocabulary_for
    from groundup.recipes.evaluation import describe_tokenizer

    opened = read_corpus(corpus)
    values = {"vocab_size": vocabulary_for(opened.num_bytes("train")), **overrides}
    tokenizer = make_tokenizer(opened, TokenizerSettings(**values), out, max_length=max_length)
    facts = describe_tokenizer(tokenizer, opened)
    console.facts(
        [
            ["vocabulary", f"{facts['vocab_size']:,}"],
            [
                "bytes per token",
                f"train {facts['bytes_per_token']['train']:.2f}, test {facts['bytes_per_token']['test']:.2f}",
            ],
            ["written to", str(out)],
        ]
    )


@app.command
def show(
    tokenizer: Annotated[Path, Parameter(help="a tokenizer or model directory")],
    text: Annotated[str, Parameter(help="the text to cut")],
) -> None:
    """Show the tokens of a text: ids and pieces, one a line."""
    from groundup.core import console
    from groundup.tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    ids = loaded.encode(text)
    for token in ids:
        console.say(f"{token:>7}  {loaded.token_bytes(token)!r}")
    length = len(text.encode("utf-8", "replace"))
    console.say(f"{len(ids)} tokens, {length} bytes, {length / max(1, len(ids)):.2f} bytes per token")
