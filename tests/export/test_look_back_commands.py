"""`attractor diff`, `erase`, `gc`, `mirror`, `releases`, `status` and `rollback` as people and machines call them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import yaml

from export import release
from features.configuration import Configuration, load
from features.errors import MissingInput
from features.releases import POINTER, RELEASES
from tests.command_line import attractor, told
from tests.scored_nights import publish_night, tables

NIGHT = dt.date(2026, 3, 10)
DAY = dt.timedelta(days=1)
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    file = tmp_path / "attractor.toml"
    file.write_text('state = "state"\n')
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(file))
    return load()


def test_diff_compares_the_last_two_one_with_the_live_and_any_two(
    configuration: Configuration, capsys: Captured
) -> None:
    nights = [
        publish_night(configuration, NIGHT + number * DAY, tables(users=20 + number, seed=number))
        for number in range(3)
    ]
    found = told(capsys, "diff")
    assert (found["before"], found["now"]) == (nights[1], nights[2])
    assert found["rows"]["karma_user_interest"] == {"before": 21, "now": 22, "joined": 1, "left": 0}
    assert (told(capsys, "diff", nights[0])["before"], told(capsys, "diff", nights[0])["now"]) == (nights[0], nights[2])
    back = told(capsys, "diff", nights[1], nights[0])
    assert (back["before"], back["now"]) == (nights[1], nights[0])
    capsys.readouterr()
    assert attractor("diff", "--most", "1") == 0
    text = capsys.readouterr().out
    assert f"from {nights[1]} to {nights[2]}" in text
    assert "cosine of interests" in text
    assert "user_history of 2026-03-11 or 2026-03-12 is not on disk" in text


def test_diff_needs_two_releases(configuration: Configuration, capsys: Captured) -> None:
    assert attractor("diff") == 1
    assert "no release is published" in capsys.readouterr().err
    publish_night(configuration, NIGHT)
    assert attractor("diff") == 1
    assert "no release before" in capsys.readouterr().err
    assert attractor("diff", "2026-01-01-000000000000") == 1
    assert "2026-01-01-000000000000" in capsys.readouterr().err


def test_gc_keeps_three_and_says_what_it_would_do(configuration: Configuration, capsys: Captured) -> None:
    nights = [publish_night(configuration, NIGHT + number * DAY) for number in range(5)]
    assert attractor("gc", "--keep", "2") == 2
    assert told(capsys, "gc", "--keep", "3", "--dry-run")["deleted"] == nights[:2]
    assert len(told(capsys, "releases")) == 5
    assert told(capsys, "gc", "--keep", "3")["kept"] == nights[2:]
    assert [entry["release_id"] for entry in told(capsys, "releases")] == nights[:1:-1]
    assert told(capsys, "gc", "--keep", "3")["deleted"] == []


def test_gc_keeps_the_live_one_and_the_one_before_however_old(configuration: Configuration, capsys: Captured) -> None:
    nights = [publish_night(configuration, NIGHT + number * DAY) for number in range(6)]
    assert told(capsys, "rollback", "--to", nights[1])["previous"] == nights[0]
    assert told(capsys, "gc", "--keep", "3")["kept"] == [nights[0], nights[1], *nights[3:]]
    status = told(capsys, "status")
    assert (status["live"]["release_id"], status["previous"], status["kept"]) == (nights[1], nights[0], 5)
    assert told(capsys, "rollback")["release_id"] == nights[0]


def test_gc_before_anything_is_published(configuration: Configuration, capsys: Captured) -> None:
    assert attractor("gc") == 1
    assert "nothing to collect" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["", "nonsense", "../2026-03-10-0123456789ab", "2026-99-10-0123456789ab", "٢٠٢٦-03-10-0123456789ab"]
)
def test_what_is_no_release_id_is_a_wrong_usage_wherever_one_is_asked_for(
    configuration: Configuration, capsys: Captured, name: str
) -> None:
    first, second = (publish_night(configuration, NIGHT + number * DAY) for number in range(2))
    for command in (
        *(("audit", name), ("publish", name), ("verify", name), ("diff", name), ("diff", first, name)),
        *(("rollback", "--to", name), ("mirror", "--to", "x", "--release", name)),
        ("explain", "--user", "u", "--item", "i", "--release", name),
    ):
        assert attractor(*command) == 2, command
        assert f"expected a release id such as 2026-03-01-0123456789ab, got {name!r}" in capsys.readouterr().err
    with pytest.raises(MissingInput):
        release.rollback(configuration, published_at=dt.datetime(2026, 3, 12, tzinfo=dt.UTC), to=name)
    assert told(capsys, "status")["live"]["release_id"] == second


def test_a_dry_rollback_reads_the_release_and_moves_nothing(configuration: Configuration, capsys: Captured) -> None:
    first, second, third = (publish_night(configuration, NIGHT + number * DAY) for number in range(3))
    before = (configuration.releases / POINTER).read_bytes()
    found = told(capsys, "rollback", "--dry-run")
    assert (found["release_id"], found["live"], found["dry_run"]) == (second, False, True)
    assert found["sentence"] == f"{second} is whole and would be live again instead of {third}"
    rows = configuration.releases / RELEASES / first / "karma_user_interest" / "rows.arrow"
    rows.write_bytes(rows.read_bytes()[:-1])
    assert attractor("rollback", "--to", first, "--dry-run") == 1
    assert "rows.arrow" in capsys.readouterr().err
    assert (configuration.releases / POINTER).read_bytes() == before


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The feature_store.yaml of a team that has a standard store."""
    target = tmp_path / "team" / "feature_store.yaml"
    target.parent.mkdir()
    settings = {
        "project": "team",
        "provider": "local",
        "registry": str(tmp_path / "registry.db"),
        "online_store": {"type": "sqlite", "path": str(tmp_path / "online.db")},
        "entity_key_serialization_version": 3,
    }
    target.write_text(yaml.safe_dump(settings))
    return target


