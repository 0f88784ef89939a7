from django.apps import apps
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState


def test_the_migrations_make_the_tables_that_the_models_describe() -> None:
    loader = MigrationLoader(None)
    ours = {"registry", "quotas"}
    changes = MigrationAutodetector(loader.project_state(), ProjectState.from_apps(apps)).changes(
        graph=loader.graph, trim_to_apps=ours
    )
    assert {app: migrations for app, migrations in changes.items() if app in ours} == {}
