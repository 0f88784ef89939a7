"""Cache partitions: a table, one row for each tenant there is, and their announcement to the gateways."""

import importlib
import secrets

import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

from quotas import sealing

# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce


def give_each_tenant_a_partition(apps, schema_editor):
    """The other partitions are made on demand; see quotas.partitions, which this does not call: it will change."""
    Partition = apps.get_model("quotas", "Partition")
    for tenant in apps.get_model("quotas", "Tenant").objects.all():
        name = secrets.token_hex(16)
        sealed_key = sealing.seal(sealing.key_make(), name=name, secret_key=str(settings.SECRET_KEY))
        Partition.objects.create(tenant=tenant, name=name, sealed_key=sealed_key)


class Migration(migrations.Migration):
    dependencies = [("quotas", "0002_announcements")]

    operations = [
        migrations.CreateModel(
            name="Partition",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "tenant",
                    models.OneToOneField(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="cache_partition",
                        to="quotas.tenant",
                    ),
                ),
                ("name", models.CharField(editable=False, max_length=32, unique=True)),
                ("sealed_key", models.BinaryField(help_text="See quotas.sealing.")),
                ("keyed_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("tenant",), name="quotas_partition_one_each", nulls_distinct=False),
                    models.CheckConstraint(
                        condition=models.Q(("name__regex", "\\A[0-9a-f]{32}\\Z")), name="quotas_partition_name_form"
                    ),
                    models.CheckConstraint(
                        condition=django.db.models.lookups.Exact(
                            django.db.models.functions.text.Length("sealed_key"), 60
                        ),
                        name="quotas_partition_key_sealed",
                    ),
                ],
            },
        ),
        migrations.RunPython(give_each_tenant_a_partition, migrations.RunPython.noop),
        announce("quotas_partition", "keys"),
    ]
