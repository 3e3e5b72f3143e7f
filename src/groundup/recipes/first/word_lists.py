"""Words that the lesson `words` asks about, of the Python documentation and of plays; those that a text lacks are left out."""

from __future__ import annotations

#: Whose neighbours are shown.
ASKED = ("string", "file", "thread", "server", "width", "maximum", "red", "read", "king", "love", "sword", "father")

#: Topics of six words, which the projection draws in one colour each.
TOPICS = {
    "network": "server client socket connection host port",
    "values": "integer float string tuple list dict",
    "drawing": "turtle pen color circle fill screen",
    "dates": "year month day hour date weekday",
    "files": "file directory path filename folder archive",
    "family": "father mother brother sister son daughter",
    "rank": "king queen prince lord duke crown",
    "body": "eye hand head heart blood tongue",
}

#: Groups with a stranger, which stands last.
STRANGERS = (
    "red blue green socket",
    "integer float decimal widget",
    "server client socket tuple",
    "year month day thread",
    "width height size exception",
    "file directory path month",
    "reading writing opening integer",
    "maximum minimum smallest server",
    "tuple list dict mouse",
    "button widget menu protocol",
    "thread process lock color",
    "first second last socket",
    "raised caught raises width",
    "bytes string text turtle",
    "header body email angle",
    "father mother brother crown",
    "king queen prince tongue",
    "eye hand head town",
    "love hate fear england",
)

#: Pairs of sentences: what they show, the first, the second.
SENTENCES = (
    ("other words, like meaning", "the function returns a list of strings", "the method returns a tuple of bytes"),
    ("another topic", "the function returns a list of strings", "the server closes the connection"),
    ("order", "the server sends the client a message", "the client sends the server a message"),
    ("order", "the dog bites the man", "the man bites the dog"),
    ("negation", "this option is supported", "this option is not supported"),
    ("opposites", "open the first file", "close the last file"),
)
