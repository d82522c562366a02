"""What the ranking team registers: Attractor's histories, held by the team's own online store, and a view made of them.

Copy the folder. `$ATTRACTOR_CONFIG` names the attractor.toml whose tables are read.
"""

from datetime import timedelta

import pandas as pd
from feast import FeatureService, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64

from features.configuration import load
from features.definitions import define

attractor = define(load(), online=["user_history"])
user = attractor.entities["user"]

user_history = attractor.views["user_history"]
user_history.ttl = timedelta(days=7)  # ours to say: how long a user may be without a new night


@on_demand_feature_view(
    sources=[user_history[["history_length", "user_event_count"]]],
    schema=[Field(name="unlisted_event_count", dtype=Int64)],  # Feast infers it, and takes no description
    description="How many events the history leaves out",
    owner="ranking-team",
)
def history_rest(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"unlisted_event_count": rows["user_event_count"] - rows["history_length"]})


sequence_v1 = FeatureService(
    name="sequence_v1",
    features=[user_history, history_rest],
    description="The last events of a user, for a sequence model",
    owner="ranking-team",
)
