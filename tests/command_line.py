"""The command line as tests run it: in this process, by its exit code and what it prints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from export.cli import main


def attractor(*arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr("sys.argv", ["attractor", *arguments])
        main()
    return int(exit_.value.code or 0)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints with `--json`."""
    capsys.readouterr()
    assert attractor(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)
