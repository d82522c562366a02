"""The settings of KARMA: the sections `[karma]`, `[encoding]` and `[alignment]`, and a command's backbone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from export.artifacts import Artifact
from export.champions import champion, champion_version
from features.configuration import Configuration
from models.karma.config import NAMED, KarmaConfig


@dataclass(frozen=True)
class EncodingConfig:
    """How KARMA's graphs compute the night."""

    precision: Literal["fp32", "int8"] = "fp32"  # of the graphs' products; int8 is quicker on processors made for it
    overlap_floor: float = 0.99  # share of top-100 lists that int8 must leave as they are, or the export refuses it

    def __post_init__(self) -> None:
        if not 0.0 <= self.overlap_floor <= 1.0:
            raise ValueError(f"overlap_floor must be in [0, 1], got {self.overlap_floor}")


@dataclass(frozen=True)
class AlignmentConfig:
    """Whether a new KARMA takes over the standing one's space, and what it may lose by it."""

    align: bool = False  # rotate a new model's vectors into the standing space, where that loses little
    min_cosine: float = 0.95  # mean over held-out items, between the standing vector and the rotated new one
    min_overlap: float = 0.9  # of the held-out items' lists, one side's vectors of either model: the lower of both ways
    held_out: float = 0.25  # share of the items that the rotation is not fitted to
    users: int = 2000  # whose lists are compared
    seed: int = 0  # of the choice of held-out items

    def __post_init__(self) -> None:
        if not (0 <= self.min_cosine <= 1 and 0 <= self.min_overlap <= 1 and 0 < self.held_out < 1):
            raise ValueError(
                "expected min_cosine and min_overlap in [0, 1] and held_out in (0, 1), "
                f"got {self.min_cosine}, {self.min_overlap} and {self.held_out}"
            )
        if self.users < 1:
            raise ValueError(f"expected users >= 1, got {self.users}")


def karma_config(configuration: Configuration) -> KarmaConfig:
    """The section `[karma]`, where `named` chooses the objectives.

    A backbone that is a directory beside the configuration file is found from anywhere.
    """
    karma = configuration.section("karma", KarmaConfig, named=NAMED)
    beside = configuration.file.parent / karma.backbone
    return replace(karma, backbone=str(beside.resolve())) if karma.backbone and beside.is_dir() else karma


def name_of(backbone: str) -> str:
    """A backbone as commands name it, found from anywhere: the full path of a directory seen from here, or a hub id."""
    return str(Path(backbone).resolve()) if Path(backbone).is_dir() else backbone


def with_backbone(configuration: Configuration, backbone: str | None) -> Configuration:
    """The configuration with another backbone, a directory seen from here or an id on the hub; None changes nothing."""
    if backbone is None:
        return configuration
    karma = {**configuration.sections.get("karma", {}), "backbone": name_of(backbone)}
    return replace(configuration, sections={**configuration.sections, "karma": karma})


def standing_karma(configuration: Configuration) -> Artifact | None:
    """The champion that an exported KARMA is aligned to; None where that is not asked for, or there is none."""
    wanted = configuration.section("alignment", AlignmentConfig).align
    return champion(configuration, "karma") if wanted and champion_version(configuration, "karma") else None


def alignment_inputs(configuration: Configuration) -> dict[str, Any]:
    """What an export depends on besides its training; the space and not the artifact, which may be the export's own."""
    standing = standing_karma(configuration)
    if standing is None:
        return {}
    config = asdict(configuration.section("alignment", AlignmentConfig))
    return {"alignment": config | {"space_id": standing.manifest["about"]["space_id"]}}
