"""Access to the server, and limits of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgeinfer.catalog import Artifact
from edgeinfer.errors import UsageError
from edgeinfer.serve.http.safety import Access
from edgeinfer.serve.run import address_of
from edgeinfer.serve.served import fingerprint_of
from tests.serve.conftest import Server, running

TOKEN = "a-token-of-this-test-alone"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    yield from running(Access("127.0.0.1", TOKEN, origins=frozenset({"http://localhost:3000"})))


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.5", "::", "example.com"])
def test_an_address_that_others_reach_needs_a_token(address: str) -> None:
    with pytest.raises(UsageError, match="there is no token"):
        Access(address)
    assert Access(address, TOKEN).token == TOKEN


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(address: str) -> None:
    assert Access(address).token == ""


@pytest.mark.parametrize("origin", ["*", "http://*", "localhost:3000", "http://localhost:3000/", "file:///x"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match="is no origin"):
        Access("127.0.0.1", origins=frozenset({origin}))


def test_an_ipv6_address_is_a_host_name_in_brackets() -> None:
    assert "[2001:db8::1]" in Access("2001:DB8::1", TOKEN).names
    assert address_of("::1", 80) == "http://[::1]:80" and address_of("localhost", 80) == "http://localhost:80"


def test_without_the_token_nothing_is_answered_but_health(guarded: Server) -> None:
    assert guarded.ask("/health").status == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"x_api_key": "é"}):
        reply = guarded.ask("/v1/models", None, **headers)
        assert reply.status == 401 and reply.json["error"]["type"] == "authentication_error"
        assert reply.headers["www-authenticate"] == "Bearer"
        said = (
            "this token is not"
            if headers.get("Authorization") == "Bearer wrong" or "x_api_key" in headers
            else "a token is"
        )
        assert reply.json["error"]["message"].startswith(said)
    for headers in ({"Authorization": f"Bearer {TOKEN}"}, {"x_api_key": TOKEN}):
        assert guarded.ask("/v1/models", None, **headers).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", ""])
def test_another_host_name_is_refused(server: Server, host: str) -> None:
    assert server.ask("/v1/models", None, Host=host).status in (400, 403)


def test_a_page_of_another_origin_is_refused(server: Server, guarded: Server) -> None:
    reply = server.ask("/v1/models", None, Origin="https://evil.example")
    assert reply.status == 403 and reply.json["error"]["type"] == "permission_error"
    assert server.ask("/v1/models", None, Origin="null").status == 403
    assert server.ask("/v1/models", None, Origin=server.url).status == 200
    allowed = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://localhost:3000"}
    assert guarded.ask("/v1/models", None, **allowed).status == 200
    assert guarded.ask("/v1/models", None, **{**allowed, "Origin": "http://localhost:3001"}).status == 403


def nested(depth: int) -> bytes:
    return b'{"model": "demo", "metadata": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "is not JSON"),
        (b"\xff\xfe", 400, "is not JSON"),
        (b"[]", 400, "must be a JSON object"),
        (b" ", 400, "the body is empty"),
        (b'{"model": "demo", "temperature": NaN}', 400, "NaN is not a number"),
        (b'{"model": "demo", "model": "demo"}', 400, "twice"),
        (b'{"model": "\\ud800"}', 400, "UTF-8 cannot carry"),
        (nested(65), 413, "nested more than 64"),
        (nested(100_000), 400, "nested too deeply"),
        (json.dumps({"model": "demo", "stop": ["x"] * 100_001}).encode(), 413, "more than 100000 values"),
        (b'{"model": "' + b"x" * (8 * 1024 * 1024) + b'"}', 413, "larger than 8388608 bytes"),
    ],
    ids=[
        "cut",
        "not utf-8",
        "array",
        "empty",
        "nan",
        "twice",
        "surrogate",
        "nested",
        "nested far",
        "array size",
        "size",
    ],
)
def test_an_invalid_body_is_refused(server: Server, body: bytes, status: int, said: str) -> None:
    reply = server.ask("/v1/chat/completions", body)
    assert reply.status == status, reply.body
    assert said in reply.json["error"]["message"]


def test_an_unknown_path_and_another_method_are_refused_in_the_envelope(server: Server) -> None:
    reply = server.ask("/v1/nothing", {})
    said = "POST /v1/nothing is not served here; hint: GET /openapi.json lists what is"
    assert (reply.status, reply.json["error"]["message"]) == (404, said)
    reply = server.ask("/v1/chat/completions")
    assert reply.status == 405 and reply.json["error"]["message"].endswith("hint: send POST")
    assert server.ask("/api/embed", {}).json["error"].startswith("POST /api/embed is not served here")


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "//v1/chat/completions"])
def test_a_base_address_with_a_part_too_few_or_too_many_is_noticed(server: Server, path: str) -> None:
    reply = server.ask(path, {})
    assert reply.status == 404
    assert reply.json["error"]["message"].endswith("hint: did you mean /v1/chat/completions?")


def test_a_fingerprint_does_not_reveal_the_path_of_the_file() -> None:
    own = Artifact("gguf", "Q4_0", 1234, "", "/home/someone/models/own.gguf")
    assert fingerprint_of(own) == "own.gguf:1234"
    assert fingerprint_of(replace(own, sha256="sha256:0123456789abcdef")) == "0123456789ab"
