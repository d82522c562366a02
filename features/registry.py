"""Where Feast's registry is kept: a file beside the state, or any database by a URL from the environment.

```toml
[registry]
url_variable = "ATTRACTOR_REGISTRY_URL"   # the environment variable that holds it; the URL itself is a secret
```
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import URL

from features.configuration import Configuration
from features.database_url import url_in


@dataclass(frozen=True)
class RegistryConfig:
    """Where the registry is, and whom it names."""

    url_variable: str | None = None  # left out: a file, `registry.db` in the state directory
    owner: str = "attractor"  # of every object: whom a reader of the registry asks


def registry_config(configuration: Configuration) -> RegistryConfig:
    """Section [registry]. Raises ConfigurationError."""
    return configuration.section("registry", RegistryConfig)


def registry_url(configuration: Configuration, *, environment: Mapping[str, str] = os.environ) -> URL | None:
    """The registry's database, None where it is a file.

    Raises ConfigurationError if the variable is not set or holds no URL.
    """
    variable = registry_config(configuration).url_variable
    return url_in(variable, f"{configuration.file}: [registry]", environment=environment) if variable else None


def registry_name(configuration: Configuration) -> str:
    """What to call it where people read: the file, or the variable that holds the URL."""
    variable = registry_config(configuration).url_variable
    return f"${variable}" if variable else str(configuration.registry)
