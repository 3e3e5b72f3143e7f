"""HTML to text: what stays, what goes, and that no tag soup breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.html_text import html_to_text

PAGE = """<!DOCTYPE html>
<html><head><title>Title</title><style>p { color: red }</style>
<script>if (a < b) document.write("<p>no</p>");</script></head>
<body><nav><ul><li><a href="/">Home</a></li></ul></nav>
<h1>On   trees</h1>
<p>An <b>oak</b> is&nbsp;a tree &amp;
a home.<br>It is old.</p>
<ul><li>leaf</li><li>root</li></ul>
<pre>def f(x):
    return x &lt; 1
</pre>
<table><tr><th>name</th><th>age</th></tr><tr><td>oak</td><td>300</td></tr></table>
<!-- a <p>comment</p> --><svg><text>drawn</text></svg>
<script type="module">let x = "</p>";</script>
<p>End.</p></body></html>"""


def test_a_page() -> None:
    assert html_to_text(PAGE) == (
        "On trees\n\nAn oak is a tree & a home.\nIt is old.\n\nleaf\nroot\n\ndef f(x):\n    return x < 1\n\n"
        "name age\noak 300\n\nEnd."
    )


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("plain words", "plain words"),
        ("a<br/>b<br>c<br><br>d<br><br><br>e", "a\nb\nc\n\nd\n\ne"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</ul>", "a\n\nb\n\nc"),
        ("a <b> b </b> c\n\n d", "a b c d"),
        ("<p>one<p>two", "one\n\ntwo"),
        ("<head><title>T</title><p>body begins</p>", "body begins"),
        ("<html><head><meta charset=x><link rel=a><body>words", "words"),
        ("<p>a<script>no</p>", "a"),
        ("<nav>x<nav>y</nav>z</nav>after", "after"),
        ("<nav><div>menu</nav>after", "after"),
        ("<script/>after", "after"),
        ("<![if !IE]><p>kept</p><![endif]>", "kept"),
        ("&lt;b&gt; &#233; &eacute; &#x1F600;", "<b> é é 😀"),
        ("a &unknown; b & c", "a &unknown; b & c"),
        ("</p></nav></pre>fine", "fine"),
        ("<pre>  two\n\n\n\nspaces</pre>", "  two\n\nspaces"),
        ("one <i>two</i>, <b>three</b>.", "one two, three."),
        ("<form><p>some pages are one form</p></form>", "some pages are one form"),
    ],
)
def test_pieces(html: str, text: str) -> None:
    assert html_to_text(html) == text


tags = st.sampled_from(
    [
        "p",
        "div",
        "script",
        "style",
        "nav",
        "head",
        "pre",
        "li",
        "td",
        "br",
        "title",
        "svg",
        "html",
        "body",
        "b",
        "select",
    ]
)
soup = st.lists(
    st.one_of(
        tags.map(lambda tag: f"<{tag}>"),
        tags.map(lambda tag: f"</{tag}>"),
        tags.map(lambda tag: f"<{tag} a='"),
        st.sampled_from(
            ["<!", "<![", "<![CDATA[", "]]>", "<!--", "-->", "<?", "&", "&#", "&#xFFFFFFFF;", "<", ">", "\0"]
        ),
        st.text(max_size=5),
    ),
    max_size=30,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(soup)
def test_tag_soup_never_raises(html: str) -> None:
    text = html_to_text(html)
    assert "\n\n\n" not in text and text == text.strip("\n")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(alphabet="abc xyz&<>é\n", min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_paragraphs_survive(paragraphs: list[str]) -> None:
    from html import escape

    html = "".join(f"<script>{n}</script>\n<p>{escape(p)}</p>" for n, p in enumerate(paragraphs))
    assert html_to_text(html).split("\n\n") == [" ".join(p.split()) for p in paragraphs]
