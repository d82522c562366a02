"""The doctor: silent on a healthy set-up, and every check fires on one that was broken on purpose."""

from __future__ import annotations

import datetime as dt
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from export import doctor_airflow
from export.doctor import CHECKS, diagnose
from export.doctor_packages import pin_conflicts
from export.doctor_pools import missing_pools
from export.doctor_settings import unusable_settings
from export.doctor_setup import ROOT, Finding, Listener, Setup, examine, pools_of
from export.doctor_state import clocks, disk_of_the_next_night, gapped_partitions, killed_runs, stale_partitions
from export.ledger import open_ledger
from export.ledger_owners import Owner
from features.configuration import load
from features.contracts import PUBLISHED
from features.files import read_json, write_json, write_sealed_json
from features.partitions import partition_path
from features.releases import Pointer
from tests.clones import BROKEN_CFG, BROKEN_DAG, DAY, GB, HEALTHY_CFG, healthy_clone, with_dag
from tests.command_line import attractor, told
from tests.ledger_workers import job
from tests.tiny_world import NIGHT, write_world


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return healthy_clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def setup(healthy: Setup, tmp_path: Path) -> Setup:
    """The same, to be broken: a copy of its own, as young as the test."""
    root = tmp_path / "clone"
    shutil.copytree(healthy.root, root)
    configuration = load(root / "attractor.toml")
    environment = {"AIRFLOW_HOME": str(root)}
    now = open_ledger(configuration).now()
    return replace(healthy, root=root, configuration=configuration, environment=environment, now=now)


def found(check: Callable[[Setup], list[Finding]], setup: Setup) -> list[tuple[str, str]]:
    return [(finding.severity, finding.what) for finding in check(setup)]


def test_a_healthy_set_up_has_no_finding(healthy: Setup) -> None:
    assert diagnose(healthy) == {"findings": [], "errors": 0, "checks": [check.__name__ for check in CHECKS]}


def test_on_a_set_up_broken_on_purpose_every_check_fires_and_says_where_why_and_how_to_mend_it(setup: Setup) -> None:
    from features.definitions import PROJECT, define
    from features.store import open_store

    configuration = setup.configuration
    settings: dict[str, Any] = {
        "doctor": {"max_registry_mb": 0.001, "max_materializations": 1},
        "tracking": {"uri": "http://127.0.0.1:5000"},
        "lineage": {"feast": True},
        "karma": {"batch": 1},
    }
    write_world(setup.root, **settings)
    registry = open_store(configuration).registry
    views = define(configuration).views
    views["user_history"].ttl = dt.timedelta(hours=1)
    views["item_catalog"].ttl = None
    views["social_graph"].features = views["social_graph"].features[:-1]
    for days in (1, 2):
        views["item_audience"].materialization_intervals.append((setup.now - days * DAY, setup.now))
    for name in ("user_history", "item_catalog", "social_graph", "item_audience"):
        registry.delete_feature_view(name, PROJECT, commit=False)
        registry.apply_feature_view(views[name], PROJECT)
    (setup.root / "features" / "feature_store.yaml").write_text("project: attractor\nmaterialization: {}\n")
    partition_path(configuration, "user_history", NIGHT).unlink()
    (configuration.raw / str(NIGHT) / "users.parquet").write_bytes(b"late rows")
    elsewhere = replace(open_ledger(configuration), owner=Owner("gone", 1, ""), clock=lambda c: setup.now - DAY)
    elsewhere._claimed(job(setup.root, work=dict, stage="score"))
    broken = replace(
        with_dag(setup, BROKEN_DAG, cfg=BROKEN_CFG),
        configuration=load(setup.root / "attractor.toml"),
        now=setup.now - 2 * DAY,
        installed={"feast": "0.66.0"},
        listeners=(Listener("feast", 7, "0.0.0.0", 6566),),
        free_bytes=GB,
        pools=frozenset({"default_pool"}),
    )
    told = diagnose(broken)
    assert {finding["check"] for finding in told["findings"]} == set(told["checks"])
    assert [finding["severity"] for finding in told["findings"]] == sorted(f["severity"] for f in told["findings"])
    for finding in told["findings"]:
        assert all(finding[part] for part in ("what", "where", "why", "fix")), finding
    whats = [finding["what"] for finding in told["findings"]]
    for expected in (
        "ttl 1:00:00 is shorter than 1 day, 0:00:00",
        "ttl without end is longer than one refresh of 1 day, 0:00:00",
        "2 materialisation intervals of item_audience",
        f"{NIGHT} has no user_history",
        "[tracking] is configured, and mlflow-skinny is not installed",
        "[lineage] is configured, and openlineage-python is not installed",
        f"build of {NIGHT} is stale: other inputs: raw",
    ):
        assert expected in whats
    assert any("is not there, the contract has" in what for what in whats)


