"""A real S3 API on loopback for tests: moto's server in a thread, spoken to over HTTP as a bucket is."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import s3fs
from moto.server import ThreadedMotoServer

_names = (f"releases-{number}" for number in itertools.count())


class LoopbackS3:
    """A server that can be stopped and started again, with a fresh bucket."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()
        self.bucket = next(_names)

    @property
    def url(self) -> str:
        """Where releases of this test are."""
        return f"s3://{self.bucket}/attractor"

    @property
    def files(self) -> s3fs.S3FileSystem:
        """For looking into the bucket and for harming it."""
        return s3fs.S3FileSystem(use_listings_cache=False)

    def stop(self) -> None:
        """Nobody answers at the address any more."""
        self._server.stop()

    def start(self) -> None:
        """Answer again, with what the bucket held."""
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()


@contextmanager
def loopback_s3() -> Iterator[LoopbackS3]:
    """The server, with the environment set to it."""
    server = LoopbackS3()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "loopback")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "loopback")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        server.files.mkdir(server.bucket)
        try:
            yield server
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()