def test_a_dry_mirror_counts_and_touches_neither_store(
    configuration: Configuration, target: Path, capsys: Captured
) -> None:
    publish_night(configuration, NIGHT, tables(users=20))
    before = sorted(configuration.file.parent.rglob("*"))
    rows = [
        (view["rows"], view["emptied"]) for view in told(capsys, "mirror", "--to", str(target), "--dry-run")["views"]
    ]
    assert rows == [(20, 0), (12, 0), (20, 0)]
    assert sorted(configuration.file.parent.rglob("*")) == before
    told(capsys, "mirror", "--to", str(target))
    publish_night(configuration, NIGHT + DAY, tables(users=17))
    assert attractor("mirror", "--to", str(target), "--dry-run") == 0
    assert "karma_user_interest: 17 rows to write, 3 who left to set to null" in capsys.readouterr().out


def test_erasing_names_the_mirror_that_has_the_user_until_it_is_mirrored_again(
    configuration: Configuration, target: Path, capsys: Captured
) -> None:
    publish_night(configuration, NIGHT)
    told(capsys, "mirror", "--to", str(target))
    assert told(capsys, "erase", "--user", "user 3", "--dry-run")["mirrors"] == [str(target)]
    assert attractor("erase", "--user", "user 3") == 1
    assert capsys.readouterr().err == (
        f"a mirror has the user: run `attractor mirror --to {target}`, then this again\n"
    )
    views = told(capsys, "mirror", "--to", str(target))["views"]
    assert [(view["rows"], view["emptied"]) for view in views] == [(19, 1), (12, 0), (19, 1)]
    found = told(capsys, "erase", "--user", "user 3")
    assert (found["left"], found["mirrors"]) == (0, [])


def test_mirror_tells_each_view_and_fails_where_a_row_differs(
    configuration: Configuration, target: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id = publish_night(configuration, NIGHT)
    found = told(capsys, "mirror", "--to", str(target))
    assert (found["release_id"], found["mismatches"]) == (release_id, 0)
    assert [view["compared"] for view in found["views"]] == [20, 12, 20]

    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    write = SqliteOnlineStore.online_write_batch
    monkeypatch.setattr(SqliteOnlineStore, "online_write_batch", lambda *given: None)  # a store that drops writes
    publish_night(configuration, NIGHT + DAY)
    assert attractor("mirror", "--to", str(target)) == 1
    streams = capsys.readouterr()
    assert "20 rows written, 0 who left set to null, 20 compared, 20 differ" in streams.out
    assert "rows of the mirror are not those of the release" in streams.err
    monkeypatch.setattr(SqliteOnlineStore, "online_write_batch", write)
    assert told(capsys, "mirror", "--to", str(target), "--release", release_id)["mismatches"] == 0
