"""`feast apply`, `plan` and `ui` from `features/`, as commands; `serve` is in test_online_store_servers.py.

One world for all of them, because each process takes seconds to import Feast.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from feast import FeatureStore

from features.configuration import FILE_NAME, Configuration, load
from features.definitions import PROJECT, define
from features.store import register
from tests.features.feature_servers import FEATURES, feast, serving


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """A state that `feast apply` registered."""
    file = tmp_path_factory.mktemp("commands") / FILE_NAME
    file.write_text('state = "state"\n', encoding="utf-8")
    configuration = load(file)
    feast(configuration, "apply")
    return configuration


def test_apply_registers_what_the_register_stage_does(applied: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(applied.file))
    definitions, store = define(applied), FeatureStore(repo_path=str(FEATURES))
    assert {view.name for view in store.list_feature_views()} == set(definitions.views)
    assert {service.name for service in store.list_feature_services()} == set(definitions.services)
    assert register(applied)["changes"] == 0


def test_plan_reads_a_registry_in_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRACTOR_REGISTRY_URL", f"sqlite:///{tmp_path}/registry.sqlite")
    file = tmp_path / FILE_NAME
    file.write_text('state = "state"\n[registry]\nurl_variable = "ATTRACTOR_REGISTRY_URL"\n', encoding="utf-8")
    configuration = load(file)
    register(configuration)
    told = feast(configuration, "-f", "feature_store_sql.yaml", "plan")
    assert "No changes to registry" in told
    assert not configuration.registry.exists()


def test_ui_shows_the_registry_on_loopback(applied: Configuration, tmp_path: Path) -> None:
    with (
        serving(applied, tmp_path / "ui.log", "ui") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        page = client.get("/")
        assert page.status_code == 200
        assert '<div id="root">' in page.text
        script = page.text.partition('src="')[2].partition('"')[0]
        assert client.get(script).status_code == 200, "the package comes with the built pages"
        assert [project["id"] for project in client.get("/projects-list.json").json()["projects"]] == [PROJECT]
        views = client.get("/api/v1/feature_views", params={"project": PROJECT}).json()["featureViews"]
        assert {view["spec"]["name"] for view in views} == set(define(applied).views)
        assert {view["spec"]["owner"] for view in views} == {"attractor"}
        services = client.get("/api/v1/feature_services", params={"project": PROJECT}).json()["featureServices"]
        assert {service["spec"]["name"] for service in services} == set(define(applied).services)
