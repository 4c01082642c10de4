"""A page of HTML in one file: nothing is fetched, nothing runs, and text stays text.

Every string that is no ``Markup`` is escaped where it enters the page. A content security policy in
the page forbids scripts and all that would come from elsewhere.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = {"meta", "img", "br"}

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Liberation Sans", Arial, sans-serif; color: #1a1a1a;
  background: #fff; margin: 0 auto; padding: 1.2rem; max-width: 70rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem;
  border-bottom: 2px solid #444; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
nav { margin: .8rem 0 0; display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
a { color: #0b5394; }
.scroll { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-size: .93em; }
caption { text-align: left; color: #444; padding: .2rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .2rem .7rem .2rem .3rem; text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.long { overflow-wrap: anywhere; min-width: 5.5rem; }
td.long:first-child { overflow-wrap: normal; }
.bar { display: inline-block; width: 8rem; height: .75em; border: 1px solid #777;
  margin-right: .5em; }
.bar span { display: block; height: 100%; background: #777;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
img { max-width: 100%; height: auto; display: block; margin: .5rem 0; }
figure { margin: 1rem 0 1.6rem; overflow-x: auto; }
figure img { min-width: 38rem; }
figcaption { font-size: .93em; color: #333; }
pre { background: #f4f4f4; border: 1px solid #ddd; padding: .6rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .85em; }
code { overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: bold; margin: .5rem 0; }
.note { border-left: 4px solid #888; padding: .1rem .8rem; margin: .6rem 0; }
footer { margin-top: 2.5rem; font-size: .87em; color: #444; border-top: 1px solid #ccc; }
@media print {
  @page { margin: 15mm; }
  body { font-size: 10pt; max-width: none; padding: 0; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, tr, img { break-inside: avoid; }
  .scroll, figure { overflow: visible; }
  figure img { min-width: 0; }
}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Return an element.

    Args:
        name: Of the element.
        *children: Markup as it is, all else escaped; None is left out.
        **attributes: Escaped values; ``class_`` is written class; None is left out.
    """
    words = [
        f'{key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    opening = " ".join([name, *words])
    return Markup(f"<{opening}>" if name in _VOID else f"<{opening}>{joined(children)}</{name}>")


def joined(children: Iterable[Any]) -> Markup:
    """Return elements and texts one after the other; None is left out."""
    return Markup("".join(_markup(child) for child in children if child is not None))


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    numbers: Sequence[int] = (),
    caption: str = "",
) -> Markup:
    """Return a table that scrolls by itself where it is wider than the page.

    Args:
        head: Names of the columns; none if they need no names.
        rows: Their cells.
        numbers: Columns that are aligned as numbers.
        caption: Above it.
    """

    def cells(kind: str, row: Sequence[Any]) -> Markup:
        return tag(
            "tr",
            *(
                tag(kind, cell, class_="number" if column in numbers else "long")
                for column, cell in enumerate(row)
            ),
        )

    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption) if caption else None,
            tag("thead", cells("th", head)) if head else None,
            tag("tbody", *(cells("td", row) for row in rows)),
        ),
        class_="scroll",
    )


def bar(share: float) -> Markup:
    """Return a bar as long as a share between 0 and 1."""
    width = f"width:{100 * min(max(share, 0.0), 1.0):.1f}%"
    return tag("span", tag("span", "", style=width), class_="bar", aria_hidden="true")


def picture(content: bytes, kind: str, alt: str) -> Markup:
    """Return a picture that is part of the page.

    Args:
        content: Of the file.
        kind: ``png`` or ``svg``.
        alt: What it shows, for those who do not see it.
    """
    mime = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    data = base64.b64encode(content).decode("ascii")
    return tag("img", src=f"data:{mime};base64,{data}", alt=alt)


def page(title: str, sections: Sequence[tuple[str, Markup]], *top: Any, foot: Any = None) -> str:
    """Return the page.

    Args:
        title: Its title.
        sections: Title and content of each.
        *top: What stands between title and contents.
        foot: What stands at its end.
    """
    places = [f"s{number}" for number in range(1, len(sections) + 1)]
    links = [
        tag("a", name, href=f"#{place}") for place, (name, _) in zip(places, sections, strict=True)
    ]
    parts = [
        tag("section", tag("h2", name, id=place), content)
        for place, (name, content) in zip(places, sections, strict=True)
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(_STYLE)),
    )
    body = tag(
        "body", tag("h1", title), *top, tag("nav", *links), *parts, tag("footer", foot or "")
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _markup(child: Any) -> str:
    return child if isinstance(child, Markup) else html.escape(str(child))
