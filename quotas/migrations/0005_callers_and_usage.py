"""Limits of keys and tenants, usage, emergencies; windows keep what was used before they were leased."""

import importlib
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import uuid
from django.db import migrations, models


# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce

# Django computes a default once for all rows.
LINES = "UPDATE quotas_apikey SET line = gen_random_uuid()"

LISTS = """
ALTER TABLE quotas_apikey
    ADD CONSTRAINT quotas_apikey_models_list CHECK (jsonb_typeof(allowed_models) = 'array'),
    ADD CONSTRAINT quotas_apikey_routes_list CHECK (jsonb_typeof(allowed_routes) = 'array');
"""

LISTS_REVERSE = """
ALTER TABLE quotas_apikey DROP CONSTRAINT quotas_apikey_models_list, DROP CONSTRAINT quotas_apikey_routes_list;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("quotas", "0004_limits"),
    ]

    operations = [
        migrations.CreateModel(
            name="Emergency",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("enabled", models.BooleanField()),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("author", models.CharField(blank=True, max_length=200)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "verbose_name_plural": "emergencies",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="GatewayLife",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=32, unique=True)),
                ("batch", models.BigIntegerField(default=0)),
                ("told_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
        ),
        migrations.CreateModel(
            name="KeyUse",
            fields=[
                (
                    "key",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="use",
                        serialize=False,
                        to="quotas.apikey",
                    ),
                ),
                ("used_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="Usage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "period",
                    models.CharField(choices=[("hour", "hour"), ("day", "day"), ("month", "month")], max_length=10),
                ),
                ("starts_at", models.DateTimeField(verbose_name="from")),
                ("tenant", models.CharField(max_length=100)),
                ("api_key", models.BigIntegerField(help_text="Its number; none: without a key.", null=True)),
                ("model", models.CharField(max_length=200)),
                ("requests", models.BigIntegerField(default=0, help_text="Admitted, and over.")),
                ("prompt_tokens", models.BigIntegerField(default=0)),
                ("cached_tokens", models.BigIntegerField(default=0, help_text="Of the prompts' tokens: not computed.")),
                ("completion_tokens", models.BigIntegerField(default=0)),
                ("seconds", models.FloatField(default=0.0, help_text="From admission to end.")),
                ("errors", models.BigIntegerField(default=0, help_text="Failed for a reason of the server's.")),
                ("refused", models.BigIntegerField(default=0, help_text="Not let in by a limit.")),
            ],
            options={
                "verbose_name_plural": "usage",
                "ordering": ["-starts_at", "tenant", "model", "id"],
            },
        ),
        migrations.AddField(
            model_name="apikey",
            name="allowed_models",
            field=models.JSONField(blank=True, help_text="Ids of models. Null: all.", null=True),
        ),
        migrations.AddField(
            model_name="apikey",
            name="allowed_routes",
            field=models.JSONField(blank=True, help_text="Names of routes, such as auto. Null: all.", null=True),
        ),
        migrations.AddField(
            model_name="apikey",
            name="line",
            field=models.UUIDField(
                default=uuid.uuid4,
                editable=False,
                help_text="A rotated key has that of the one before: they share limits.",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="max_concurrent_requests",
            field=models.BigIntegerField(
                blank=True,
                help_text="At the same time, over all gateways of a node.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="max_priority",
            field=models.PositiveSmallIntegerField(
                default=5,
                help_text="0–10: what its requests ask for beyond is cut to this.",
                validators=[django.core.validators.MaxValueValidator(10)],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="requests_per_day",
            field=models.BigIntegerField(
                blank=True,
                help_text="From midnight to midnight (NOPENAI_TIME_ZONE).",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="requests_per_hour",
            field=models.BigIntegerField(
                blank=True,
                help_text="From hour to hour.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="requests_per_minute",
            field=models.BigIntegerField(
                blank=True,
                help_text="From minute to minute. Empty: no limit.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="requests_per_month",
            field=models.BigIntegerField(
                blank=True,
                help_text="From the first of a month on.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="rotated_from",
            field=models.ForeignKey(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="rotated_to",
                to="quotas.apikey",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="tokens_per_day",
            field=models.BigIntegerField(
                blank=True,
                help_text="From midnight to midnight.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="tokens_per_hour",
            field=models.BigIntegerField(
                blank=True,
                help_text="From hour to hour.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="tokens_per_minute",
            field=models.BigIntegerField(
                blank=True,
                help_text="Of prompts and answers together. Empty: no limit.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="tokens_per_month",
            field=models.BigIntegerField(
                blank=True,
                help_text="From the first of a month on.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="max_concurrent_requests",
            field=models.BigIntegerField(
                blank=True,
                help_text="At the same time, over all gateways of a node.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="requests_per_day",
            field=models.BigIntegerField(
                blank=True,
                help_text="From midnight to midnight (NOPENAI_TIME_ZONE).",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="requests_per_hour",
            field=models.BigIntegerField(
                blank=True,
                help_text="From hour to hour.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="requests_per_minute",
            field=models.BigIntegerField(
                blank=True,
                help_text="From minute to minute. Empty: no limit.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="requests_per_month",
            field=models.BigIntegerField(
                blank=True,
                help_text="From the first of a month on.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="tokens_per_day",
            field=models.BigIntegerField(
                blank=True,
                help_text="From midnight to midnight.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="tokens_per_hour",
            field=models.BigIntegerField(
                blank=True,
                help_text="From hour to hour.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="tokens_per_minute",
            field=models.BigIntegerField(
                blank=True,
                help_text="Of prompts and answers together. Empty: no limit.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="tokens_per_month",
            field=models.BigIntegerField(
                blank=True,
                help_text="From the first of a month on.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9007199254740992),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tenant",
            name="weight",
            field=models.FloatField(
                default=1.0,
                help_text="Its share where tenants take turns: one of 2 gets twice as much as one of 1.",
                validators=[
                    django.core.validators.MinValueValidator(0.001),
                    django.core.validators.MaxValueValidator(1000.0),
                ],
            ),
        ),
        migrations.AddField(
            model_name="window",
            name="earlier",
            field=models.BigIntegerField(
                default=0, help_text="Of that, used before the first limit was set, or by leases that are closed."
            ),
        ),
        migrations.AddField(
            model_name="window",
            name="level",
            field=models.SmallIntegerField(default=0, help_text="The highest quotas.modes.Level that was told."),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="expires_at",
            field=models.DateTimeField(blank=True, help_text="Empty: it is valid without end.", null=True),
        ),
        migrations.AlterField(
            model_name="window",
            name="taken",
            field=models.BigIntegerField(
                default=0, help_text="Leased, and not given back: no lease brings it above the limit."
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("max_concurrent_requests__range", (0, 9007199254740992)),
                    ("requests_per_day__range", (0, 9007199254740992)),
                    ("requests_per_hour__range", (0, 9007199254740992)),
                    ("requests_per_minute__range", (0, 9007199254740992)),
                    ("requests_per_month__range", (0, 9007199254740992)),
                    ("tokens_per_day__range", (0, 9007199254740992)),
                    ("tokens_per_hour__range", (0, 9007199254740992)),
                    ("tokens_per_minute__range", (0, 9007199254740992)),
                    ("tokens_per_month__range", (0, 9007199254740992)),
                ),
                name="quotas_apikey_limits",
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(("max_priority__range", (0, 10))), name="quotas_apikey_priority"
            ),
        ),
        migrations.AddConstraint(
            model_name="tenant",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("max_concurrent_requests__range", (0, 9007199254740992)),
                    ("requests_per_day__range", (0, 9007199254740992)),
                    ("requests_per_hour__range", (0, 9007199254740992)),
                    ("requests_per_minute__range", (0, 9007199254740992)),
                    ("requests_per_month__range", (0, 9007199254740992)),
                    ("tokens_per_day__range", (0, 9007199254740992)),
                    ("tokens_per_hour__range", (0, 9007199254740992)),
                    ("tokens_per_minute__range", (0, 9007199254740992)),
                    ("tokens_per_month__range", (0, 9007199254740992)),
                ),
                name="quotas_tenant_limits",
            ),
        ),
        migrations.AddConstraint(
            model_name="tenant",
            constraint=models.CheckConstraint(
                condition=models.Q(("weight__range", (0.001, 1000.0))), name="quotas_tenant_weight"
            ),
        ),
        migrations.AddIndex(
            model_name="usage",
            index=models.Index(fields=["model", "starts_at"], name="quotas_usage_model"),
        ),
        migrations.AddConstraint(
            model_name="usage",
            constraint=models.UniqueConstraint(
                fields=("starts_at", "period", "tenant", "model", "api_key"),
                name="quotas_usage_once",
                nulls_distinct=False,
            ),
        ),
        migrations.AddConstraint(
            model_name="usage",
            constraint=models.CheckConstraint(
                condition=models.Q(("period__in", ["hour", "day", "month"])), name="quotas_usage_period"
            ),
        ),
        migrations.RunSQL(LINES, migrations.RunSQL.noop),
        migrations.RunSQL(LISTS, LISTS_REVERSE),
        announce("quotas_emergency", "limits"),
    ]
