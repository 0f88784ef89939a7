"""What the checks of health leave: what nodes tell, the last check of what is deployed, and every transition."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

# A version is made before its file was looked at, as unhealthy without a reason: nobody has found that.
HISTORY = """
CREATE FUNCTION registry_version_note_health() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO registry_healthtransition (version_id, before, after, reason, at)
    VALUES (
        NEW.id,
        CASE WHEN OLD.health = 'unhealthy' AND OLD.health_reason = '' THEN 'unknown' ELSE OLD.health END,
        NEW.health,
        NEW.health_reason,
        now()
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER registry_version_note_health AFTER UPDATE ON registry_version FOR EACH ROW
WHEN (OLD.health IS DISTINCT FROM NEW.health OR OLD.file_state IS DISTINCT FROM NEW.file_state)
EXECUTE FUNCTION registry_version_note_health();
"""

HISTORY_REVERSE = """
DROP TRIGGER registry_version_note_health ON registry_version;
DROP FUNCTION registry_version_note_health();
"""


def one_to_one(to: str, name: str) -> models.OneToOneField:
    return models.OneToOneField(
        on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name=name, serialize=False, to=to
    )


class Migration(migrations.Migration):
    dependencies = [("registry", "0006_cache_ceilings")]

    operations = [
        migrations.CreateModel(
            name="HealthSweep",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("finished_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="ReplicaVitals",
            fields=[
                ("replica", one_to_one("registry.replica", "vitals")),
                ("vitals", models.JSONField(help_text="As registry.health.vitals.Vitals.")),
                ("told_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
        ),
        migrations.CreateModel(
            name="VersionHealth",
            fields=[
                ("version", one_to_one("registry.version", "checked_health")),
                ("checks", models.JSONField(default=list, help_text="As registry.health.report.Check, each.")),
                (
                    "standing",
                    models.JSONField(default=dict, help_text="As registry.health.judgement.Standing."),
                ),
            ],
        ),
        migrations.CreateModel(
            name="HealthTransition",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("before", models.CharField(max_length=16)),
                ("after", models.CharField(max_length=16)),
                ("reason", models.TextField(blank=True)),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="health_history",
                        to="registry.version",
                    ),
                ),
            ],
            options={
                "verbose_name": "health transition",
                "ordering": ["-at", "-id"],
                "indexes": [
                    models.Index(fields=["version", "-at"], name="registry_health_of_version"),
                    models.Index(fields=["at"], name="registry_health_at"),
                ],
            },
        ),
        migrations.RunSQL(HISTORY, HISTORY_REVERSE),
    ]
