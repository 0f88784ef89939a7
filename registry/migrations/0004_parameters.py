"""llama.cpp's parameters of each version, and what was measured to be fastest on each machine."""

import importlib

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce

KNOWN = """
ALTER TABLE registry_version ADD CONSTRAINT registry_version_parameters_known CHECK (
    jsonb_typeof(parameters) = 'object' AND parameters - ARRAY[
        'context_tokens', 'lanes', 'lane_tokens', 'threads', 'batch_tokens', 'prefill_beside_decode', 'flash_attention',
        'kv_type', 'unified', 'n_gpu_layers', 'rope_freq_base', 'rope_freq_scale'
    ] = '{}'
);
ALTER TABLE registry_tuning ADD CONSTRAINT registry_tuning_objects CHECK (
    jsonb_typeof(under) = 'object' AND jsonb_typeof(parameters) = 'object' AND jsonb_typeof(measured) = 'array'
);
"""
KNOWN_REVERSE = """
ALTER TABLE registry_tuning DROP CONSTRAINT registry_tuning_objects;
ALTER TABLE registry_version DROP CONSTRAINT registry_version_parameters_known;
"""


class Migration(migrations.Migration):
    dependencies = [("registry", "0003_cache")]

    operations = [
        migrations.AddField(
            model_name="version",
            name="parameters",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text="llama.cpp's, as operators set them (registry.parameters); what is missing is chosen.",
            ),
        ),
        migrations.CreateModel(
            name="Tuning",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="tunings", to="registry.version"
                    ),
                ),
                ("machine", models.CharField(help_text="CPU, cores and llama.cpp.", max_length=300)),
                (
                    "under",
                    models.JSONField(default=dict, help_text="The version's parameters when it was measured."),
                ),
                ("parameters", models.JSONField(default=dict, help_text="What is faster than the engine's choice.")),
                ("measured", models.JSONField(default=list, help_text="As inference.protocol.Measured.")),
                ("measured_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "ordering": ["version", "machine"],
                "constraints": [
                    models.UniqueConstraint(fields=("version", "machine"), name="registry_tuning_once"),
                ],
            },
        ),
        migrations.RunSQL(KNOWN, KNOWN_REVERSE),
        # It concerns supervisors only.
        announce("registry_tuning", "desired", ignored=("measured", "measured_at")),
    ]
