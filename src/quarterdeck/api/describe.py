"""The OpenAPI description: paths and parameters as Litestar finds them, bodies as msgspec checks
them (bounds, tagged unions with their discriminators), problem documents for every error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
from litestar import Litestar, MediaType
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from quarterdeck.api.auth import FLEET, METRICS, PUBLIC, QUERY_TOKEN, kinds_of
from quarterdeck.api.hide import PARAMETER
from quarterdeck.api.live import LiveEvent
from quarterdeck.api.schema import Problem
from quarterdeck.api.stream import Stream
from quarterdeck.api.trace_events import TraceEvent
from quarterdeck.core.states import RunState

ALSO = "also"
"""Key of a route's `opt`: statuses that have the same body as its success."""
EVENTS = "events"
"""Key of a route's `opt`: which of `UNIONS` its server-sent events are."""

REF = "#/components/schemas/{name}"
PROBLEM_JSON = "application/problem+json"
SUMMARY = (
    "Run commands on a fleet of machines and follow them, live. Errors are problem documents "
    "(RFC 9457) with a stable `code`."
)
KEYWORDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}
UNIONS: dict[str, Any] = {"LiveEvent": LiveEvent, "TraceEvent": TraceEvent}


def describe(app: Litestar) -> dict[str, Any]:
    """The document of an application."""
    document = app.openapi_schema.to_schema()
    document["info"]["description"] = SUMMARY
    known = list(_operations(app, document))
    kinds = {kind for _, handler in known for kind in _bodies(handler)}
    refs, components = _schemas(kinds)
    for operation, handler in known:
        _describe(operation, handler, refs)
    document["components"] = {
        "schemas": components,
        "responses": {"Problem": _problem(refs)},
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "query": {"type": "apiKey", "in": "query", "name": PARAMETER},
        },
    }
    return document


def _operations(
    app: Litestar, document: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], HTTPRouteHandler]]:
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for handler in route.route_handlers:
            for method in handler.http_methods:
                found = document["paths"].get(route.path_format, {}).get(str(method).lower())
                if found is not None and handler.include_in_schema:
                    yield found, handler


def _schemas(kinds: set[Any]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """(a reference per type, the components they refer to)."""
    types = [*sorted(kinds, key=lambda kind: str(kind.__name__)), Problem]
    schemas, components = msgspec.json.schema_components(
        [*types, *UNIONS.values()], ref_template=REF
    )
    refs = dict(zip(types, schemas[: len(types)], strict=True))
    return refs, components | dict(zip(UNIONS, schemas[len(types) :], strict=True))


def _event(union: str) -> dict[str, Any]:
    """A server-sent event whose `data` is one of a union."""
    again = "Send it as `Last-Event-ID` to go on after it."
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string"},
            "id": {"type": "string", "description": again},
            "retry": {"type": "integer", "minimum": 0},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": REF.format(name=union)},
            },
        },
    }


def _answer(handler: HTTPRouteHandler) -> Any:
    """The struct that a handler answers with, or None."""
    kind = handler.parsed_fn_signature.return_type.annotation
    parts = [kind, *get_args(kind)]
    return next((p for p in parts if isinstance(p, type) and issubclass(p, msgspec.Struct)), None)


def _question(handler: HTTPRouteHandler) -> Any:
    data = handler.parsed_fn_signature.parameters.get("data")
    return None if data is None else data.annotation


def _bodies(handler: HTTPRouteHandler) -> list[Any]:
    return [kind for kind in (_answer(handler), _question(handler)) if kind is not None]


def _describe(
    operation: dict[str, Any], handler: HTTPRouteHandler, refs: dict[Any, dict[str, Any]]
) -> None:
    operation.pop("deprecated", None)
    operation["operationId"] = handler.fn.__name__
    text = (handler.fn.__doc__ or "").strip()
    operation["summary"] = text.splitlines()[0]
    operation["description"] = " ".join(text.split())
    _secure(operation, handler.opt)
    question = _question(handler)
    if question is not None:
        content = {"application/json": {"schema": refs[question]}}
        operation["requestBody"] = {"required": True, "content": content}
    for parameter in operation.get("parameters", ()):
        _bounded(parameter, handler)
    (success,) = [code for code in operation["responses"] if code.startswith("2")]
    answers = {success: _success(handler, refs)}
    for code in handler.opt.get(ALSO, ()):
        answers[str(code)] = answers[success]
    answers["default"] = {"$ref": "#/components/responses/Problem"}
    operation["responses"] = answers


def _secure(operation: dict[str, Any], opt: dict[str, Any]) -> None:
    """Who may call: kinds of tokens in words, and as `x-token-kinds` for programs."""
    if opt.get(PUBLIC):
        operation["security"] = []
        return
    operation["security"] = [{"bearer": []}, *([{}] if opt.get(METRICS) else [])]
    operation["x-token-kinds"] = list(kinds_of(opt))
    operation["description"] += f" For tokens of kind {' or '.join(kinds_of(opt))}"
    operation["description"] += ", of namespace `*` only." if opt.get(FLEET) else "."
    if opt.get(QUERY_TOKEN):
        operation["security"].append({"query": []})


def _success(handler: HTTPRouteHandler, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    answer = _answer(handler)
    if answer is not None:
        content: dict[str, Any] = {"application/json": {"schema": refs[answer]}}
        return {"description": (answer.__doc__ or answer.__name__).strip(), "content": content}
    media = handler.media_type
    kind = media.value if isinstance(media, MediaType) else str(media)
    schema: dict[str, Any] = {"type": "string"}
    if handler.parsed_fn_signature.return_type.annotation is Stream and "octet" in kind:
        schema["format"] = "binary"
    text = "Text."
    if kind == "text/event-stream":
        union = handler.opt.get(EVENTS, "LiveEvent")
        schema = _event(union)
        text = f"Server-sent events; the `data` of each is a {union}, its `id` a cursor."
    return {"description": text, "content": {kind: {"schema": schema}}}


def _bounded(parameter: dict[str, Any], handler: HTTPRouteHandler) -> None:
    """What may be left out is not null, and every bound that is checked is named."""
    for key in ("deprecated", "allowEmptyValue", "allowReserved"):
        parameter.pop(key, None)
    schema = parameter["schema"]
    for part in schema.pop("oneOf", ()):
        if part.get("type") != "null":
            schema.update(part)
    for name, field in handler.parsed_fn_signature.parameters.items():
        rules = field.kwarg_definition
        aliases = {name, getattr(rules, "query", None), getattr(rules, "header", None)}
        if rules is None or parameter["name"] not in aliases | {getattr(rules, "name", None)}:
            continue
        for rule, keyword in KEYWORDS.items():
            value = getattr(rules, rule, None)
            if value is not None:
                schema[keyword] = int(value) if isinstance(value, float) else value
    if schema.get("$ref", "").endswith("/RunState"):
        parameter["schema"] = {"type": "string", "enum": [state.value for state in RunState]}


def _problem(refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    return {
        "description": (Problem.__doc__ or "").strip(),
        "content": {PROBLEM_JSON: {"schema": refs[Problem]}},
    }
