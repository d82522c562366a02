"""attractor.toml: found, parsed, and refused with the place and the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from features.configuration import load
from features.errors import ConfigurationError


@dataclass(frozen=True)
class Example:
    rows: int = 10
    label: str = "none"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "attractor.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_sections_take_the_defaults_of_their_dataclass(tmp_path: Path) -> None:
    configuration = load(write(tmp_path, 'state = "state"\n[features]\nrows = 3\n'))
    assert configuration.section("features", Example) == Example(rows=3)
    assert configuration.section("karma", Example) == Example()
    assert configuration.state == tmp_path / "state"


def test_a_named_configuration_gives_what_is_left_out(tmp_path: Path) -> None:
    named = {"large": lambda: Example(rows=1000, label="large")}
    configuration = load(
        write(tmp_path, "state = 'x'\n[features]\nnamed = 'large'\nlabel = 'mine'\n[karma]\nnamed = 'small'\n")
    )
    assert configuration.section("features", Example, named=named) == Example(rows=1000, label="mine")
    with pytest.raises(ConfigurationError, match=r"\[karma\] named 'small': it may be large"):
        configuration.section("karma", Example, named=named)
    with pytest.raises(ConfigurationError, match="no setting 'named'"):
        configuration.section("features", Example)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("state = 'x'\n[features]\nrwos = 3\n", "rwos"),
        ("state = 'x'\n[features]\nrows = 'many'\n", "rows"),
        ("state = 'x'\n[karmma]\n", "karmma"),
        ("[features]\n", "state"),
        ("state = ", "attractor.toml"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(write(tmp_path, text)).section("features", Example)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="attractor init"):
        load(tmp_path / "nowhere.toml")


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(write(tmp_path, 'state = "here"\n')))
    assert load().state == tmp_path / "here"


def test_a_folder_below_finds_the_file_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATTRACTOR_CONFIG", raising=False)
    write(tmp_path, 'state = "here"\n')
    (tmp_path / "features").mkdir()
    monkeypatch.chdir(tmp_path / "features")
    assert load().file == tmp_path / "attractor.toml"
