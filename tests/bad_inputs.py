"""Bad inputs by the thousand: bytes of valid files changed, and values of a JSON document replaced.

`ATTRACTOR_FUZZ=50` feeds every fuzzed test fifty times as many inputs as an ordinary run; how many were fed is counted
and shown at the end.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("ATTRACTOR_FUZZ", "1"))
FED: Counter[str] = Counter()
"""Inputs fed, by kind."""

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63)

Edit = tuple[str, float, int, bytes]


def fuzzed(examples: int) -> settings:
    """Hypothesis settings of a fuzzed test: so many inputs in an ordinary run."""
    unhealthy = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples * TIMES, deadline=None, suppress_health_check=unhealthy, database=None)


def fed(kind: str) -> None:
    """Count one input."""
    FED[kind] += 1


def _edits(*kinds: str) -> st.SearchStrategy[list[Edit]]:
    place = st.floats(0, 1, exclude_max=True)
    edit = st.tuples(st.sampled_from(kinds), place, st.integers(0, 63), st.binary(min_size=1, max_size=12))
    return st.lists(edit, min_size=1, max_size=4)


ANY_EDITS = _edits("flip", "number", "overwrite", "insert", "delete", "repeat", "truncate")
SAME_LENGTH = _edits("flip", "number", "overwrite")
"""Edits that keep the length: what a check of sizes cannot see."""


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """`content` with bytes flipped, overwritten, inserted, deleted or repeated at relative places."""
    changed = bytearray(content)
    for kind, place, number, given in edits:
        at = int(place * len(changed))
        if kind == "flip" and changed:
            changed[at] ^= 1 << number % 8
        elif kind == "number":
            word = _NUMBERS[number % len(_NUMBERS)].to_bytes(8, "little")[: (1, 2, 4, 8)[number % 4]]
            changed[at : at + len(word)] = word[: len(changed) - at]
        elif kind == "overwrite":
            changed[at : at + len(given)] = given[: len(changed) - at]
        elif kind == "insert":
            changed[at:at] = given
        elif kind == "delete":
            del changed[at : at + number + 1]
        elif kind == "repeat":
            changed[at:at] = changed[at : at + number + 1]
        elif kind == "truncate":
            del changed[at:]
    return bytes(changed)


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_NUMBER = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | _NUMBER | _TEXT | st.sampled_from(["../x", "a" * 300, "2026-02-30"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def replaced(document: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """The JSON document with one value somewhere in it replaced, removed, or named otherwise."""
    changed = copy.deepcopy(document)
    parent = changed
    while True:
        keys = sorted(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = draw(st.sampled_from(keys))
        inner = parent[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
            break
        parent = inner
    action = draw(st.sampled_from(["replace", "remove", "rename"]))
    value = parent.pop(key) if action != "replace" else draw(JSON)
    if isinstance(parent, dict):
        if action != "remove":
            parent[key if action == "replace" else draw(st.text(max_size=6))] = value
    elif action == "replace":
        parent[key] = value
    return changed
