"""Which release store a configuration or an address means: a directory, or the verified copy of a bucket."""

from __future__ import annotations

from pathlib import Path

from features.configuration import Configuration
from features.files import sha256_of_json
from features.release_bucket import ReleaseBucket
from features.release_cache import ReleaseCopy, ReleasesConfig
from features.releases import ReleaseStore


def releases_config(configuration: Configuration) -> ReleasesConfig:
    """Section [releases]. Raises ConfigurationError."""
    return configuration.section("releases", ReleasesConfig)


def bucket_of(configuration: Configuration) -> ReleaseBucket | None:
    """The bucket that releases are published to, None where they stay in the state directory."""
    url = releases_config(configuration).url
    return ReleaseBucket(url) if url else None


def open_configured(configuration: Configuration) -> ReleaseStore:
    """For reading: the store in the state directory, or a copy beside it of the bucket that [releases] names."""
    config = releases_config(configuration)
    if not config.url:
        return ReleaseStore(configuration.releases)
    return open_copy(config, configuration.copies, local=configuration.releases)


def open_copy(config: ReleasesConfig, copies: Path, *, local: Path | None = None) -> ReleaseStore:
    """A store that follows a bucket; its copy is below `copies`, in a folder of that bucket alone."""
    bucket = ReleaseBucket(config.url)
    root = copies / sha256_of_json(bucket.url)[:12]
    return ReleaseStore(root, origin=ReleaseCopy(bucket, root, config, local=local))
