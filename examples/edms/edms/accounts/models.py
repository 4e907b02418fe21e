"""Who may do what: departments, users, groups and roles."""

import uuid

from django.contrib.auth.models import AbstractUser, Group
from django.db import models
from django.utils import timezone


class Department(models.Model):
    """Users refer to it by its id, documents by its code."""

    code = models.CharField(max_length=12, unique=True)
    name = models.CharField(max_length=120)
    parent = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="children")
    budget = models.DecimalField(max_digits=14, decimal_places=2)

    class Meta:
        db_table = "departments"

    def __str__(self):
        return self.name


class Role(models.Model):
    """
    A set of groups that is handed out with a reason and an end.

    `get_by_natural_key` stands on the class and not on the manager, as in many applications:
    `dumpdata --natural-foreign` then writes names that `loaddata` cannot look up.
    """

    code = models.SlugField(unique=True)
    name = models.CharField(max_length=80)
    description = models.TextField(blank=True)
    capabilities = models.JSONField(default=list)
    groups = models.ManyToManyField(Group, db_table="role_groups", related_name="roles")

    class Meta:
        db_table = "roles"
        ordering = ["name"]

    def __str__(self):
        return self.name

    def natural_key(self):
        return (self.code,)

    @classmethod
    def get_by_natural_key(cls, code):
        return cls.objects.get(code=code)


class User(AbstractUser):
    """A user with the kinds of columns that user tables collect over the years."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    patronymic = models.CharField(max_length=80, null=True, blank=True)  # NULL: unknown, '': has none
    department = models.ForeignKey(Department, models.SET_NULL, null=True, related_name="users")
    manager = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="team")
    roles = models.ManyToManyField(
        Role, through="UserRole", through_fields=("user", "role"), related_name="users"
    )
    born = models.DateField(null=True, blank=True)
    starts_work_at = models.TimeField(null=True, blank=True)
    last_login_ip = models.GenericIPAddressField(null=True, blank=True)
    quota_bytes = models.BigIntegerField(default=10 * 2**30)
    preferences = models.JSONField(default=dict, blank=True)
    signing_key = models.BinaryField(null=True)
    portrait = models.FileField(upload_to="media/portraits", null=True, blank=True)

    class Meta:
        db_table = "users"


class UserRole(models.Model):
    """A role given to a user: an explicit model, because who gave it and until when matters."""

    user = models.ForeignKey(User, models.CASCADE, related_name="assignments")
    role = models.ForeignKey(Role, models.CASCADE, related_name="assignments")
    assigned_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    assigned_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    is_active = models.BooleanField(default=True)

    class Meta:
        db_table = "user_roles"
        constraints = [models.UniqueConstraint(fields=["user", "role"], name="one_role_per_user")]