@pytest.mark.parametrize(
    ("schedule", "uses", "cfg", "severity"),
    [
        ('"@daily"', "data_interval_start", "", "error"),
        ('"@daily"', "data_interval_end", "", "warning"),
        ('"0 3 * * *"', "dag_run.data_interval_start", "", "error"),
        ('"@daily"', "data_interval_start", "[scheduler]\ncreate_cron_data_intervals = True\n", None),
        ('CronTriggerTimetable("0 0 * * *", timezone="UTC")', "data_interval_start", "", "error"),
        ('CronTriggerTimetable("0 0 * * *", timezone="UTC", interval=DAY)', "data_interval_start", "", None),
        ('CronTriggerTimetable("0 0 * * *", timezone="UTC")', "data_interval_end", "", None),
        ('CronDataIntervalTimetable("0 0 * * *", timezone="UTC")', "data_interval_start", "", None),
        ("timedelta(days=1)", "data_interval_start", "", "error"),
        ("[nightly_release]", "data_interval_start", "", None),
        ('"@once"', "data_interval_start", "", None),
    ],
)
def test_an_interval_of_no_length_is_found_where_a_window_is_taken_from_it(
    setup: Setup, schedule: str, uses: str, cfg: str, severity: str | None
) -> None:
    text = f'with DAG("nights", schedule={schedule}, catchup=False):\n    land("{{{{ {uses} }}}}")\n'
    findings = doctor_airflow.zero_length_intervals(with_dag(setup, text, cfg=HEALTHY_CFG + cfg))
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("settings", "cfg", "fires"),
    [
        ("catchup=True", "", True),
        ("catchup=False", "[scheduler]\ncatchup_by_default = True\n", False),
        ("tags=[]", "[scheduler]\ncatchup_by_default = True\n", True),
        ("tags=[]", "", False),
        ("schedule=None, catchup=True", "", True),
    ],
)
def test_catchup_is_found_as_airflow_takes_it(setup: Setup, settings: str, cfg: str, fires: bool) -> None:
    given = settings if "schedule" in settings else f"schedule=nightly, {settings}"
    broken = with_dag(setup, f'DAG("nights", {given})', cfg=HEALTHY_CFG + cfg)
    assert bool(doctor_airflow.catchup_misuse(broken)) == fires


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("date = datetime.datetime.now()", "error"),
        ("date = pendulum.today()", "error"),
        ('CronDataIntervalTimetable("0 0 * * *", timezone="Europe/Berlin")', "error"),
        ("start = datetime(2026, 1, 1)", "warning"),
        ("start = datetime(2026, 1, 1, tzinfo=UTC)", None),
        ('CronDataIntervalTimetable("0 0 * * *", timezone="UTC")', None),
    ],
)
def test_clocks_and_zones_in_dag_files(setup: Setup, line: str, severity: str | None) -> None:
    findings = doctor_airflow.wall_clocks_in_dags(with_dag(setup, f'DAG("a")\nDAG("b")\n{line}\n'))
    assert [(finding.severity, finding.where.rpartition(":")[2]) for finding in findings] == (
        [(severity, "3")] if severity else []
    )


