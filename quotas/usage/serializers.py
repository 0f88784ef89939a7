"""What the endpoints of usage give."""

from typing import Any

from rest_framework import serializers


class UsageOut(serializers.Serializer[Any]):
    """A sum. Of what was not asked for by `by` and `period` it says nothing."""

    starts_at = serializers.DateTimeField(required=False, help_text="Of the hour, day or month.")
    model = serializers.CharField(required=False)
    tenant = serializers.CharField(required=False)
    key_id = serializers.IntegerField(required=False, allow_null=True, help_text="null: without a key.")
    key_prefix = serializers.CharField(required=False, help_text="How the key begins; empty for none.")
    requests = serializers.IntegerField(help_text="Admitted, and over.")
    prompt_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(help_text="Of the prompts' tokens: not computed.")
    completion_tokens = serializers.IntegerField()
    seconds = serializers.FloatField(help_text="From admission to end, of all requests together.")
    errors = serializers.IntegerField(  # type: ignore[assignment] # DRF's own attribute stays: fields lie elsewhere
        help_text="Of the requests: failed for a reason of the server's."
    )
    refused = serializers.IntegerField(help_text="Beside the requests: not let in by a limit.")
