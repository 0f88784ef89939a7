"""The KV cache's control plane: configuration as revisions, shares, use, shared prompts; announced where it matters."""

import importlib

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

# Its name begins with a digit, so there is no import statement for it.
announcements = importlib.import_module("registry.migrations.0002_announcements")
announce = announcements.announce

# Shares and their configuration concern supervisors only: they leave the revision, and so the gateways' snapshot, alone.
FOR_GATEWAYS_BEFORE = "TG_ARGV[0] <> 'desired'"
FOR_GATEWAYS = "TG_ARGV[0] NOT IN ('desired', 'cache')"
ANNOUNCE_BEFORE = announcements.REVISION[announcements.REVISION.index("CREATE FUNCTION") :].replace(
    "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"
)
ANNOUNCE = ANNOUNCE_BEFORE.replace(FOR_GATEWAYS_BEFORE, FOR_GATEWAYS)
assert ANNOUNCE != ANNOUNCE_BEFORE

IMMUTABLE = """
CREATE FUNCTION registry_cacherevision_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation',
        CONSTRAINT = 'registry_cacherevision_immutable',
        TABLE = 'registry_cacherevision',
        MESSAGE = format('cache revision %s is history: a change is a new revision', OLD.number);
END
$$;

CREATE TRIGGER registry_cacherevision_immutable BEFORE UPDATE OR DELETE ON registry_cacherevision
FOR EACH ROW EXECUTE FUNCTION registry_cacherevision_refuse_change();

ALTER TABLE registry_cacherevision ADD CONSTRAINT registry_cacherevision_object
    CHECK (jsonb_typeof(config) = 'object');
ALTER TABLE registry_cacheuse ADD CONSTRAINT registry_cacheuse_five_minutes
    CHECK (extract(epoch FROM bucket) % 300 = 0);
"""

IMMUTABLE_REVERSE = """
ALTER TABLE registry_cacheuse DROP CONSTRAINT registry_cacheuse_five_minutes;
ALTER TABLE registry_cacherevision DROP CONSTRAINT registry_cacherevision_object;
DROP TRIGGER registry_cacherevision_immutable ON registry_cacherevision;
DROP FUNCTION registry_cacherevision_refuse_change();
"""


def _belongs_to(name, related_name):
    return models.ForeignKey(
        on_delete=django.db.models.deletion.CASCADE, related_name=related_name, to=f"registry.{name}"
    )


def _key():
    return models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    dependencies = [("registry", "0002_announcements")]

    operations = [
        migrations.CreateModel(
            name="CacheRevision",
            fields=[
                ("number", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("config", models.JSONField(help_text="As registry.cache.configuration.CacheAllocation.")),
                ("author", models.CharField(blank=True, max_length=200)),
                ("comment", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={"verbose_name": "cache revision", "ordering": ["-number"]},
        ),
        migrations.CreateModel(
            name="CacheShare",
            fields=[
                ("id", _key()),
                ("node", _belongs_to("node", "cache_shares")),
                ("model", _belongs_to("model", "cache_shares")),
                ("ram_bytes", models.BigIntegerField()),
                ("ssd_bytes", models.BigIntegerField()),
                ("why", models.TextField(blank=True)),
                ("computed_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "ordering": ["node", "model__name"],
                "constraints": [
                    models.UniqueConstraint(fields=("node", "model"), name="registry_cacheshare_once"),
                    models.CheckConstraint(
                        condition=models.Q(("ram_bytes__gte", 0), ("ssd_bytes__gte", 0)),
                        name="registry_cacheshare_size",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="CacheUse",
            fields=[
                ("id", _key()),
                ("model", _belongs_to("model", "cache_use")),
                ("bucket", models.DateTimeField(help_text="Its beginning: every five minutes, on the clock.")),
                ("prompt_tokens", models.BigIntegerField(default=0)),
                (
                    "cached_tokens",
                    models.BigIntegerField(default=0, help_text="Prompt tokens that were not computed."),
                ),
                ("requests", models.BigIntegerField(default=0)),
            ],
            options={
                "indexes": [models.Index(fields=["bucket"], name="registry_cacheuse_bucket")],
                "constraints": [
                    models.UniqueConstraint(fields=("model", "bucket"), name="registry_cacheuse_once"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("cached_tokens__gte", 0),
                            ("prompt_tokens__gte", models.F("cached_tokens")),
                            ("requests__gte", 0),
                        ),
                        name="registry_cacheuse_counts",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="SharedPrompt",
            fields=[
                ("id", _key()),
                ("name", models.CharField(max_length=100, unique=True)),
                (
                    "text",
                    models.TextField(
                        help_text="A request shares it when its first message is a system message of this text."
                    ),
                ),
                ("enabled", models.BooleanField(default=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("name", ""), _negated=True), models.Q(("text", ""), _negated=True)
                        ),
                        name="registry_sharedprompt_says_something",
                    )
                ],
            },
        ),
        migrations.AddField(
            model_name="node",
            name="disk_bytes",
            field=models.BigIntegerField(
                editable=False,
                help_text="Free on the disk of its data directory, its cached blocks counted as free; "
                "empty until it tells.",
                null=True,
            ),
        ),
        migrations.RunSQL(ANNOUNCE, ANNOUNCE_BEFORE),
        migrations.RunSQL(IMMUTABLE, IMMUTABLE_REVERSE),
        announce("registry_cacherevision", "cache"),
        announce("registry_cacheshare", "cache", ignored=("why", "computed_at")),
        announce("registry_sharedprompt", "keys", ignored=("name", "created_at")),
    ]
