"""No count of usage is negative, and a key's own is found by its number."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("quotas", "0005_callers_and_usage")]

    operations = [
        migrations.AlterModelOptions(
            name="usage",
            options={"ordering": ["-starts_at", "tenant", "model", "id"], "verbose_name": "usage record"},
        ),
        migrations.AddIndex(
            model_name="usage",
            index=models.Index(fields=["api_key", "starts_at"], name="quotas_usage_key"),
        ),
        migrations.AddConstraint(
            model_name="usage",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("cached_tokens__gte", 0),
                    ("completion_tokens__gte", 0),
                    ("errors__gte", 0),
                    ("prompt_tokens__gte", 0),
                    ("refused__gte", 0),
                    ("requests__gte", 0),
                    ("seconds__gte", 0),
                ),
                name="quotas_usage_counts",
            ),
        ),
    ]
