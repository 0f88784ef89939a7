"""Nodes that reach each other, on how many of them a model is, and what operators tell them."""

import importlib

import django.core.validators
from django.db import migrations, models

announce = importlib.import_module("registry.migrations.0002_announcements").announce

HEARTBEAT = ("ram_budget_mb", "disk_bytes", "supervisor_pid", "started_at", "last_seen_at")


class Migration(migrations.Migration):

    dependencies = [
        ('registry', '0009_backends'),
    ]

    operations = [
        migrations.AddField(
            model_name='model',
            name='replicas',
            field=models.PositiveSmallIntegerField(default=1, help_text='On how many nodes it is loaded, where there are so many.', validators=[django.core.validators.MinValueValidator(1)]),
        ),
        migrations.AddField(
            model_name='node',
            name='address',
            field=models.CharField(blank=True, editable=False, help_text='host:port of its door; empty: no other node reaches it.', max_length=300),
        ),
        migrations.AddField(
            model_name='node',
            name='duty',
            field=models.CharField(choices=[('open', 'open (takes models)'), ('cordoned', 'cordoned (loads no more models)'), ('draining', 'draining (unloads what it has, and loads no more)')], default='open', max_length=16),
        ),
        migrations.AddConstraint(
            model_name='model',
            constraint=models.CheckConstraint(condition=models.Q(('replicas__gte', 1)), name='registry_model_some_replica'),
        ),
        migrations.AddConstraint(
            model_name='node',
            constraint=models.CheckConstraint(condition=models.Q(('duty__in', ['open', 'cordoned', 'draining'])), name='registry_node_duty_known'),
        ),
        announce("registry_node", "nodes", ignored=HEARTBEAT),
    ]
