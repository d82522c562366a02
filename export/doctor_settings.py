"""The doctor on attractor.toml: settings that are read only when a training begins."""

from __future__ import annotations

from export.champions import MODELS, champion_version
from export.doctor_setup import Finding, Setup
from export.model_settings import require_trainable
from features.errors import ConfigurationError


def unusable_settings(setup: Setup) -> list[Finding]:
    """Sections of models that cannot be read, or that make a model which no night can serve."""
    configuration, findings = setup.configuration, []
    for model in MODELS:
        try:
            require_trainable(configuration, model)
        except ConfigurationError as error:
            standing = champion_version(configuration, model)
            now = f"nights go on with {standing}" if standing else "there is no champion, so no night runs"
            findings.append(
                Finding(
                    "error",
                    " ".join(str(error).split()),
                    f"[{model}] in {configuration.file}",
                    f"every training of {model} is refused; {now}",
                    "mend the setting: docs/reference/configuration.md lists what each may be",
                )
            )
    return findings
