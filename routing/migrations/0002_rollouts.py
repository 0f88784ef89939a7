"""Roll-outs of A/B tests, announced to the gateways, and what nodes have counted of the tests."""

import importlib

import django.utils.timezone
from django.db import migrations, models

# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce


class Migration(migrations.Migration):
    dependencies = [("routing", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="ExperimentRollout",
            fields=[
                ("route", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("test", models.CharField(help_text="Its name: the route and both models.", max_length=500)),
                (
                    "state",
                    models.CharField(
                        choices=[("running", "running"), ("complete", "complete"), ("rolled_back", "rolled_back")],
                        default="running",
                        max_length=16,
                    ),
                ),
                ("share_of_b", models.FloatField(help_text="In force: 0–1.")),
                ("progress", models.JSONField(help_text="As routing.experiments.rollout.Progress.")),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("share_of_b__gte", 0.0), ("share_of_b__lte", 1.0)),
                        name="routing_rollout_share",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ExperimentTally",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("test", models.CharField(help_text="Its name: the route and both models.", max_length=500)),
                ("node", models.CharField(max_length=200)),
                ("run", models.CharField(help_text="Of the supervisor that told last; random.", max_length=32)),
                ("letter", models.PositiveBigIntegerField(help_text="The last one of that run that was added.")),
                (
                    "counts",
                    models.JSONField(default=dict, help_text="As routing.experiments.results.ExperimentCounts."),
                ),
                ("updated_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("test", "node"), name="routing_tally_of_node")],
            },
        ),
        # Gateways ask for nothing but the share.
        announce("routing_experimentrollout", "routing", ignored=("state", "progress")),
    ]
