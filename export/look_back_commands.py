"""The commands of releases that were: diff, gc, mirror."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from export.command_options import ReleaseId, release_option, say, shared_options
from export.command_options import now as clock
from export.retention import KEEP_LEAST, KEEP_RELEASES
from features.configuration import load
from features.errors import MissingInput
from features.release_storage import open_configured
from features.releases import read_pointer


@click.command()
@shared_options
@click.argument("before", type=ReleaseId(), required=False)
@click.argument("now", type=ReleaseId(), required=False)
@click.option("--most", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Users and items to name.")
def diff(file: Path | None, as_json: bool, before: str | None, now: str | None, most: int) -> None:
    """Compare two releases: lists, exposure of items, drift of interests. One id is compared with the live release.

    Without ids, the release before is compared with the live one.
    """
    from export.look_back import activity_of, difference

    configuration = load(file)
    store = open_configured(configuration)
    today = store.open(now) if now else store.current()
    if before is None:
        pointer = read_pointer(store.root)
        before = pointer.previous if pointer else None
        if before is None:
            raise MissingInput(f"no release before {today.release_id} is kept: name one of `attractor releases`")
    earlier = store.open(before)
    told = difference(earlier, today, activity=activity_of(configuration, earlier, today), most=most).record()
    say(told, as_json, list(_difference_lines(told)))


@click.command()
@shared_options
@click.option(
    "--keep",
    type=click.IntRange(KEEP_LEAST),
    default=KEEP_RELEASES,
    show_default=True,
    help="Newest releases that stay, beside the live one and the one before it.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
def gc(file: Path | None, as_json: bool, keep: int, dry_run: bool) -> None:
    """Delete old releases; the live one, the one before it and at least three stay."""
    from export.retention import collect

    told = collect(load(file), keep=keep, now=clock(), dry_run=dry_run).record()
    lines = [f"{'would delete' if dry_run else 'deleted'}  {name}" for name in (*told["deleted"], *told["unfinished"])]
    say(told | {"dry_run": dry_run}, as_json, [*lines, f"kept {len(told['kept'])}: " + ", ".join(told["kept"])])


@click.command()
@shared_options
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="A standard feature_store.yaml.")
@release_option
@click.option("--dry-run", is_flag=True, help="Count what would be written and set to null; the store is not asked.")
def mirror(file: Path | None, as_json: bool, target: Path, release_id: str | None, dry_run: bool) -> None:
    """Write a release into a standard Feast store, such as Redis, and compare every row; exit code 1 if one differs."""
    from features import feast_mirror

    configuration = load(file)
    store = open_configured(configuration)
    release = store.open(release_id) if release_id else store.current()
    made = (
        feast_mirror.plan(configuration, release, target)
        if dry_run
        else feast_mirror.mirror(configuration, release, target, at=clock())
    )
    views = [asdict(one) for one in made]
    mismatches = sum(view["mismatches"] for view in views)
    lines = [
        f"{view['view']}: {view['rows']:,} rows {'to write' if dry_run else 'written'}, {view['emptied']:,} who left "
        f"{'to set' if dry_run else 'set'} to null, {view['compared']:,} compared, {view['mismatches']:,} differ"
        for view in views
    ]
    told = {"release_id": release.release_id, "target": str(target), "views": views, "mismatches": mismatches}
    say(told | {"dry_run": dry_run}, as_json, [f"{release.release_id} in {target}", *lines])
    if mismatches:
        click.echo(f"error: {mismatches:,} rows of the mirror are not those of the release", err=True)
        sys.exit(1)


def _difference_lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"from {told['before']} to {told['now']}"
    for view, rows in told["rows"].items():
        yield f"{view}: {rows['before']:,} to {rows['now']:,} rows, {rows['joined']:,} joined, {rows['left']:,} left"
    if told["models_changed"]:
        yield f"other models: {', '.join(told['models_changed'])}"
    yield from _list_lines(told["lists"], told["most_changed"])
    for side in ("gained", "lost"):
        if told[side]:
            yield f"exposure {side}"
        for item in told[side]:
            yield f"  {item['item_id']}: {item['before']:,} to {item['now']:,} places, {item['share_change']:+.4%}"
    if told["drift"]:
        yield "cosine of interests, now and before"
    for segment in told["drift"]:
        yield f"  {segment['segment']} ({segment['meaning']}): {_segment_figures(segment)}"
    yield from told["remarks"]


def _list_lines(lists: Mapping[str, Any], most_changed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if lists["users"]:
        yield (
            f"lists of {lists['users']:,} users: {lists['unchanged']:,} unchanged, mean agreement "
            f"{lists['mean_agreement']:.3f} (1: the same list, 0: no item in common)"
        )
    for change in most_changed:
        entered, left = (", ".join(change[side][:5]) or "nothing" for side in ("entered", "left"))
        yield f"  {change['user_id']}: agreement {change['agreement']:.3f}, entered {entered}; left {left}"


def _segment_figures(segment: Mapping[str, Any]) -> str:
    if not segment["users"]:
        return "nobody"
    return (
        f"{segment['users']:,} users, mean {segment['mean_cosine']:.3f}, median {segment['median_cosine']:.3f}, "
        f"5 % below {segment['low_cosine']:.3f}"
    )
