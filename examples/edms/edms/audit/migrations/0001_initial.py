from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='AuditEntry',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField(db_index=True)),
                ('actor_id', models.IntegerField(null=True)),
                ('action', models.CharField(max_length=20)),
                ('object_type', models.CharField(max_length=60)),
                ('object_id', models.BigIntegerField(null=True)),
                ('request_id', models.UUIDField(null=True)),
                ('ip', models.GenericIPAddressField(null=True)),
                ('took', models.DurationField(null=True)),
                ('details', models.JSONField(default=dict)),
                ('seal', models.CharField(max_length=64)),
            ],
            options={
                'db_table': 'audit_trail',
            },
        ),
    ]
