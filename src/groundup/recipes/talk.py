"""Talking to a model: one completion, or a conversation in a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from groundup.core import console
from groundup.core.errors import GroundupError, UsageError
from groundup.inference.compiled import CacheType
from groundup.inference.sampling import Sampling
from groundup.inference.session import ChatSession, answer_stop_ids, open_session
from groundup.inference.text import stream_text
from groundup.recipes.loading import Engine, open_speaker
from groundup.tokenizer.base import document_start_id

HELP = """/help            this list
/reset           forget the conversation
/system TEXT     set the system prompt (and forget the conversation); without TEXT, remove it
/temperature X   0 always takes the likeliest token; 0.7 varies
/save FILE       write the conversation as JSON
/load FILE       go on with a saved conversation
/quit            end (also Ctrl-D)"""


def complete(
    source: str | Path,
    prompt: str,
    sampling: Sampling,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    engine: Engine = "auto",
    cache_type: CacheType = "auto",
) -> Iterator[str]:
    """Yield the prompt and then its continuation, piece by piece."""
    loaded = open_speaker(source, device=device, dtype=dtype, engine=engine, cache_type=cache_type)
    tokenizer = loaded.tokenizer
    stops = answer_stop_ids(tokenizer, loaded.chat_template, loaded.generation)
    ids = [*tokenizer.prefix_ids, *tokenizer.encode(prompt)]
    start = document_start_id(tokenizer)
    if not ids and start is not None:  # a prompt without text begins a document
        ids = [start]
    yield prompt
    for piece in stream_text(loaded.model, tokenizer, ids, sampling, stop_ids=stops):
        yield piece.text


def chat_loop(
    source: str | Path,
    sampling: Sampling,
    *,
    system: str | None = None,
    load: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    engine: Engine = "auto",
    cache_type: CacheType = "auto",
) -> None:
    """Read messages from the standard input and stream the answers, until its end or /quit."""
    loaded = open_speaker(source, device=device, dtype=dtype, engine=engine, cache_type=cache_type)
    session = open_session(loaded, system=system, sampling=sampling, on_notice=console.warn)
    if load is not None:
        session.load(load)
    interactive = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no text become U+FFFD and end no conversation
        sys.stdin.reconfigure(errors="replace")
    if interactive:
        console.say(f"{source}: /help lists the commands, Ctrl-D ends")
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            # At the prompt Ctrl-C drops the line that was being typed.
            console.say()
            continue
        text = line.strip()
        if text in ("/quit", "/exit"):
            break
        try:
            if text.startswith("/"):
                _command(session, text)
            elif text:
                _answer(session, text)
        except GroundupError as error:
            console.fail(str(error))
            if not interactive:
                raise
    if interactive:
        console.say()


def _answer(session: ChatSession, text: str) -> None:
    pieces = session.send(text)
    try:
        for piece in pieces:
            console.stream(piece.text)
    except KeyboardInterrupt:
        # What was said so far stays in the history; closing the generator puts it there.
        console.stream(" [stopped]")
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
        console.say()


def _command(session: ChatSession, text: str) -> None:
    name, _, argument = text.partition(" ")
    argument = argument.strip()
    if name == "/help":
        console.say(HELP)
    elif name == "/reset":
        session.reset()
        console.say("the conversation is forgotten")
    elif name == "/system":
        session.system = argument or None
        session.reset()
        console.say("system prompt set" if argument else "system prompt removed")
    elif name == "/temperature":
        try:
            value = float(argument)
        except ValueError:
            raise UsageError(f"/temperature {argument!r}: give a number, such as 0 or 0.7") from None
        session.sampling = session.sampling.replace(temperature=value)
        console.say(f"temperature {value:g}")
    elif name == "/save":
        session.save(_path(name, argument))
        console.say(f"saved to {argument}")
    elif name == "/load":
        session.load(_path(name, argument))
        console.say(f"{len(session.messages)} messages loaded")
    else:
        raise UsageError(f"unknown command {name}: /help lists them")


def _path(command: str, argument: str) -> Path:
    if not argument:
        raise UsageError(f"{command} needs a file name, such as {command} talk.json")
    return Path(argument)
