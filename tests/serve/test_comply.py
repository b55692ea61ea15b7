"""`llm-comply`: bodies and streams against the published schemas of OpenAI, Open Responses and Anthropic."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

import pytest

from tests.serve.conftest import Server

SEED = 1  # its answers end within the tokens that the tests allow


@pytest.mark.parametrize(
    ("form", "of_images", "n_passed"),
    [
        ("openai-chat", "chat-image-input", 7),
        ("open-responses", "image-input", 11),
        ("anthropic", "anth-image-input", 7),
    ],
)
def test_every_test_except_the_one_with_images_passes(
    server: Server, monkeypatch: pytest.MonkeyPatch, form: str, of_images: str, n_passed: int
) -> None:
    """The models of the catalog read no images, and say so."""
    monkeypatch.setattr(secrets, "randbits", lambda _: SEED)
    command = [sys.executable, "-m", "llm_comply.cli", "--format", form, "-u", f"{server.url}/v1", "-k", "x"]
    ran = subprocess.run([*command, "-m", "demo", "--json"], capture_output=True, text=True, timeout=120, check=False)
    results = {one["id"]: one["status"] for one in json.loads(ran.stdout)["results"]}
    assert [name for name, status in results.items() if status == "failed"] == [of_images]
    assert sum(status == "passed" for status in results.values()) == n_passed
