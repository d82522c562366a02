"""What made a part of a release: its artifact, and the night whose feature partitions it read."""

from __future__ import annotations

import datetime as dt

from export import artifacts
from export.artifacts import Artifact
from export.staging import directory_of
from features.configuration import Configuration
from features.errors import MissingInput
from features.releases import Release, open_release, open_releases


def released(
    configuration: Configuration, release_id: str | None, *, model: str, view: str
) -> tuple[Release, Artifact, dt.date]:
    """The live release or the one named, the artifact of its `model`, and the night that made its `view`.

    Raises MissingInput if the release or the artifact is gone.
    """
    store = configuration.releases
    release = open_release(directory_of(store, release_id)) if release_id else open_releases(store).current()
    version, night = release.manifest["models"][model], release.as_of_view(view).date()
    try:
        return release, artifacts.load(configuration.artifacts, version), night
    except MissingInput as error:
        raise MissingInput(f"release {release.release_id} was scored by {version}, which is gone: {error}") from error
