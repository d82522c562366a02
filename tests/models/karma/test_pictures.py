"""Picture files: one vector a content, by the vision tower itself; what is missing is null, what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from export.cli import main
from features.errors import ConfigurationError, ContractViolation
from models.karma import pictures
from models.karma.backbones import load_pretrained
from models.karma.pictures import picture_files, picture_vectors, with_pictures, write_pictures
from tests.backbone_checkpoints import write_checkpoint

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("vision"), "qwen3_vl"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two red pictures with the same bytes, a blue one, a palette with transparency, and something else."""
    folder = tmp_path / "files"
    folder.mkdir()
    Image.new("RGB", (40, 24), RED).save(folder / "i001.png")
    (folder / "i002.png").write_bytes((folder / "i001.png").read_bytes())
    Image.new("RGB", (24, 40), BLUE).save(folder / "i003.webp", lossless=True)
    Image.new("RGBA", (17, 90), (0, 255, 0, 128)).convert("P").save(folder / "i004.gif")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_a_vector_is_the_mean_of_the_towers_soft_tokens(backbone: str, files: Path, tmp_path: Path) -> None:
    vectors = picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")
    assert set(vectors) == {"i001", "i002", "i003", "i004"}
    assert all(vector.shape == (16,) and np.isfinite(vector).all() for vector in vectors.values())
    # By hand, a red picture of 32 x 32 pixels: 4 x 4 patches of 8 pixels, two frames each, all of them alike.
    Image.new("RGB", (32, 32), RED).save(files / "i005.png")
    again = picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    colour = torch.tensor((np.array(RED) / 255 - mean) / deviation, dtype=torch.float32)
    patches = colour.repeat_interleave(2 * 8 * 8).expand(16, -1)
    tower = load_pretrained(backbone).model.visual.eval()
    with torch.no_grad():
        tokens = tower(patches, grid_thw=torch.tensor([[1, 4, 4]])).pooler_output
    assert tokens.shape == (4, 16)
    assert np.abs(again["i005"] - tokens.mean(dim=0).numpy()).max() < 1e-5


def test_a_content_is_encoded_once(backbone: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = pictures._opened
    monkeypatch.setattr(pictures, "_opened", lambda path: opened.append(path) or real(path))
    first = picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")
    assert len(opened) == 3, "i001 and i002 are one content"
    assert np.array_equal(first["i001"], first["i002"])
    assert not np.allclose(first["i001"], first["i003"])
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "vision_tower", lambda *_, **__: pytest.fail("nothing was new"))
        again = picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")
    assert all(np.array_equal(first[item], again[item]) for item in first)
    Image.new("RGB", (40, 24), BLUE).save(files / "i001.png")
    changed = picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")
    assert len(opened) == 4
    assert not np.allclose(changed["i001"], first["i001"])


def test_orientation_is_that_of_the_camera(backbone: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    shown = Image.new("RGB", (48, 24), RED)
    shown.paste(BLUE, (0, 0, 24, 24))
    shown.save(folder / "upright.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying: to be turned by 90 degrees when shown
    shown.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=turned)
    vectors = picture_vectors(picture_files(folder), backbone, cache=tmp_path / "cache")
    assert np.allclose(vectors["upright"], vectors["turned"], atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a picture at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_a_file_that_is_no_picture_is_named(backbone: str, files: Path, tmp_path: Path, content: bytes) -> None:
    (files / "i009.png").write_bytes(content)
    with pytest.raises(ContractViolation, match=r"readable picture of item 'i009', got '.*i009.png'"):
        picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")


def test_a_picture_that_unpacks_to_a_disaster_is_refused(
    backbone: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(ContractViolation, match="readable picture of item"):
        picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")


def test_a_picture_too_long_and_thin_for_the_tower_is_named(backbone: str, files: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1, 4000)).save(files / "i009.png")
    with pytest.raises(
        ContractViolation, match=r"readable picture of item 'i009' \(.*aspect ratio.*\), got '.*i009.png'"
    ):
        picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")
    kept = picture_vectors({"i001": files / "i001.png"}, backbone, cache=tmp_path / "cache")
    assert np.isfinite(kept["i001"]).all(), "what came before it is kept"


def test_what_pillow_says_by_a_value_error_is_named_too(backbone: str, tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("comment", "x" * 90_000_000, zip=True)  # more than Pillow unpacks
    Image.new("RGB", (8, 8)).save(tmp_path / "i001.png", pnginfo=text)
    with pytest.raises(ContractViolation, match="readable picture of item 'i001'"):
        picture_vectors({"i001": tmp_path / "i001.png"}, backbone, cache=tmp_path / "cache")


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    def shown(picture: Image.Image, name: str) -> tuple[int, ...]:
        picture.save(tmp_path / name)
        opened = pictures._opened(tmp_path / name)
        assert opened.mode == "RGB"
        return opened.getpixel((0, 0))  # type: ignore[return-value]

    assert shown(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "clear.png") == (255, 255, 255)
    assert shown(Image.new("RGBA", (4, 4), (255, 0, 0, 255)), "opaque.png") == RED
    half = shown(Image.new("LA", (4, 4), (0, 128)), "half.png")
    assert half == pytest.approx((127, 127, 127), abs=1)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0])
    palette.info["transparency"] = 0
    assert shown(palette, "palette.png") == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_numbers_without_a_white_refused(backbone: str, tmp_path: Path) -> None:
    grey = np.full((4, 4), 128 * 256, np.uint16)
    Image.fromarray(grey).save(tmp_path / "i001.png")
    assert pictures._opened(tmp_path / "i001.png").getpixel((0, 0)) == (128, 128, 128)
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "i002.tiff")
    with pytest.raises(ContractViolation, match=r"item 'i002' \(numbers of mode F say nothing"):
        picture_vectors({"i002": tmp_path / "i002.tiff"}, backbone, cache=tmp_path / "cache")


