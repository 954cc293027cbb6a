"""Markdown that is made: tables, and their place in a README."""

import re
from pathlib import Path

from pcpad.folders import read_text, write_whole

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
BAR = r"\|"
"""A bar inside a cell, which would else end it."""


def table(head: list[str], rows: list[list[str]], numbers_from: int) -> str:
    """A Markdown table; columns from the given one on are aligned to the right."""
    lines = [head, ["---" if i < numbers_from else "---:" for i in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(text.replace('|', BAR) for text in line)} |" for line in lines)


def code(text: str) -> str:
    """Text of a program on one line, in which Markdown finds neither markup nor HTML."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def cells(line: str) -> list[str]:
    """The cells of a line of such a table."""
    inside = line.strip().removeprefix("|").removesuffix("|")
    return [text.strip().replace(BAR, "|") for text in re.split(r"(?<!\\)\|", inside)]


def put_into(readme: Path, text: str) -> bool:
    """Replace what stands between the two markers of a README, and nothing else; returns whether that changed it.

    Raises:
        ValueError: there is no README, or it has not exactly one pair of markers.
    """
    if not readme.is_file():
        raise ValueError(f"there is no {readme}: write it, with the lines {BEGIN} and {END} where the tables belong")
    content = read_text(readme)
    if "\r\n" in content:
        text = text.replace("\n", "\r\n")
    break_ = "\r\n" if "\r\n" in content else "\n"
    begin, end = content.find(BEGIN), content.find(END)
    if content.count(BEGIN) != 1 or content.count(END) != 1 or end < begin:
        raise ValueError(f"{readme} needs the line {BEGIN} once, and {END} once below it")
    made = break_.join([f"{content[:begin]}{BEGIN}", "", text, "", content[end:]])
    if made != content:
        write_whole(readme, made)
    return made != content
