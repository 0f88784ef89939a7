"""How long loads took. Nobody has to hear of it, so it is not announced."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("registry", "0010_nodes")]

    operations = [
        migrations.CreateModel(
            name="LoadTime",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("tier", models.CharField(max_length=16, help_text="disk, page_cache or warm.")),
                ("samples", models.JSONField(default=list, help_text="As inference.protocol.LoadSeconds.")),
                ("measured_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="load_times", to="registry.node"
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="load_times", to="registry.version"
                    ),
                ),
            ],
            options={
                "ordering": ["version", "node", "tier"],
                "constraints": [
                    models.UniqueConstraint(fields=("node", "version", "tier"), name="registry_loadtime_once"),
                ],
            },
        ),
    ]
