"""The audit between staging and publication: the gates of `export/gates.py` over the figures of one release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.audit_subjects import subjects
from export.drafts import exclusive_store
from export.gates import PARTS, PASSED, AuditConfig, Verdict, verdicts
from export.staging import directory_of, is_released, standing
from features.configuration import Configuration
from features.errors import ArtifactCorrupt
from features.files import write_json
from features.releases import AUDIT, MANIFEST, READY, RELEASES, open_release, read_object, read_pointer

REFUSED = "refused"


@dataclass(frozen=True)
class AuditReport:
    """Every verdict on one release, and what it was compared with."""

    release_id: str
    live: str | None  # what drift and overlap are measured against
    last: tuple[str, ...]  # what the floors look back on, oldest night first
    config: AuditConfig
    gates: tuple[Verdict, ...] = ()

    @property
    def refused(self) -> list[str]:
        """The sentences of the gates that did not pass; empty if the release may be served."""
        return [gate.sentence for gate in self.gates if gate.decision != PASSED]

    @property
    def sound_parts(self) -> list[str]:
        """The models whose part of the night no gate refused."""
        bad = {part for gate in self.gates if gate.decision != PASSED for part in gate.parts}
        return [part for part in PARTS if part not in bad]

    def record(self) -> dict[str, Any]:
        """As the JSON of `audit.json`."""
        return {
            "release_id": self.release_id,
            "decision": REFUSED if self.refused or not self.gates else PASSED,
            "live": self.live,
            "last": list(self.last),
            "config": asdict(self.config),
            "gates": [asdict(gate) | {"parts": list(gate.parts)} for gate in self.gates],
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> AuditReport:
        """From the JSON of `audit.json`."""
        gates = tuple(Verdict(**gate | {"parts": tuple(gate["parts"])}) for gate in record["gates"])
        return cls(record["release_id"], record["live"], tuple(record["last"]), AuditConfig(**record["config"]), gates)


def audit(configuration: Configuration, release_id: str) -> AuditReport:
    """Judge a staged release and leave `audit.json` beside it; the verdict on one already released stands.

    Raises MissingInput if there is no such release, ArtifactCorrupt if its files are not what was staged.
    """
    with exclusive_store(configuration.releases):
        return audit_held(configuration, release_id)


def audit_held(configuration: Configuration, release_id: str) -> AuditReport:
    """`audit`, for one who holds the store's lock."""
    store = configuration.releases
    directory = directory_of(store, release_id)
    if is_released(store, release_id):
        return AuditReport.of(read_object(directory / AUDIT))
    config = configuration.section("audit", AuditConfig)
    report = judge(directory, config, live=live_before(store, release_id), last=_last(store, release_id, config))
    write_json(directory / AUDIT, report.record())
    return report


def standing_report(configuration: Configuration, release_id: str) -> AuditReport | None:
    """The report beside a release if it was made with the same thresholds against the same releases."""
    store = configuration.releases
    directory = directory_of(store, release_id)
    if not (directory / AUDIT).is_file():
        return None
    report = AuditReport.of(read_object(directory / AUDIT))
    if is_released(store, release_id):
        return report
    config, live = configuration.section("audit", AuditConfig), live_before(store, release_id)
    against = (live.name if live else None, tuple(one.name for one in _last(store, release_id, config)))
    return report if report.config == config and (report.live, report.last) == against else None


def judge(directory: Path, config: AuditConfig, *, live: Path | None, last: tuple[Path, ...]) -> AuditReport:
    """Every gate's verdict on the release in `directory`, compared with the one in `live` and the `last` ones."""
    release = open_release(directory)
    judged = subjects(
        release,
        open_release(live) if live else None,
        [read_object(one / MANIFEST) for one in last],
        config,
    )
    return AuditReport(
        release.release_id,
        live.name if live else None,
        tuple(one.name for one in last),
        config,
        tuple(verdicts(judged, config)),
    )


def live_before(store: Path, release_id: str) -> Path | None:
    """The live release, or where that is of a later night, the newest released one that is not; None if there is none.

    A backfilled night is thus not measured against a later one that knew more users.
    """
    pointer = read_pointer(store)
    if pointer is not None and pointer.release_id != release_id and pointer.release_id[:10] <= release_id[:10]:
        return _complete(store / RELEASES / pointer.release_id)
    earlier = _earlier(store, release_id)
    return store / RELEASES / earlier[-1] if earlier else None


def _last(store: Path, release_id: str, config: AuditConfig) -> tuple[Path, ...]:
    return tuple(store / RELEASES / name for name in _earlier(store, release_id)[-config.last_releases :])


def _earlier(store: Path, release_id: str) -> list[str]:
    """Released nights of the same date or before, oldest first."""
    released = standing(store / RELEASES, READY)
    return [name for name in released if name[:10] <= release_id[:10] and name != release_id]


def _complete(directory: Path) -> Path:
    if not (directory / READY).is_file():
        raise ArtifactCorrupt(f"{directory} is live but not complete")
    return directory
