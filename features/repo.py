"""What `feast apply` registers, over the state of the `attractor.toml` that `configuration.load` finds."""

from features.configuration import load
from features.definitions import define

_definitions = define(load())

attractor = _definitions.project
user, item = (_definitions.entities[name] for name in ("user", "item"))

user_history = _definitions.views["user_history"]
item_catalog = _definitions.views["item_catalog"]
social_graph = _definitions.views["social_graph"]
item_audience = _definitions.views["item_audience"]
karma_user_interest = _definitions.views["karma_user_interest"]
karma_item_embedding = _definitions.views["karma_item_embedding"]
dicer_user_attraction = _definitions.views["dicer_user_attraction"]

karma_training_v1 = _definitions.services["karma_training_v1"]
dicer_training_v1 = _definitions.services["dicer_training_v1"]
recall_v1 = _definitions.services["recall_v1"]
pre_ranking_v1 = _definitions.services["pre_ranking_v1"]
ranking_v1 = _definitions.services["ranking_v1"]
