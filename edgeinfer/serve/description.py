"""`GET /openapi.json`: the description of the API, made from the models that check request bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from edgeinfer import __version__
from edgeinfer.serve.http.endpoint import Endpoint

__all__ = ["describe"]

ERRORS = {
    "400": "the request cannot be used; the message says why",
    "401": "a token is needed",
    "403": "this host name or web page may not ask",
    "404": "there is no such model or path",
    "405": "another method is needed",
    "413": "the body is too large",
    "429": "too many requests wait; Retry-After says when to come again",
    "503": "the server is closing",
}


def describe(endpoints: Sequence[Endpoint], models: Sequence[str]) -> dict[str, Any]:
    """`models` are the names that requests may ask for."""
    bodies = {one.body for one in endpoints if one.body is not None}
    names, schemas = models_json_schema(
        [(body, "validation") for body in sorted(bodies, key=lambda body: (body.__module__, body.__name__))],
        ref_template="#/components/schemas/{model}",
    )
    references = {body: names[body, "validation"] for body in bodies}
    paths: dict[str, dict[str, object]] = {}
    for one in endpoints:
        path = one.path.replace(":path", "")
        paths.setdefault(path, {})[one.method.lower()] = operation(one, references)
    described = schemas.get("$defs", {})
    for schema in described.values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"type": "string", "enum": list(models)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgeinfer", "version": __version__},
        "paths": paths,
        "components": {"schemas": described},
    }


def operation(endpoint: Endpoint, references: Mapping[type, object]) -> dict[str, object]:
    said: dict[str, object] = {"summary": endpoint.says, "responses": answers(endpoint)}
    if "{model" in endpoint.path:
        said["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    if endpoint.body is not None:
        schema = references[endpoint.body]
        said["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return said


def answers(endpoint: Endpoint) -> dict[str, object]:
    codes: dict[str, object] = {"200": {"description": endpoint.says}}
    codes |= {code: {"description": says} for code, says in ERRORS.items()}
    if endpoint.path == "/health":
        codes["503"] = {"description": "the engine cannot answer any more"}
    return codes
