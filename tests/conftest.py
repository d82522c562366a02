"""What every test shares."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.bad_inputs import FED

# Tests run in as many processes as there are cores, each on tiny tensors: threads beside them only wait for each other
# (17 seconds instead of 7 minutes for DICER's on two cores). Set before torch is imported, inherited by every command.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.postgresql_server"]

# Continuous integration draws the same examples each time: a failure there is the change's, and can be repeated here.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-goldens", action="store_true", help="Write what a test found as what it expects.")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FED and "ATTRACTOR_FUZZ" in os.environ:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(FED.items()))
        terminalreporter.write_line(f"bad inputs fed: {FED.total()} ({told})")
