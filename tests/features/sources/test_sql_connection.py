"""Where a warehouse's URL comes from, and that its secrets go nowhere."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from features.errors import ConfigurationError, SourceLost
from features.sources import SourceConfig
from features.sources.sql_connection import redacted, translated, warehouse_url

CONNECTION = {
    "conn_type": "postgres",
    "login": "reader",
    "password": "p@ss/word:1",
    "host": "db.example",
    "port": 5433,
    "schema": "shop",
    "extra": {"sslmode": "require", "pool": 3},
}
URL = "postgresql+psycopg://reader:p%40ss%2Fword%3A1@db.example:5433/shop?sslmode=require"


@pytest.mark.parametrize(
    "text",
    [
        URL,
        URL.replace("+psycopg", ""),
        URL.replace("postgresql+psycopg", "postgres") + "&__extra__=%7B%7D",
        json.dumps(CONNECTION),
        json.dumps(CONNECTION | {"extra": json.dumps(CONNECTION["extra"])}),
    ],
)
def test_a_url_comes_in_sqlalchemys_form_or_as_airflows_connection(text: str) -> None:
    url = warehouse_url("SHOP", {"SHOP": f" {text}\n"})
    assert url == sa.make_url(URL)
    assert url.password == "p@ss/word:1"


def test_other_databases_keep_their_drivers() -> None:
    for text in ("sqlite:////data/shop.db", "mysql+pymysql://a:b@c/d", "snowflake://a:b@account/db?warehouse=w"):
        assert warehouse_url("SHOP", {"SHOP": text}) == sa.make_url(text)


@pytest.mark.parametrize("environment", [{}, {"SHOP": ""}, {"SHOP": "  "}])
def test_a_variable_that_is_not_set_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="the environment variable SHOP is not set"):
        warehouse_url("SHOP", environment)


@pytest.mark.parametrize(
    "text",
    ["hunter2", "postgresql://me:hunt@r:hunter2@host:hunter2/db", '{"password": "hunter2"}', '{"password": "hunter2"'],
)
def test_what_is_no_url_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="SHOP to hold a URL") as refused:
        warehouse_url("SHOP", {"SHOP": text})
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


SECRETS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="*"), min_size=4, max_size=20)


@given(password=SECRETS, token=SECRETS)
@settings(max_examples=60, deadline=None)
def test_errors_never_carry_a_password_or_a_token(password: str, token: str) -> None:
    url = sa.URL.create("postgresql", "me", password, "host", query={"api_token": token})
    whole = url.render_as_string(hide_password=False)
    text = f"could not connect with {password!r} ({password}), {token}, {quote_plus(token)}: {whole}"
    cause = OperationalError("SELECT 1", {}, Exception(text))
    with pytest.raises(SourceLost) as lost, translated("the warehouse", url):
        raise cause
    for secret in (password, token, quote_plus(token)):
        assert secret not in redacted(text, url)
        assert secret not in str(lost.value).removeprefix("the warehouse: ").removesuffix(
            "; nothing was landed, and trying again may do"
        ).replace("could not connect with", "")
    assert lost.value.__cause__ is None  # it would show in a traceback


def test_a_driver_or_dialect_that_is_not_installed_is_named() -> None:
    for text in ("oracle+cx_Oracle://a:b@c/d", "nonesuch://a:b@c/d"):
        url = sa.make_url(text)
        with pytest.raises(ConfigurationError, match=r"cx_Oracle|nonesuch"), translated("the warehouse", url):
            sa.create_engine(url)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either `url_variable` or `connection`"),
        ({"url_variable": "A", "connection": "b"}, "either `url_variable` or `connection`"),
        ({"url_variable": "A", "path": "data"}, "`path` goes with"),
        ({"url_variable": "A", "lateness": "soon"}, "expected lateness as days or hours"),
        ({"url_variable": "A", "lateness": "0d"}, "expected lateness as days or hours"),
        ({"url_variable": "A", "tables": {"user": {}}}, "expected tables users, items, events, social_edges, got user"),
        ({"kind": "synthetic", "url_variable": "A"}, "either `url_variable` or `connection`"),
        ({"kind": "synthetic", "lateness": "1d"}, "`lateness` goes with parquet, sql, custom"),
        ({"kind": "parquet", "path": "data", "tables": {"users": {}}}, "`tables` goes with kind sql"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(**{"kind": "sql", **settings})  # type: ignore[arg-type]


def test_an_airflow_connection_is_found_where_airflow_keeps_it_in_the_environment() -> None:
    assert SourceConfig("sql", connection="my_shop").variable == "AIRFLOW_CONN_MY_SHOP"
