"""What models with limits of their own may have of the cache, announced to the supervisors."""

import importlib

import django.db.models.deletion
from django.db import migrations, models

# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce


class Migration(migrations.Migration):
    dependencies = [("registry", "0005_prompt_lookup")]

    operations = [
        migrations.CreateModel(
            name="CacheCeiling",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "model",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="cache_ceiling",
                        to="registry.model",
                    ),
                ),
                ("ram_bytes", models.BigIntegerField(null=True)),
                ("ssd_bytes", models.BigIntegerField(null=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("ram_bytes__gte", 0), ("ssd_bytes__gte", 0)),
                        name="registry_cacheceiling_size",
                    )
                ],
            },
        ),
        announce("registry_cacheceiling", "cache"),
    ]
