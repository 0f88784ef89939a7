"""What the gateway answers, as paths of the OpenAPI document.

Written by hand: the gateway is not made of DRF views, and its parser's checks say more than a schema can. Bodies name
every field that the gateway knows; what the model-serving world knows of them is OpenAI's own documentation.
"""

from typing import Any

Json = dict[str, Any]

_ANY_OBJECT: Json = {"type": "object", "additionalProperties": True}
_NUMBER: Json = {"type": "number"}
_WHOLE: Json = {"type": "integer"}
_TEXT: Json = {"type": "string"}
_FLAG: Json = {"type": "boolean"}
_STRINGS: Json = {"type": "array", "items": _TEXT}
_TOKENS: Json = {"type": "array", "items": _WHOLE}


def _between(low: float, high: float, about: str = "") -> Json:
    kind = "integer" if isinstance(low, int) and isinstance(high, int) else "number"
    return {"type": kind, "minimum": low, "maximum": high, **({"description": about} if about else {})}


def _said(schema: Json, about: str) -> Json:
    return {**schema, "description": about}


_CHOICE: Json = {
    "model": _said(_TEXT, "An id, `id@version`, or `auto`; the default model if absent."),
    "capabilities": _said(_STRINGS, "Only models that have them all."),
    "priority": _between(0, 10, "Higher first; 5 if absent."),
}
_SAMPLING: Json = {
    "temperature": _between(0.0, 2.0),
    "top_p": _between(0.0, 1.0),
    "top_k": _said(_WHOLE, "0: no limit."),
    "min_p": _between(0.0, 1.0),
    "presence_penalty": _between(-2.0, 2.0),
    "frequency_penalty": _between(-2.0, 2.0),
    "repetition_penalty": _between(0.0, 10.0),
    "logit_bias": _said(_ANY_OBJECT, "Token id → what is added to its logit."),
    "seed": _WHOLE,
}
_GENERATION: Json = {
    **_CHOICE,
    **_SAMPLING,
    "n": _said(_WHOLE, "Choices of each prompt."),
    "max_tokens": _WHOLE,
    "stop": {"oneOf": [_TEXT, _STRINGS]},
    "stream": _FLAG,
    "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}},
    "ignore_eos": _said(_FLAG, "Go on after the end that the model sets."),
    "cache_salt": _said(_TEXT, "Only requests with the same one share cached blocks."),
}
_CHAT: Json = {
    "messages": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["role"],
            "properties": {
                "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
                "content": {"oneOf": [_TEXT, {"type": "array", "items": _ANY_OBJECT}], "nullable": True},
            },
            "additionalProperties": True,
        },
    },
    **_GENERATION,
    "max_completion_tokens": _WHOLE,
    "logprobs": _FLAG,
    "top_logprobs": _between(0, 20),
    "tools": {"type": "array", "items": _ANY_OBJECT},
    "tool_choice": {"oneOf": [{"type": "string", "enum": ["none", "auto", "required"]}, _ANY_OBJECT]},
    "parallel_tool_calls": _FLAG,
    "response_format": _said(_ANY_OBJECT, "`text`, `json_object` or `json_schema`."),
}
_COMPLETION: Json = {
    "prompt": {"oneOf": [_TEXT, _STRINGS, _TOKENS, {"type": "array", "items": _TOKENS}]},
    **_GENERATION,
    "logprobs": _between(0, 5),
    "best_of": _said(_WHOLE, "Equal to `n`."),
    "echo": _FLAG,
    "suffix": _said(_TEXT, "What comes after the text that is wanted."),
}
_EMBEDDING: Json = {
    "input": {"oneOf": [_TEXT, _STRINGS, _TOKENS, {"type": "array", "items": _TOKENS}]},
    **_CHOICE,
    "dimensions": _WHOLE,
    "encoding_format": {"type": "string", "enum": ["float", "base64"]},
}

_MODEL_ID: Json = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "schema": _TEXT,
    "description": "May contain / and :, as they are or percent-encoded.",
}
_DETAILED: Json = {"name": "detailed", "in": "query", "schema": _FLAG}
_PAGE: list[Json] = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}},
    {"name": "after", "in": "query", "schema": _TEXT, "description": "The id that came last."},
]

