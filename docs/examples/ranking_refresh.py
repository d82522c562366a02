"""A consumer's DAG: starts when a release has gone live, and works on that release.

Copy it to your own DAG folder. It needs Airflow and the release store, neither Feast nor torch.

- **Starts** on the asset `attractor_release`; nights that are kept and not served, as a backfill's are, start nothing.
- **At least once**: publishing the live release again announces it again. The release id tells.
- **Several at once**: releases that went live while a run was under way come together; the last one is served.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, task

RELEASE = Asset("attractor_release")

with DAG("ranking_refresh", schedule=[RELEASE], catchup=False, max_active_runs=1, doc_md=__doc__):

    @task
    def newest(triggering_asset_events: Any = None) -> str:
        """The id of the last release that was announced; its night is in `window_end`."""
        event = max(triggering_asset_events[RELEASE], key=lambda event: event.extra["published_at"])
        print(f"{event.extra['release_id']} knows what happened before {event.extra['window_end']}")
        return event.extra["release_id"]

    @task
    def refresh(release_id: str) -> int:
        """Do with the release what the consumer is for; here: count its users."""
        from features.releases import open_releases

        return open_releases().open(release_id).tables["karma_user_interest"].row_count

    refresh(newest())
