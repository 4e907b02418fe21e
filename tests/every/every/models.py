"""Every kind of field and relation that a fixture can hold."""

import uuid

import django
from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models


class Colour(models.Field):
    """A field of the application's own: a text in the database, three numbers in Python."""

    def db_type(self, connection):
        return "varchar(7)"

    def from_db_value(self, value, expression, connection):
        return self.to_python(value)

    def to_python(self, value):
        if isinstance(value, str):
            return tuple(bytes.fromhex(value[1:]))
        return value

    def get_prep_value(self, value):
        return None if value is None else "#" + bytes(value).hex()

    def value_to_string(self, obj):
        return self.get_prep_value(self.value_from_object(obj))


class Kinds(models.Model):
    """One column of every kind, and one more of those that may be NULL."""

    id = models.BigAutoField(primary_key=True)
    big = models.BigIntegerField()
    binary = models.BinaryField(null=True)
    boolean = models.BooleanField(null=True)
    char = models.CharField(max_length=80, null=True)
    date = models.DateField(null=True)
    moment = models.DateTimeField(null=True)
    decimal = models.DecimalField(max_digits=12, decimal_places=4, null=True)
    duration = models.DurationField(null=True)
    email = models.EmailField(blank=True)
    file = models.FileField(upload_to="kinds")
    path = models.FilePathField(path="/", null=True)
    float = models.FloatField(null=True)
    integer = models.IntegerField(null=True, db_column="An Integer")
    ip = models.GenericIPAddressField(null=True)
    json = models.JSONField(null=True)
    positive_big = models.PositiveBigIntegerField(default=0)
    positive = models.PositiveIntegerField(default=0)
    positive_small = models.PositiveSmallIntegerField(default=0)
    slug = models.SlugField(blank=True)
    small = models.SmallIntegerField(default=0)
    text = models.TextField(blank=True)
    time = models.TimeField(null=True)
    url = models.URLField(blank=True)
    uuid = models.UUIDField(null=True)
    colour = Colour(null=True)
    updated = models.DateTimeField(auto_now=True)
    if django.VERSION >= (5, 0):
        doubled = models.GeneratedField(
            expression=models.F("small") * 2, output_field=models.IntegerField(), db_persist=True
        )

    class Meta:
        db_table = "Kinds of Fields"


class Named(models.Manager):
    def get_by_natural_key(self, *names):
        return self.get(**dict(zip(self.model.natural, names)))


class Author(models.Model):
    """Referred to by name, by its own number, and by itself before it is there."""

    natural = ["name"]
    name = models.CharField(max_length=40, unique=True)
    mentor = models.ForeignKey("self", models.SET_NULL, null=True)
    friends = models.ManyToManyField("self")
    follows = models.ManyToManyField("self", symmetrical=False, related_name="followers")
    objects = Named()

    def natural_key(self):
        return (self.name,)


class Publisher(models.Model):
    code = models.CharField(max_length=8, unique=True)
    id = models.SmallAutoField(primary_key=True)


class Shelf(models.Model):
    """Its name is made of two columns."""

    natural = ["room", "number"]
    room = models.CharField(max_length=8)
    number = models.IntegerField()
    objects = Named()

    class Meta:
        unique_together = [("room", "number")]

    def natural_key(self):
        return (self.room, self.number)


class Genre(models.Model):
    code = models.CharField(max_length=20, primary_key=True)
    broader = models.ManyToManyField("self", symmetrical=False, db_table="genre_of_genre")


class Book(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    author = models.ForeignKey(Author, models.CASCADE, null=True, related_name="books")
    publisher = models.ForeignKey(Publisher, models.CASCADE, to_field="code", db_column="pub", null=True)
    shelf = models.ForeignKey(Shelf, models.SET_NULL, null=True)
    sequel = models.OneToOneField("self", models.SET_NULL, null=True, related_name="prequel")
    genres = models.ManyToManyField(Genre)
    readers = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Reading")
    loose = models.ForeignKey(Genre, models.DO_NOTHING, null=True, db_constraint=False, related_name="+")


class Reading(models.Model):
    book = models.ForeignKey(Book, models.CASCADE)
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    at = models.DateTimeField()


class Translation(Book):
    """A table of its own whose key is its parent's; and a child of that."""

    language = models.CharField(max_length=5)


class Revised(Translation):
    edition = models.IntegerField()


class Cover(models.Model):
    book = models.OneToOneField(Book, models.CASCADE, primary_key=True)
    text = models.TextField()


class Note(models.Model):
    """On anything, by content type and key."""

    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.CharField(max_length=40)
    target = GenericForeignKey()
    text = models.TextField()


class Grant(models.Model):
    """Relations to what is numbered differently in every installation."""

    about = models.ManyToManyField(ContentType)
    permissions = models.ManyToManyField(Permission)
    group = models.ForeignKey(Group, models.CASCADE, null=True)


class Beginner(Author):
    class Meta:
        proxy = True


class Legacy(models.Model):
    """A table that Django reads and does not manage."""

    word = models.CharField(max_length=10, primary_key=True)

    class Meta:
        managed = False
        db_table = "legacy"


if django.VERSION >= (5, 2):

    class Seat(models.Model):
        pk = models.CompositePrimaryKey("row", "number")
        row = models.CharField(max_length=2)
        number = models.IntegerField()
        holder = models.ForeignKey(User, models.SET_NULL, null=True)


if settings.IS_POSTGRES:
    from django.contrib.postgres import fields as pg

    class Composed(models.Model):
        """What only PostgreSQL has."""

        integers = pg.ArrayField(models.IntegerField(null=True), null=True)
        texts = pg.ArrayField(models.TextField(null=True), null=True)
        grid = pg.ArrayField(pg.ArrayField(models.TextField()), null=True)
        numbers = pg.ArrayField(pg.ArrayField(models.IntegerField()), null=True)
        days = pg.ArrayField(models.DateField(), null=True)
        moments = pg.ArrayField(models.DateTimeField(), null=True)
        prices = pg.ArrayField(models.DecimalField(max_digits=9, decimal_places=2), null=True)
        flags = pg.ArrayField(models.BooleanField(), null=True)
        uuids = pg.ArrayField(models.UUIDField(), null=True)
        pairs = pg.HStoreField(null=True)
        integer_range = pg.IntegerRangeField(null=True)
        big_range = pg.BigIntegerRangeField(null=True)
        decimal_range = pg.DecimalRangeField(null=True)
        date_range = pg.DateRangeField(null=True)
        moment_range = pg.DateTimeRangeField(null=True)