_WITH_KEY: list[Json] = [{"API key": []}, {}]
_OPEN: list[Json] = [{}]


def _read(name: str, tag: str, about: str, *parameters: Json, security: list[Json] = _WITH_KEY) -> Json:
    return {
        "get": {
            "operationId": name,
            "description": about,
            "tags": [tag],
            "parameters": list(parameters),
            "security": security,
            "responses": {"200": {"description": "", "content": {"application/json": {"schema": _ANY_OBJECT}}}},
        }
    }


def _prometheus(name: str, about: str) -> Json:
    content = {"text/plain": {"schema": _TEXT}}
    return {
        "get": {
            "operationId": name,
            "description": about,
            "tags": ["metrics"],
            "security": _WITH_KEY,
            "responses": {"200": {"description": "", "content": content}},
        }
    }


def _inference(name: str, about: str, required: str, properties: Json, *, streams: bool) -> Json:
    body = {"type": "object", "required": [required], "properties": properties, "additionalProperties": True}
    content: Json = {"application/json": {"schema": _ANY_OBJECT}}
    if streams:
        content["text/event-stream"] = {"schema": _TEXT}
    return {
        "post": {
            "operationId": name,
            "description": f"{about} Unknown fields are ignored and named in X-NOpenAI-Ignored.",
            "tags": ["inference"],
            "security": _WITH_KEY,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": {"description": "OpenAI's shape.", "content": content}},
        }
    }


def _explained() -> Json:
    body = {"type": "object", "properties": _CHAT, "additionalProperties": True}
    return {
        "post": {
            "operationId": "routing_explain",
            "description": "How a request, as it would be sent to be answered, would be routed: every candidate with "
            "its score, and why all others are none. It is not run.",
            "tags": ["routing"],
            "security": _WITH_KEY,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": {"description": "", "content": {"application/json": {"schema": _ANY_OBJECT}}}},
        }
    }


PATHS: Json = {
    "/v1/chat/completions": _inference(
        "chat_completions", "The model's next message.", "messages", _CHAT, streams=True
    ),
    "/v1/completions": _inference("completions", "The text that follows.", "prompt", _COMPLETION, streams=True),
    "/v1/embeddings": _inference("embeddings", "Texts as vectors.", "input", _EMBEDDING, streams=False),
    "/v1/models": _read("client_models", "models", "All models, or a page of them.", *_PAGE),
    "/v1/models/{model_id}": _read("client_model", "models", "One model, or one version: `id@version`.", _MODEL_ID),
    "/v1/models/{model_id}/versions": _read("client_model_versions", "models", "Its versions.", _MODEL_ID),
    "/v1/models/{model_id}/health": _read("client_model_health", "models", "Its health, with reasons.", _MODEL_ID),
    "/cache/stats": _read("cache_stats", "cache", "What this node's KV caches hold."),
    "/metrics": _prometheus("metrics", "This node's metrics in Prometheus' text format."),
    "/metrics/cache": _read("metrics_cache", "cache", "Hit rates of this node's KV caches.", _DETAILED),
    "/metrics/routing": _read(
        "metrics_routing", "routing", "What is counted of routing, A/B tests included.", _DETAILED
    ),
    "/routing/stats": _read("routing_stats", "routing", "What is counted of routing, A/B tests included."),
    "/routing/explain": _explained(),
    "/metrics/quotas": _read("metrics_quotas", "quotas", "How all models stand with their limits.", _DETAILED),
    "/health": _read("health", "health", "All that is known to be wrong, each with its time.", security=_OPEN),
    "/health/live": _read("health_live", "health", "200 while the process works.", security=_OPEN),
    "/health/ready": _read("health_ready", "health", "200 once models can be asked.", security=_OPEN),
    "/health/model/{model_id}": _read("health_model", "health", "One model's health.", _MODEL_ID, security=_OPEN),
}
"""OpenAPI's path items, by path."""
