"""What the doctor looks at, gathered once at the edge, and what it answers."""

from __future__ import annotations

import configparser
import datetime as dt
import importlib.metadata
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.utils import canonicalize_name
from sqlalchemy import NullPool, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from export.plan import free_bytes
from features.configuration import Configuration

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class DoctorConfig:
    """From where on something is a finding."""

    refresh_days: float = 1.0  # how often a view gets new rows
    max_registry_mb: float = 64.0  # every reader reads the whole registry anew every ten minutes
    max_materializations: int = 100  # intervals that Feast keeps a view, for ever
    disk_factor: float = 2.0  # a night's bytes stand there twice, as a draft and in place
    max_clock_skew_seconds: float = 60.0  # by which two machines may differ
    nights: int = 30  # how far back gaps are looked for
    stale_nights: int = 3  # the latest ones, whose inputs are hashed again


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: `error` breaks a night or exposes it, `warning` will once it grows."""

    severity: Literal["error", "warning"]
    what: str
    where: str
    why: str
    fix: str

    def record(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Listener:
    """A listening socket of a running Airflow or Feast."""

    program: str
    pid: int
    address: str
    port: int


@dataclass(frozen=True)
class Setup:
    """Everything that the checks may know. `root` holds airflow.cfg, dags/, features/ and the project's files."""

    configuration: Configuration
    now: dt.datetime
    root: Path
    environment: Mapping[str, str]
    installed: Mapping[str, str]  # canonical name of a package, its version
    requirements: tuple[tuple[str, str], ...]  # who asks, and for what: PEP 508
    listeners: tuple[Listener, ...]
    free_bytes: int
    pools: frozenset[str] | None = None  # of Airflow; None where its database cannot be asked

    @property
    def config(self) -> DoctorConfig:
        """The section [doctor]."""
        return self.configuration.section("doctor", DoctorConfig)

    @property
    def airflow_cfg(self) -> Path:
        """Where Airflow reads its settings."""
        named = self.environment.get("AIRFLOW_CONFIG")
        return Path(named) if named else self.airflow_home / "airflow.cfg"

    @property
    def airflow_home(self) -> Path:
        """$AIRFLOW_HOME; the repository where it is not set, as `make airflow` has it."""
        return Path(self.environment.get("AIRFLOW_HOME") or self.root)

    def airflow(self, section: str, option: str, default: str) -> str:
        """A setting of Airflow as it takes it: the environment's, else the file's, else its own default."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(self.airflow_cfg, encoding="utf-8")
        named = f"AIRFLOW__{section.upper()}__{option.upper()}"
        value = self.environment.get(named) or str(parser.get(section, option, fallback=default))
        return value.replace("$AIRFLOW_HOME", str(self.airflow_home))


def examine(configuration: Configuration, *, now: dt.datetime) -> Setup:
    """This machine, this environment and this clone."""
    packages = [distribution.metadata for distribution in importlib.metadata.distributions()]
    asked = [
        (package["Name"], requirement)
        for package in packages
        if package["Name"] != "attractor"  # pyproject.toml is newer than what was installed of it
        for requirement in package.get_all("Requires-Dist") or ()
    ]
    setup = Setup(
        configuration=configuration,
        now=now,
        root=ROOT,
        environment=dict(os.environ),
        installed={canonicalize_name(package["Name"]): package["Version"] for package in packages},
        requirements=(*declared_requirements(ROOT), *asked),
        listeners=tuple(_listeners()),
        free_bytes=free_bytes(configuration.state),
    )
    default = f"sqlite:///{setup.airflow_home}/airflow.db"
    return replace(setup, pools=pools_of(setup.airflow("database", "sql_alchemy_conn", default)))


def declared_requirements(root: Path) -> Iterator[tuple[str, str]]:
    """What pyproject.toml asks for, and what constraints.txt locks; nothing of either that is not there."""
    project, lock = root / "pyproject.toml", root / "constraints.txt"
    if project.is_file():
        declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
        yield from (("pyproject.toml", requirement) for requirement in declared)
    if lock.is_file():
        lines = (line.strip() for line in lock.read_text(encoding="utf-8").splitlines())
        yield from (("constraints.txt", line) for line in lines if line and not line.startswith("#"))


def pools_of(url: str) -> frozenset[str] | None:
    """The pools in Airflow's database at `url`; None where none can be asked, such as before its first start."""
    try:
        address = make_url(url)
        if address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
            return None
        engine = create_engine(address, poolclass=NullPool)
        with engine.connect() as connection:
            if not inspect(connection).has_table("slot_pool"):
                return None
            return frozenset(connection.scalars(text("SELECT pool FROM slot_pool")))
    except (ArgumentError, NoSuchModuleError, OperationalError, ModuleNotFoundError):
        return None


def _listeners() -> Iterator[Listener]:
    for process in psutil.process_iter():
        try:
            program = _program(process.cmdline())
            if program is None:
                continue
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    yield Listener(program, process.pid, connection.laddr.ip, connection.laddr.port)
        except psutil.Error:  # gone meanwhile, or another user's
            continue


def _program(command: list[str]) -> str | None:
    """`airflow` or `feast`, of a command line or of a title that a process gave itself."""
    words = [Path(word).name for part in command[:3] for word in part.split()[:1]]
    return next((name for name in ("airflow", "feast") if any(word.rstrip(":") == name for word in words)), None)