@pytest.mark.parametrize(
    ("environment", "severities"),
    [
        ({}, []),
        ({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////tmp/a.db"}, ["warning"]),
        ({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////tmp/a.db", "AIRFLOW__CORE__PARALLELISM": "1"}, []),
        ({"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"}, ["error"]),  # of the ledger: other machines do not see it
    ],
)
def test_sqlite_is_found_where_several_write(setup: Setup, environment: dict[str, str], severities: list[str]) -> None:
    used = replace(setup, environment=setup.environment | environment)
    assert [finding.severity for finding in doctor_airflow.sqlite_in_production(used)] == severities


@pytest.mark.parametrize(
    ("listener", "severity"),
    [
        (Listener("feast", 1, "0.0.0.0", 6566), "error"),
        (Listener("feast", 1, "::", 8888), "error"),
        (Listener("airflow", 1, "192.168.1.4", 8080), "error"),
        (Listener("airflow", 1, "::", 8793), "warning"),
        (Listener("feast", 1, "127.0.0.2", 6566), None),
    ],
)
def test_a_server_that_others_can_reach(setup: Setup, listener: Listener, severity: str | None) -> None:
    findings = doctor_airflow.public_addresses(replace(setup, listeners=(listener,)))
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_an_api_host_that_is_left_out_is_every_address(setup: Setup) -> None:
    (setup.root / "airflow.cfg").write_text("[core]\nsimple_auth_manager_all_admins = True\n")
    (finding,) = doctor_airflow.public_addresses(setup)
    assert finding.what == "Airflow's API server binds 0.0.0.0, and whoever reaches it is an administrator"
    (setup.root / "airflow.cfg").unlink()
    assert doctor_airflow.public_addresses(setup) == doctor_airflow.sqlite_in_production(setup) == []


@pytest.mark.parametrize(
    ("by", "requirement", "severity"),
    [
        ("pyproject.toml", "torch>=2.14", "error"),
        ("pyproject.toml", "torch==2.13.0", None),  # the local part of 2.13.0+cpu is no other version
        ("pyproject.toml", "Apache_Airflow>=3.3.2,<3.4", None),
        ("feast", "pandas<3", "error"),  # not installed
        ("feast", "pandas<3; extra == 'spark'", None),
        ("feast", "pandas<3; python_version < '3'", None),
        ("constraints.txt", "feast==0.66.0", "warning"),
        ("constraints.txt", "a-package-of-an-extra==1", None),
    ],
)
def test_pins_are_compared_as_pip_does(setup: Setup, by: str, requirement: str, severity: str | None) -> None:
    findings = pin_conflicts(replace(setup, requirements=((by, requirement),)))
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_a_night_that_was_not_served_is_named(setup: Setup) -> None:
    for view in PUBLISHED:
        (setup.configuration.published / view / f"date={NIGHT + 4 * DAY}.parquet").touch()
    assert found(gapped_partitions, setup) == [
        ("warning", f"no night was served from {NIGHT + DAY} to {NIGHT + 3 * DAY}")
    ]


def test_changed_settings_make_the_nights_built_with_others_stale(setup: Setup) -> None:
    write_world(setup.root, features={"history_length": 7})
    changed = replace(setup, configuration=load(setup.root / "attractor.toml"))
    assert found(stale_partitions, changed) == [
        ("error", f"build of {date} is stale: other inputs: features") for date in (NIGHT - DAY, NIGHT)
    ]


def test_a_partition_that_was_built_again_after_its_night_was_scored_makes_the_score_stale(setup: Setup) -> None:
    shutil.copy(*(partition_path(setup.configuration, "user_history", date) for date in (NIGHT - DAY, NIGHT)))
    assert found(stale_partitions, setup) == [("error", f"score of {NIGHT} is stale: other inputs: user_history")]


def test_the_disk_must_hold_a_draft_of_a_night_beside_it(setup: Setup) -> None:
    needed = 2 * 3 * GB
    assert disk_of_the_next_night(replace(setup, free_bytes=needed + GB)) == []
    (finding,) = disk_of_the_next_night(replace(setup, free_bytes=needed - 1))
    assert "the next night needs 3,07" in finding.what


def test_a_publication_from_the_future_and_a_ledger_of_another_time(setup: Setup) -> None:
    assert clocks(setup) == []
    pointer = Pointer(f"{NIGHT}-0123456789ab", setup.now + DAY, None, ())
    write_sealed_json(setup.configuration.releases / "current.json", pointer.record())
    assert found(clocks, setup) == [("error", "the live release went live in the future")]
    whats = [what for _, what in found(clocks, replace(setup, now=setup.now + 2 * DAY))]
    assert whats == ["the ledger's clock is -172800 s from this machine's"]


def test_a_killed_run_is_named_until_it_is_taken_over(setup: Setup) -> None:
    ledger = open_ledger(setup.configuration)
    here = job(setup.root, work=dict, stage="train")
    replace(ledger, owner=Owner("gone", 1, ""), clock=lambda connection: setup.now - DAY)._claimed(here)
    (finding,) = killed_runs(setup)
    assert finding.what.startswith("train 2026-01-21 was begun by process 1 on gone")
    ledger.run(here)
    assert killed_runs(setup) == []


def test_settings_that_no_training_would_take_are_named_by_model(setup: Setup) -> None:
    assert found(unusable_settings, setup) == []
    write_world(setup.root, karma={"batch": 1}, dicer={"named": "attention_instead_of_modulation"})
    karma, dicer = unusable_settings(replace(setup, configuration=load(setup.root / "attractor.toml")))
    assert "[karma] " in karma.what
    assert "batch must be at least 2" in karma.what
    assert "\n" not in karma.what
    assert "modulation 'attention' can be trained and not exported" in dicer.what
    assert dicer.why == "every training of dicer is refused; there is no champion, so no night runs"
    write_json(setup.configuration.champions / "karma.json", {"version": "karma-1"})
    write_world(setup.root, karma={"batches": 4}, dicer={"layers": -1})
    karma, dicer = unusable_settings(replace(setup, configuration=load(setup.root / "attractor.toml")))
    assert "no setting 'batches'" in karma.what
    assert karma.why.endswith("nights go on with karma-1")
    assert "layers must be at least 0" in dicer.what


def test_this_clone_has_no_error(setup: Setup) -> None:
    """Its DAGs, its airflow.cfg, its Feast settings; that SQLite is for a laptop is all that is said of them."""
    here = replace(setup, root=ROOT, environment={})
    findings = [finding for check in CHECKS if check is not killed_runs for finding in check(here)]
    assert [finding.what for finding in findings] == ["SQLite under LocalExecutor with 4 tasks at once"]


def test_this_machine_is_examined_with_what_is_installed_and_listens(setup: Setup, tmp_path: Path) -> None:
    program = tmp_path / "feast"
    program.write_text(
        "import socket, sys\nserver = socket.create_server(('0.0.0.0', 0))\n"
        "print(server.getsockname()[1], flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(program), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        seen = examine(setup.configuration, now=setup.now)
        server.communicate()
    assert Listener("feast", server.pid, "0.0.0.0", port) in seen.listeners
    assert seen.installed[canonicalize_name("apache_airflow")].startswith("3.")
    assert ("pyproject.toml", "numpy>=2") in seen.requirements
    assert any(by == "feast" for by, _ in seen.requirements)


def test_the_command_says_what_is_wrong_and_exits_1_for_errors_only(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--config", str(setup.configuration.file))
    monkeypatch.setenv("AIRFLOW_HOME", str(setup.root))
    monkeypatch.delenv("AIRFLOW_CONFIG", raising=False)  # the tests of the DAGs set it
    answer: dict[str, Any] = told(capsys, "doctor", *arguments)
    assert answer["errors"] == 0
    (setup.root / "airflow.cfg").write_text(BROKEN_CFG)
    assert attractor("doctor", *arguments) == 1
    shown = capsys.readouterr().out
    assert "error    Airflow's API server binds 0.0.0.0" in shown
    assert "fix    host = 127.0.0.1" in shown


def test_what_cannot_be_examined_is_a_finding_and_keeps_no_other_check(setup: Setup) -> None:
    with_dag(setup, "def broken(:\n", cfg="[api\nhost = 127.0.0.1\n")
    (setup.root / "features" / "feature_store.yaml").write_text("project: [")
    shutil.rmtree(next((setup.configuration.raw / "events").glob("1970-01-01_*")))
    broken = replace(setup, free_bytes=0)
    findings = diagnose(broken)["findings"]
    assert {finding["check"] for finding in findings if finding["what"].startswith("not examined")} == {
        *("zero_length_intervals", "catchup_misuse", "wall_clocks_in_dags"),
        *("sqlite_in_production", "public_addresses"),
        *("missing_batch_size", "stale_partitions"),
    }
    assert "disk_of_the_next_night" in {finding["check"] for finding in findings}


def test_pools_are_read_from_airflows_database_and_each_that_a_task_waits_for_in_vain_is_named(setup: Setup) -> None:
    database = setup.root / "airflow.db"
    assert pools_of(f"sqlite:///{database}") is None
    assert pools_of("nowhere://") is None
    with closing(sqlite3.connect(database)) as connection:
        assert pools_of(f"sqlite:///{database}") is None
        connection.execute("CREATE TABLE slot_pool (pool TEXT, slots INTEGER)")
        connection.execute("INSERT INTO slot_pool VALUES ('default_pool', 128), ('training', 1)")
        connection.commit()
    pools = pools_of(f"sqlite:///{database}")
    assert pools == {"default_pool", "training"}
    assert found(missing_pools, replace(setup, pools=pools)) == [
        ("error", "the pool scoring does not exist"),
        ("error", "the pool feast_registry does not exist"),
    ]
    everything = frozenset(read_json(ROOT / "pools.json"))
    assert found(missing_pools, replace(setup, pools=everything)) == []
