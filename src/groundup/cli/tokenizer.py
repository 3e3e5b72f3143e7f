"""`groundup tokenizer train`, `groundup tokenizer show` and `groundup tokenizer compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from groundup.cli.options import with_settings
from groundup.recipes.settings import TokenizerSettings

app = App(
    name="tokenizer", help="Train a tokenizer, or show how one or several cut a text.", result_action="return_value"
)


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


@app.command
def compare(
    text: Annotated[str | None, Parameter(help="the text to cut")] = None,
    *,
    file: Annotated[Path | None, Parameter(help="a file with the text to cut")] = None,
    on: Annotated[
        str, Parameter(help="what the tokenizers are trained on: python-docs, shakespeare, or a file or folder")
    ] = "python-docs",
    vocab_size: Annotated[int, Parameter(help="token ids of each that is trained, 260 to 200000")] = 4096,
    with_: Annotated[
        tuple[str, ...],
        Parameter(
            name="--with",
            negative="",
            show_default=False,
            help="another tokenizer: its folder, or a model such as smollm2-135m (repeatable)",
        ),
    ] = (),
    languages: Annotated[
        Path | None,
        Parameter(help="folder of .txt files, one language each [default: one sentence in eight languages]"),
    ] = None,
    price: Annotated[float | None, Parameter(help="of a million tokens, in any currency: shows the cost")] = None,
    page: Annotated[Path | None, Parameter(help="also write a self-contained HTML page to this file")] = None,
) -> None:
    """Train a tokenizer of each school on the same text, and show side by side how they cut another.

    Spans, ids, counts, tokens a word by language, and what that costs.
    """
    from groundup.recipes.settings import TokenizerSettings
    from groundup.recipes.tokenizer_compare import CompareRequest, compare_tokenizers, read_compared

    cut = read_compared(text, file)
    compare_tokenizers(
        CompareRequest(
            text=cut,
            source=on,
            vocab_size=TokenizerSettings(vocab_size=vocab_size).vocab_size,
            others=with_,
            languages=languages,
            price=price,
            page=page,
            file=file,
        )
    )
