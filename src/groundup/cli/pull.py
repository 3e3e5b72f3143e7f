"""`groundup pull`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def run(
    repository: Annotated[str, Parameter(help="owner/name, or owner/name@revision: a branch, a tag or a commit")],
    *,
    file: Annotated[
        str | None, Parameter(help="a .gguf file of a repository that has several", show_default=False)
    ] = None,
) -> None:
    """Fetch a model from the Hugging Face hub into its local cache; what is there already is not fetched again.

    Takes safetensors with the config and the tokenizer, or else a GGUF file; never pickled weights. The variables of
    huggingface_hub hold: HF_HOME (where the cache lies), HF_ENDPOINT (which hub is asked), HF_TOKEN (who asks),
    HF_HUB_OFFLINE=1 (ask nobody).
    """
    from groundup.core import console
    from groundup.recipes.pull import next_command, pull

    pulled = pull(repository, file=file)
    files = f"{pulled.num_files} file{'s' if pulled.num_files > 1 else ''}, {console.format_bytes(pulled.num_bytes)}"
    fetched = f"fetched {files}" if pulled.num_files else "all of it was here"
    console.say(f"{pulled.hub} at commit {pulled.commit}: {fetched}")
    console.say(f"it lies in {pulled.path}; next: {next_command(pulled)}")
