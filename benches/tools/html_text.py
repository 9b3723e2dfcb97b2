"""The words of HTML pages, as plain text on standard output: `html_text.py PAGE...`. What is in <main> counts, if there is one."""

import sys
from html.parser import HTMLParser
from pathlib import Path

SILENT = {"script", "style", "nav", "head", "svg", "button"}
BLOCKS = {"p", "div", "li", "pre", "h1", "h2", "h3", "h4", "h5", "tr", "br", "blockquote", "section"}


class Words(HTMLParser):
    """Collects text outside of what is silent."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = 0
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.silent += tag in SILENT
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in SILENT and self.silent:
            self.silent -= 1
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts.append(data)


def text_of(page: str) -> str:
    """Lines without trailing spaces, and at most one empty line in a row."""
    start, end = page.find("<main"), page.rfind("</main>")
    words = Words()
    words.feed(page[start:end] if 0 <= start < end else page)
    lines = [line.rstrip() for line in "".join(words.parts).splitlines()]
    kept = [line for index, line in enumerate(lines) if line or (index and lines[index - 1])]
    return "\n".join(kept).strip() + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        sys.stdout.write(text_of(Path(name).read_text(encoding="utf-8")))
