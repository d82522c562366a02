"""Pages that follow the code: the reference is up to date, the runbook leaves nothing out, links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from export.doctor import CHECKS
from export.gates import GATES
from export.ledger_models import State as RunState
from export.reference import pages
from features import errors
from features.freshness import State
from tests.markdown import ROOT, anchors, blocks, links

DOCS = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md"))]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
HEADINGS = {"code", "error", "gates", "state", "alert", "task", "it says", "check"}


def rows(heading: str) -> dict[str, list[str]]:
    """The tables below a heading of the runbook: the other cells of each row by its first cell."""
    section = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)
    (found,) = (part for part in section if part.startswith(f"{heading}\n"))
    table = [line.strip("| ").split(" | ") for line in found.splitlines() if line.startswith("| ")]
    rows = [row for row in table if row[0] not in HEADINGS]
    return {first.strip("`"): [cell.strip("` ") for cell in others] for first, *others in rows}


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", ["configuration.md", "contracts.md"])
def test_the_reference_says_what_the_code_says(page: str) -> None:
    told = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert told == pages()[page], "`make docs` writes it anew"


def test_the_runbook_names_every_error_and_which_airflow_retries() -> None:
    ours = {kind.__name__ for kind in errors.AttractorError.__subclasses__() if kind.__module__ == errors.__name__}
    table = rows("Errors")
    assert ours == table.keys() - {"the database does not answer"}
    defaults = (ROOT / "dags" / "orchestration" / "defaults.py").read_text(encoding="utf-8")
    retried = set(re.findall(r"RetryRule\((\w+)\)", defaults))
    assert {name for name in ours if table[name][1] == "yes"} == retried


def test_the_runbook_names_every_gate_once() -> None:
    named = [gate for cell in rows("Gates") for gate in cell.split(", ")]
    assert sorted(named) == sorted(gate.name for gate in GATES)


def test_the_runbook_names_every_verdict_of_a_promotion() -> None:
    tree = ast.parse((ROOT / "export" / "promotion.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Verdict"]
    gates = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    (sentence,) = re.findall(r"At promotion the verdicts are (.*)", RUNBOOK)
    assert gates == set(re.findall(r"`(\w+)`", sentence))


def test_the_runbook_names_every_task_check_state_and_alert() -> None:
    tasks = {name.strip("`") for cell in rows("Tasks") for name in cell.split(", ")}
    assert tasks == functions("export/tasks.py") | set(RunState)
    (rules,) = blocks("observability.md", "yaml")
    assert list(rows("Alerts of Prometheus")) == re.findall(r"alert: (\w+)", rules)
    assert set(rows("`attractor doctor`")) == {check.__name__ for check in CHECKS}
    assert set(rows("What is served")) == set(State)


@pytest.mark.parametrize("page", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}"
