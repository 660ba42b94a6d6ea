"""Tables in documents."""

from __future__ import annotations

import re


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill_one(text: str, name: str, content: str) -> str:
    """The text with this content between the marks of that name.

    Raises:
        ValueError: there are none.
    """
    marked = re.compile(rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)", re.S)
    if not marked.search(text):
        raise ValueError(f"the text has no place for the table {name!r}")
    return marked.sub(lambda m: f"{m[1]}{content}\n{m[2]}", text)
