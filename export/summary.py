"""What a night came to, for a person: read from the ledger, the champions and the released tables, not from the run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from export.audit import audit
from export.champions import MODELS, champion
from export.ledger import open_ledger
from export.promotion import GateConfig, judge
from export.release import status
from export.staging import directory_of
from export.terminal_text import one_line, shortened
from features.configuration import Configuration
from features.errors import MissingInput
from features.partitions import partition_path, read_partition
from features.releases import Release, open_release

USERS_SHOWN = 3
TITLES_SHOWN = 5
_STAGES = (
    "land",
    "build",
    "training_sets",
    "train/karma",
    "train/dicer",
    "export/karma",
    "export/dicer",
    "score",
    "stage",
)


def summarise(configuration: Configuration, date: dt.date) -> dict[str, Any]:
    """Everything the night of `date` came to, as JSON. Raises MissingInput if it was not staged."""
    runs = open_ledger(configuration).done(date)
    if "stage" not in runs:
        raise MissingInput(f"the night of {date} was not staged; run `attractor night --date {date}`")
    release_id = runs["stage"].figures["release_id"]
    release = open_release(directory_of(configuration.releases, release_id))
    report = audit(configuration, release_id)
    live = status(configuration)["live"]
    return {
        "date": date.isoformat(),
        "config": str(configuration.file),
        "landed": runs["land"].figures,
        "features": runs["build"].figures["rows"],
        "models": {model: _model(configuration, model) for model in MODELS},
        "release": {
            "release_id": release_id,
            "rows": {view: table.row_count for view, table in release.tables.items()},
            "audit": [asdict(gate) for gate in report.gates],
            "live": live["release_id"] if live else None,
            "standing": live["standing"] if live else None,
        },
        "stages": [
            {"stage": name, "seconds": round(runs[name].seconds, 1), "peak_memory_mb": runs[name].peak_memory_mb}
            for name in _STAGES
            if name in runs
        ],
        "recommendations": recommendations(configuration, release, date),
    }


def recommendations(configuration: Configuration, release: Release, date: dt.date) -> list[dict[str, Any]]:
    """Of three users spread over the release: titles of what they had last, what attracts them, what interests them."""
    attraction, items = release.tables["dicer_user_attraction"], release.tables["karma_item_embedding"]
    chosen = np.linspace(0, attraction.row_count - 1, min(USERS_SHOWN, attraction.row_count)).astype(np.int64)
    users = attraction.column("user_id", chosen).to_pylist()
    attractive = attraction.column("item_ids", chosen).to_pylist()
    everything = np.arange(items.row_count)
    item_ids = items.column("item_id", everything).to_pylist()
    embeddings, known = release.embeddings("karma_user_interest", "interest_embedding", users)
    nearest = np.argsort(-(embeddings @ items.vectors("item_embedding", everything).T), axis=1, kind="stable")
    catalogue = read_partition(configuration, "item_catalog", date, columns=["item_id", "title"])
    titles = dict(zip(*(catalogue.column(name).to_pylist() for name in ("item_id", "title")), strict=True))
    had = _histories(configuration, date, users)
    return [
        {
            "user_id": user,
            "last": _named(list(dict.fromkeys(reversed(had[user]))), titles),
            "attracted_by": _named(attractive[k], titles),
            "interested_in": _named(
                [item_ids[i] for i in nearest[k] if item_ids[i] not in set(had[user])] if known[k] else [], titles
            ),
        }
        for k, user in enumerate(users)
    ]


def _histories(configuration: Configuration, date: dt.date, users: Sequence[str]) -> dict[str, list[str]]:
    path = partition_path(configuration, "user_history", date)
    table = pq.read_table(path, columns=["user_id", "item_ids"], filters=[("user_id", "in", users)])
    found = dict(zip(table.column("user_id").to_pylist(), table.column("item_ids").to_pylist(), strict=True))
    return {user: found.get(user) or [] for user in users}


def summary_text(summary: Mapping[str, Any]) -> str:
    """The summary as text, at most some 120 columns wide."""
    return "\n".join(
        [
            f"The night of {summary['date']}",
            "",
            *_rows(summary),
            "",
            *_models(summary["models"]),
            "",
            *_gates(summary),
            "",
            *_recommended(summary["recommendations"]),
            "",
            *_further(summary),
        ]
    )


def _model(configuration: Configuration, model: str) -> dict[str, Any]:
    artifact = champion(configuration, model)
    about = artifact.manifest["about"]
    verdicts = judge(artifact, configuration.section("gates", GateConfig))
    return {
        "version": artifact.version,
        "metrics": about["metrics"],
        "parity": {name: {key: record[key] for key in ("worst", "holds")} for name, record in about["parity"].items()},
        "gates": [asdict(verdict) for verdict in verdicts],
    }


def _named(ids: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    return [titles[item] or item for item in ids[:TITLES_SHOWN]]


def _rows(summary: Mapping[str, Any]) -> Iterator[str]:
    landed = summary["landed"]
    yield "  landed     " + ", ".join(f"{count:,} {table}" for table, count in landed["rows"].items())
    for table, rules in landed["quarantined"].items():
        for rule, count in rules.items():
            yield f"  quarantine {count:,} {table}: {rule}"
    yield "  features   " + ", ".join(f"{count:,} {view}" for view, count in summary["features"].items())
    yield "  released   " + ", ".join(f"{count:,} {view}" for view, count in summary["release"]["rows"].items())
    yield "  seconds    " + ", ".join(f"{entry['stage']} {entry['seconds']}" for entry in summary["stages"])
    yield f"  memory     {max(entry['peak_memory_mb'] for entry in summary['stages']):,} MB at most"


def _models(models: Mapping[str, Any]) -> Iterator[str]:
    for model, told in models.items():
        test = told["metrics"]["test"]
        yield f"  {model.upper():<11}{told['version']}; held-out test window, against popularity"
        for metric, value in test["model"].items():
            baseline = test["popularity"][metric]
            ratio = f"{value / baseline:.1f}×" if baseline else "–"
            yield f"             {metric:<11}{value:.4f}   popularity {baseline:.4f}   {ratio}"
        graphs = ", ".join(f"{name} {record['worst']:.1e}" for name, record in told["parity"].items())
        yield f"             parity of torch and ONNX Runtime, largest difference: {graphs}"


def _gates(summary: Mapping[str, Any]) -> Iterator[str]:
    for model, told in summary["models"].items():
        for gate in told["gates"]:
            yield f"  promote    {gate['decision']:<8} {model}: {gate['sentence']}"
    for gate in summary["release"]["audit"]:
        yield f"  audit      {gate['decision']:<8} {gate['sentence']}"
    release = summary["release"]
    yield f"  release    {release['release_id']}" + (
        ", live" if release["live"] == release["release_id"] else f", not live; served is {release['live']}"
    )
    if standing := release["standing"]:
        yield f"  composed   what is served has the {standing['part']} part of the night of {standing['date']}"


def _recommended(users: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for user in users:
        yield f"  user {user['user_id']}"
        for what in ("last", "attracted_by", "interested_in"):
            yield one_line(f"    {what.replace('_', ' '):<14}" + (" · ".join(map(shortened, user[what])) or "nothing"))


def _further(summary: Mapping[str, Any]) -> Iterator[str]:
    config, date = Path(summary["config"]), summary["date"]
    environment = "" if config.name == "attractor.toml" else f"ATTRACTOR_CONFIG={config.name} "
    yield "  look further"
    for command, why in (
        ("attractor status", "what is served, and since when"),
        ("attractor releases", "every release, and its audit"),
        (f"attractor report --date {date}", "this summary again; --json for programs"),
        ("attractor rollback", "serve the release before"),
        ("feast -c features serve", "online features over HTTP on 127.0.0.1:6566"),
    ):
        yield f"    {environment}.venv/bin/{command:<36} # {why}"
