"""The social-alignment check of a landing: DuckDB draws the sample, within its memory limit, and it is judged."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from features.contracts import USERS
from features.errors import SocialMisalignment
from features.row_rules import reference_rule
from features.social_alignment import MOST_PAIRS, MOST_USERS, Alignment, Indices, Sample, SocialConfig, judged
from features.transforms import FeatureConfig, run_statements, scratch_database

if TYPE_CHECKING:
    from features.landing import RawTables

_SEED = 0
_ADVICE = (
    "Nothing was landed. Check that social_edges and events number their users alike, and which file the edges came "
    'from; if the graph is right all the same, say why in attractor.toml: [social] accept_alignment = "…"'
)


def checked_alignment(
    raw: RawTables,
    as_of: dt.datetime,
    config: SocialConfig,
    limits: FeatureConfig,
    *,
    quarantined: Mapping[str, int],
    scratch: Path,
) -> dict[str, Any]:
    """The figures to record: those of `Alignment`, and `accepted`, the reason given for a graph that is not aligned.

    `quarantined` are the rows of social_edges set aside, by column and rule.

    Raises SocialMisalignment if the graph is misaligned and no reason is given.
    """
    unknown = reference_rule(f"{USERS.name}.{USERS.key[0]}")
    strangers = sum(count for rule, count in quarantined.items() if rule.endswith(unknown))
    alignment = landed_alignment(raw, as_of, limits, strangers=strangers, scratch=scratch)
    reason = config.accept_alignment.strip() or None
    if alignment.verdict == "misaligned" and reason is None:
        raise SocialMisalignment(alignment.sentence, figures=asdict(alignment), advice=_ADVICE)
    return {**asdict(alignment), "accepted": None if alignment.verdict == "aligned" else reason}


def landed_alignment(
    raw: RawTables, as_of: dt.datetime, limits: FeatureConfig, *, strangers: int = 0, scratch: Path
) -> Alignment:
    """Judge the social graph in `raw` by the events in it, both as known strictly before `as_of`.

    `strangers` of its relations were not landed, because they name users that there are not.
    """
    values = {
        "users": str(raw.users),
        "items": str(raw.items),
        "social_edges": str(raw.social_edges),
        "events": [str(path) for path in raw.events],
        "as_of": as_of,
        "seed": _SEED,
        "most_pairs": MOST_PAIRS,
        "most_users": MOST_USERS,
    }
    with scratch_database(limits, scratch) as database:
        run_statements(database, "alignment", values)
        return judged(_sample(database, strangers), seed=_SEED)


def _sample(database: duckdb.DuckDBPyConnection, strangers: int) -> Sample:
    compared = _columns(
        database,
        """
        SELECT count(*) AS activity, any_value(degree) AS degree
        FROM drawn_users JOIN interactions USING (node) GROUP BY node ORDER BY node
        """,
    )
    counts = database.execute(
        """
        SELECT
            (SELECT count(*) FROM friendships),
            (SELECT count(*) FROM nodes),
            (SELECT count(*) FROM degrees),
            (SELECT count(*) FROM active),
            (SELECT count(*) FROM degrees SEMI JOIN active USING (node))
        """
    ).fetchone()
    assert counts is not None
    pairs, users, social, active, both = counts
    return Sample(
        pairs=_columns(database, "SELECT one, other FROM drawn_pairs ORDER BY one, other"),
        interactions=_columns(database, "SELECT node, thing FROM interactions"),
        activity=compared[0],
        degree=compared[1],
        all_pairs=pairs,
        users=users,
        social=social,
        active=active,
        both=both,
        strangers=strangers,
    )


def _columns(database: duckdb.DuckDBPyConnection, query: str) -> Indices:
    """The columns of a result as [columns, rows]."""
    found = database.execute(query).fetchnumpy()
    return np.stack([np.asarray(column, np.int64) for column in found.values()])
