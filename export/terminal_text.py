"""Text of somebody's data on a terminal: one line of it stays one line, and cannot command the terminal."""

from __future__ import annotations

LONGEST_TITLE = 80
_JOINERS = "\u200c\u200d"  # inside words of some scripts, and inside emoji


def one_line(text: str) -> str:
    """`text` with a space for each line break, control character and mark of direction."""
    return "".join(character if character.isprintable() or character in _JOINERS else " " for character in text)


def shortened(title: str) -> str:
    """At most `LONGEST_TITLE` characters of a title, the last of which says that there were more."""
    return title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1]}…"
