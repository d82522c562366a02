"""What `feast apply` registers, over the state of the `attractor.toml` that `configuration.load` finds."""

from features.configuration import load
from features.definitions import define

_definitions = define(load())
attractor = _definitions.project
# Feast takes whatever is an attribute of this module, and unregisters the rest.
globals().update(**_definitions.entities, **_definitions.views, **_definitions.services)
