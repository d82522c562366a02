"""The doctor on Feast: the registry against the contracts, and what materialisation needs."""

from __future__ import annotations

import datetime as dt

import yaml

from export.doctor_setup import Finding, Setup
from features.registry import registry_name

_MB = 2**20


def ttl_against_refresh(setup: Setup) -> list[Finding]:
    """Views whose rows expire before the next come, or hold for nights in which their users are gone."""
    from features import registered

    ours = registered.declared(setup.configuration)
    refresh = dt.timedelta(days=setup.config.refresh_days)
    where = f"registry {registry_name(setup.configuration)}, view "
    findings = []
    for view in registered.registered(setup.configuration).values():
        if view.name not in ours:
            continue
        if dt.timedelta() < view.ttl < refresh - dt.timedelta(seconds=1):
            why = "in the hours between, a point-in-time join finds nothing, and a model learns from nulls"
            findings.append(Finding("error", f"ttl {view.ttl} is shorter than {refresh}", where + view.name, why, _TTL))
        elif not view.ttl or view.ttl >= 2 * refresh:
            told = f"ttl {view.ttl or 'without end'} is longer than one refresh of {refresh}"
            why = "who left the source is still joined, night after night"
            findings.append(Finding("error", told, where + view.name, why, _TTL))
    return findings


_TTL = "one refresh, as features/definitions.py TTL has it; then `attractor register`"


def missing_batch_size(setup: Setup) -> list[Finding]:
    """A feature_store.yaml that leaves materialisation unbounded."""
    file = setup.root / "features" / "feature_store.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    if (settings.get("materialization") or {}).get("online_write_batch_size"):
        return []
    return [
        Finding(
            "error",
            "materialization.online_write_batch_size is not set",
            str(file),
            "Feast then writes a whole view as one batch: 8 GB of memory for a million users, 0.9 GB in batches",
            "materialization:\n  online_write_batch_size: 10000",
        )
    ]


def registry_growth(setup: Setup) -> list[Finding]:
    """A registry that grows with each materialisation until every reader pays for it."""
    from features import registered

    file, config, findings = setup.configuration.registry, setup.config, []
    size = file.stat().st_size / _MB if file.is_file() else 0.0
    if size > config.max_registry_mb:
        why = "every process reads all of it again each time its cache expires, and every change writes it anew"
        fix = "`attractor register` after removing what nobody serves, or a SQL registry"
        findings.append(Finding("error", f"the registry has {size:.1f} MB", str(file), why, fix))
    for view in registered.registered(setup.configuration).values():
        if view.materializations > config.max_materializations:
            why = "Feast keeps an interval for each materialisation, for ever, in what every reader loads"
            fix = f"`feast -c features feature-views delete {view.name}`, then `attractor register`; read from releases"
            told = f"{view.materializations} materialisation intervals of {view.name}"
            findings.append(Finding("warning", told, registry_name(setup.configuration), why, fix))
    return findings


def schema_drift(setup: Setup) -> list[Finding]:
    """Views that the registry has otherwise than the contracts; nothing before the first registration."""
    from features import registered

    found = registered.registered(setup.configuration)
    if not found:
        return []
    findings = []
    for name, view in registered.declared(setup.configuration).items():
        if name not in found:
            told = ["the view is not registered"]
        else:
            ours, theirs = view.features, found[name].features
            told = [
                f"{feature} is {theirs.get(feature, 'not there')}, the contract has {ours.get(feature, 'none')}"
                for feature in sorted(ours.keys() | theirs.keys())
                if ours.get(feature) != theirs.get(feature)
            ]
        where = f"registry {registry_name(setup.configuration)}, view {name}"
        findings += [Finding("error", drift, where, _DRIFT, "`attractor register`") for drift in told]
    return findings


_DRIFT = "consumers ask the registry what there is: they miss a feature, or read one as another type than it is"
