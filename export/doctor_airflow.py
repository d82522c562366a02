"""The doctor on Airflow: its settings by configparser, its DAG files by `ast`; neither is run."""

from __future__ import annotations

import ast
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from export.doctor_setup import Finding, Setup

_UTC = {"utc", "etc/utc"}
_FALSE = {"false", "f", "0"}
_PROBE = "data_interval_start"


@dataclass(frozen=True)
class _Dag:
    file: Path
    tree: ast.Module
    line: int
    settings: Mapping[str, ast.expr]

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def schedule(self) -> ast.expr | None:
        return self.settings.get("schedule")

    @property
    def asks_for_the_start(self) -> bool:
        """Whether the file uses the start of an interval anywhere: as a name, an attribute, in a template."""
        return _PROBE in ast.unparse(self.tree)


def zero_length_intervals(setup: Setup) -> list[Finding]:
    """Schedules whose runs have `data_interval_start == data_interval_end`, and DAGs that take a window from them."""
    findings = []
    for dag in _dags(setup):
        kind = _pointlike(dag.schedule, setup)
        if kind is None:
            continue
        if not dag.asks_for_the_start and "Trigger" in kind:  # asked for by name: its runs have a moment, no window
            continue
        findings.append(
            Finding(
                "error" if dag.asks_for_the_start else "warning",
                f"runs of schedule {kind} have an interval of no length"
                + (f", and {_PROBE} is used" if dag.asks_for_the_start else ""),
                dag.where,
                "since Airflow 3 such a schedule starts and ends its interval at the same moment: a window taken "
                "from it is empty, and an empty night looks like a quiet one",
                'schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC")',
            )
        )
    return findings


def catchup_misuse(setup: Setup) -> list[Finding]:
    """DAGs that run every missed interval by themselves when they are switched on."""
    by_default = setup.airflow("scheduler", "catchup_by_default", "False").lower() not in _FALSE
    findings = []
    for dag in _dags(setup):
        given = dag.settings.get("catchup")
        on = by_default if given is None else isinstance(given, ast.Constant) and given.value is True
        if on and dag.schedule is not None:
            findings.append(
                Finding(
                    "error",
                    "catchup is on" + (" by [scheduler] catchup_by_default" if given is None else ""),
                    dag.where,
                    "switching the DAG on, or a new start_date, starts a run for every night since, unasked",
                    "catchup=False; and `airflow backfill create --dag-id … --from-date … --to-date …` for a past",
                )
            )
    return findings


def wall_clocks_in_dags(setup: Setup) -> list[Finding]:
    """The time of day in a DAG file, zones other than UTC, and instants without one."""
    findings = []
    default = setup.airflow("core", "default_timezone", "utc")
    if default.lower() not in _UTC:
        where = f"{setup.airflow_cfg} [core] default_timezone"
        findings.append(Finding("error", f"the default time zone is {default}", where, *_ZONE))
    for dag in _dags(setup):
        for node in ast.walk(dag.tree):
            if not isinstance(node, ast.Call):
                continue
            where, called = f"{dag.file}:{node.lineno}", ast.unparse(node.func)
            named = {word.arg: word.value for word in node.keywords}
            if called.rpartition(".")[2] in {"now", "utcnow", "today"}:
                findings.append(Finding("error", f"{called}() in a DAG file", where, *_NOW))
            given = named.get("timezone")
            zone = given.value if isinstance(given, ast.Constant) else None
            if isinstance(zone, str) and zone.lower() not in _UTC:
                findings.append(Finding("error", f"a timetable in {zone}", where, *_ZONE))
            if called.rpartition(".")[2] == "datetime" and "tzinfo" not in named and 3 <= len(node.args) < 8:
                findings.append(Finding("warning", "an instant without a time zone", where, *_NAIVE))
    return list(dict.fromkeys(findings))  # a file may hold several DAGs


_ZONE = (
    "nights are half-open UTC days: where clocks change, a local day has 23 or 25 hours, and one hour a year is twice",
    'timezone="UTC" in the timetable and default_timezone = utc',
)
_NOW = (
    "a retry or a backfill of the same run would be for another date",
    "take the date from the run: data_interval_end, or a parameter; features.windows.night_of does",
)
_NAIVE = ("Airflow takes it in its default time zone, Python in the machine's", "give it tzinfo=timezone.utc")


