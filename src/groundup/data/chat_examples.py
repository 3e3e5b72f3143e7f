"""Chat data made from text: questions whose answers the text itself gives.

Two kinds are scored. *Reading*: a passage or signature stands in the prompt and the answer is a span of it, so a
model that has learned to read answers about text it never saw. *Recall*: nothing stands in the prompt; the answer
must come from the weights. Wordings and asked names are held out from tuning, and reading is tested on whole
held-out groups. A third kind, *repeat*, is an exercise only: copying a passage word for word is what makes a small
model look back at its prompt at all. A reading answer begins with what was asked about (`It is width=70`), which is the
form that a small model learns to copy first; the two words before it let the copy begin with the same token as in
the prompt, where a space stands before the word too (docs/experiments.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from groundup.core.seeds import random_for
from groundup.data.document import Document
from groundup.data.python_docs import Entry

Message = dict[str, str]

SYSTEM_PROMPT = "You are a small assistant that answers from what it was taught and from the text it is given."
MAX_PASSAGE_CHARS = 420
MAX_ANSWER_CHARS = 160
# Passages asked about in one document: few of each in tuning, so that no long document dominates; more in scoring,
# for narrow intervals.
PASSAGES_OF_A_DOCUMENT = 12
QUESTIONS_OF_A_PASSAGE = {"train": 1, "validation": 2, "test": 2}
MIXED_VERSIONS = {"train": 3, "validation": 0, "test": 0}
# The last wordings of each kind are never used in tuning.
HELD_OUT_WORDINGS = 2
HELD_OUT_NAMES = 0.1


@dataclass(frozen=True, kw_only=True)
class ChatExample:
    """One conversation whose last assistant turn is the answer that is scored.

    Attributes:
        kind: `reading.default`, `recall.module`, ...
        group: the document group the text comes from (the unit of the split and of the intervals).
        answer: the last assistant turn.
        lead: the part of a reading answer that repeats the question (`It is width=`); what follows is the span asked for.
        candidates: for reading, the spans of the same sort that stand in the prompt, in order, the right one among
            them.
    """

    messages: list[Message]
    kind: str
    group: str
    answer: str
    lead: str = ""
    candidates: tuple[str, ...] = ()

    @property
    def span(self) -> str:
        """The answer without the part that repeats the question."""
        return self.answer[len(self.lead) :]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ChatExample:
        return cls(**{**values, "candidates": tuple(values["candidates"])})


@dataclass(frozen=True)
class ChatSets:
    """Examples to tune on, to watch while tuning, and to score at the end."""

    train: list[ChatExample] = field(default_factory=list)
    validation: list[ChatExample] = field(default_factory=list)
    test: list[ChatExample] = field(default_factory=list)


# {x} is the thing asked about, {p} the passage. The last HELD_OUT_WORDINGS of each list are for scoring only.
WORDINGS: dict[str, list[str]] = {
    "reading.default": [
        "{p}\n\nWhat is the default of {x}?",
        "{p}\nWhich value does {x} have when it is left out?",
        "Here is a signature: {p}\nWhat is the default value of {x}?",
        "In {p}, what is {x} by default?",
        "{p}\nIf {x} is not given, what is it?",
        "{p}\nI leave {x} out. What does it become?",
        "Suppose I call this without {x}. Which value is used?\n{p}",
        "What value is used when {x} is missing?\n{p}",
        "{p}\nDefault value for {x}?",
        "Given {p}, tell me what {x} is if nobody sets it.",
        "{p}\nName the default of {x}.",
        "Look at {p}. Tell me the default of {x}.",
        "What does {x} default to?\n\n{p}",
        "{p}\nWhen I omit {x}, which value does it get?",
        "{p}\nSay I never mention {x}, what will it be?",
        "Read this: {p}\nA caller sets everything but {x}, so what does it hold?",
        "Look at {p}. Nobody gives {x} here, which value counts?",
        "Here is a signature: {p}\nWithout {x}, what is used instead?",
        "You see {p}\nWhat happens to {x} if I say nothing about it?",
        "Read this: {p}\nWhich value stands for {x} at first?",
        "Signature: {p}\nThe usual value of {x}, please.",
        "Signature: {p}\nDefault of {x}?",
        "Read this: {p}\nIf I do not pass {x}, what is its value?",
    ],
    "reading.next_parameter": [
        "{p}\n\nWhich parameter comes after {x}?",
        "Here is a signature: {p}\nWhich parameter follows {x}?",
        "In {p}, what comes right after {x}?",
        "Which parameter stands behind {x}?\n\n{p}",
        "{p}\nNext parameter after {x}?",
        "{p}\nWhat is the parameter after {x} called?",
        "Read this: {p}\nTell me which parameter comes next after {x}.",
        "Given {p}, name what follows {x}.",
        "What stands right after {x} here?\n{p}",
        "{p}\nI know {x}. What is the one after it?",
        "Signature: {p}\nAfter {x}, which one do I write?",
        "You see {p}\nWhat do I pass behind {x} there?",
        "Look at {p}. Having set {x}, which is the next to set?",
        "Here is a signature: {p}\nSay what stands one place after {x} in it.",
        "Signature: {p}\nName the parameter after {x}.",
        "Look at {p}. What is the next parameter after {x}?",
    ],
    "reading.quote": [
        "{p}\n\nQuote from {x} to the end of the sentence.",
        "Read this.\n\n{p}\n\nWhat does it say from {x} on?",
        "Which words follow from {x} to the end of its sentence?\n\n{p}",
        "{p}\n\nGo on from {x} to the full stop.",
        "{p}\n\nQuote the sentence from {x}.",
        "{p}\n\nWhat stands between {x} and the end of the sentence?",
        "Here is a text: {p}\nQuote the end of the sentence, beginning with {x}.",
        "Text: {p}\nHow does it go on from {x}?",
        "Read on from {x} to where the sentence ends.\n\n{p}",
        "Begin at {x} and give me the sentence to its end.\n\n{p}",
        "Here is a text: {p}\nIf I start at {x}, what is left of that sentence?",
        "Text: {p}\nWhat are the last words of the sentence, with {x} as the first?",
        "{p}\n\nPlease finish the sentence for me, starting at {x}, as it stands there.",
        "Here is a text: {p}\nHow is {x} followed up to the full stop?",
        "Text: {p}\nThe sentence with {x} in it: how does it go to its end from there?",
        "You see this text: {p}\nFind {x} there, then tell me all that is said until the sentence is over.",
        "Text: {p}\nGive me the rest of the sentence from {x} on.",
        "Here is a text: {p}\nHow does the sentence end, from {x} on?",
    ],
    "reading.next_word": [
        "{p}\n\nWhich word comes after {x}?",
        "Read this.\n\n{p}\n\nWhat is the word right after {x}?",
        "Which word follows {x} here?\n\n{p}",
        "{p}\n\nNext word after {x}?",
        "{p}\n\nTell me the word that follows {x}.",
        "Here is a text: {p}\nWhich word stands after {x}?",
        "Text: {p}\nWhat follows {x}?",
        "In this text, what comes right after {x}?\n\n{p}",
        "Text: {p}\nOne word only: which one stands behind {x}?",
        "Here is a text: {p}\nIf I read {x}, which single word do I read then?",
        "You see this text: {p}\nFind {x} there and tell me one more word.",
        "{p}\n\nWhich word is next to {x}, on its right?",
        "Text: {p}\nName the word after {x}.",
        "Here is a text: {p}\nWhat comes next after {x}?",
    ],
    "repeat": [
        "Repeat this.\n\n{p}",
        "Say this again: {p}",
        "{p}\n\nRepeat the text above.",
        "Copy this word for word.\n\n{p}",
        "Write this once more: {p}",
        "Repeat after me: {p}",
    ],
    "recall.does": [
        "What does {x} do?",
        "What is {x} for?",
        "Tell me what {x} does.",
        "Explain {x}.",
        "I found {x}. What does it do?",
        "Can you say what {x} does?",
    ],
    "recall.signature": [
        "What is the signature of {x}?",
        "How is {x} called?",
        "Which parameters does {x} take?",
        "Show me the signature of {x}.",
        "Give the parameters of {x}.",
    ],
    "recall.module": [
        "Which module is {x} in?",
        "Where do I find {x}?",
        "From which module do I import {x}?",
        "What module has {x}?",
        "Name the module of {x}.",
    ],
    "recall.continue": [
        "How does this go on: {x}",
        "Continue: {x}",
        "What follows these words: {x}",
        "Go on from here: {x}",
        "Finish this: {x}",
    ],
}
REFUSAL = "I do not know {x}."


def python_docs_examples(entries: Sequence[Entry], split_of: dict[str, str], *, seed: int = 0) -> ChatSets:
    """Build recall and reading examples from the standard library's entries.

    Args:
        entries: what `read_entries` returns.
        split_of: document id (the entry's full name) -> `train`, `validation` or `test`, and likewise the group
            under `group:ID`; see `corpus_splits`.
        seed: run seed.

    Returns:
        Reading: `train` from training groups, the other sets from their own groups. Recall asks about training
        entries only, since only those can be known; a tenth of the names is kept for `test`.
    """
    by_split: dict[str, list[Entry]] = {"train": [], "validation": [], "test": []}
    for entry in entries:
        by_split[split_of[entry.full_name]].append(entry)
    sets = ChatSets()
    for split, members in by_split.items():
        random = random_for(seed, "chat-reading", split)
        wordings = _wordings(held_out=split == "test")
        found = list(_reading_of_signatures(members, split_of, wordings, random, split))
        documents = [
            Document(text=e.doc, id=e.full_name, group=split_of[f"group:{e.full_name}"], source="python-docs")
            for e in members
        ]
        found += _reading_of_passages(documents, wordings, random, split)
        getattr(sets, split).extend(found)
    _add_recall(sets, by_split["train"], split_of, seed)
    return _finished(sets, seed)


def text_examples(documents: Mapping[str, Sequence[Document]], *, seed: int = 0) -> ChatSets:
    """Build reading and recall examples from any prose, for sources other than `python-docs`.

    Args:
        documents: the documents of each split (`train`, `validation`, `test`).
    """
    sets = ChatSets()
    for split, members in documents.items():
        random = random_for(seed, "chat-reading", split)
        getattr(sets, split).extend(_reading_of_passages(members, _wordings(held_out=split == "test"), random, split))
    random = random_for(seed, "chat-continue")
    for document in documents["train"]:
        held_out = random.random() < HELD_OUT_NAMES
        wordings = _wordings(held_out=held_out)
        for passage in _passages(document.text)[:PASSAGES_OF_A_DOCUMENT]:
            words = passage.split(" ")
            if len(words) >= 16:
                answer = " ".join(words[8:16])
                example = _example("recall.continue", document.group, " ".join(words[:8]), answer, wordings, random)
                (sets.test if held_out else sets.train).append(example)
    return _finished(sets, seed)


def _wordings(*, held_out: bool) -> dict[str, list[str]]:
    if held_out:
        return {kind: forms[-HELD_OUT_WORDINGS:] for kind, forms in WORDINGS.items()}
    return {kind: forms[:-HELD_OUT_WORDINGS] for kind, forms in WORDINGS.items()}


def _example(
    kind: str,
    group: str,
    asked: str,
    answer: str,
    wordings: dict[str, list[str]],
    random: Random,
    passage: str = "",
    lead: str = "",
    candidates: tuple[str, ...] = (),
) -> ChatExample:
    question = random.choice(wordings[kind]).replace("{x}", asked).replace("{p}", passage)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return ChatExample(messages=messages, kind=kind, group=group, answer=answer, lead=lead, candidates=candidates)


def _reading_of_signatures(
    entries: Sequence[Entry], split_of: dict[str, str], wordings: dict[str, list[str]], random: Random, split: str
) -> Iterator[ChatExample]:
    """Questions on defaults and on the order of parameters.

    In tuning each signature also comes with its parameters mixed with those of others: names and defaults that
    never stood together can only be answered by reading.
    """
    usable = [entry for entry in entries if len(entry.parameters) >= 2 and len(entry.signature) <= 200]
    pool = [parameter for entry in usable for parameter in entry.parameters if parameter[0] != "*"]
    for entry in usable:
        group = split_of[f"group:{entry.full_name}"]
        versions = [(f"{entry.full_name}{entry.signature[entry.signature.index('(') :]}", list(entry.parameters))]
        for _ in range(MIXED_VERSIONS[split]):
            mixed = _mixed_parameters(entry, pool, random)
            call = ", ".join(p if d is None else f"{p}={d}" for p, d in mixed)
            versions.append((f"{entry.full_name}({call})", mixed))
        for signature, parameters in versions:
            yield from _questions_on(signature, parameters, group, wordings, random, split)


def _questions_on(
    signature: str,
    parameters: list[tuple[str, str | None]],
    group: str,
    wordings: dict[str, list[str]],
    random: Random,
    split: str,
) -> Iterator[ChatExample]:
    """In tuning one question of each kind, sometimes with a second turn; in scoring one for each parameter."""
    with_default = [(p, d) for p, d in parameters if d is not None and len(d) <= 40]
    defaults = tuple(d for _, d in with_default)
    if len(with_default) >= 2:
        asked = random.sample(with_default, 2) if split == "train" else with_default
        questions = [
            _example(
                "reading.default", group, name, f"It is {name}={value}", wordings, random, signature,
                f"It is {name}=", defaults,
            )
            for name, value in asked
        ]  # fmt: skip
        if split == "train":
            first, second = questions
            follow = [{"role": "user", "content": f"And {asked[1][0]}?"}, second.messages[-1]]
            joined = ChatExample(**{**_fields(second), "messages": first.messages + follow})
            questions = [joined if random.random() < 0.3 else first]
        yield from questions
    named = [(p, d) for p, d in parameters if p != "*"]
    names = tuple(p for p, _ in named)
    if len(names) >= 3:
        indices = [random.randrange(len(names) - 1)] if split == "train" else range(len(names) - 1)
        for index in indices:
            (name, default), following = named[index], names[index + 1]
            before = (name if default is None else f"{name}={default}") + ", "
            lead = f"It is {before}"
            if before + following in signature:
                yield _example(
                    "reading.next_parameter", group, name, lead + following, wordings, random, signature, lead, names
                )


def _mixed_parameters(entry: Entry, pool: list[tuple[str, str | None]], random: Random) -> list[tuple[str, str | None]]:
    names = [p for p, _ in entry.parameters if p != "*"]
    names += [random.choice(pool)[0] for _ in range(random.randrange(3))]
    names = list(dict.fromkeys(name for name in names if not name.startswith("*")))
    random.shuffle(names)
    # Each distinct value once: by frequency most would be None, and guessing would do.
    defaults = sorted({d for _, d in pool if d is not None and len(d) <= 40})
    first_default = random.randrange(max(1, len(names) - 1)) if defaults else len(names)
    return [(name, random.choice(defaults) if i >= first_default else None) for i, name in enumerate(names)]


def _reading_of_passages(
    documents: Sequence[Document], wordings: dict[str, list[str]], random: Random, split: str
) -> Iterator[ChatExample]:
    for document in documents:
        for passage in _passages(document.text)[:PASSAGES_OF_A_DOCUMENT]:
            for _ in range(QUESTIONS_OF_A_PASSAGE[split]):
                quote = _quotation(_sentences(passage), random)
                if quote is not None:
                    word, tail, tails = quote
                    yield _example(
                        "reading.quote", document.group, word, f"It says {word}{tail}", wordings, random, passage,
                        f"It says {word}", tails,
                    )  # fmt: skip
                pair = _word_after(passage, random)
                if pair is not None:
                    word, following, spans = pair
                    yield _example(
                        "reading.next_word", document.group, word, f"It says {word} {following}", wordings, random,
                        passage, f"It says {word} ", spans,
                    )  # fmt: skip
            if split == "train":
                yield _example("repeat", document.group, "", passage, wordings, random, passage)


def _passages(text: str) -> list[str]:
    """Paragraphs of prose joined to passages of a size that fits a prompt; lists, code and tables are left out."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.strip().split("\n")]
        prose = " ".join(lines)
        # Prompts, rulers, option lists and ASCII art are no prose to ask about.
        if re.search(r">>>|\.\.\. |::|--|\+-|\||={3}", prose) or len(prose) < 30:
            continue
        paragraphs.append(re.sub(r"\s+", " ", prose))
    passages: list[str] = []
    for prose in paragraphs:
        while len(prose) > MAX_PASSAGE_CHARS:
            cut = prose.rfind(". ", 0, MAX_PASSAGE_CHARS)
            if cut < 60:
                prose = ""
                break
            passages.append(prose[: cut + 1])
            prose = prose[cut + 2 :]
        if passages and prose and len(passages[-1]) + len(prose) < MAX_PASSAGE_CHARS:
            passages[-1] += " " + prose
        elif prose:
            passages.append(prose)
    return passages


def _sentences(passage: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'`(])", passage) if s]


def _quotation(sentences: list[str], random: Random) -> tuple[str, str, tuple[str, ...]] | None:
    """A word that occurs once, the rest of its sentence, and the tails of all sentences as candidates."""
    if len(sentences) < 3:
        return None
    whole = " ".join(sentences)
    tails: list[str] = []
    options: list[tuple[str, str, int]] = []
    for index, sentence in enumerate(sentences):
        words = [m for m in re.finditer(r"(?<![\w.])[A-Za-z]{4,}\b", sentence) if len(sentence) - m.end() >= 12]
        usable = [m for m in words if len(re.findall(rf"\b{m.group()}\b", whole)) == 1]
        if not words:
            continue
        chosen = random.choice(usable or words)
        tail = sentence[chosen.end() :]
        tails.append(tail)
        if usable and len(tail) <= MAX_ANSWER_CHARS:
            options.append((chosen.group(), tail, index))
    if not options or len(tails) < 3:
        return None
    word, tail, _ = random.choice(options)
    return word, tail, tuple(tails)


def _word_after(passage: str, random: Random) -> tuple[str, str, tuple[str, ...]] | None:
    """A word that occurs once, the word after it, and all words as candidates."""
    words = re.findall(r"[A-Za-z_]+", passage)
    once = [i for i in range(len(words) - 1) if len(words[i]) >= 4 and words.count(words[i]) == 1]
    # Both must stand next to each other with one space between, so that "after" means what it says.
    once = [i for i in once if f"{words[i]} {words[i + 1]}" in passage]
    if not once:
        return None
    index = random.choice(once)
    return words[index], words[index + 1], tuple(words)


def _add_recall(sets: ChatSets, entries: list[Entry], split_of: dict[str, str], seed: int) -> None:
    random = random_for(seed, "chat-recall")
    tuning, scoring = _wordings(held_out=False), _wordings(held_out=True)
    known = {entry.full_name for entry in entries}
    last_names = [entry.name.rpartition(".")[2] for entry in entries if entry.name]
    for entry in entries:
        held_out = random.random() < HELD_OUT_NAMES
        wordings, target = (scoring, sets.test) if held_out else (tuning, sets.train)
        group, name = split_of[f"group:{entry.full_name}"], entry.full_name
        first = _sentences(re.sub(r"\s+", " ", entry.doc.split("\n\n")[0]))[0]
        questions: list[tuple[str, str, str]] = []
        if len(first) <= MAX_ANSWER_CHARS:
            questions.append(("recall.does", name, first))
        if entry.signature and len(entry.signature) <= MAX_ANSWER_CHARS:
            questions.append(("recall.signature", name, entry.signature))
        if entry.name and last_names.count(entry.name.rpartition(".")[2]) == 1:
            questions.append(("recall.module", entry.name.rpartition(".")[2], entry.module))
        examples = [_example(k, group, asked, answer, wordings, random) for k, asked, answer in questions]
        if not held_out and len(examples) >= 2 and random.random() < 0.3:
            examples = [_joined(examples, name)]
        target.extend(examples)
        if random.random() < 0.25 and entry.name:
            invented = f"{entry.module}.{_invented_name(last_names, random)}"
            if invented not in known:
                question = _example("recall.does", group, invented, REFUSAL.replace("{x}", invented), wordings, random)
                target.append(ChatExample(**{**_fields(question), "kind": "recall.refusal"}))


def _fields(example: ChatExample) -> dict[str, Any]:
    return {name: getattr(example, name) for name in ChatExample.__dataclass_fields__}


def _joined(examples: list[ChatExample], name: str) -> ChatExample:
    """One conversation of several turns; later questions say `it` where the name was given before."""
    messages: list[Message] = []
    for index, example in enumerate(examples):
        question, answer = example.messages
        text = question["content"]
        if index:
            text = "And: " + (text.replace(name, "it") if name in text else text)
        messages += [{"role": "user", "content": text}, answer]
    return ChatExample(**{**_fields(examples[-1]), "messages": messages})


def _invented_name(last_names: list[str], random: Random) -> str:
    """Join the first half of one real name and the last half of another."""
    first, second = random.choice(last_names), random.choice(last_names)
    return first[: max(2, len(first) // 2)] + second[len(second) // 2 :]


def _finished(sets: ChatSets, seed: int) -> ChatSets:
    """Shuffle, and give a third of the tuning conversations the system prompt, so that both ways are learned."""
    random = random_for(seed, "chat-shuffle")
    done = ChatSets()
    for split in ("train", "validation", "test"):
        examples: list[ChatExample] = list(getattr(sets, split))
        random.shuffle(examples)
        for example in examples:
            if split == "train" and random.random() < 1 / 3:
                messages = [{"role": "system", "content": SYSTEM_PROMPT}, *example.messages]
                example = ChatExample(**{**_fields(example), "messages": messages})
            getattr(done, split).append(example)
    return done


SpanRule = Callable[[ChatExample], str]


def copy_baseline(train: Sequence[ChatExample], test: Sequence[ChatExample]) -> list[str]:
    """Answer each reading question by copying the most likely span of its prompt, without looking for the right one.

    The part of the answer that repeats the question is given to the baseline. For each kind the rule (first, second,
    last, longest, shortest span, or the candidate that is most often right in tuning) is the one that does best on
    the tuning examples.

    Returns:
        One answer for each example of `test`; an empty string where there are no candidates.
    """
    frequency: dict[str, dict[str, int]] = {}
    for example in train:
        counts = frequency.setdefault(example.kind, {})
        counts[example.span] = counts.get(example.span, 0) + 1

    def most_frequent(example: ChatExample) -> str:
        counts = frequency.get(example.kind, {})
        return max(example.candidates, key=lambda span: counts.get(span, 0))

    rules: list[SpanRule] = [
        most_frequent,
        lambda e: e.candidates[0],
        lambda e: e.candidates[min(1, len(e.candidates) - 1)],
        lambda e: e.candidates[-1],
        lambda e: max(e.candidates, key=len),
        lambda e: min(e.candidates, key=len),
    ]
    best: dict[str, SpanRule] = {}
    for kind in {example.kind for example in test}:
        members = [e for e in train if e.kind == kind and e.candidates]
        best[kind] = max(rules, key=lambda rule: sum(rule(e) == e.span for e in members))
    return [e.lead + best[e.kind](e) if e.candidates else "" for e in test]
