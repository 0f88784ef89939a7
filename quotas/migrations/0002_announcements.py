"""Every change of tenants and keys is announced to the gateways."""

import importlib

from django.db import migrations

# Its name begins with a digit, so there is no import statement for it.
announce = importlib.import_module("registry.migrations.0002_announcements").announce


class Migration(migrations.Migration):
    dependencies = [("quotas", "0001_initial"), ("registry", "0002_announcements")]

    operations = [announce("quotas_tenant", "keys"), announce("quotas_apikey", "keys")]
