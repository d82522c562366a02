"""`docs/getting-started.md`, command by command, on PostgreSQL: from `init` to two served nights, on a smaller shop."""

from __future__ import annotations

import datetime as dt
import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from features.configuration import load
from features.releases import open_releases
from tests.command_line import attractor
from tests.markdown import ROOT, answer_to, blocks, commands
from tests.postgresql_server import new_database, programs
from tests.tiny_world import WORLD

PAGE = "getting-started.md"
ATTRACTOR = ".venv/bin/attractor "
NOT_HERE = ("make setup", "export WAREHOUSE_URL=", ".venv/bin/feast -c features serve")
"""Set up already, the test's own database, and what the test serves in this process."""

FURTHER = {"views": ["docs.examples.user_activity:UserActivity"]}
"""Not of the page: that a whole night carries it."""


@pytest.fixture(scope="module")
def shop(postgresql: sa.URL) -> Iterator[str]:
    """The shop that the page begins with, of 120 customers; the URL as the page has it."""
    binaries = programs()
    assert binaries is not None
    with new_database(postgresql) as database:
        url = database.set(drivername="postgresql").render_as_string(hide_password=False)
        arguments = ["-q", "-v", "customers=120", "-f", str(ROOT / "docs" / "examples" / "shop.sql")]
        subprocess.run([binaries / "psql", url, *arguments], check=True, capture_output=True)
        yield url


def tiny(section: str, settings: Mapping[str, Any]) -> str:
    return "\n".join([f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items() if value)])


def test_every_command_of_the_page_does_what_it_says(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAREHOUSE_URL", shop)
    (tmp_path / "features").symlink_to(ROOT / "features")
    init, *rest = [command for command in commands(PAGE) if not command.startswith(NOT_HERE)]
    run(init)
    file = tmp_path / "attractor.toml"
    assert "#   shop.clicks: customer_no BIGINT, sku TEXT, clicked_at TIMESTAMP without a zone" in file.read_text()

    mapping, freshness = blocks(PAGE, "toml")
    changed = {"karma": WORLD["karma"], "dicer": WORLD["dicer"], "training": WORLD["training"], "further": FURTHER}
    sizes = "\n".join(tiny(section, settings) for section, settings in changed.items())
    file.write_text(f'state = "state"\n{mapping}\n{freshness}\n{sizes}\n', encoding="utf-8")
    read = {"python": blocks(PAGE, "python")[0], "curl": ""}
    for command in rest:
        if command.startswith("curl"):
            read["curl"] = command
        else:
            capsys.readouterr()
            run(command)
        if command.endswith("status"):
            told = capsys.readouterr().out
            release = open_releases(load().releases).current()
            assert told.startswith(f"live      {release.release_id}")
            exec(compile(read["python"], PAGE, "exec"), {})
            assert capsys.readouterr().out.startswith(f"['{release.release_id}', None] ['P-00")
    assert answer_to(read["curl"])["results"][1]["statuses"] == ["PRESENT", "NOT_FOUND"]
    live = open_releases(load().releases).current()
    assert live.date == dt.date(2026, 3, 3)
    assert live.tables["user_activity"].row_count == live.tables["karma_user_interest"].row_count


def run(command: str) -> None:
    assert command.startswith(ATTRACTOR), command
    expected = 4 if command.endswith("status") else 0  # the page's nights are old: STALE, and said so
    assert attractor(*shlex.split(command)[1:]) == expected, command
