"""`attractor`: the command line. Exit codes: 0 done, 1 error, 2 usage, 3 a gate refused, 4 stale."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import click

from export import night as nights
from export import stages
from export.benchmark import benchmark
from export.champion_commands import demote, history, promote
from export.champions import MODELS
from export.command_options import (
    FILE,
    FOLDER,
    GivenId,
    NightDate,
    ReleaseId,
    backbone_option,
    date_option,
    force_option,
    model_option,
    now,
    own_errors,
    release_option,
    say,
    shared_options,
    user_option,
)
from export.consistency_commands import consistency
from export.erase_commands import erase
from export.initialisation import configuration_text, initialise
from export.karma_settings import with_backbone
from export.ledger import StageResult
from export.logs import configure, progress
from export.look_back_commands import diff, gc, mirror
from export.metrics_commands import metrics
from export.operations_commands import doctor, ledger, plan, runs
from export.release_commands import interest, rollback, verify
from export.warehouse_template import warehouse_text
from features.configuration import FILE_NAME, load

DEMO_FILE_NAME = "attractor.demo.toml"
DEMO_DATE = dt.date(2026, 3, 2)  # the day after the last event of the default market


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="attractor")
def cli() -> None:
    """Every night, for every user: what interests them next, and which items attract them."""


@cli.command()
@shared_options
@click.option("--source", type=click.Choice(["synthetic", "lastfm", "ciao", "parquet", "sql"]), required=True)
@click.option("--path", default="", help="Directory of the data, for lastfm, ciao and parquet.")
@click.option("--url-variable", default="WAREHOUSE_URL", help="For sql: the environment variable of its URL.")
@click.option("--users", type=click.IntRange(100, 1_000_000), default=None, help="Size of a synthetic market.")
@click.option("--seed", type=int, default=None, help="Seed of a synthetic market.")
@click.option("--state", default=None, help="State directory; by default .attractor/<source>-<hash>.")
def init(
    file: Path | None,
    as_json: bool,
    source: str,
    path: str,
    url_variable: str,
    users: int | None,
    seed: int | None,
    state: str | None,
) -> None:
    """Write attractor.toml for a source; a configuration that stood there is kept as *.previous."""
    if (source in ("synthetic", "sql")) == bool(path):
        raise click.UsageError("--path goes with --source lastfm, ciao or parquet, and they need it")
    target = file or Path(FILE_NAME)
    section = {"kind": source}
    if path:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise click.UsageError(f"--path {path}: no such directory")
        section["path"] = str(folder.resolve())
    section |= {k: v for k, v in {"users": users, "seed": seed}.items() if v is not None}  # type: ignore[misc]
    text = warehouse_text(url_variable, state=state) if source == "sql" else configuration_text(section, state=state)
    kept = initialise(target, text)
    configuration = load(target)
    say(
        {"config": str(configuration.file), "state": str(configuration.state), "kept": str(kept) if kept else None},
        as_json,
        [f"wrote {configuration.file}", f"state in {configuration.state}"]
        + ([f"the configuration before it is kept in {kept}"] if kept else [])
        + (["next: fill in its tables, and the variable " + url_variable] if source == "sql" else [])
        + (["next: attractor land --date YYYY-MM-DD, which only reads, until it is content"] if source == "sql" else [])
        + ["next: attractor night --date YYYY-MM-DD"],
    )


@cli.command()
@shared_options
@date_option
@force_option
def night(file: Path | None, as_json: bool, date: dt.date, force_reason: str | None) -> None:
    """Run the whole night: land, build, train what has no champion, score, audit, publish."""
    from export.summary import summarise, summary_text

    configuration = load(file)
    nights.run_night(configuration, date, clock=now, announce=_announce, force_reason=force_reason)
    summary = summarise(configuration, date)
    say(summary, as_json, [summary_text(summary)])


@cli.command()
@shared_options
@date_option
def report(file: Path | None, as_json: bool, date: dt.date) -> None:
    """Show what the night of a date came to: rows, metrics, gates, release, recommendations."""
    from export.summary import summarise, summary_text

    summary = summarise(load(file), date)
    say(summary, as_json, [summary_text(summary)])


@cli.command()
@shared_options
@date_option
def land(file: Path | None, as_json: bool, date: dt.date) -> None:
    """Land the raw tables that the night of a date may know."""
    _say_result(stages.land(load(file), date), as_json)


@cli.command()
@shared_options
@date_option
def build(file: Path | None, as_json: bool, date: dt.date) -> None:
    """Build the feature partitions of a date."""
    _say_result(stages.build(load(file), date), as_json)


@cli.command()
@shared_options
def register(file: Path | None, as_json: bool) -> None:
    """Register entities, views and services in Feast, like `feast -c features apply`."""
    _say_result(stages.register(load(file)), as_json)


@cli.command()
@shared_options
@date_option
@model_option
@backbone_option
def train(file: Path | None, as_json: bool, date: dt.date, model: str | None, backbone: str | None) -> None:
    """Train on what was known at a date, export to ONNX, and promote through the gates."""
    configuration = with_backbone(load(file), backbone)
    chosen = [model] if model else list(MODELS)
    nights.prepare(configuration, date, chosen, announce=_announce)
    promotions = nights.run_training(configuration, date, chosen, clock=now, announce=_announce)
    lines = [f"{p['version']} promoted: " + "; ".join(gate["sentence"] for gate in p["gates"]) for p in promotions]
    say({"promotions": promotions}, as_json, lines)


@cli.command()
@shared_options
@date_option
@click.option("--model", type=click.Choice(MODELS), required=True)
@backbone_option
def export(file: Path | None, as_json: bool, date: dt.date, model: str, backbone: str | None) -> None:
    """Export a trained model to ONNX, with its parity, without promoting it."""
    _say_result(stages.export(with_backbone(load(file), backbone), date, model), as_json)


@cli.command()
@click.option("--items", type=FILE, required=True, help="The item table, Parquet, with a column item_id.")
@click.option("--files", type=FOLDER, required=True, help="Pictures, each named <item id>.png, .jpg, .webp, ...")
@click.option("--backbone", required=True, help="A vision-language model (Qwen3-VL): a directory or a hub id.")
@click.option("--revision", default="main", help="Of a hub id: a branch, a tag or a commit.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The item table with picture vectors."
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".attractor/pictures"),
    help="Vectors by content.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def pictures(items: Path, files: Path, backbone: str, revision: str, out: Path, cache: Path, as_json: bool) -> None:
    """Turn picture files into picture vectors, before a source is landed; a content seen before costs nothing."""
    from models.karma.pictures import write_pictures

    counts = write_pictures(items, files, out, backbone=backbone, revision=revision, cache=cache)
    say(counts, as_json, [f"wrote {out}: " + ", ".join(f"{count} {name}" for name, count in counts.items())])


@cli.command()
@shared_options
@date_option
def score(file: Path | None, as_json: bool, date: dt.date) -> None:
    """Compute the embeddings and attraction lists of a night."""
    _say_result(stages.score(load(file), date), as_json)


@cli.command()
@shared_options
@date_option
def stage(file: Path | None, as_json: bool, date: dt.date) -> None:
    """Lay a scored night out as a release, not yet served."""
    _say_result(stages.stage(load(file), date), as_json)


@cli.command()
@shared_options
@click.argument("release_id", type=ReleaseId())
def audit(file: Path | None, as_json: bool, release_id: str) -> None:
    """Judge a staged release; exit code 3 if a gate refuses and no release of the sound part can be composed."""
    figures = stages.audit(load(file), release_id)
    lines = [f"{gate['decision']:<9} {gate['sentence']}" for gate in figures["gates"]]
    say(figures, as_json, [*lines, f"may be published: {figures['release_id']}"])


@cli.command()
@shared_options
@click.argument("release_id", type=ReleaseId())
@force_option
def publish(file: Path | None, as_json: bool, release_id: str, force_reason: str | None) -> None:
    """Put an audited release live; an older night than the one served is kept but not served."""
    figures = stages.publish(load(file), release_id, published_at=now(), force_reason=force_reason)
    say(figures, as_json, [f"{key}: {value}" for key, value in figures.items()])


@cli.command()
@shared_options
def releases(file: Path | None, as_json: bool) -> None:
    """List every release on disk, newest night first."""
    from export import release

    listed = release.releases(load(file))
    lines = [
        f"{entry['release_id']}  {entry['state']:<8}  audit {entry['audit'] or 'not yet'}  "
        + ", ".join(f"{count:,} {view}" for view, count in entry["rows"].items())
        for entry in listed
    ]
    say(listed, as_json, lines or ["no release yet; run `attractor night --date YYYY-MM-DD`"])


@cli.command()
@shared_options
@click.option(
    "--date", type=NightDate(), default=None, help="Exit with 4 unless a night of this date or later is served."
)
def status(file: Path | None, as_json: bool, date: dt.date | None) -> None:
    """Show what is served, how old it is and what a rollback would serve; exit with 4 if it is stale or missing."""
    from export import champions as standing
    from export import release
    from features.freshness import open_reader

    configuration = load(file)
    answer = open_reader(configuration).read(now=now())
    champions = {model: standing.champion_version(configuration, model) for model in MODELS}
    told = release.status(configuration) | {"champions": champions, "freshness": answer.record()}
    live = told["live"]
    lines = [
        f"live      {live['release_id']} since {told['published_at']}" if live else "live      nothing yet",
        f"{answer.freshness.state:<9} {answer.freshness.sentence}; read from: {answer.source}",
        *([f"unheard   {answer.unheard}"] if answer.unheard else []),
        f"previous  {told['previous'] or 'none'}",
        *(f"champion  {model}: {version or 'none'}" for model, version in champions.items()),
        *(f"waiting   {release_id}" for release_id in told["waiting"]),
    ]
    say(told, as_json, lines)
    if date is not None and (live is None or live["date"] < date.isoformat()):
        progress.error("stale: expected a night of %s or later", date)
        sys.exit(4)
    if answer.freshness.refused:
        sys.exit(4)


@cli.command()
@shared_options
@user_option
@click.option("--item", required=True, type=GivenId(), help="An item id.")
@release_option
@click.option(
    "--date", type=NightDate(), default=None, help="A night that is not published: the champion on its features."
)
def explain(
    file: Path | None, as_json: bool, user: str, item: str, release_id: str | None, date: dt.date | None
) -> None:
    """Say why an item got its score for a user: heads, friends, and whose items and whose taste drove it."""
    from export.explain import explain_score
    from export.explanation_text import explanation_text, remarks

    if release_id and date:
        raise click.UsageError("--release and --date name two nights: give one of them")
    explained = explain_score(load(file), user, item, release_id=release_id, date=date)
    say(asdict(explained) | {"remarks": remarks(explained)}, as_json, [explanation_text(explained)])


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def demo(as_json: bool) -> None:
    """Run a whole night on a generated market and show what came of it; a second run re-uses what is done."""
    from export.summary import summarise, summary_text

    text = configuration_text({"kind": "synthetic"})
    file = Path(FILE_NAME)
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        file = Path(DEMO_FILE_NAME)
        progress.info("%s here is yours and stays; the demo uses %s", FILE_NAME, file)
    initialise(file, text)
    configuration = load(file)
    nights.run_night(configuration, DEMO_DATE, clock=now, announce=_announce)
    summary = summarise(configuration, DEMO_DATE)
    say(summary, as_json, ["", summary_text(summary)])


for command in (
    benchmark,
    promote,
    demote,
    history,
    erase,
    runs,
    ledger,
    plan,
    doctor,
    verify,
    rollback,
    interest,
    diff,
    gc,
    mirror,
    consistency,
    metrics,
):
    cli.add_command(command)


def _announce(name: str, result: StageResult | None) -> None:
    if result is None:
        progress.info("%s …", name)
    elif result.reused:
        progress.info("%s: done before on the same inputs, re-used", name)
    else:
        progress.info("%s: %.1f s", name, result.seconds)


def _say_result(result: StageResult, as_json: bool) -> None:
    note = "re-used" if result.reused else f"{result.seconds:.1f} s"
    figures = json.dumps(result.figures, indent=2, default=str)
    say(result.figures, as_json, [f"{result.stage} {result.key} ({note})", figures])


def main() -> None:
    """Entry point."""
    # Libraries talking about themselves: an optional package that nothing here uses, a deprecation that is not ours.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=DeprecationWarning)
    with own_errors():
        configure()
        cli()


if __name__ == "__main__":
    main()
