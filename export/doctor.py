"""`attractor doctor`: what will hurt, before it does. One function a check; each tells what, where, why and the remedy.

A check is told everything by a `Setup` and asks nobody else, so that any set-up can be examined, broken ones too.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import OperationalError
from yaml import YAMLError

from export.doctor_airflow import (
    catchup_misuse,
    public_addresses,
    sqlite_in_production,
    wall_clocks_in_dags,
    zero_length_intervals,
)
from export.doctor_feast import missing_batch_size, registry_growth, schema_drift, ttl_against_refresh
from export.doctor_packages import missing_extras, pin_conflicts
from export.doctor_pools import missing_pools
from export.doctor_settings import unusable_settings
from export.doctor_setup import Finding, Setup
from export.doctor_state import clocks, disk_of_the_next_night, gapped_partitions, killed_runs, stale_partitions
from features.errors import AttractorError

Check = Callable[[Setup], list[Finding]]

CHECKS: tuple[Check, ...] = (
    zero_length_intervals,
    catchup_misuse,
    wall_clocks_in_dags,
    missing_pools,
    clocks,
    ttl_against_refresh,
    missing_batch_size,
    registry_growth,
    schema_drift,
    gapped_partitions,
    stale_partitions,
    killed_runs,
    disk_of_the_next_night,
    sqlite_in_production,
    public_addresses,
    pin_conflicts,
    missing_extras,
    unusable_settings,
)


def diagnose(setup: Setup) -> dict[str, Any]:
    """Every check's findings as JSON values, errors first, and how many of them are errors."""
    findings = [finding.record() | {"check": check.__name__} for check in CHECKS for finding in _found(check, setup)]
    findings.sort(key=lambda finding: finding["severity"] != "error")
    return {
        "findings": findings,
        "errors": sum(finding["severity"] == "error" for finding in findings),
        "checks": [check.__name__ for check in CHECKS],
    }


def _found(check: Check, setup: Setup) -> list[Finding]:
    """What a check found; what keeps it from looking is a finding too, and keeps no other check."""
    try:
        return check(setup)
    except (AttractorError, OSError, ValueError, SyntaxError, configparser.Error, YAMLError, OperationalError) as error:
        why = "what cannot be read cannot be judged, and whatever else reads it fails as well"
        return [Finding("error", f"not examined: {error}", check.__name__, why, "mend what the message names")]