def test_a_vector_that_is_cut_short_is_made_anew(backbone: str, files: Path, tmp_path: Path) -> None:
    first = picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")
    for content in (b"", b"\x93NUMPY", None):
        for place in (tmp_path / "cache").rglob("*.npy"):
            place.write_bytes(place.read_bytes()[:100] if content is None else content)
        again = picture_vectors(picture_files(files), backbone, cache=tmp_path / "cache")
        assert all(np.array_equal(again[item], vector) for item, vector in first.items())


def test_an_item_table_that_is_none_is_told(files: Path, tmp_path: Path) -> None:
    out = {"backbone": "none", "cache": tmp_path / "cache"}
    (tmp_path / "items.parquet").write_text("item_id,title")
    with pytest.raises(ConfigurationError, match=r"items.parquet: expected Parquet, "):
        write_pictures(tmp_path / "items.parquet", files, tmp_path / "out.parquet", **out)
    pq.write_table(pa.table({"id": ["a"], "title": ["b"]}), tmp_path / "items.parquet")
    with pytest.raises(ConfigurationError, match="expected a column item_id, got id, title"):
        write_pictures(tmp_path / "items.parquet", files, tmp_path / "out.parquet", **out)


def test_two_files_of_one_item_are_refused(files: Path) -> None:
    Image.new("RGB", (8, 8)).save(files / "i001.jpg")
    with pytest.raises(ContractViolation, match=r"one picture file an item, got 'i001.jpg and i001.png'"):
        picture_files(files)


def test_what_sees_no_pictures_is_refused(files: Path, tmp_path: Path) -> None:
    blind = str(write_checkpoint(tmp_path / "blind", "qwen3"))
    with pytest.raises(ConfigurationError, match="expected a vision-language model"):
        picture_vectors(picture_files(files), blind, cache=tmp_path / "cache")
    with pytest.raises(ConfigurationError, match="expected a directory"):
        picture_files(tmp_path / "nowhere")


def test_the_column_replaces_one_that_stood_there() -> None:
    table = pa.table({"item_id": [1, 2], "picture": [[1.0], None], "title": ["a", "b"]})
    written = with_pictures(table, {"2": np.array([3.0, 4.0], np.float32)})
    assert written.column("picture").to_pylist() == [None, [3.0, 4.0]]
    assert written.column("title").to_pylist() == ["a", "b"]


def test_the_command_writes_an_item_table_with_vectors(
    backbone: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"item_id": ["i001", "i003", "i777", "../i004"]}), tmp_path / "items.parquet")
    options = {"--items": tmp_path / "items.parquet", "--files": files, "--backbone": backbone}
    options |= {"--out": tmp_path / "out" / "items.parquet", "--cache": tmp_path / "cache"}
    given = [str(part) for option in options.items() for part in option]
    monkeypatch.setattr("sys.argv", ["attractor", "pictures", *given, "--json"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    told = json.loads(capsys.readouterr().out)
    assert told == {"items with a picture": 2, "items without": 2, "files of no item": 2}
    written = pq.read_table(tmp_path / "out" / "items.parquet")
    assert [value is not None for value in written["picture"].to_pylist()] == [True, True, False, False]
