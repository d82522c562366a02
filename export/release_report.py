"""`report.html`: what a release holds and why it was let through, as one page without scripts or other files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from export.audit import AuditReport
from export.gates import PASSED

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #d9dde5; vertical-align: top }
.refused td { background: #fdecea } .figure { text-align: right; font-variant-numeric: tabular-nums }
"""


def render(manifest: Mapping[str, Any], report: AuditReport, *, force_reason: str | None) -> str:
    """The page, a function of the release alone, so that writing it again writes the same bytes."""
    verdict = "published although a gate refused: " + force_reason if report.refused and force_reason else "passed"
    parts = [
        f"<h1>Release {_text(manifest['release_id'])}</h1>",
        f"<p>The night of {_text(manifest['date'])}: everything known before {_text(manifest['window']['end'])}. "
        f"Audit: {_text(verdict)}.</p>",
        *_composition(manifest),
        "<h2>Tables</h2>",
        _table(("table", "rows", "dimension"), [(v, f["rows"], f["dimension"] or "") for v, f in _views(manifest)]),
        "<h2>Gates</h2>",
        _gates(report),
        "<h2>Models</h2>",
        _table(("model", "artifact"), sorted(manifest["models"].items())),
        f"<p>Embedding space {_text(manifest['space_id'])}.</p>",
        "<h2>Held-out metrics</h2>",
        _table(("metric", "value"), sorted(_flat(manifest["metrics"]))),
        "<h2>Files</h2>",
        _table(("file", "bytes", "SHA-256"), [(n, f["bytes"], f["sha256"]) for n, f in manifest["files"].items()]),
    ]
    title = f"<title>Release {_text(manifest['release_id'])}</title>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{title}<style>{_STYLE}</style>{"".join(parts)}</html>\n'
    )


def _views(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return sorted(manifest["views"].items())


def _composition(manifest: Mapping[str, Any]) -> Iterable[str]:
    """What stands in for what was refused, where a release was composed."""
    if "standing" in manifest:
        standing, refused = manifest["standing"], manifest["refused"]
        yield (
            f"<p>The part of {_text(standing['part'])} is the night of {_text(standing['date'])}, from release "
            f"{_text(standing['release_id'])}, because that of {_text(refused['release_id'])} was refused:</p>"
        )
        yield "<ul>" + "".join(f"<li>{_text(why)}</li>" for why in refused["why"]) + "</ul>"


def _gates(report: AuditReport) -> str:
    rows = "".join(
        f'<tr class="{"passed" if gate.decision == PASSED else "refused"}"><td>{_text(gate.gate)}</td>'
        f"<td>{_text(gate.decision)}</td><td>{_text(gate.sentence)}</td></tr>"
        for gate in report.gates
    )
    return f"<table><tr><th>gate</th><th>decision</th><th>why</th></tr>{rows}</table>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return (
            f'<td class="figure">{value:,}</td>' if isinstance(value, int) else f'<td class="figure">{value:.4f}</td>'
        )
    return f"<td>{_text(value)}</td>"


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} / ")
        else:
            yield f"{prefix}{name}", "none" if value is None else value


def _text(value: Any) -> str:
    return html.escape(str(value))
