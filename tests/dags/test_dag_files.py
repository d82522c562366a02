from __future__ import annotations

import ast
import copy
import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from features.errors import BucketUnreachable, GateFailed, MissingInput, SourceLost
from features.files import read_json
from features.windows import midnight, night_of

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "dags").glob("*.py"))
CHAMPIONS = {
    "training_sets": {"karma.train", "dicer.train"},
    "karma.train": {"karma.export"},
    "karma.export": {"karma.promote"},
    "dicer.train": {"dicer.export"},
    "dicer.export": {"dicer.promote"},
}
EDGES = {
    "nightly": {
        "land": {"build"},
        "build": {"register"},
        "register": {"missing_champions"},
        "missing_champions": {"training_sets"},
        **CHAMPIONS,
        "karma.promote": {"score"},
        "dicer.promote": {"score"},
        "score": {"open_staging"},
        "open_staging": {"stage", "close_staging"},
        "stage": {"audit"},
        "audit": {"publish"},
        "publish": {"announce", "close_staging"},
        "announce": set(),
        "close_staging": set(),
    },
    "training": {
        "land": {"build"},
        "build": {"register"},
        "register": {"training_sets"},
        **CHAMPIONS,
        "karma.promote": set(),
        "dicer.promote": set(),
    },
    "operations": {"freshness": set(), "consistency": set(), "retention": set()},
}
POOLS = {"register": "feast_registry", "karma.train": "training", "dicer.train": "training", "score": "scoring"}


def test_every_file_holds_the_one_dag_it_is_named_after(dag_bag: Any) -> None:
    assert dag_bag.import_errors == {}
    assert {dag_id: Path(dag.fileloc) for dag_id, dag in dag_bag.dags.items()} == {path.stem: path for path in FILES}


@pytest.mark.parametrize("dag_id", EDGES)
def test_edges(dag_bag: Any, dag_id: str) -> None:
    assert {task.task_id: task.downstream_task_ids for task in dag_bag.dags[dag_id].tasks} == EDGES[dag_id]


@pytest.mark.parametrize("dag_id", EDGES)
def test_one_run_at_a_time_explained_in_the_browser(dag_bag: Any, dag_id: str) -> None:
    dag = dag_bag.dags[dag_id]
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    assert dag.doc_md == ast.get_docstring(ast.parse((ROOT / "dags" / f"{dag_id}.py").read_text()), clean=False)


@pytest.mark.parametrize("dag_id", EDGES)
def test_every_task_has_an_owner_and_a_page_and_tells_somebody_when_it_fails(dag_bag: Any, dag_id: str) -> None:
    for task in dag_bag.dags[dag_id].tasks:
        assert task.owner == "attractor"
        assert task.doc_md, task.task_id
        assert [callback.__name__ for callback in task.on_failure_callback] == ["tell"]


@pytest.mark.parametrize("dag_id", EDGES)
def test_what_must_not_run_twice_at_once_waits_in_a_pool_that_make_airflow_makes(dag_bag: Any, dag_id: str) -> None:
    made = read_json(ROOT / "pools.json")
    assert (made["feast_registry"]["slots"], made["training"]["slots"]) == (1, 1)
    assert all(set(pool) == {"slots", "description"} for pool in made.values())  # else `airflow pools import` refuses
    for task in dag_bag.dags[dag_id].tasks:
        assert task.pool == POOLS.get(task.task_id, "default_pool")
        assert task.pool in {*made, "default_pool"}
    assert "airflow pools import pools.json" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_staging_is_torn_down_whatever_becomes_of_the_night_and_decides_nothing(dag_bag: Any) -> None:
    nightly = dag_bag.dags["nightly"]
    opened, closed = nightly.task_dict["open_staging"], nightly.task_dict["close_staging"]
    assert (opened.is_setup, closed.is_teardown, closed.on_failure_fail_dagrun) == (True, True, False)
    assert {task.task_id for task in nightly.tasks if task.is_setup or task.is_teardown} == {
        "open_staging",
        "close_staging",
    }
    assert {"stage", "audit", "publish"} <= nightly.task_dict["open_staging"].get_flat_relative_ids(upstream=False)


