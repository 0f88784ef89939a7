"""Limits of models as revisions, announced to the gateways; and what is leased of them."""

import importlib

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce

IMMUTABLE = """
CREATE FUNCTION quotas_quotarevision_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation',
        CONSTRAINT = 'quotas_quotarevision_immutable',
        TABLE = 'quotas_quotarevision',
        MESSAGE = format('quota revision %s is history: a change is a new revision', OLD.number);
END
$$;

CREATE TRIGGER quotas_quotarevision_immutable BEFORE UPDATE ON quotas_quotarevision
FOR EACH ROW EXECUTE FUNCTION quotas_quotarevision_refuse_change();

ALTER TABLE quotas_quotarevision ADD CONSTRAINT quotas_quotarevision_object CHECK (jsonb_typeof(quota) = 'object');
"""

IMMUTABLE_REVERSE = """
ALTER TABLE quotas_quotarevision DROP CONSTRAINT quotas_quotarevision_object;
DROP TRIGGER quotas_quotarevision_immutable ON quotas_quotarevision;
DROP FUNCTION quotas_quotarevision_refuse_change();
"""

# The limits of models that have none of their own are part of the cache's configuration: of that, only they concern the
# gateways. The advisory lock is nopenai_announce()'s, which see.
DEFAULTS = """
CREATE FUNCTION quotas_announce_defaults() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := (
        SELECT config -> 'per_model_quota' FROM registry_cacherevision
        WHERE number < NEW.number ORDER BY number DESC LIMIT 1
    );
BEGIN
    IF jsonb_strip_nulls(coalesce(NEW.config -> 'per_model_quota', '{}'))
        IS DISTINCT FROM jsonb_strip_nulls(coalesce(before, '{}'))
    THEN
        PERFORM pg_advisory_xact_lock_shared(hashtext('nopenai'), hashtext('revision'));
        PERFORM nextval('nopenai_revision');
        PERFORM pg_notify('nopenai', 'limits');
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER registry_cacherevision_limits AFTER INSERT ON registry_cacherevision
FOR EACH ROW EXECUTE FUNCTION quotas_announce_defaults();
"""

DEFAULTS_REVERSE = """
DROP TRIGGER registry_cacherevision_limits ON registry_cacherevision;
DROP FUNCTION quotas_announce_defaults();
"""


def _key():
    return models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


def _belongs_to(table, related_name):
    return models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name=related_name, to=table)


class Migration(migrations.Migration):
    dependencies = [("quotas", "0003_partitions"), ("registry", "0005_prompt_lookup")]

    operations = [
        migrations.CreateModel(
            name="QuotaRevision",
            fields=[
                ("id", _key()),
                ("model", _belongs_to("registry.model", "quota_revisions")),
                ("number", models.PositiveIntegerField()),
                ("quota", models.JSONField(help_text="As quotas.limits.ModelQuota.")),
                ("author", models.CharField(blank=True, max_length=200)),
                ("comment", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "ordering": ["model", "-number"],
                "constraints": [models.UniqueConstraint(fields=("model", "number"), name="quotas_quotarevision_once")],
            },
        ),
        migrations.CreateModel(
            name="Window",
            fields=[
                ("id", _key()),
                ("account", models.CharField(help_text="As quotas.ledger.Account.key.", max_length=100)),
                (
                    "unit",
                    models.CharField(choices=[("tokens", "tokens"), ("requests", "requests")], max_length=10),
                ),
                (
                    "period",
                    models.CharField(
                        choices=[("minute", "minute"), ("hour", "hour"), ("day", "day"), ("month", "month")],
                        max_length=10,
                    ),
                ),
                ("starts_at", models.DateTimeField()),
                ("ends_at", models.DateTimeField()),
                (
                    "taken",
                    models.BigIntegerField(default=0, help_text="Leased, and not given back. Never above the limit."),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("account", "starts_at"), name="quotas_window_once"),
                    models.CheckConstraint(condition=models.Q(("taken__gte", 0)), name="quotas_window_taken"),
                ],
                "indexes": [models.Index(fields=["ends_at"], name="quotas_window_end")],
            },
        ),
        migrations.CreateModel(
            name="Lease",
            fields=[
                ("id", _key()),
                ("window", _belongs_to("quotas.window", "leases")),
                ("gateway", models.CharField(help_text="Of one process's life.", max_length=32)),
                ("granted", models.BigIntegerField(default=0)),
                ("spent", models.BigIntegerField(default=0, help_text="Real counts of requests that are over.")),
                ("reserved", models.BigIntegerField(default=0, help_text="Promised to requests that run.")),
                ("told_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("gateway", "window"), name="quotas_lease_once"),
                    models.CheckConstraint(
                        condition=models.Q(("granted__gte", 0), ("reserved__gte", 0), ("spent__gte", 0)),
                        name="quotas_lease_counts",
                    ),
                ]
            },
        ),
        migrations.RunSQL(IMMUTABLE, IMMUTABLE_REVERSE),
        migrations.RunSQL(DEFAULTS, DEFAULTS_REVERSE),
        announce("quotas_quotarevision", "limits"),
    ]
