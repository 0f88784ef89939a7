"""What limits cost: our gateway with every limit of the model, of its key and of the key's tenant, and without; LiteLLM
with a key's limits, and without."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping

from nopenai_site.environment import PROJECT_ROOT
from tests.bench import servers
from tests.bench.overhead import CONNECTIONS, load

PAIRS = 5
SECONDS = 4
_LIMIT = 10**9
_KEY_LIMITS = [
    f"{unit}_per_{period}" for unit in ("requests", "tokens") for period in ("minute", "hour", "day", "month")
]

_MODEL_LIMITS = (
    "hourly_token_limit",
    "hourly_request_limit",
    "daily_token_limit",
    "daily_request_limit",
    "burst_token_limit",
    "max_concurrent_requests",
    "max_ram_mb",
    "max_ssd_gb",
)

_SET = """
import json, os, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings_core")
django.setup()
from quotas.access.services import tenant_update, key_update
from quotas.models import ApiKey
from quotas.services import quota_update
wanted = json.loads(os.environ["LIMITS"])
key_update(key_pk=ApiKey.objects.get(role="inference").pk, changes=wanted["key"])
tenant_update(name="default", changes=wanted["key"])
quota_update(model="stub", changes=wanted["model"], author="bench")
"""


def measure() -> str:
    """One gateway process, one key; the two settings take turns on the same server, so that noise meets both."""
    with servers.stub_gateway(NOPENAI_REQUIRE_API_KEY="1") as (url, variables):
        key = _key(variables, "inference")
        ours: dict[bool, list[float]] = {False: [], True: []}
        load(url, "stub", CONNECTIONS, 2, key)
        for _ in range(PAIRS):
            for limited in (False, True):
                _set_limits(variables, limited=limited)
                ours[limited].append(load(url, "stub", CONNECTIONS, SECONDS, key).requests_per_second)
        one = load(url, "stub", 1, SECONDS, key).p50_ms
        counts = servers.metrics(url, "/metrics", _key(variables, "operator"))
    with servers.stub_upstream() as upstream:
        light = {}
        for limited in (False, True):
            with servers.litellm(upstream, limited=limited) as light_url:
                load(light_url, "stub", CONNECTIONS, 2)
                light[limited] = load(light_url, "stub", CONNECTIONS, 2 * SECONDS).requests_per_second
    ratio = statistics.median(limited / free for free, limited in zip(ours[False], ours[True], strict=True))
    refills = counts["nopenai_lease_refills_total"] + counts["nopenai_permit_requests_total"]
    asked = 1 - refills / counts["nopenai_model_requests_total"]
    return "\n".join(
        [
            "| proxy (1 process) | requests/s without limits | with | × without |",
            "| --- | ---: | ---: | ---: |",
            _row("nopenai gateway: 8 limits of the model, 9 of the key, 9 of its tenant", ours, ratio),
            _row(
                "LiteLLM proxy: 3 limits of the key",
                {each: [light[each]] for each in light},
                light[True] / light[False],
            ),
            f"\nWith all of them p50 is {one:.2f} ms at 1 connection, and {asked:.2%} of the requests asked neither "
            "PostgreSQL nor the supervisor. Bars: ≥ 0.9 × without, ≥ 99 %.",
        ]
    )


def _row(name: str, rates: Mapping[bool, list[float]], ratio: float) -> str:
    return f"| {name} | {statistics.median(rates[False]):,.0f} | {statistics.median(rates[True]):,.0f} | {ratio:.2f} |"


def _set_limits(variables: Mapping[str, str], *, limited: bool) -> None:
    """The gateway follows within a second, which the load's first moments are."""
    value = _LIMIT if limited else None
    wanted = {
        "key": {**dict.fromkeys(_KEY_LIMITS, value), "max_concurrent_requests": value},
        "model": dict.fromkeys(_MODEL_LIMITS, value),
    }
    command = [sys.executable, "-c", _SET]
    environment = os.environ | dict(variables) | {"LIMITS": json.dumps(wanted)}
    subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def _key(variables: Mapping[str, str], role: str) -> str:
    command = [sys.executable, "manage.py", "keys", "create", "--role", role]
    environment = os.environ | dict(variables)
    made = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip()