def sqlite_in_production(setup: Setup) -> list[Finding]:
    """Databases in a file, where several processes write at once, or processes of other machines."""
    if not setup.airflow_cfg.is_file():
        return []
    executor = setup.airflow("core", "executor", "LocalExecutor")
    parallelism = int(setup.airflow("core", "parallelism", "32"))
    local = executor.rpartition(".")[2] == "LocalExecutor"
    databases = {
        f"{setup.airflow_cfg} [database] sql_alchemy_conn": setup.airflow("database", "sql_alchemy_conn", "sqlite://"),
    }
    if not local:
        from export.ledger_database import ledger_url

        url = ledger_url(setup.configuration, environment=setup.environment)
        databases[f"{setup.configuration.file} [ledger] url_variable"] = url.drivername
    if local and parallelism <= 1:
        return []
    return [
        Finding(
            "warning" if local else "error",
            f"SQLite under {executor}" + (f" with {parallelism} tasks at once" if local else ""),
            where,
            "one writer at a time: tasks wait for each other, and time out with `database is locked` as they grow"
            if local
            else "workers on other machines do not see the file",
            "good for a laptop; else PostgreSQL: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, and [ledger] url_variable",
        )
        for where, url in databases.items()
        if url.startswith("sqlite")
    ]


def public_addresses(setup: Setup) -> list[Finding]:
    """Servers that other machines can reach: as configured, and as they listen now."""
    findings = []
    host = setup.airflow("api", "host", "0.0.0.0")
    if setup.airflow_cfg.is_file() and not _is_loopback(host):
        everybody = setup.airflow("core", "simple_auth_manager_all_admins", "False").lower() not in _FALSE
        findings.append(
            Finding(
                "error",
                f"Airflow's API server binds {host}" + (", and whoever reaches it is an administrator" * everybody),
                f"{setup.airflow_cfg} [api] host",
                "whoever reaches it can run what the DAGs run, and read their logs",
                "host = 127.0.0.1, and a proxy with a login before it",
            )
        )
    for listener in setup.listeners:
        if not _is_loopback(listener.address):
            findings.append(
                Finding(
                    "warning" if listener.port in _LOG_SERVERS and listener.program == "airflow" else "error",
                    f"{listener.program} listens on {listener.address}:{listener.port}",
                    f"process {listener.pid}",
                    "Airflow's log servers bind all interfaces whatever [api] host says; they ask for a signature"
                    if listener.port in _LOG_SERVERS
                    else "features are answered, and written, without asking who asks",
                    "start scheduler and triggerer with --skip-serve-logs, or close the port"
                    if listener.port in _LOG_SERVERS
                    else "feast serve -h 127.0.0.1, feast ui -h 127.0.0.1; a proxy with a login before it",
                )
            )
    return findings


_LOG_SERVERS = {8793, 8794}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _dags(setup: Setup) -> Iterator[_Dag]:
    """`DAG(...)`, `@dag(...)` of every file in the DAG folder."""
    folder = Path(setup.airflow("core", "dags_folder", str(setup.airflow_home / "dags")))
    for file in sorted(folder.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"DAG", "dag"}:
                yield _Dag(file, tree, node.lineno, {word.arg: word.value for word in node.keywords if word.arg})


def _pointlike(schedule: ast.expr | None, setup: Setup) -> str | None:
    """The schedule as written if its intervals have no length."""

    def kept(option: str) -> bool:
        return setup.airflow("scheduler", option, "False").lower() not in _FALSE

    if isinstance(schedule, ast.Constant) and isinstance(schedule.value, str):
        alone = schedule.value in {"@once", "@continuous"}
        return None if alone or kept("create_cron_data_intervals") else repr(schedule.value)
    if not isinstance(schedule, ast.Call):
        return None
    called = ast.unparse(schedule.func).rpartition(".")[2]
    if called == "timedelta":
        return None if kept("create_delta_data_intervals") else ast.unparse(schedule)
    without_interval = all(word.arg != "interval" for word in schedule.keywords)
    return called if called in {"CronTriggerTimetable", "DeltaTriggerTimetable"} and without_interval else None
