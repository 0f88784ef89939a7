"""Two more parameters of a version: whether tokens are guessed, and what that costs."""

from django.db import migrations

_BEFORE = (
    "'context_tokens', 'lanes', 'lane_tokens', 'threads', 'batch_tokens', 'prefill_beside_decode', 'flash_attention', "
    "'kv_type', 'unified', 'n_gpu_layers', 'rope_freq_base', 'rope_freq_scale'"
)
_AFTER = f"{_BEFORE}, 'prompt_lookup', 'draft_cost'"


def _known(names: str) -> str:
    return f"""
    ALTER TABLE registry_version DROP CONSTRAINT registry_version_parameters_known;
    ALTER TABLE registry_version ADD CONSTRAINT registry_version_parameters_known CHECK (
        jsonb_typeof(parameters) = 'object' AND parameters - ARRAY[{names}] = '{{}}'
    );
    """


class Migration(migrations.Migration):
    dependencies = [("registry", "0004_parameters")]

    operations = [
        migrations.RunSQL(
            _known(_AFTER),
            "UPDATE registry_version SET parameters = parameters - 'prompt_lookup' - 'draft_cost';" + _known(_BEFORE),
        )
    ]
