"""From the bytes of a page to the words that it shows."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

import regex
import webencodings
from lxml import etree

if TYPE_CHECKING:
    from wordcount.fetch import Page

HIDDEN = frozenset(("script", "style", "template", "noscript"))
# Elements that end a word: `<td>a</td><td>b</td>` shows two, `<b>a</b>b` shows one.
BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote br button caption dd details dialog div dl dt fieldset figcaption figure "
        "footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol option p pre section select summary table tbody td "
        "textarea tfoot th thead title tr ul",
    )
)

# A word: from one Unicode word boundary (UAX #29) to the next, if it begins with a letter or digit.
WORD = regex.compile(r"(?wV1)\b(?=\w).+?\b", regex.DOTALL)
_META_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)


def count_words(text: str) -> int:
    """The number of words of a text by Unicode's default word boundaries.

    Args:
        text: In any script. Where words are written without spaces, Unicode's default rules count each Chinese
            character and each Thai letter as one; a dictionary would be needed for more.
    """
    return sum(1 for _ in WORD.finditer(text))


def visible_text(page: Page) -> str:
    """The text of a page without its markup, scripts, styles and comments.

    Args:
        page: As `fetch` returns it.
    """
    text = decode(page.content, page.charset)
    if not page.markup or not text.strip():
        return text
    # A target, not a tree: linear in time and flat in memory, however deep a hostile page nests.
    parser = etree.HTMLParser(target=_Text(), encoding="utf-8")
    parser.feed(text.encode("utf-8", "replace"))
    return str(parser.close())


def decode(content: bytes, charset: str | None) -> str:
    """The text of bytes: by byte order mark, then the server's charset, then the page's own, then UTF-8, then
    windows-1252, as browsers do.

    Args:
        content: The body.
        charset: As the server's header says it, or None.
    """
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if content.startswith(mark):
            return content[len(mark) :].decode(name, "replace")
    names = [charset]
    if found := _META_CHARSET.search(content, 0, 1024):
        names.append(found[1].decode("ascii"))
    for name in filter(None, names):
        # Only those of the web: Python's own include some that raise in any case, or take quadratic time.
        if encoding := webencodings.lookup(name.replace("-16-", "-16")):
            return str(encoding.codec_info.decode(content, "replace")[0])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("windows-1252", "replace")


class _Text:
    """lxml's target that collects the text."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.hidden = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag in HIDDEN:
            self.hidden += 1
        elif tag in BLOCKS:
            self.parts.append(" ")

    def end(self, tag: str) -> None:
        if tag in HIDDEN:
            self.hidden -= 1
        elif tag in BLOCKS:
            self.parts.append(" ")

    def data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)

    def comment(self, text: str) -> None:
        """A comment shows nothing."""

    def close(self) -> str:
        return "".join(self.parts)
