"""What stands in the pages, their code blocks and links, and what their requests are answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of `language` in `docs/<page>`, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found, f"docs/{page} has no {language} block"
    return found


def commands(page: str) -> list[str]:
    """Every line of the page's bash blocks, those that go on joined, without comments."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.split("   #")[0].strip() for line in lines if line.strip()]


def links(path: Path) -> list[str]:
    """Targets of the page's links, those of code blocks and of the web apart."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(path: Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def answer_to(command: str) -> Any:
    """What `feast -c features serve`, started in the working directory, answers to a page's `curl`."""
    from feast import FeatureStore
    from feast.feature_server import get_app
    from starlette.testclient import TestClient

    body, path = re.search(r"-d '(.*)'", command), re.search(r"127\.0\.0\.1:6566(/\S+)", command)
    assert body is not None
    assert path is not None
    with TestClient(get_app(FeatureStore(repo_path="features"))) as client:
        answer = client.post(path[1], json=json.loads(body[1]))
    assert answer.status_code == 200, answer.text
    return answer.json()
