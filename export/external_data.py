"""Where the tensors of an ONNX graph lie: inside the file, or in a file that the artifact's manifest names and hashes.

A graph may point anywhere for its weights, `/etc/passwd` included; the runtime follows what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]  # the stubs cost a dependency

from features.errors import ArtifactCorrupt


def check_external_data(graph: Path, named: Collection[str], *, folder: str = "") -> None:
    """Look where every tensor of a graph file lies; `named` are the files of its artifact, `folder` the graph's there.

    Raises ArtifactCorrupt if one lies in a file that is not among `named`, or the graph cannot be read.
    """
    try:
        model = onnx.load(graph, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ArtifactCorrupt(f"{graph} cannot be read as ONNX: {error}") from error
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            continue
        locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
        if len(locations) != 1 or "/" in locations[0] or f"{folder}/{locations[0]}".lstrip("/") not in named:
            raise ArtifactCorrupt(
                f"{graph}: expected the data of tensor {tensor.name!r} inside, or in one file that the manifest names, "
                f"got {locations}"
            )


def _tensors(message: Message) -> Iterator[Any]:
    """Every tensor below a message: weights, sparse ones, constants of nodes, subgraphs and functions alike."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if field.is_repeated else [value]:
            if isinstance(part, onnx.TensorProto):
                yield part
            yield from _tensors(part)
