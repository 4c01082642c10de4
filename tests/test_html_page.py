"""Pages: text stays text, nothing is fetched, nothing runs."""

from html.parser import HTMLParser

import pytest

from fairseq_ecg.html_page import Markup, bar, joined, page, picture, table, tag

EVIL = '<script>alert(\'x\')</script>" onload="evil()" & <b>'


class Reader(HTMLParser):
    """What a browser finds: elements that are closed rightly, their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))
        if name not in ("meta", "img", "br"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data


def test_text_and_attributes_are_escaped_wherever_they_come_in():
    text = page(
        EVIL,
        [(EVIL, joined([tag("p", EVIL, title=EVIL), table((EVIL,), [(EVIL, EVIL)], (1,), EVIL)]))],
        tag("p", EVIL),
        foot=EVIL,
    )
    read = Reader(text)
    assert read.open == []
    names = {name for name, _ in read.found}
    assert not names & {"script", "b", "iframe", "object", "link"}
    assert not any(key.startswith("on") for _, attributes in read.found for key in attributes)
    assert read.text.count(EVIL) == 11
    assert {"title": EVIL} in [attributes for name, attributes in read.found if name == "p"]


def test_a_page_fetches_nothing_and_says_so_itself():
    read = Reader(page("x", [("one", picture(b"\x89PNG", "png", "a picture"))]))
    policies = [a["content"] for name, a in read.found if a.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    sources = [value for _, a in read.found for key, value in a.items() if key in ("src", "href")]
    assert sources == ["#s1", "data:image/png;base64,iVBORw=="]


def test_what_is_markup_already_is_taken_as_it_is_and_none_is_left_out():
    assert joined([Markup("<i>a</i>"), None, "<"]) == "<i>a</i>&lt;"
    assert tag("p", None, class_=None) == "<p></p>"
    assert tag("meta", name="a", http_equiv="b") == '<meta name="a" http-equiv="b">'


@pytest.mark.parametrize(
    ("share", "width"), [(0, "0.0%"), (0.5, "50.0%"), (2, "100.0%"), (-1, "0.0%")]
)
def test_a_bar_stays_inside_its_frame(share, width):
    assert f'style="width:{width}"' in bar(share)


def test_a_table_without_names_has_no_head():
    assert "<thead>" not in table((), [("a", 1)])
    assert table(("a",), [(1,)], (0,)).count('class="number"') == 2
