"""Feast's registry in a database, by one line of attractor.toml: on SQLite, and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from feast import FeatureStore
from sqlalchemy import URL, MetaData, NullPool, create_engine, select

from features.configuration import FILE_NAME, Configuration, load
from features.definitions import define
from features.errors import ConfigurationError
from features.registered import declared, registered
from features.registry import registry_url
from features.store import SETTINGS, SQL_SETTINGS, open_store, register
from tests.features.feature_servers import ROOT

VARIABLE = "REGISTRY_OF_A_TEST"


def configured(folder: Path) -> Configuration:
    file = folder / FILE_NAME
    file.write_text(f'state = "state"\n[registry]\nurl_variable = "{VARIABLE}"\n', encoding="utf-8")
    return load(file)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> URL:
    if request.param == "sqlite":
        url = URL.create("sqlite", database=str(tmp_path / "registry.sqlite"))
    else:
        url = request.getfixturevalue("postgresql_database")
    monkeypatch.setenv(VARIABLE, url.render_as_string(hide_password=False).replace("+psycopg", ""))
    return url


def rows(url: URL) -> Mapping[str, list[Any]]:
    """Every row of every table of the registry."""
    engine, tables = create_engine(url, poolclass=NullPool), MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return {
            name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for name, table in tables.tables.items()
        }


def test_a_database_holds_what_the_file_would(url: URL, tmp_path: Path) -> None:
    """Registered by two at once, and then again, which writes nothing."""
    configuration = configured(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        told = [done.result()["changes"] for done in [threads.submit(register, configuration) for _ in range(2)]]
    assert min(told) == 0 < max(told)
    assert registered(configuration) == declared(configuration)
    services = open_store(configuration).list_feature_services()
    assert {service.name for service in services} == set(define(configuration).services)
    assert not configuration.registry.exists()

    before = rows(url)
    assert len(before["feature_view_version_history"]) == len(declared(configuration))
    assert register(configuration)["changes"] == 0
    assert rows(url) == before


def test_what_is_defined_no_longer_is_registered_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/registry.sqlite")
    configuration = configured(tmp_path)
    register(configuration)
    retired = define(configuration).views["social_graph"]
    retired.name = "retired"
    open_store(configuration).apply([retired])
    assert register(configuration)["changes"] == 1
    assert set(registered(configuration)) == set(declared(configuration))


def test_the_two_settings_differ_in_the_registry_alone() -> None:
    file, sql = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (SETTINGS, SQL_SETTINGS))
    assert file.pop("registry") != sql.pop("registry")
    assert file == sql


def test_the_file_is_refused_where_a_database_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(configured(tmp_path).file))
    with pytest.raises(ConfigurationError, match=rf"{VARIABLE}.*feast -c features -f .*feature_store_sql.yaml"):
        FeatureStore(repo_path=str(ROOT / "features")).list_feature_views()
    assert not (tmp_path / "state").exists()


def test_the_url_is_told_by_nobody(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    with pytest.raises(ConfigurationError, match=f"registry.*names {VARIABLE}, which is not set"):
        registry_url(configuration, environment={})
    with pytest.raises(ConfigurationError, match="expected a database URL") as refused:
        registry_url(configuration, environment={VARIABLE: "hidden"})
    assert "hidden" not in str(refused.value)
