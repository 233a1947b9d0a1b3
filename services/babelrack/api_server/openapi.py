"""The OpenAPI document, from the same option tables that requests are parsed with.

What depends on the pack (languages, checkpoint names) is marked `x-loaded` and filled in when the document is served.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from babelrack.api_server.errors import BadKeyBody, NoKeyBody, OpenAIError, PulseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import UnionType

    from fastapi import FastAPI
    from pydantic import BaseModel

    from babelrack.api_server.options import Option

Schema = dict[str, Any]

AUDIO: Schema = {"type": "string", "format": "binary"}
EVENT: Schema = {
    "type": "object",
    "description": "A server-sent event: transcript.text.delta as text comes, then transcript.text.done, or error.",
    "required": ["data"],
    "properties": {
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "type": "object",
                "properties": {
                    "type": {"enum": ["transcript.text.delta", "transcript.text.done"]},
                    "delta": {"type": "string"},
                    "text": {"type": "string"},
                    "error": {"type": "object"},
                },
            },
        }
    },
}
_RETRY_AFTER: Schema = {"description": "Seconds to wait before the next try.", "schema": {"type": "integer"}}
_ERRORS = {
    400: "The request is wrong; the message says what, and what it takes.",
    401: "No key, or one that is not known.",
    403: "A key that may not do this.",
    404: "Not there.",
    408: "The body stopped arriving.",
    413: "The audio is larger than 250 MB.",
    415: "A body that this path does not read.",
    429: "Over the key's rate or concurrency.",
    503: "Not now: overloaded, starting, draining, no model server, or the licence is refused.",
}
_RETRIED = (429, 503)
SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"token": []}]
_SECURITY_SCHEMES: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`."},
    "token": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "`Authorization: Token KEY`."},
}


def pulse_errors(*statuses: int) -> dict[int | str, Schema]:
    """The error answers of a Pulse or on-prem path."""
    errors = _errors(statuses, PulseError)
    if 401 in errors:
        errors[401] = {"model": NoKeyBody | BadKeyBody, "description": _ERRORS[401]}
    return errors


def openai_errors(*statuses: int) -> dict[int | str, Schema]:
    """The error answers of an OpenAI path."""
    return _errors(statuses, OpenAIError)


def _errors(statuses: Iterable[int], model: type[BaseModel]) -> dict[int | str, Schema]:
    return {
        status: {
            "model": model,
            "description": _ERRORS[status],
            **({"headers": {"Retry-After": _RETRY_AFTER}} if status in _RETRIED else {}),
        }
        for status in statuses
    }


def answer(model: type[BaseModel] | UnionType, description: str) -> Schema:
    """A 200 with a transcript."""
    return {"model": model, "description": description, "headers": {"X-Checkpoint": _header("Served the request.")}}


def _header(description: str) -> Schema:
    return {"description": description, "schema": {"type": "string"}}


def query(table: Mapping[str, Option]) -> list[Schema]:
    """Options as query parameters."""
    return [option.parameter() for option in table.values()]


def in_path(name: str) -> Schema:
    """A part of the path, which is never empty."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def raw_audio() -> Schema:
    """A body that is the audio itself."""
    return {"application/octet-stream": {"schema": AUDIO}, "audio/*": {"schema": AUDIO}}


def form(part: str, table: Mapping[str, Option] | None = None) -> Schema:
    """A multipart body with the audio in `part` and, where the path reads them there, options as fields."""
    fields = {name: _field(option) for name, option in (table or {}).items()}
    required = [part, *(name for name, option in (table or {}).items() if option.required)]
    return {
        "multipart/form-data": {
            "schema": {"type": "object", "required": required, "properties": {part: AUDIO, **fields}}
        }
    }


def _field(option: Option) -> Schema:
    schema = _text(option)
    return {"type": "array", "items": schema} if option.repeated else schema


def url(table: Mapping[str, Option] | None = None) -> Schema:
    """A JSON body with a URL and, where the path reads them there, options beside it."""
    properties: Schema = {"url": {"type": "string", "format": "uri", "description": "http or https, public."}}
    properties.update({name: _json(option) for name, option in (table or {}).items()})
    return {"application/json": {"schema": {"type": "object", "required": ["url"], "properties": properties}}}


def _text(option: Option) -> Schema:
    """An option's schema in a body, where anything simple is text as well, if its pattern admits that."""
    schema = {**option.schema, "description": option.description}
    if schema.get("type") == "string" and re.search(schema.get("pattern", "$^"), "0"):
        schema["type"] = ["string", "number", "boolean", "null"]
    return schema


def _json(option: Option) -> Schema:
    schema = _text(option)
    values = schema.get("enum", [])
    if "false" in values:
        natural = [value == "true" for value in values]
        schema = {
            "enum": [*natural, *values],
            "default": schema["default"] == "true",
            "description": option.description,
        }
    return schema


def operation(operation_id: str, parameters: list[Schema], *bodies: Schema) -> Schema:
    """What FastAPI can't see, because the handler reads the request itself."""
    content = {media: schema for body in bodies for media, schema in body.items()}
    described: Schema = {"operationId": operation_id, "parameters": parameters, "security": SECURITY}
    if content:
        described["requestBody"] = {"required": True, "content": content}
    return described


def finished(document: Schema, loaded: Mapping[str, list[str]]) -> Schema:
    """The document with the pack's languages and models in it, and the schemes of its keys."""
    document.setdefault("components", {})["securitySchemes"] = _SECURITY_SCHEMES
    filled: Schema = _filled(document, loaded)
    return filled


def _filled(node: Any, loaded: Mapping[str, list[str]]) -> Any:
    if isinstance(node, list):
        return [_filled(item, loaded) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: _filled(value, loaded) for name, value in node.items()}
    what = node.pop("x-loaded", None)
    if what is not None and loaded.get(what):
        node.pop("pattern", None)
        node["enum"] = loaded[what]
    return node


def serve(app: FastAPI, loaded: Any, sockets: Mapping[str, Mapping[str, Option]]) -> None:
    """Let `app` answer `GET /openapi.json` with what `loaded()` says now.

    OpenAPI has no word for WebSockets: those of `sockets` are under `x-websockets`, with their handshake's options.
    """
    handshakes = {path: {"parameters": query(table), "security": SECURITY} for path, table in sockets.items()}
    plain = app.openapi

    def openapi() -> Schema:
        return finished({**plain(), "x-websockets": handshakes}, loaded())

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
