"""The URL of a database of ours out of an environment variable; the URL is a secret, and no message shows it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from features.errors import ConfigurationError


def url_in(variable: str, section: str, *, environment: Mapping[str, str] = os.environ) -> URL:
    """The URL that `variable` holds, which `section`, such as `attractor.toml: [ledger]`, names.

    PostgreSQL's comes with the driver that is installed with Attractor; SQLAlchemy's own default is another. Raises
    ConfigurationError if the variable is not set or holds no URL.
    """
    if not environment.get(variable):
        raise ConfigurationError(f"{section} url_variable names {variable}, which is not set")
    try:
        url = make_url(environment[variable])
    except ArgumentError:
        told = f"{variable}: expected a database URL such as postgresql://host/name"
        raise ConfigurationError(told) from None  # the cause may show a part of the password
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgresql", "postgres"} else url
