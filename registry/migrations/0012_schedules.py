"""Warm hours, and when an operator last said what a replica should be."""

import importlib

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import registry.schedules.models

announce = importlib.import_module("registry.migrations.0002_announcements").announce


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0011_load_times"),
    ]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="desired_at",
            field=models.DateTimeField(
                editable=False, help_text="When an operator said so last; empty: nobody has.", null=True
            ),
        ),
        migrations.CreateModel(
            name="WarmSchedule",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "opens",
                    models.CharField(
                        help_text="Cron: when it is to be loaded, as in 0 8 * * mon-fri",
                        max_length=100,
                        validators=[registry.schedules.models.validate_cron],
                    ),
                ),
                (
                    "closes",
                    models.CharField(
                        help_text="Cron: until when, as in 0 18 * * mon-fri",
                        max_length=100,
                        validators=[registry.schedules.models.validate_cron],
                    ),
                ),
                (
                    "time_zone",
                    models.CharField(
                        default="UTC",
                        help_text="Whose clock that is: Europe/Berlin",
                        max_length=64,
                        validators=[registry.schedules.models.validate_time_zone],
                    ),
                ),
                (
                    "open_since",
                    models.DateTimeField(
                        editable=False,
                        help_text="When the hours began that last now; empty outside of them.",
                        null=True,
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="schedules", to="registry.model"
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: whichever is promoted.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="schedules",
                        to="registry.version",
                    ),
                ),
            ],
            options={
                "ordering": ["model", "pk"],
            },
        ),
        announce("registry_warmschedule", "desired"),
    ]
