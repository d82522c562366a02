"""What `attractor init` writes: a commented `attractor.toml` for one source, with a state directory of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.files import sha256_of_json, write_text

DEFAULTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "synthetic": {"training": {"validation_days": 5, "test_days": 5}},
    "lastfm": {
        # Whole histories: an event is one tag, so the last 50 would be some 12 artists.
        "features": {"tags_from_queries": True, "history_length": 5000},
        "training": {"validation_days": 61, "test_days": 61},  # Last.fm dates its events by the month
        "audit": {"max_input_age_days": 32},  # by the month
    },
    "ciao": {
        "training": {"validation_days": 91, "test_days": 91},  # about 6,000 ratings by 450 users each
    },
    "parquet": {"training": {"validation_days": 7, "test_days": 7}},
}
"""Settings in which a source differs from the defaults of the code."""

_NOTES = {
    "source": "what to read; `attractor init --help` lists the kinds",
    "features": "how features are built: features/transforms.py, FeatureConfig",
    "training": "held-out days before the date: features/training_sets.py, SplitConfig",
    "audit": "thresholds of the gates: export/gates.py, AuditConfig; docs/audit.md says why",
    "karma": "the language model: models/karma/config.py, KarmaConfig",
}

_ADVICE = (
    "# [karma]",
    '# history = "auto"  # trains histories of words and compressed ones, keeps the faster where it is as good',
)


def configuration_text(source: Mapping[str, Any], *, state: str | None = None) -> str:
    """The TOML text for a source section such as `{"kind": "lastfm", "path": "…"}`.

    The state directory is named by the source, so two sources never share one.
    """
    kind = source["kind"]
    sections: dict[str, Mapping[str, Any]] = {"source": source, **DEFAULTS[kind]}
    lines = [
        "# Written by `attractor init`. Paths are relative to this file. A setting left out keeps its default.",
        f"state = {_toml(state or f'.attractor/{kind}-{sha256_of_json(dict(source))[:8]}')}",
    ]
    for name, settings in sections.items():
        lines += ["", f"[{name}]  # {_NOTES[name]}"]
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items()]
    lines += ["", *_ADVICE]
    return "\n".join(lines) + "\n"


def initialise(file: Path, text: str) -> Path | None:
    """Write the configuration; a different one that stood there is kept beside it, and its path returned."""
    kept = None
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        kept = file.with_name(file.name + ".previous")
        write_text(kept, file.read_text(encoding="utf-8"))
    write_text(file, text)
    return kept


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are written alike in JSON and TOML
