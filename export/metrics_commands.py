"""`attractor metrics`: Prometheus metrics of stages and releases, printed or served."""

from __future__ import annotations

import signal
from pathlib import Path

import click
from prometheus_client import generate_latest, start_http_server

from export.command_options import now, say, shared_options
from export.ledger import open_ledger
from export.logs import progress
from export.metrics import registry
from features.configuration import load

LOOPBACK = "127.0.0.1"
ENDS = {signal.SIGINT, signal.SIGTERM}


@click.command()
@shared_options
@click.option(
    "--serve", "port", type=click.IntRange(0, 65535), help="Serve them on this port of 127.0.0.1 until interrupted."
)
def metrics(file: Path | None, as_json: bool, port: int | None) -> None:
    """Show stages and releases as Prometheus metrics, taken from the ledger and the release store."""
    configuration = load(file)
    shown = registry(configuration, open_ledger(configuration), now=now)
    if port is None:
        samples = [
            {"name": sample.name, "labels": sample.labels, "value": sample.value}
            for family in shown.collect()
            for sample in family.samples
        ]
        say(samples, as_json, [] if as_json else [generate_latest(shown).decode().rstrip()])
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # before there are threads, one of which might take the signal
    server, thread = start_http_server(port, addr=LOOPBACK, registry=shown)
    progress.info("metrics at http://%s:%d/metrics", LOOPBACK, server.server_port)
    signal.sigwait(ENDS)
    server.shutdown()
    server.server_close()
    thread.join()
