"""Metrics read back by Prometheus's own parser: what the ledger and the release store hold, nothing else."""

from __future__ import annotations

import datetime as dt
import logging
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from export import release
from export.ledger import Job, open_ledger
from export.ledger_models import State
from export.metrics import METRICS, MetricsConfig, registry, write_metrics
from export.stages import _run
from features.configuration import Configuration
from features.errors import ConfigurationError, GateFailed
from features.windows import night_window
from tests.command_line import attractor, told
from tests.ledger_workers import job
from tests.scored_nights import MIDDAY, configuration_at, publish_night, stage_night, tables
from tests.tiny_world import write_world

NIGHT = dt.date(2026, 3, 2)
DAY = dt.timedelta(days=1)
NOON = dt.datetime.combine(NIGHT, MIDDAY)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """Every sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"attractor_{name}", frozenset(labels.items())))


def scrape(configuration: Configuration, *, now: dt.datetime | None) -> Samples:
    clock = (lambda: now) if now else None
    return parsed(generate_latest(registry(configuration, open_ledger(configuration), now=clock)).decode())


def stage_job(folder: Path, stage: str, subject: str, figures: dict[str, Any], date: dt.date = NIGHT) -> Job:
    def work() -> dict[str, Any]:
        (folder / "made").write_bytes(bytes(64))
        return figures

    made = job(folder / "made", work=work, stage=stage, subject=subject, window=night_window(date))
    return replace(made, reusable=False)


def refusing(one: Job, *verdicts: str) -> Job:
    def work() -> dict[str, Any]:
        raise GateFailed("release r", verdicts)

    return replace(one, work=work)


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path, freshness={"max_age": "36h"}, metrics={"textfile": "collected/attractor.prom"})


def test_before_anything_ran_nothing_is_live_and_no_stage_is_known(configuration: Configuration) -> None:
    samples = scrape(configuration, now=NOON)
    assert value(samples, "release_live") == 0
    assert value(samples, "release_freshness", state="MISSING") == 1
    assert not [name for name, _ in samples if name.startswith("attractor_stage")]


def test_stages_are_told_from_the_ledger(configuration: Configuration, tmp_path: Path) -> None:
    ledger = open_ledger(configuration)
    land = stage_job(tmp_path, "land", str(NIGHT), {"rows": {"users": 120, "events": 1029}})
    train = stage_job(tmp_path, "train", f"{NIGHT}/karma", {})
    ledger.run(land)
    ledger.run(stage_job(tmp_path, "land", str(NIGHT - DAY), {"rows": {"users": 7}}, NIGHT - DAY))  # a backfill
    ledger.run(train)
    with pytest.raises(OSError, match="gone"):
        ledger.run(replace(train, work=lambda: (_ for _ in ()).throw(OSError("gone"))))
    samples = scrape(configuration, now=None)
    of_land, of_train = {"stage": "land", "model": ""}, {"stage": "train", "model": "karma"}
    done, failed = ledger.runs(stage="land")[0], ledger.runs(stage="train")[0]
    assert done.seconds is not None
    assert done.ended_at is not None
    assert done.peak_memory_mb is not None
    assert value(samples, "stage_duration_seconds", **of_land) == done.seconds
    assert value(samples, "stage_last_success_timestamp_seconds", **of_land) == done.ended_at.timestamp()
    assert value(samples, "stage_window_end_timestamp_seconds", **of_land) == night_window(NIGHT).end.timestamp()
    assert value(samples, "stage_rows", table="users", **of_land) == 7  # of the last run that was done
    assert value(samples, "stage_output_size_bytes", **of_land) == 64
    assert value(samples, "stage_peak_memory_bytes", **of_land) == done.peak_memory_mb * 2**20
    assert value(samples, "stage_runs_total", state="done", **of_land) == 2
    assert failed.state is State.FAILED
    for state in State:
        assert value(samples, "stage_state", state=state.value, **of_train) == float(state is State.FAILED)
    assert value(samples, "stage_runs_total", state="failed", **of_train) == 1
    assert value(samples, "stage_last_success_timestamp_seconds", **of_train) is not None  # the run before it


def test_gates_that_refused_are_counted_for_audits_and_for_promotions(
    configuration: Configuration, tmp_path: Path
) -> None:
    ledger = open_ledger(configuration)
    audit = stage_job(tmp_path, "audit", "r", {"gates": []})
    promote = stage_job(tmp_path, "promote", "dicer-0123456789ab", {})
    for one in (refusing(audit, "row floor: 1", "coverage: 0.5"), refusing(promote, "quality: -0.1")):
        with pytest.raises(GateFailed):
            ledger.run(one)
    samples = scrape(configuration, now=None)
    assert value(samples, "gates_refused", stage="audit", model="") == 2
    assert value(samples, "gates_refused", stage="promote", model="dicer") == 1
    assert value(samples, "stage_state", stage="audit", model="", state="refused") == 1
    ledger.run(audit)
    ledger.run(replace(promote, work=lambda: {"refused": ["one part: composed of the other"]}))
    samples = scrape(configuration, now=None)
    assert value(samples, "gates_refused", stage="audit", model="") == 0
    assert value(samples, "gates_refused", stage="promote", model="dicer") == 1


def test_a_release_is_told_as_it_is_served_with_its_age_at_the_moment_of_asking(configuration: Configuration) -> None:
    short = tables(seed=1)
    short["dicer_user_attraction"] = {name: rows[:19] for name, rows in short["dicer_user_attraction"].items()}
    publish_night(configuration, NIGHT - DAY)
    release_id = publish_night(configuration, NIGHT, short)
    samples = scrape(configuration, now=NOON + DAY)
    end = night_window(NIGHT).end
    labels = {"release_id": release_id, "window_end": end.isoformat(), "karma": "karma-1", "dicer": "dicer-1"}
    assert value(samples, "release_live") == 1
    assert value(samples, "release_info", **labels) == 1
    assert value(samples, "release_data_end_timestamp_seconds") == end.timestamp()
    assert value(samples, "release_published_timestamp_seconds") == NOON.timestamp()
    assert value(samples, "release_max_age_seconds") == 36 * 3600
    assert value(samples, "release_rows", view="dicer_user_attraction") == 19
    assert value(samples, "release_coverage_ratio", view="karma_user_interest") == 1
    assert value(samples, "release_age_seconds") == 36 * 3600
    assert value(samples, "release_freshness", state="FRESH") == 1
    assert value(samples, "release_forced") == 0
    later = scrape(configuration, now=NOON + DAY + dt.timedelta(seconds=1))
    assert (value(later, "release_freshness", state="FRESH"), value(later, "release_freshness", state="STALE")) == (
        0,
        1,
    )
    release.rollback(configuration, published_at=NOON)
    assert value(scrape(configuration, now=NOON), "release_age_seconds") == 36 * 3600


def test_a_forced_release_says_so(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT - DAY)
    few = stage_night(configuration, NIGHT, tables(users=3))
    release.publish(configuration, few, published_at=NOON, force_reason="a holiday: most shops are closed")
    assert value(scrape(configuration, now=None), "release_forced") == 1


def test_the_textfile_is_written_after_every_stage_however_it_ended_and_holds_no_age(
    configuration: Configuration, tmp_path: Path
) -> None:
    textfile = tmp_path / "collected" / "attractor.prom"
    publish_night(configuration, NIGHT)
    _run(configuration, stage_job(tmp_path, "build", str(NIGHT), {"rows": {"user_history": 110}}))
    samples = parsed(textfile.read_text(encoding="utf-8"))
    assert value(samples, "stage_rows", stage="build", model="", table="user_history") == 110
    assert value(samples, "release_data_end_timestamp_seconds") is not None
    assert not [name for name, _ in samples if name in {"attractor_release_age_seconds", "attractor_release_freshness"}]
    with pytest.raises(GateFailed):
        _run(configuration, refusing(stage_job(tmp_path, "audit", "r", {}), "row floor"))
    assert value(parsed(textfile.read_text(encoding="utf-8")), "gates_refused", stage="audit", model="") == 1
    assert [path.name for path in textfile.parent.iterdir()] == ["attractor.prom"]


def test_a_textfile_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "occupied").write_text("a file where a directory should be")
    broken = configuration_at(tmp_path, metrics={"textfile": "occupied/attractor.prom"})
    with caplog.at_level(logging.WARNING):
        _run(broken, stage_job(tmp_path, "build", str(NIGHT), {}))
    assert "metrics were not written to occupied/attractor.prom" in caplog.text
    write_metrics(configuration_at(tmp_path))  # nothing is configured, nothing is written


def test_a_textfile_has_the_ending_that_collectors_look_for() -> None:
    with pytest.raises(ValueError, match=r"ends in .prom"):
        MetricsConfig(textfile="attractor.txt")


@pytest.mark.parametrize("wrong", [{"metrics": {"textfile": "a.txt"}}, {"tracking": {"url": "http://127.0.0.1:5000"}}])
def test_a_wrong_setting_is_told_before_the_work(tmp_path: Path, wrong: dict[str, Any]) -> None:
    configuration = configuration_at(tmp_path, **wrong)
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        _run(configuration, stage_job(tmp_path, "build", str(NIGHT), {}))
    assert not (tmp_path / "made").exists()


def test_names_follow_the_conventions_of_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"attractor_[a-z_]+[a-z]", metric.name), metric.name
        assert not re.search(r"_(total|count|sum|bucket|ms|mb|minutes|hours|percent)$", metric.name), metric.name
        assert metric.help
        assert not metric.help.endswith(".")
    clocks = [name for name in names if "timestamp" in name or name.endswith(("_age", "_duration"))]
    assert all(name.endswith("_seconds") for name in clocks)


@pytest.fixture
def served(configuration: Configuration) -> Iterator[str]:
    collected = registry(configuration, open_ledger(configuration), now=lambda: NOON)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=collected)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_scrape_sees_what_changed_since_the_one_before(served: str, configuration: Configuration) -> None:
    def read() -> Samples:
        with urllib.request.urlopen(served, timeout=10) as answer:
            return parsed(answer.read().decode())

    assert value(read(), "release_live") == 0
    publish_night(configuration, NIGHT)
    assert value(read(), "release_live") == 1


def test_the_command_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_world(tmp_path)
    samples = told(capsys, "metrics", "--config", str(file))
    assert {"name": "attractor_release_live", "labels": {}, "value": 0.0} in samples
    assert attractor("metrics", "--config", str(file)) == 0
    assert value(parsed(capsys.readouterr().out), "release_freshness", state="MISSING") == 1
    assert attractor("metrics", "--config", str(file), "--serve", "70000") == 2


def test_the_command_serves_them_on_loopback_until_it_is_told_to_end(configuration: Configuration) -> None:
    file = write_world(configuration.file.parent)
    program = "from export.cli import main; main()"
    command = [sys.executable, "-c", program, "metrics", "--config", str(file), "--serve", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        (url,) = re.findall(r"http://127.0.0.1:\d+/metrics", process.stderr.readline())
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert value(parsed(answer.read().decode()), "release_freshness", state="MISSING") == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")


def test_the_page_lists_every_metric_as_it_is() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `attractor_")]
    assert rows == [
        [
            f"`{metric.name}{'_total' if metric.counts else ''}`",
            *([", ".join(f"`{label}`" for label in metric.labels)] if metric.labels else [""]),
            metric.help,
        ]
        for metric in METRICS
    ]


def test_the_alerts_of_the_page_ask_for_metrics_that_the_textfile_has(
    configuration: Configuration, tmp_path: Path
) -> None:
    (rules,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (group,) = yaml.safe_load(rules)["groups"]
    asked = {name for rule in group["rules"] for name in re.findall(r"attractor_\w+", rule["expr"])}
    publish_night(configuration, NIGHT)
    _run(configuration, stage_job(tmp_path, "publish", "r", {}))
    text = (tmp_path / "collected" / "attractor.prom").read_text(encoding="utf-8")
    assert asked <= {name for name, _ in parsed(text)}
