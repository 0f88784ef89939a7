"""A model that a backend elsewhere answers, on a real installation: its backend is its own other door."""

import json
from typing import Any

import openai

from tests.installation import Installation
from tests.waiting import wait_until

MODEL = "SmolLM2-135M-Instruct"
SECRET = "sk-of-the-backend"


def shown(installation: Installation) -> Any:
    status, body = installation.get("/v1/models/away")
    return json.loads(body) if status == 200 else {}


def test_openais_client_is_answered_from_elsewhere_and_no_key_is_in_the_log(own_installation: Any) -> None:
    installation: Installation = own_installation(NOPENAI_REMOTE_NETWORKS="127.0.0.0/8")
    installation.start()
    installation.wait_started()
    body = {"id": "away", "url": f"{installation.url}/v1", "model": MODEL, "api_key": SECRET}
    status, made = installation.post("/api/v1/backends", body)
    assert (status, made["health_status"]) == (201, "healthy"), made
    wait_until(lambda: shown(installation).get("state") == "ready", 10, lambda: str(shown(installation)))

    client = openai.OpenAI(base_url=f"{installation.url}/v1", api_key="none", max_retries=0)
    question: Any = [{"role": "user", "content": "How deep is the sea?"}]
    asked: dict[str, Any] = {"messages": question, "max_tokens": 12, "temperature": 0}
    here = client.chat.completions.create(model=MODEL, **asked)
    away = client.chat.completions.create(model="away", **asked)
    assert here.usage is not None
    assert away.usage is not None
    assert (away.model, away.usage.prompt_tokens) == ("away", here.usage.prompt_tokens)
    assert away.choices[0].message.content
    assert 0 < away.usage.completion_tokens <= 12

    pieces = list(client.chat.completions.create(model="away", stream=True, **asked))
    assert len([piece for piece in pieces if piece.choices and piece.choices[0].delta.content]) > 1
    assert pieces[-1].choices[0].finish_reason in ("length", "stop")

    assert f"at {installation.url}/v1" in installation.command("models", "list").stdout
    assert not any(SECRET in str(record) for record in installation.log_records())
