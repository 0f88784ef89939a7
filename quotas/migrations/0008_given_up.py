"""A model can give its own limits up: a revision without limits, since which it has the default ones."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("quotas", "0007_limited_model")]

    operations = [
        migrations.AlterField(
            model_name="quotarevision",
            name="quota",
            field=models.JSONField(
                help_text="As quotas.limits.ModelQuota; null: it gave up its own, and has the default ones.",
                null=True,
            ),
        ),
    ]
