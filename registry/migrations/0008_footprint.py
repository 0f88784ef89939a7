"""What workers were seen to take of a node's memory. Nobody has to hear of it, so it is not announced."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("registry", "0007_health")]

    operations = [
        migrations.CreateModel(
            name="Footprint",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "under",
                    models.JSONField(
                        default=dict, help_text="The parameters that it computed with, measured ones included."
                    ),
                ),
                ("ready_bytes", models.BigIntegerField(help_text="When it had become ready.")),
                ("peak_bytes", models.BigIntegerField(help_text="The most that was seen.")),
                ("measured_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="footprints", to="registry.node"
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="footprints", to="registry.version"
                    ),
                ),
            ],
            options={
                "ordering": ["version", "node"],
                "constraints": [
                    models.UniqueConstraint(fields=("node", "version"), name="registry_footprint_once"),
                ],
            },
        ),
    ]
