"""Picture files as picture vectors: the vision tower of a vision-language model (Qwen3-VL), pooled, once per content.

A picture's vector is the mean of the soft tokens that the model itself would read for it [tokens, H] -> [H]. It becomes
the `picture` of the item table, and from there on it is a feature like any other: landed, checked, dated, projected to
KARMA's one soft token. The tower runs neither in training nor at night.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm
from transformers import AutoImageProcessor

from features.errors import ConfigurationError, ContractViolation
from features.files import replacing_file, sha256_of_file, sha256_of_json
from models.karma.backbones import explained, fingerprint_of, load_pretrained

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

Vector = NDArray[np.float32]

_READING = "alpha over white, 16 bits to 8"
"""How files become pixels, part of a cached vector's address: a vector of another reading is not found."""


def picture_files(directory: Path) -> dict[str, Path]:
    """The picture of each item: the file named `<item id>.<suffix>` in `directory`.

    Raises ContractViolation if two files are of one item, ConfigurationError if there is no such directory.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"picture files: expected a directory, got {directory}")
    files: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            if path.stem in files:
                rule, found = "one picture file an item", f"{files[path.stem].name} and {path.name}"
                raise ContractViolation("items", "picture", rule, value=found)
            files[path.stem] = path
    return files


def picture_vectors(
    files: Mapping[str, Path], backbone: str, *, revision: str = "main", cache: Path
) -> dict[str, Vector]:
    """The vector of each item's picture file; only contents that `cache` does not hold are computed.

    Raises ContractViolation naming item and file where one cannot be read as a picture, or is too long and thin for the
    backbone; ConfigurationError where that is no vision-language model.
    """
    store = cache / sha256_of_json([fingerprint_of(backbone, revision), _READING])[:16]
    places = {item: store / f"{sha256_of_file(path)}.npy" for item, path in files.items()}
    known = {place: vector for place in set(places.values()) if (vector := _kept(place)) is not None}
    missing = {place: item for item, place in places.items() if place not in known}
    if missing:
        encode = vision_tower(backbone, revision=revision)
        for place, item in tqdm(missing.items(), desc="pictures", disable=None, leave=False):
            with _readable(item, files[item]):
                known[place] = encode(_opened(files[item]))
            with replacing_file(place) as temporary, temporary.open("wb") as stream:
                np.save(stream, known[place], allow_pickle=False)
    return {item: known[place] for item, place in places.items()}


def _kept(place: Path) -> Vector | None:
    """The vector at `place`; None where there is none, or what is left of one: it is made anew."""
    try:
        vector: Vector = np.load(place, allow_pickle=False)
    except (FileNotFoundError, EOFError, ValueError):
        return None
    return vector


def write_pictures(
    items: Path, files: Path, out: Path, *, backbone: str, revision: str = "main", cache: Path
) -> dict[str, int]:
    """Write the item table `items` (Parquet) with the vectors of the pictures in `files` to `out`; returns counts.

    Raises ContractViolation and ConfigurationError as `picture_files` and `picture_vectors`, and for an item table that
    is not Parquet or has no `item_id`.
    """
    table, found = _item_table(items), picture_files(files)
    known = set(table.column("item_id").cast(pa.string()).to_pylist())
    wanted = {item: path for item, path in found.items() if item in known}
    written = with_pictures(table, picture_vectors(wanted, backbone, revision=revision, cache=cache))
    with replacing_file(out) as temporary:
        pq.write_table(written, temporary)
    return {
        "items with a picture": len(wanted),
        "items without": len(known) - len(wanted),
        "files of no item": len(found) - len(wanted),
    }


def _item_table(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"item table {path}: expected Parquet, {str(error).splitlines()[0]}") from error
    if "item_id" not in table.column_names:
        raise ConfigurationError(f"item table {path}: expected a column item_id, got {', '.join(table.column_names)}")
    return table


def with_pictures(items: pa.Table, vectors: Mapping[str, Vector]) -> pa.Table:
    """The item table with `vectors` as its column `picture`; null for an item that has none."""
    ids = items.column("item_id").cast(pa.string()).to_pylist()
    column = pa.array([vectors.get(item) for item in ids], pa.list_(pa.float32()))
    rest = items.drop_columns(["picture"]) if "picture" in items.column_names else items
    return rest.append_column("picture", column)


def vision_tower(backbone: str, *, revision: str = "main") -> Callable[[Image.Image], Vector]:
    """A function from a picture to its vector [H]. Raises ConfigurationError if the backbone sees no pictures."""
    model = load_pretrained(backbone, revision=revision)
    tower = getattr(getattr(model, "model", None), "visual", None)
    if tower is None:
        raise ConfigurationError(
            f"backbone {backbone!r}: expected a vision-language model (Qwen3-VL) for picture files"
        )
    with explained(backbone):
        prepare = AutoImageProcessor.from_pretrained(
            backbone, revision=revision, trust_remote_code=False, backend="pil"
        )

    @torch.no_grad()
    def encode(picture: Image.Image) -> Vector:
        given = prepare(images=[picture], return_tensors="pt")
        tokens = tower(given["pixel_values"], grid_thw=given["image_grid_thw"]).pooler_output
        vector: Vector = tokens.mean(dim=0).float().numpy()
        return vector

    tower.eval()
    return encode


@contextmanager
def _readable(item: str, path: Path) -> Iterator[None]:
    """Turn what Pillow and the backbone's preparation raise about a picture into one that names it."""
    try:
        yield
    # Pillow says by any of these that bytes are no picture, transformers by ValueError that one is too long and thin
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = "" if isinstance(error, OSError) else f" ({error})"  # the others say more than that it is none
        raise ContractViolation(
            "items", "picture", f"a readable picture of item {item!r}{reason}", value=str(path)
        ) from error


def _opened(path: Path) -> Image.Image:
    """As a person sees it: upright, and what is transparent over white."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")  # Pillow would clip at 255
    if picture.mode in ("I", "F"):
        raise ValueError(f"numbers of mode {picture.mode} say nothing of what is black and white")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")
