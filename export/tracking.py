"""Trainings as runs of MLflow, where `[tracking]` names a server or a database; the extra `tracking` brings its client.

```toml
[tracking]
uri = "http://127.0.0.1:5000"   # or sqlite:////var/lib/mlflow.db; uri_variable where it holds a password
experiment = "attractor"
```

A training is told of when it is done, and again when it is exported, promoted and served: the run carries what is known
by then. The ledger stays the truth, so that a server that is away is a warning in the log and stops no stage; what it
missed of a training, the export tells it again.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from export.ledger import Job, Ledger, StageResult
from export.ledger_models import State
from export.logs import without_secrets
from export.staging import directory_of
from features.configuration import Configuration
from features.errors import AttractorError, ConfigurationError
from features.files import read_json
from features.releases import MANIFEST, read_object
from features.windows import parse_date

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

TOLD = ("train", "export", "promote", "publish")
_BATCH = 100  # parameters that MLflow takes at once; of metrics it takes more
_LONGEST = 500  # characters of a parameter's value that every server takes
_Part = TypeVar("_Part")

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is reported to anyone else
    "MLFLOW_CONFIGURE_LOGGING": "false",  # its lines are as ours
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default a server that is away takes minutes of each stage
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass(frozen=True)
class TrackingConfig:
    """Where trainings are told of."""

    uri: str | None = None  # of an MLflow server or database; left out, as `uri_variable` is: nothing is tracked
    uri_variable: str | None = None  # instead: the environment variable that holds it
    experiment: str = "attractor"  # made where it is not there

    def __post_init__(self) -> None:
        if self.uri is not None and self.uri_variable is not None:
            raise ValueError("expected `uri` or `uri_variable`, got both")
        if self.uri is not None and without_secrets(self.uri) != self.uri:
            raise ValueError(
                "expected a uri without a password: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD hold a "
                "server's, and the variable that `uri_variable` names holds the whole URI of a database"
            )

    @property
    def is_on(self) -> bool:
        """Whether trainings are told of."""
        return self.uri is not None or self.uri_variable is not None

    def address(self, environment: Mapping[str, str] = os.environ) -> str:
        """The URI. Raises ConfigurationError if the variable is not set."""
        if self.uri is not None:
            return self.uri
        assert self.uri_variable is not None
        if not environment.get(self.uri_variable):
            raise ConfigurationError(f"[tracking] uri_variable names {self.uri_variable}, which is not set")
        return environment[self.uri_variable]


def track(configuration: Configuration, ledger: Ledger, job: Job, result: StageResult) -> None:
    """Tell MLflow what a stage came to, where that concerns a training; what hinders it is logged and stops nothing."""
    config = configuration.section("tracking", TrackingConfig)
    if not config.is_on or result.reused or result.stage not in TOLD:
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        log.warning(
            "%s: [tracking] is configured, but MLflow is not installed: pip install 'attractor[tracking]'", job.stage
        )
        return
    try:
        tracker = _Tracker(MlflowClient(config.address()), config.experiment, ledger)
        tracker.tell(configuration, job, result)
    except (MlflowException, AttractorError, SQLAlchemyError, OSError, ValueError) as error:
        log.warning("%s %s was not tracked: %s", result.stage, result.key, without_secrets(str(error)))


@dataclass(frozen=True)
class _Tracker:
    client: MlflowClient
    experiment: str
    ledger: Ledger

    def tell(self, configuration: Configuration, job: Job, result: StageResult) -> None:
        if result.stage == "train":
            self._begin(configuration.state / job.artifact(result.figures), job, result)
        elif result.stage == "export":
            self._exported(configuration, job, result)
        elif result.stage == "promote":
            self._tag(result.key, "attractor.promoted_at", self.ledger.now().isoformat())
        elif result.figures["live"]:
            manifest = read_object(directory_of(configuration.releases, result.key) / MANIFEST)
            for version in manifest["models"].values():
                self._tag(version, "attractor.release", result.key)

    def _begin(self, checkpoint: Path, job: Job, result: StageResult) -> str:
        """A run of what was learned in `checkpoint`: parameters, every validation on the way, held-out metrics."""
        from mlflow.entities import Param

        ended = round(self.ledger.now().timestamp() * 1000)
        date, _, model = job.subject.partition("/")
        tags = {
            "mlflow.runName": f"{model} {date}",
            "attractor.model": model,
            "attractor.checkpoint": checkpoint.name,
            "attractor.training_set": job.inputs["training_set"],
            "attractor.code": job.code,
            "attractor.ledger_run": str(result.run_id),
            **({"attractor.window_start": job.window.start.isoformat()} if job.window else {}),
            **({"attractor.window_end": job.window.end.isoformat()} if job.window else {}),
        }
        begun = self.client.create_run(self._experiment_id(), ended - round(result.seconds * 1000), tags)
        run: str = begun.info.run_id
        for some in _batches([Param(name, str(value)[:_LONGEST]) for name, value in job.inputs["config"].items()]):
            self.client.log_batch(run, params=some)
        self._log(run, [*_curves(checkpoint, ended), *_metrics(result.figures["metrics"], ended)])
        self.client.set_terminated(run, end_time=ended)
        return run

    def _exported(self, configuration: Configuration, job: Job, result: StageResult) -> None:
        date = parse_date(job.subject.partition("/")[0])
        trained = [
            run for run in self.ledger.runs(date=date, stage="train", state=State.DONE) if run.subject == job.subject
        ]
        checkpoint = configuration.state / str(trained[0].artifact)  # an export has a training before it
        run = self._found(f"tags.`attractor.checkpoint` = '{checkpoint.name}'") or self._begin(checkpoint, job, result)
        self.client.set_tag(run, "attractor.artifact", result.figures["version"])
        worst = {graph: told["worst"] for graph, told in result.figures["parity"].items()}
        self._log(run, list(_metrics({"parity": worst}, round(self.ledger.now().timestamp() * 1000))))

    def _tag(self, version: str, name: str, value: str) -> None:
        run = self._found(f"tags.`attractor.artifact` = '{version}'")
        if run is not None:
            self.client.set_tag(run, name, value)

    def _found(self, told: str) -> str | None:
        """The latest run of which `told` holds."""
        runs = self.client.search_runs([self._experiment_id()], told, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        return str(found.experiment_id if found else self.client.create_experiment(self.experiment))

    def _log(self, run: str, metrics: Sequence[Metric]) -> None:
        for some in _batches(metrics):
            self.client.log_batch(run, metrics=some)


def _curves(checkpoint: Path, at: int) -> Iterator[Metric]:
    """Loss and validation at every look that the training took, of each of its phases."""
    from mlflow.entities import Metric

    for state in sorted(checkpoint.rglob("state.json")):
        for step, loss, value in read_json(state)["history"]:
            yield Metric(f"{state.parent.name}/loss", loss, at, step)
            yield Metric(f"{state.parent.name}/validation", value, at, step)


def _metrics(figures: Mapping[str, Any], at: int, prefix: str = "") -> Iterator[Metric]:
    """Every number in `figures` by its path, as MLflow lets it be called."""
    from mlflow.entities import Metric

    for name, value in figures.items():
        path = f"{prefix}{name}".replace("@", "_at_")
        if isinstance(value, Mapping):
            yield from _metrics(value, at, f"{path}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield Metric(path, float(value), at, 0)


def _batches(parts: Sequence[_Part]) -> Iterator[Sequence[_Part]]:
    for start in range(0, len(parts), _BATCH):
        yield parts[start : start + _BATCH]
