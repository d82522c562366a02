"""The doctor on packages: what is installed against what is declared, locked and asked for by what is installed."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from export.doctor_setup import Finding, Setup
from export.tracking import TrackingConfig
from features.lineage import LineageConfig

_LOCK = "constraints.txt"


def pin_conflicts(setup: Setup) -> list[Finding]:
    """Packages that are missing or of another version than somebody needs; another than locked is a warning."""
    findings = []
    for by, text in setup.requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = setup.installed.get(canonicalize_name(requirement.name))
        if (version is None and by == _LOCK) or (version and requirement.specifier.contains(version, prereleases=True)):
            continue
        findings.append(
            Finding(
                "warning" if by == _LOCK else "error",
                f"{requirement.name} is {version or 'not installed'}, {by} asks for {requirement}",
                by,
                "this combination was never tried; Feast and Airflow each cap what the other pulls",
                "pip install -c constraints.txt -e '.[dev]'",
            )
        )
    return findings


def missing_extras(setup: Setup) -> list[Finding]:
    """Extras that a section of attractor.toml needs and that are not installed."""
    configuration = setup.configuration
    asked = {
        "tracking": (configuration.section("tracking", TrackingConfig).is_on, ("mlflow-skinny", "mlflow")),
        "lineage": (configuration.section("lineage", LineageConfig).feast, ("openlineage-python",)),
    }
    return [
        Finding(
            "error",
            f"[{extra}] is configured, and {packages[0]} is not installed",
            str(configuration.file),
            "nights run all the same, and nobody is told of them",
            f"pip install -c constraints.txt -e '.[{extra}]', or leave [{extra}] out",
        )
        for extra, (is_asked, packages) in asked.items()
        if is_asked and not any(package in setup.installed for package in packages)
    ]
