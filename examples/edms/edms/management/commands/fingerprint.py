"""Prints one line per table: its name, its number of rows, and a SHA-256 over all of them."""

import hashlib
import json
from datetime import timedelta, timezone
from decimal import Context, Decimal
from uuid import UUID

from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import BaseCommand
from django.db import connection, models
from django.db.migrations.recorder import MigrationRecorder


class Command(BaseCommand):
    """
    The rows are read with plain SQL, so that no manager hides any, and put in one form, so that the
    same data has the same fingerprint in SQLite and PostgreSQL. What no fixture can carry does not
    count: the numbers of content types, permissions and rows of automatic many-to-many tables
    (their natural keys count), NULL against '' in a FileField, JSON null against SQL NULL.
    `--exact` compares those too, for two databases of one kind.
    """

    help = __doc__

    def add_arguments(self, parser):
        parser.add_argument("--exclude", action="append", default=[], metavar="TABLE")
        parser.add_argument("--exact", action="store_true", help="every column, as the driver returns it")

    def handle(self, *, exclude, exact, **options):
        known = [*apps.get_models(include_auto_created=True), MigrationRecorder.Migration]
        by_table = {model._meta.db_table: model for model in known if not model._meta.proxy}
        self.natural = {ContentType: {}, Permission: {}}
        if not exact:
            self.natural = {model: dict(self.natural_keys(model)) for model in self.natural}
        for table in sorted(set(connection.introspection.table_names()) - set(exclude)):
            rows = sorted(self.rows(table, None if exact else by_table.get(table)))
            digest = hashlib.sha256("".join(rows).encode()).hexdigest()
            self.stdout.write(f"{table} {len(rows)} {digest}")

    def natural_keys(self, model):
        for row in model.objects.all():
            yield row.pk, row.natural_key()

    def rows(self, table, model):
        """Every row as a line of JSON. They are sorted as text: collations differ, this does not."""
        fields = {field.column: field for field in model._meta.local_concrete_fields} if model else {}
        nameless = model and (model in self.natural or model._meta.auto_created)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            names = [column[0] for column in cursor.description]
            kept = sorted(name for name in names if not (nameless and fields[name].primary_key))
            forms = {name: self.form(fields[name]) if name in fields else lambda value: value for name in kept}
            for values in cursor:
                row = dict(zip(names, values))
                yield json.dumps({name: forms[name](row[name]) for name in kept}, default=plain) + "\n"

    def form(self, field):
        """The function that puts a value of this column in its one form."""
        nothing = "" if isinstance(field, models.FileField) else None
        while field.remote_field:
            if natural := self.natural.get(field.remote_field.model):
                return natural.get
            field = field.target_field
        match field.get_internal_type():
            case "BooleanField":
                form = bool
            case "DateTimeField":
                form = utc
            case "DecimalField":
                unit = Decimal(1).scaleb(-field.decimal_places)
                form = lambda value: str(Decimal(str(value)).quantize(unit))
            case "DurationField":
                form = microseconds
            case "UUIDField":
                form = lambda value: UUID(str(value)).hex
            case "JSONField":
                form = json_form
            case "GenericIPAddressField":
                form = str
            case _:
                return lambda value: nothing if value is None else value
        return lambda value: None if value is None else form(value)


def plain(value):
    """What JSON has no word for."""
    return bytes(value).hex() if isinstance(value, (bytes, memoryview)) else str(value)


def utc(value):
    """SQLite keeps times without a zone, in UTC."""
    aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    return aware.astimezone(timezone.utc).isoformat(timespec="microseconds")


def microseconds(value):
    """SQLite keeps durations as their number of microseconds."""
    return value // timedelta(microseconds=1) if isinstance(value, timedelta) else value


def json_form(text):
    """PostgreSQL keeps neither the order of the keys nor the notation of the numbers."""
    def number(digits):
        return str(Decimal(digits).normalize(Context(prec=1000)))

    value = json.loads(text, parse_float=number, parse_int=number)
    return None if value is None else json.dumps(value, sort_keys=True)
