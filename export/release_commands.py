"""The commands of releases on disk: verify, rollback, interest."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from export.command_options import ReleaseId, now, release_option, say, shared_options, user_option
from features.configuration import load


@click.command()
@shared_options
@click.argument("release_id", type=ReleaseId(), required=False)
def verify(file: Path | None, as_json: bool, release_id: str | None) -> None:
    """Read every byte of a release, or of all and the pointer; exit code 1, naming the files, if one is damaged."""
    from export import verification

    found = verification.verify(load(file), release_id)
    lines = [
        line
        for one in found
        for line in (f"{one.name}  {one.bytes:,} bytes  {'damaged' if one.damaged else 'whole'}", *one.damaged)
    ]
    say([asdict(one) for one in found], as_json, lines or ["no release yet; run `attractor night --date YYYY-MM-DD`"])
    if any(one.damaged for one in found):
        sys.exit(1)


@click.command()
@shared_options
@click.option(
    "--to",
    type=ReleaseId(),
    default=None,
    help="A release of `attractor releases`; by default the one before the live one.",
)
@click.option("--dry-run", is_flag=True, help="Read that release whole and say what would be; what is live stays.")
def rollback(file: Path | None, as_json: bool, to: str | None, dry_run: bool) -> None:
    """Serve an earlier release again; one pointer swap, nothing is recomputed."""
    from export import release

    publication = asdict(release.rollback(load(file), published_at=now(), to=to, dry_run=dry_run))
    say(publication | {"dry_run": dry_run}, as_json, [publication["sentence"]])


@click.command()
@shared_options
@user_option
@click.option("--query", default="", help="What the user asks for now; without it, the published interest.")
@release_option
@click.option("--top", type=click.IntRange(0), default=10, help="How many of the nearest items to show.")
def interest(file: Path | None, as_json: bool, user: str, query: str, release_id: str | None, top: int) -> None:
    """Show a user's interest embedding after a current query, and the items nearest to it."""
    from export.karma_interest import nearest_items, open_interests

    asked = open_interests(load(file), release_id)
    (vector,) = asked.interests([user], [query])
    nearest = nearest_items(asked.release, vector, top=top)
    told = {
        "release_id": asked.release.release_id,
        "space_id": asked.release.space_id,
        "user_id": user,
        "query": query,
        "interest_embedding": vector.tolist(),
        "nearest": [{"item_id": item, "cosine": cosine} for item, cosine in nearest],
    }
    lines = [f"{user} in {told['release_id']}, space {told['space_id']}" + (f", asking {query!r}" if query else "")]
    say(told, as_json, [*lines, *(f"{cosine:7.4f}  {item}" for item, cosine in nearest)])
