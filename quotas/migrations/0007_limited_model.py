"""Models, as the page of limits has them: a name for the same rows."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("quotas", "0006_usage"),
        ("registry", "0006_cache_ceilings"),
    ]

    operations = [
        migrations.CreateModel(
            name="LimitedModel",
            fields=[],
            options={
                "verbose_name": "model's limits",
                "verbose_name_plural": "limits",
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("registry.model",),
        ),
    ]
