"""Train KARMA in several processes: `torchrun --nproc-per-node 2 -m export.torchrun --date YYYY-MM-DD`.

The processes share the batches of a step (`[karma] accumulation`, a multiple of their number) and the checkpoint
directory of the run, so `attractor train --date ...` afterwards finds the training finished, exports and promotes it.
What is learned does not depend on how many processes there were. With GPUs (`device = "cuda"`) each takes one.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from export import jobs, learning
from export.command_options import logs_as_configured, own_errors
from export.karma_settings import karma_config, with_backbone
from export.logs import configure
from features.configuration import load
from features.errors import ConfigurationError
from features.windows import parse_date
from models import processes


@click.command()
@click.option("--date", required=True, type=parse_date, help="The night; its training sets exist.")
@click.option(
    "--config", "file", type=click.Path(path_type=Path, dir_okay=False), default=None, callback=logs_as_configured
)
@click.option("--backbone", default=None, help="As of `attractor train`.")
def main(date: dt.date, file: Path | None, backbone: str | None) -> None:
    """Train KARMA with the processes that torchrun started."""
    configuration = with_backbone(load(file), backbone)
    karma = karma_config(configuration)
    with processes.joined(karma.device):
        if karma.accumulation % processes.count():
            raise ConfigurationError(
                f"{configuration.file}: [karma] accumulation must be a multiple of the {processes.count()} processes "
                f"that share the batches of a step, got {karma.accumulation}"
            )
        learning.train(configuration, date, "karma", run=jobs.run_directory(configuration, date, "karma"))


if __name__ == "__main__":
    with own_errors():
        configure()
        main()
