"""What Feast's registry says of our views, beside what the contracts say, as plain values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from feast import FeatureView

from features.configuration import Configuration
from features.definitions import PROJECT, define
from features.registry import registry_url
from features.store import open_store


@dataclass(frozen=True)
class View:
    """One feature view: how long a row holds, its features and their types, and how often it was materialised."""

    name: str
    ttl: dt.timedelta
    features: Mapping[str, str]
    materializations: int


def declared(configuration: Configuration) -> dict[str, View]:
    """The views that the contracts give, by name."""
    return {name: _view(view) for name, view in define(configuration).views.items()}


def registered(configuration: Configuration) -> dict[str, View]:
    """The views that the registry holds, by name; none where nothing was registered yet."""
    if registry_url(configuration) is None and not configuration.registry.is_file():
        return {}
    found = open_store(configuration).registry.list_feature_views(PROJECT)
    return {view.name: _view(view) for view in found}


def _view(view: FeatureView) -> View:
    features = {field.name: str(field.dtype) for field in view.features}
    return View(view.name, view.ttl or dt.timedelta(), features, len(view.materialization_intervals))
