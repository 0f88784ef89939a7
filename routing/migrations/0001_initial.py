"""How requests find their model, as revisions, announced to the gateways."""

import importlib

import django.utils.timezone
from django.db import migrations, models

# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce

IMMUTABLE = """
CREATE FUNCTION routing_routingrevision_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation',
        CONSTRAINT = 'routing_routingrevision_immutable',
        TABLE = 'routing_routingrevision',
        MESSAGE = format('routing revision %s is history: a change is a new revision', OLD.number);
END
$$;

CREATE TRIGGER routing_routingrevision_immutable BEFORE UPDATE ON routing_routingrevision
FOR EACH ROW EXECUTE FUNCTION routing_routingrevision_refuse_change();

ALTER TABLE routing_routingrevision ADD CONSTRAINT routing_routingrevision_object
CHECK (jsonb_typeof(config) = 'object');
"""

IMMUTABLE_REVERSE = """
ALTER TABLE routing_routingrevision DROP CONSTRAINT routing_routingrevision_object;
DROP TRIGGER routing_routingrevision_immutable ON routing_routingrevision;
DROP FUNCTION routing_routingrevision_refuse_change();
"""


class Migration(migrations.Migration):
    initial = True

    dependencies = [("registry", "0006_cache_ceilings")]

    operations = [
        migrations.CreateModel(
            name="RoutingRevision",
            fields=[
                ("number", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("config", models.JSONField(help_text="As routing.config.Routing.")),
                ("author", models.CharField(blank=True, max_length=200)),
                ("comment", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={"verbose_name": "routing revision", "ordering": ["-number"]},
        ),
        migrations.RunSQL(IMMUTABLE, IMMUTABLE_REVERSE),
        announce("routing_routingrevision", "routing"),
    ]
