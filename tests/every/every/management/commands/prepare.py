"""Makes the tables of a new database: those of Django, those of this project, and the foreign one."""

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.core.management.sql import emit_post_migrate_signal
from django.db import connection


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("--shifted", action="store_true", help="with other numbers of content types")

    def handle(self, shifted, **options):
        with connection.cursor() as cursor:
            if settings.IS_POSTGRES:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS hstore")
            cursor.execute("CREATE TABLE legacy (word varchar(10) PRIMARY KEY)")
            cursor.execute("CREATE TABLE unmapped (id integer PRIMARY KEY, text text)")
        # What the tables of this project refer to, first.
        call_command("migrate", verbosity=0)
        call_command("migrate", run_syncdb=True, verbosity=0)
        if shifted:
            ContentType.objects.all().delete()
            emit_post_migrate_signal(verbosity=0, interactive=False, db="default")
