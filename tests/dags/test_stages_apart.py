"""One line of configuration runs every stage in another environment: two real ones, neither of which is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

from export.ledger import open_ledger
from export.ledger_models import State
from features.configuration import load
from features.contracts import FEATURES
from features.partitions import partition_path
from tests.tiny_world import NIGHT, write_world

ROOT = Path(__file__).resolve().parents[2]
OURS = ("duckdb", "feast", "onnx", "onnxruntime", "pandera", "polars", "pyarrow", "torch", "transformers")
"""What stages import, and Airflow never needs to."""

PROGRAM = """
import importlib.util, json, os, sys
from types import SimpleNamespace

from airflow.dag_processing.dagbag import DagBag

from features.windows import midnight, parse_date

date, elsewhere, *heavy = sys.argv[1:]
dags = DagBag("dags").dags
tasks = {f"{dag_id}.{task.task_id}": task for dag_id, dag in dags.items() for task in dag.tasks}
told = {"types": {name: type(task).__name__ for name, task in tasks.items()}}
told["heavy"] = [name for name in heavy if importlib.util.find_spec(name)]
run = dags["nightly"].test(
    logical_date=midnight(parse_date(date)), mark_success_pattern="(?!(land|build)$).*"
)
told["run"] = str(run.state)

task, ti = tasks["nightly.missing_champions"], SimpleNamespace(bundle_instance=SimpleNamespace(path="."))
told["missing"] = task.execute({"ti": ti})
os.environ["ATTRACTOR_CONFIG"] = elsewhere
for name, called in (("answer", "open_staging"), ("trouble", "land")):
    task.op_args = [called, {"date": date}]
    try:
        task.execute({"ti": ti})
    except Exception as error:
        told[name] = [task.retry_policy.evaluate(error, 1, 2).action.value, str(error)]
print("told:" + json.dumps(told))
"""


def environment(folder: Path, *, without: tuple[str, ...]) -> Path:
    """The interpreter of a virtual environment that holds links to what is installed here, but for some of it."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for installed in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not installed.name.startswith((*without, "__pycache__")):
            (site / installed.name).symlink_to(installed)
    return folder / "bin" / "python"


def test_airflow_without_what_stages_need_runs_them_where_airflow_is_not_installed(
    airflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = environment(tmp_path / "stages", without=("airflow", "apache_airflow"))
    airflow = environment(tmp_path / "airflow", without=OURS)
    tried = subprocess.run([worker, "-c", "import airflow"], cwd=ROOT, capture_output=True, text=True)
    assert "ModuleNotFoundError: No module named 'airflow'" in tried.stderr

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    unreachable = write_world(elsewhere, source={"kind": "sql", "url_variable": "NO_WAREHOUSE_THERE"})
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(write_world(tmp_path)))
    told = asked(
        airflow,
        [str(NIGHT), str(unreachable), *OURS],
        AIRFLOW__ATTRACTOR__PYTHON=str(worker),
        NO_WAREHOUSE_THERE="postgresql+psycopg://nobody:a-password@127.0.0.1:9/nothing",
    )
    here = {name for name, kind in told["types"].items() if kind != "_PythonExternalDecoratedOperator"}
    assert here == {"nightly.announce"}  # only Airflow knows assets
    assert (told["run"], told["heavy"]) == ("success", [])
    assert sorted(told["missing"]) == ["dicer", "karma"]
    configuration = load()
    runs = open_ledger(configuration).runs()
    assert {(run.stage, run.state) for run in runs} == {("land", State.DONE), ("build", State.DONE)}
    assert all(partition_path(configuration, view, NIGHT).is_file() for view in FEATURES)
    action, sentence = told["answer"]
    assert (action, "was not scored" in sentence) == ("fail", True)
    assert told["trouble"][0] == "default"


def asked(python: Path, arguments: list[str], **environment: str) -> dict[str, Any]:
    """What the program tells, run by `python`; a password is not among what it says."""
    done = subprocess.run(
        [python, "-c", PROGRAM, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "a-password" not in done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout.rpartition("told:")[2])
    return told
