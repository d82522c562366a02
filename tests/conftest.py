"""What every test shares."""

from __future__ import annotations

import os

from hypothesis import settings

# Continuous integration draws the same examples each time: a failure there is the change's, and can be repeated here.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
