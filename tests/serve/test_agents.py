"""Programs that people have, run as they are: `llm` of the command line, and an agent of npm's AI SDK."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import Server
from tests.serve.test_clients import SCHEMA
from tests.serve.test_openai_chat import content

AGENT = Path(__file__).parent / "agent"
NODE = shutil.which("node")


def ask_llm(server: Server, folder: Path, *arguments: str) -> str:
    """What `llm prompt` prints. Its model is configured as its documentation says for servers like OpenAI's."""
    model = {
        "model_id": "here",
        "model_name": "demo",
        "api_base": f"{server.url}/v1",
        "supports_schema": True,
        "supports_tools": True,
    }
    (folder / "extra-openai-models.yaml").write_text(json.dumps([model]))
    command = [sys.executable, "-m", "llm", "prompt", "-m", "here", "--no-log", "--key", "none", *arguments]
    user = {**os.environ, "LLM_USER_PATH": str(folder)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=user)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_llm_prints_what_the_server_says(server: Server, tmp_path: Path) -> None:
    asked, how = "Weather in Paris?", ("-o", "temperature", "0", "-o", "max_tokens", "20")
    expected = content(server, asked, temperature=0, max_tokens=20)
    assert ask_llm(server, tmp_path, asked, *how) == ask_llm(server, tmp_path, asked, *how, "--no-stream") == expected


def test_llm_gets_an_answer_of_its_schema_and_offers_its_functions(server: Server, tmp_path: Path) -> None:
    form = ("--schema", json.dumps(SCHEMA), "-o", "max_tokens", "60")
    assert set(json.loads(ask_llm(server, tmp_path, "Name a city", *form))) == {"city"}
    function = 'def get_weather(city: str) -> str:\n    "The weather of a city"\n    return "Sunny"\n'
    assert ask_llm(server, tmp_path, "Weather in Paris?", "--functions", function, "-o", "max_tokens", "40")


@pytest.mark.skipif(NODE is None or not (AGENT / "node_modules").is_dir(), reason="npm ci --prefix tests/serve/agent")
def test_an_agent_calls_a_tool_and_reads_the_answer_to_its_result(server: Server) -> None:
    command = [str(NODE), str(AGENT / "agent.mjs"), f"{server.url}/v1", "demo"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    called, answered = said["steps"]
    ((name, arguments),) = called["calls"]
    assert name == "get_weather" and set(arguments) == {"city"} and called["finish"] == "tool-calls"
    assert called["results"] == ["Sunny"] and called["tokens"] > 0
    assert answered["text"] == said["streamed"] != "" and answered["calls"] == []
