"""LiteLLM's own hook for keys: each request comes with a key that has all of its limits, far above what is asked."""

from typing import Any

from litellm.proxy._types import UserAPIKeyAuth  # type: ignore[import-not-found] # in an environment of its own


async def user_api_key_auth(request: Any, api_key: str) -> UserAPIKeyAuth:
    return UserAPIKeyAuth(api_key=api_key, rpm_limit=10**9, tpm_limit=10**12, max_parallel_requests=1000)
