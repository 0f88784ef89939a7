import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Model',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('name', models.CharField(help_text="What clients put into the request's “model” field.", max_length=200, unique=True, validators=[django.core.validators.RegexValidator('\\A[^\\s/@:][^\\s@]*\\Z', 'No white space, no @, and no leading / or :')], verbose_name='id')),
                ('display_name', models.CharField(blank=True, max_length=200)),
                ('enabled', models.BooleanField(default=True, help_text='A disabled model answers no request.')),
                ('preload', models.BooleanField(default=False, help_text='Load at start and keep loaded.')),
                ('is_default', models.BooleanField(default=False, help_text='Answers requests that name no model.')),
                ('starter', models.BooleanField(default=False, editable=False, help_text='The built-in model, served while there is no other.')),
                ('extra_capabilities', models.JSONField(blank=True, default=list, help_text='Beyond what the GGUF says, as a list of words: ["arabic_nlp"].')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('alias_of', models.ForeignKey(blank=True, editable=False, help_text='Another name of that model: it has no versions of its own.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='aliases', to='registry.model')),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='Node',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=200, unique=True)),
                ('ram_budget_mb', models.PositiveIntegerField(default=0)),
                ('supervisor_pid', models.PositiveIntegerField(blank=True, null=True)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('last_seen_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='Usage',
            fields=[
                ('model', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='usage', serialize=False, to='registry.model')),
                ('use_count', models.PositiveBigIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name='Version',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('major', models.PositiveIntegerField()),
                ('minor', models.PositiveIntegerField()),
                ('patch', models.PositiveIntegerField()),
                ('source', models.CharField(choices=[('discovered', 'Discovered'), ('registered', 'Registered')], default='discovered', max_length=16)),
                ('path', models.TextField(help_text='The file or folder, absolute.')),
                ('files', models.JSONField(default=list, help_text='Absolute paths of the GGUF, its shards in order.')),
                ('size_bytes', models.BigIntegerField(default=0)),
                ('modified_ns', models.BigIntegerField(default=0, help_text='Newest modification time of its files.')),
                ('header_digest', models.CharField(blank=True, help_text='SHA-256 of the GGUF header.', max_length=64)),
                ('sha256', models.CharField(blank=True, help_text='Of the whole content, computed in the background.', max_length=64)),
                ('hashed_modified_ns', models.BigIntegerField(blank=True, editable=False, help_text='The modification time for which sha256 was last found true.', null=True)),
                ('architecture', models.CharField(blank=True, max_length=64)),
                ('parameter_count', models.BigIntegerField(blank=True, null=True)),
                ('quantization', models.CharField(blank=True, max_length=32)),
                ('context_length', models.BigIntegerField(blank=True, null=True)),
                ('capabilities', models.JSONField(default=list, help_text='What the GGUF says it can do.')),
                ('file_state', models.CharField(choices=[('present', 'Present'), ('incomplete', 'incomplete (still being copied, or truncated)'), ('invalid', 'not a usable GGUF'), ('missing', 'vanished'), ('replaced', 'replaced by other content'), ('conflict', 'its id belongs to another file')], default='present', max_length=16)),
                ('health', models.CharField(choices=[('unknown', 'Unknown'), ('healthy', 'Healthy'), ('degraded', 'Degraded'), ('unhealthy', 'Unhealthy'), ('loading', 'Loading')], default='unknown', max_length=16)),
                ('health_reason', models.TextField(blank=True)),
                ('health_checked_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='versions', to='registry.model')),
            ],
            options={
                'ordering': ['model', '-major', '-minor', '-patch'],
            },
        ),
        migrations.CreateModel(
            name='Replica',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('desired', models.CharField(choices=[('on_demand', 'on demand'), ('running', 'running (pinned)'), ('stopped', 'stopped (until the next request)')], default='on_demand', max_length=16)),
                ('observed', models.CharField(choices=[('cold', 'Cold'), ('loading', 'Loading'), ('ready', 'Ready'), ('draining', 'Draining'), ('failed', 'Failed')], default='cold', editable=False, max_length=16)),
                ('reason', models.TextField(blank=True, editable=False)),
                ('pid', models.PositiveIntegerField(blank=True, editable=False, null=True)),
                ('restarts', models.PositiveIntegerField(default=0, editable=False)),
                ('observed_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('node', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='replicas', to='registry.node')),
                ('version', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='replicas', to='registry.version')),
            ],
            options={
                'ordering': ['node', 'version'],
            },
        ),
        migrations.AddField(
            model_name='model',
            name='promoted',
            field=models.ForeignKey(blank=True, help_text='The version that the bare id means.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='registry.version'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.UniqueConstraint(fields=('model', 'major', 'minor', 'patch'), name='registry_version_once'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('size_bytes__gte', 0)), name='registry_version_size'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('header_digest__regex', '\\A([0-9a-f]{64})?\\Z'), ('sha256__regex', '\\A([0-9a-f]{64})?\\Z')), name='registry_version_digest_form'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('source__in', ['discovered', 'registered'])), name='registry_version_source_known'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('file_state__in', ['present', 'incomplete', 'invalid', 'missing', 'replaced', 'conflict'])), name='registry_version_file_state_known'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('health__in', ['unknown', 'healthy', 'degraded', 'unhealthy', 'loading'])), name='registry_version_health_known'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('file_state', 'present'), ('health', 'unhealthy'), _connector='OR'), name='registry_version_no_file_no_health'),
        ),
        migrations.AddConstraint(
            model_name='replica',
            constraint=models.UniqueConstraint(fields=('node', 'version'), name='registry_replica_once'),
        ),
        migrations.AddConstraint(
            model_name='replica',
            constraint=models.CheckConstraint(condition=models.Q(('desired__in', ['on_demand', 'running', 'stopped'])), name='registry_replica_desired_known'),
        ),
        migrations.AddConstraint(
            model_name='replica',
            constraint=models.CheckConstraint(condition=models.Q(('observed__in', ['cold', 'loading', 'ready', 'draining', 'failed'])), name='registry_replica_observed_known'),
        ),
        migrations.AddConstraint(
            model_name='replica',
            constraint=models.CheckConstraint(condition=models.Q(('pid__isnull', True), ('observed__in', ['loading', 'ready', 'draining']), _connector='OR'), name='registry_replica_pid_only_while_alive'),
        ),
        migrations.AddConstraint(
            model_name='model',
            constraint=models.UniqueConstraint(condition=models.Q(('is_default', True)), fields=('is_default',), name='registry_model_one_default'),
        ),
        migrations.AddConstraint(
            model_name='model',
            constraint=models.UniqueConstraint(condition=models.Q(('starter', True)), fields=('starter',), name='registry_model_one_starter'),
        ),
        migrations.AddConstraint(
            model_name='model',
            constraint=models.CheckConstraint(condition=models.Q(('name__regex', '\\A[^\\s/@:][^\\s@]*\\Z')), name='registry_model_name_form'),
        ),
        migrations.AddConstraint(
            model_name='model',
            constraint=models.CheckConstraint(condition=models.Q(('alias_of__isnull', True), models.Q(('is_default', False), ('preload', False), ('promoted__isnull', True), ('starter', False), models.Q(('alias_of', models.F('id')), _negated=True)), _connector='OR'), name='registry_model_alias_bare'),
        ),
    ]
