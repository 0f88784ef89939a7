"""Versions that a backend elsewhere answers: where it is, and its sealed key."""

import importlib

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce

IMMUTABLE = """
CREATE FUNCTION registry_remotebackend_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation',
        CONSTRAINT = 'registry_remotebackend_immutable',
        TABLE = 'registry_remotebackend',
        MESSAGE = format('the backend of version %s is its content, and can''t change: another one is a new version',
                         OLD.version_id);
END
$$;

CREATE TRIGGER registry_remotebackend_immutable BEFORE UPDATE ON registry_remotebackend FOR EACH ROW
WHEN ((OLD.url, OLD.model) IS DISTINCT FROM (NEW.url, NEW.model))
EXECUTE FUNCTION registry_remotebackend_refuse_change();
"""

IMMUTABLE_REVERSE = """
DROP TRIGGER registry_remotebackend_immutable ON registry_remotebackend;
DROP FUNCTION registry_remotebackend_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("registry", "0008_footprint")]

    operations = [
        migrations.RemoveConstraint(model_name="version", name="registry_version_source_known"),
        migrations.AlterField(
            model_name="version",
            name="source",
            field=models.CharField(
                choices=[
                    ("discovered", "Discovered"),
                    ("registered", "Registered"),
                    ("remote", "remote (a backend elsewhere)"),
                ],
                default="discovered",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="version",
            constraint=models.CheckConstraint(
                condition=models.Q(("source__in", ["discovered", "registered", "remote"])),
                name="registry_version_source_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="version",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("source", "remote"), _negated=True),
                    models.Q(("files", []), ("size_bytes", 0)),
                    _connector="OR",
                ),
                name="registry_version_remote_has_no_file",
            ),
        ),
        migrations.CreateModel(
            name="RemoteBackend",
            fields=[
                (
                    "version",
                    models.OneToOneField(
                        editable=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="backend",
                        serialize=False,
                        to="registry.version",
                    ),
                ),
                (
                    "url",
                    models.TextField(
                        editable=False,
                        help_text="What its paths follow, such as https://api.example.com/v1",
                        verbose_name="URL",
                    ),
                ),
                ("model", models.CharField(editable=False, help_text="How it is called there.", max_length=200)),
                (
                    "sealed_key",
                    models.BinaryField(default=bytes, help_text="See registry.backends.sealing."),
                ),
                ("keyed_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "missed",
                    models.PositiveIntegerField(
                        default=0, editable=False, help_text="Checks in a row that it did not pass."
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("url__regex", "\\Ahttps?://[^\\s?#@]+\\Z")),
                        name="registry_remotebackend_url_form",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("model", ""), _negated=True), name="registry_remotebackend_named"
                    ),
                ],
            },
        ),
        migrations.RunSQL(IMMUTABLE, IMMUTABLE_REVERSE),
        announce("registry_remotebackend", "catalogue", ignored=("missed",)),
    ]
