"""Fills the tables with what is hard about each kind of field."""

import datetime as dt
import uuid
from decimal import Decimal

import django
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management.base import BaseCommand
from django.db import connection

from every import models as m

UTC = dt.timezone.utc
ODD = "é \" ' \\ \n \t \u2028 😀 {1,2} NULL"


def kinds():
    m.Kinds.objects.create(big=2**63 - 1, file="")
    m.Kinds.objects.create(
        id=1000, big=-(2**63), binary=bytes(range(256)), boolean=True, char=ODD, date=dt.date(1, 1, 1),
        moment=dt.datetime(2024, 1, 2, 3, 4, 5, 123456, UTC), decimal=Decimal("1234.5600"),
        duration=dt.timedelta(days=-1, seconds=3, microseconds=7), email="a@example.org", file="kinds/é.txt",
        path="/tmp", float=0.1, integer=-5, ip="2001:db8::1", json={"b": [1, 2.5, None, {"é": ODD}], "aa": 10**30},
        positive_big=2**63 - 1, positive=2**31 - 1, positive_small=2**15 - 1, slug="a-b", small=-(2**15), text=ODD,
        time=dt.time(23, 59, 59, 999999), url="https://example.org/?a=b&c", uuid=uuid.UUID(int=1), colour=(1, 2, 255))
    m.Kinds.objects.create(
        big=0, binary=b"", boolean=False, char="", date=dt.date(9999, 12, 31),
        moment=dt.datetime(1969, 12, 31, 23, 59, 59, 120000, UTC), decimal=Decimal("-0.0001"), duration=dt.timedelta(0),
        file="x", float=-1e300, integer=0, ip="10.0.0.1", json=[], time=dt.time(0), colour=(0, 0, 0))
    m.Kinds.objects.create(
        big=1, file="y", moment=dt.datetime(2024, 12, 31, 23, 0, 0, 0, UTC), decimal=Decimal("7"), float=3.0,
        duration=dt.timedelta(days=400, hours=25, microseconds=1), json="text", time=dt.time(1, 2, 3, 100))
    m.Kinds.objects.create(big=2, file="z", json=False, float=5e-324, text="\u0001\u007f")


def relations():
    permissions = list(Permission.objects.order_by("-codename")[:7])
    group = Group.objects.create(name="readers")
    group.permissions.set(permissions[:3])
    users = [User.objects.create_user(f"user{n}", password=None) for n in range(3)]
    users[0].groups.add(group)
    users[1].user_permissions.set(permissions[3:])
    # Numbers descend, so that what is referred to comes after what refers.
    old = m.Author.objects.create(id=900, name="old")
    young = m.Author.objects.create(id=5, name="young", mentor=old)
    odd = m.Author.objects.create(id=6, name=ODD[:20], mentor=None)
    young.friends.add(old, odd)
    old.follows.add(young)
    shelf = m.Shelf.objects.create(room="east", number=7)
    m.Publisher.objects.create(code="late")
    broad, narrow = m.Genre.objects.create(code="prose"), m.Genre.objects.create(code="novel")
    narrow.broader.add(broad)
    last = m.Book.objects.create(id=uuid.UUID(int=9), author=young, publisher_id="late", shelf=shelf)
    first = m.Book.objects.create(id=uuid.UUID(int=2), author=old, sequel=last, loose_id="gone")
    first.genres.add(narrow, broad)
    m.Reading.objects.create(book=first, reader=users[2], at=dt.datetime(2024, 5, 6, 7, 8, 9, 10, UTC))
    revised = m.Revised.objects.create(id=uuid.UUID(int=5), author=old, language="en", edition=2)
    m.Translation.objects.create(id=uuid.UUID(int=6), language="kk")
    m.Cover.objects.create(book=first, text="red")
    for number, target in enumerate([first, young, users[0], revised]):
        m.Note.objects.create(id=90 - number, target=target, text="on " + type(target).__name__)
    grant = m.Grant.objects.create(group=group)
    grant.about.set(ContentType.objects.filter(app_label="every").order_by("-model")[:4])
    grant.permissions.set(permissions[2:5])
    LogEntry.objects.create(
        user=users[0], content_type=ContentType.objects.get_for_model(m.Book), object_id=str(first.pk),
        object_repr="a book", action_flag=2, change_message='[{"changed": {"fields": ["A"]}}]')
    if django.VERSION >= (5, 2):
        m.Seat.objects.create(row="b", number=2, holder=users[1])
        m.Seat.objects.create(row="a", number=10)


def composed():
    from django.db.backends.postgresql.psycopg_any import (
        DateRange, DateTimeTZRange, NumericRange)
    m.Composed.objects.create()
    m.Composed.objects.create(
        integers=[1, None, -3], texts=["", None, "NULL", "null", "a,b", '"q"', "\\", "{x}", ODD, "1"],
        grid=[["a", "b"], ["[c]", ""]], numbers=[[1, 2], [3, 4]], days=[dt.date(2024, 2, 29)],
        moments=[dt.datetime(2024, 1, 2, 3, 4, 5, 600000, UTC)], prices=[Decimal("1.50"), Decimal("0.00")],
        flags=[True, False], uuids=[uuid.UUID(int=7)], pairs={"a": "1", "b": None, "é\"": ODD},
        integer_range=NumericRange(1, 5), big_range=NumericRange(None, 2**40), decimal_range=NumericRange(
            Decimal("1.5"), Decimal("2.50"), "[]"),
        date_range=DateRange(dt.date(2024, 1, 1), None),
        moment_range=DateTimeTZRange(dt.datetime(2024, 1, 1, 0, 0, 0, 1, UTC), dt.datetime(2024, 1, 2, tzinfo=UTC), "()"))
    m.Composed.objects.create(
        integers=[], texts=[], grid=[], pairs={}, integer_range=NumericRange(empty=True), date_range=DateRange())


class Command(BaseCommand):
    def handle(self, **options):
        kinds()
        relations()
        if settings.IS_POSTGRES:
            composed()
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO legacy VALUES ('old'), ('older')")
            cursor.execute("INSERT INTO unmapped VALUES (1, 'kept')")
