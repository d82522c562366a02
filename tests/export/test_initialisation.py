"""What `attractor init` writes can be read back, and never loses what stood there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from export.initialisation import DEFAULTS, configuration_text, initialise
from features.configuration import load


@pytest.mark.parametrize("kind", list(DEFAULTS))
def test_the_text_is_a_configuration(tmp_path: Path, kind: str) -> None:
    source = {"kind": kind, "path": 'C:\\data "quoted" café'}
    assert initialise(tmp_path / "attractor.toml", configuration_text(source)) is None
    configuration = load(tmp_path / "attractor.toml")
    assert configuration.sections["source"] == source
    assert configuration.state.parent == tmp_path / ".attractor"


def test_two_sources_never_share_a_state() -> None:
    states = {
        tomllib.loads(configuration_text({"kind": "parquet", "path": path}))["state"] for path in ("/a", "/b", "/a")
    }
    assert len(states) == 2


def test_the_configuration_before_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "attractor.toml"
    file.write_text('state = "mine"\n')
    kept = initialise(file, configuration_text({"kind": "synthetic"}))
    assert kept is not None
    assert kept.read_text() == 'state = "mine"\n'
    assert initialise(file, file.read_text()) is None
    assert kept.read_text() == 'state = "mine"\n'