@pytest.mark.parametrize(
    ("dag_id", "given"),
    [
        ("nightly", {"force": True}),
        ("nightly", {"force": ""}),
        ("nightly", {"force": "          "}),
        ("nightly", {"force": "because"}),
        ("nightly", {"date": "yesterday"}),
        ("training", {"date": "2026-13-01"}),
        ("training", {"models": []}),
        ("training", {"models": ["karma", "karma"]}),
        ("training", {"models": ["hllm"]}),
        ("training", {"models": "karma"}),
    ],
)
def test_a_run_is_refused_with_params_that_say_nothing(dag_bag: Any, dag_id: str, given: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    params = copy.deepcopy(dag_bag.dags[dag_id].params)
    with pytest.raises(ParamValidationError):
        params.update(given)
        params.validate()


@pytest.mark.parametrize(
    ("dag_id", "given"),
    [
        ("nightly", {"force": "the catalogue halved by intent", "date": "2026-01-21"}),
        ("training", {"models": ["dicer"], "date": None}),
    ],
)
def test_a_run_takes_a_date_models_and_a_reason(dag_bag: Any, dag_id: str, given: dict[str, Any]) -> None:
    params = copy.deepcopy(dag_bag.dags[dag_id].params)
    params.update(given)
    assert params.validate().items() >= given.items()


@pytest.mark.parametrize("dag_id", EDGES)
def test_trouble_is_retried_with_back_off_and_an_answer_is_not(dag_bag: Any, dag_id: str) -> None:
    for task in dag_bag.dags[dag_id].tasks:
        assert task.retries > 0
        assert task.retry_exponential_backoff > 1
        assert task.execution_timeout is not None
        for answer in (GateFailed("release", ["no"]), MissingInput("nothing landed")):
            assert task.retry_policy.evaluate(answer, 1, 2).action.value == "fail"
        assert task.retry_policy.evaluate(OSError("disk"), 1, 2).action.value == "default"
        for trouble in (SourceLost("lost"), BucketUnreachable("no answer")):
            assert task.retry_policy.evaluate(trouble, 1, 2).action.value == "retry"


@pytest.mark.parametrize("dag_id", EDGES)
def test_a_scheduled_run_is_for_the_night_its_interval_ends_in(dag_bag: Any, dag_id: str) -> None:
    from airflow.serialization.encoders import coerce_to_core_timetable
    from airflow.timetables.base import TimeRestriction

    timetable = coerce_to_core_timetable(dag_bag.dags[dag_id].timetable)
    info = timetable.next_dagrun_info(
        last_automated_data_interval=timetable.infer_manual_data_interval(run_after=_moment("2010-11-28T12:00")),
        restriction=TimeRestriction(earliest=None, latest=None, catchup=True),
    )
    night = night_of(None, info.data_interval.end, info.run_after)
    assert midnight(night) <= info.run_after < midnight(night) + dt.timedelta(days=1)
    if dag_id == "nightly":
        assert (info.data_interval.start, info.data_interval.end) == (_moment("2010-11-28"), _moment("2010-11-29"))
        assert night == dt.date(2010, 11, 29)


@pytest.mark.parametrize("dag_id", EDGES)
@pytest.mark.parametrize("asked", ["2010-12-01", "2010-12-01T14:30"])
def test_a_run_asked_for_a_moment_is_for_the_night_before_it(dag_bag: Any, dag_id: str, asked: str) -> None:
    from airflow.serialization.encoders import coerce_to_core_timetable

    timetable = coerce_to_core_timetable(dag_bag.dags[dag_id].timetable)
    interval = timetable.infer_manual_data_interval(run_after=_moment(asked))
    assert night_of(None, interval.end, _moment("2026-01-01")) == dt.date(2010, 12, 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_parsing_a_dag_file_loads_nothing_heavy(airflow_home: Path, path: Path) -> None:
    heavy = {"duckdb", "feast", "numpy", "onnx", "onnxruntime", "pandas", "polars", "pyarrow", "torch", "transformers"}
    program = f"import runpy, sys; runpy.run_path({str(path)!r}); print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "airflow" in loaded
    assert not loaded & heavy


def test_the_whole_repository_can_be_a_bundle(airflow_home: Path) -> None:
    from airflow.utils.file import list_py_file_paths

    with pytest.warns(DeprecationWarning, match="GitWildMatchPattern"):
        found = list_py_file_paths(ROOT, safe_mode=False)
    assert sorted(map(Path, found)) == FILES


def _moment(text: str) -> Any:
    import pendulum

    return pendulum.parse(text, tz="UTC")
