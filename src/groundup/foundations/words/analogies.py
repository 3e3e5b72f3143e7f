"""Questions with one right answer each: analogies for a text, and pairs of words that belong together.

The lists hold words of the Python documentation and of plain English. What is asked depends on the text: a pair counts only if the
vocabulary holds both of its words, and every two pairs of a relation make two questions, "a is to b as c is to d" both ways
round. An accuracy over questions that were dropped in silence would be no accuracy, so `Questions` keeps how many there are.

Source: the form of the questions is that of Mikolov et al. 2013a, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from groundup.core.errors import UsageError
from groundup.foundations.words.vectors import WordVectors
from groundup.foundations.words.vocabulary import Ids, Vocabulary

#: relation -> pairs, as "first:second".
RELATIONS = {
    "plural": """file:files list:lists object:objects function:functions class:classes method:methods module:modules
        string:strings value:values name:names argument:arguments option:options line:lines message:messages event:events
        character:characters key:keys error:errors exception:exceptions element:elements item:items number:numbers
        attribute:attributes directory:directories property:properties library:libraries process:processes thread:threads
        widget:widgets header:headers test:tests command:commands path:paths type:types integer:integers window:windows
        eye:eyes hand:hands king:kings lord:lords friend:friends day:days year:years word:words thing:things enemy:enemies""",
    "third person": """return:returns contain:contains raise:raises take:takes use:uses make:makes give:gives
        provide:provides require:requires allow:allows support:supports read:reads write:writes accept:accepts
        represent:represents include:includes indicate:indicates specify:specifies define:defines become:becomes
        know:knows come:comes speak:speaks love:loves bear:bears stand:stands say:says live:lives""",
    "ing": """read:reading write:writing run:running call:calling use:using return:returning create:creating
        pass:passing parse:parsing wait:waiting start:starting match:matching test:testing process:processing
        open:opening close:closing load:loading import:importing send:sending format:formatting get:getting set:setting
        come:coming speak:speaking go:going love:loving stand:standing hear:hearing die:dying weep:weeping""",
    "past": """call:called return:returned create:created open:opened close:closed use:used define:defined
        pass:passed raise:raised import:imported define:defined write:written give:given change:changed convert:converted
        start:started add:added remove:removed replace:replaced support:supported require:required
        know:known speak:spoken take:taken see:seen do:done bear:borne love:loved hear:heard""",
    "opposite": """first:last left:right start:end open:close read:write true:false minimum:maximum before:after
        input:output encode:decode server:client lower:upper send:receive add:remove horizontal:vertical stdin:stdout
        width:height old:new above:below top:bottom start:stop enable:disable int:float positive:negative min:max
        love:hate day:night heaven:hell life:death friend:enemy good:bad""",
    "agent": """read:reader write:writer parse:parser encode:encoder decode:decoder load:loader handle:handler
        format:formatter test:tester compile:compiler debug:debugger generate:generator iterate:iterator edit:editor
        interpret:interpreter import:importer""",
    "number word": "one:1 two:2 three:3 four:4 five:5 zero:0",
    "woman": "king:queen man:woman father:mother son:daughter brother:sister lord:lady husband:wife he:she his:her him:her",
}

#: Words that belong together, though they are not spelled alike.
RELATED = """integer:float string:bytes socket:connection file:directory thread:process minimum:maximum list:tuple
    function:method mouse:button server:client width:height red:blue keyword:argument hour:minute first:last http:request
    import:module day:month horizontal:vertical read:write left:right true:false encoding:unicode widget:tkinter ssl:certificate
    raise:exception lock:acquire test:unittest xml:element regular:expression pen:turtle smtp:email tar:archive
    set:frozenset queue:worker digit:decimal king:queen father:mother day:night love:hate heaven:hell sword:blood
    crown:throne eyes:tears brother:sister son:daughter lord:sir life:death friend:enemy"""


@dataclass(frozen=True)
class Questions:
    """Analogies of one relation.

    Attributes:
        relation: its name.
        pairs: those that the vocabulary knows.
        num_listed: pairs in the list, known or not.
        places: (Q, 4) numbers of a, b, c and the right answer d.
        targets: (Q,) which pair is asked for: questions for one pair are not independent of each other.
    """

    relation: str
    pairs: tuple[tuple[str, str], ...]
    num_listed: int
    places: Ids
    targets: Ids


def read_pairs(text: str) -> list[tuple[str, str]]:
    """Pairs from "first:second third:fourth", each once.

    Raises:
        UsageError: naming a word without its partner.
    """
    pairs = []
    for item in text.split():
        first, colon, second = item.partition(":")
        if not (first and colon and second) or ":" in second:
            raise UsageError(f"{item!r} is no pair: write first:second")
        pairs.append((first, second))
    return list(dict.fromkeys(pairs))


def known_pairs(text: str, vocabulary: Vocabulary) -> tuple[tuple[str, str], ...]:
    """The pairs of a list whose two words have numbers."""
    return tuple(pair for pair in read_pairs(text) if pair[0] in vocabulary and pair[1] in vocabulary)


def questions_for(vocabulary: Vocabulary, relations: dict[str, str] | None = None) -> list[Questions]:
    """The questions that a vocabulary can be asked; relations with fewer than two known pairs have none.

    Args:
        relations: name -> pairs, by default those of this file.
    """
    found = []
    for relation, text in (RELATIONS if relations is None else relations).items():
        pairs = known_pairs(text, vocabulary)
        numbers = [(vocabulary.number(first), vocabulary.number(second)) for first, second in pairs]
        rows, targets = [], []
        for target, (c, d) in enumerate(numbers):
            for a, b in numbers:
                # "he:him she:her" has questions whose answer is one of the given words: they cannot be answered.
                if len({a, b, c, d}) == 4:
                    rows.append((a, b, c, d))
                    targets.append(target)
        if rows:
            listed = len(read_pairs(text))
            found.append(Questions(relation, pairs, listed, np.array(rows, np.int64), np.array(targets, np.int64)))
    return found


@dataclass(frozen=True)
class Answers:
    """How many questions of a relation were answered rightly, in all and by three ways that ask for less.

    Attributes:
        questions: what was asked.
        right: (Q,) by b - a + c, the three words left out.
        right_by_neighbour: (Q,) by the nearest word of c alone, the three left out: what the difference b - a must beat.
        right_unrestricted: (Q,) by b - a + c with no word left out.
    """

    questions: Questions
    right: np.ndarray
    right_by_neighbour: np.ndarray
    right_unrestricted: np.ndarray


def ask(vectors: WordVectors, questions: Questions) -> Answers:
    """Answer all questions of a relation."""
    places, wanted = questions.places, questions.places[:, 3]
    return Answers(
        questions,
        vectors.answer_analogies(places) == wanted,
        vectors.answer_analogies(places, without_offset=True) == wanted,
        vectors.answer_analogies(places, excluding=False) == wanted,
    )
