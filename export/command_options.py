"""What the commands of `attractor` share: options, one way to answer, and the only clock."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy.exc import OperationalError

from export.champions import MODELS
from export.logs import LoggingConfig, configure, progress
from features.configuration import FILE_NAME, load
from features.errors import AttractorError, ConfigurationError, GateFailed
from features.release_ids import night_of_release
from features.windows import parse_date

Command = TypeVar("Command", bound=Callable[..., Any])


class NightDate(click.ParamType[dt.date]):
    """A date as YYYY-MM-DD."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.date:
        if isinstance(value, dt.date):
            return value
        try:
            return parse_date(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class GivenId(click.ParamType[str]):
    """A user's or an item's id. Bytes that are not UTF-8 reach Python as surrogates, which no table can hold."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            self.fail(f"expected an id in UTF-8, got {value!r}", param, ctx)
        return str(value)


class ReleaseId(click.ParamType[str]):
    """The id of a release, as `attractor releases` lists them."""

    name = "RELEASE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            night_of_release(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def reason_given(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A reason must say something: whoever looks back has nothing else."""
    if value is not None and not value.strip():
        raise click.BadParameter("expected a reason, got an empty one", context, option)
    return value


user_option = click.option("--user", required=True, type=GivenId(), help="A user id.")
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
date_option = click.option(
    "--date", required=True, type=NightDate(), help="The night: everything strictly before it is known."
)
model_option = click.option("--model", type=click.Choice(MODELS), default=None, help="One model; both if left out.")
backbone_option = click.option(
    "--backbone", default=None, help="KARMA's language model: a directory or a hub id; else that of [karma]."
)
release_option = click.option(
    "--release",
    "release_id",
    type=ReleaseId(),
    default=None,
    help="A release of `attractor releases`; by default the live one.",
)
force_option = click.option(
    "--force",
    "--force-reason",
    "force_reason",
    metavar="REASON",
    callback=reason_given,
    help="Publish although a gate refused, and why; recorded in the release's manifest.",
)


def logs_as_configured(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """From here on log lines are as [logging] says; what cannot be read is told by the command that needs it."""
    try:
        configuration = load(file)
    except ConfigurationError:
        return file
    configure(configuration.section("logging", LoggingConfig))
    return file


def shared_options(command: Command) -> Command:
    """`--config` and `--json`, which every command takes."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)
    return click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        callback=logs_as_configured,
        help=f"Configuration file; else $ATTRACTOR_CONFIG, else {FILE_NAME} here, above or in the clone.",
    )(command)


@contextmanager
def own_errors() -> Iterator[None]:
    """Attractor's own errors become one line and their exit code; anything else is a bug and is shown."""
    try:
        yield
    except GateFailed as refusal:
        progress.error("refused: %s", refusal)
        sys.exit(3)
    except AttractorError as error:
        progress.error("error: %s", error)
        sys.exit(1)
    except OperationalError as error:  # of the ledger, wherever a stage asks it; what the driver says names no password
        progress.error("error: the database does not answer: %s", error.orig)
        sys.exit(1)


def say(value: Any, as_json: bool, lines: list[str]) -> None:
    """Print `value` as JSON, or the lines for a person."""
    click.echo(json.dumps(value, indent=2, default=str) if as_json else "\n".join(lines))


def now() -> dt.datetime:
    """The only clock of the product, at its edge: the moment that a release goes live or a model is promoted."""
    return dt.datetime.now(dt.UTC)
