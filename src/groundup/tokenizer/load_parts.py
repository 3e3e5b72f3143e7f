"""The parts of `tokenizer.json` that stand around the model: steps, blanks, decoders."""

from __future__ import annotations

from typing import Any

from groundup.core.errors import TokenizerError
from groundup.tokenizer.blanks import BlankFirst
from groundup.tokenizer.hf_files import BLANK
from groundup.tokenizer.hf_parse import describe


def steps_of(part: Any, key: str = "pretokenizers") -> list[dict[str, Any]]:
    """Return the steps of a part that may be a sequence; what is no object becomes an empty one."""
    if part is None:
        return []
    found = part.get(key) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return [step if isinstance(step, dict) else {} for step in found] if isinstance(found, list) else []


def kind_of(part: Any) -> Any:
    """Return the `type` of a part, or None."""
    return part.get("type") if isinstance(part, dict) else None


def replacement(pattern: str, content: str) -> dict[str, Any]:
    """Return the step that writes `content` for `pattern`."""
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def read_blanks(data: dict[str, Any], where: str) -> tuple[BlankFirst, bool]:
    """Return where a blank is put before a text, and whether no token may reach over one.

    Raises:
        TokenizerError: when a part deals with anything but blanks, or in a way that is not known.
    """
    normalizer, pre = data.get("normalizer"), data.get("pre_tokenizer")
    steps = steps_of(normalizer, "normalizers")
    prepends = [step for step in steps if kind_of(step) == "Prepend" and step.get("prepend") == BLANK]
    replaces = [step for step in steps if step == replacement(" ", BLANK)]
    if len(prepends) + len(replaces) != len(steps) or len(prepends) > 1:
        raise TokenizerError(
            f"{where}: the normalizer {[*map(kind_of, steps)]} cannot be read: Prepend and Replace can"
        )
    # Gemma splits at blanks after replacing them all, which does nothing.
    if pre is None or (kind_of(pre) == "Split" and pre.get("pattern") == {"String": " "} and replaces):
        if not replaces:
            raise TokenizerError(f"{where}: nothing turns blanks into {BLANK!r}: this is no SentencePiece tokenizer")
        return ("prepend" if prepends else "never"), False
    if kind_of(pre) == "Metaspace" and pre.get("replacement", BLANK) == BLANK:
        legacy = "always" if pre.get("add_prefix_space", True) else "never"
        scheme = pre.get("prepend_scheme", legacy)
        if prepends and replaces and scheme == "never":
            return "prepend", bool(pre.get("split", True))
        if scheme in ("always", "first", "never") and not prepends:
            return scheme, bool(pre.get("split", True))
    raise TokenizerError(
        f"{where}: the pre-tokenizer {describe(pre)} is not one that can be read: "
        "byte-level BPE has ByteLevel, SentencePiece BPE has none or Metaspace"
    )


def check_sentencepiece_decoder(decoder: Any, strips: bool, where: str) -> None:
    """Refuse a decoder that does anything but turn marks into blanks and byte tokens into bytes.

    Raises:
        TokenizerError: with what was found and what belongs there.
    """
    steps = steps_of(decoder, "decoders")
    expected: list[dict[str, Any]] = [replacement(BLANK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if strips:
        expected.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    needed = [step for step in steps if kind_of(step) not in ("ByteFallback", "Fuse")]
    if [kind_of(step) for step in steps] == ["Metaspace"] or needed == [expected[0], *expected[3:]]:
        return
    raise TokenizerError(
        f"{where}: the decoder {[*map(kind_of, steps)]} cannot be read: "
        f"SentencePiece BPE has {', '.join(step['type'] for step in expected)}"
    )
