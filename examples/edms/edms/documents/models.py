"""Documents, their versions, their way through the workflow, and what people say about them."""

import uuid

from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import timezone

from edms.accounts.models import Department


class StateManager(models.Manager):
    def get_by_natural_key(self, code):
        return self.get(code=code)


class WorkflowState(models.Model):
    """
    A step of the workflow, named by a code that is the primary key and the natural key at once:
    `dumpdata --natural-primary` leaves such a key out.
    """

    code = models.CharField(max_length=30, primary_key=True)
    name = models.CharField(max_length=80)
    position = models.PositiveSmallIntegerField()
    is_final = models.BooleanField(default=False)
    next_states = models.ManyToManyField("self", symmetrical=False, related_name="previous_states")

    objects = StateManager()

    class Meta:
        db_table = "workflow_states"
        ordering = ["position"]

    def __str__(self):
        return self.name

    def natural_key(self):
        return (self.code,)


class Tag(models.Model):
    """A label. The one model whose table has the name that Django gives it."""

    name = models.CharField(max_length=60, unique=True)

    def __str__(self):
        return self.name


class LiveDocuments(models.Manager):
    """Hides what was put in the bin, as the default manager: `dumpdata` does not see those rows."""

    def get_queryset(self):
        return super().get_queryset().filter(deleted_at__isnull=True)


def by_month(document, filename):
    """Uploads lie in the month of their document."""
    return f"documents/{document.created_at:%Y/%m}/{filename}"


class Document(models.Model):
    """An upload with everything that is known about it."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    number = models.CharField(max_length=30, unique=True, db_column="document_no")
    title = models.CharField(max_length=250)
    description = models.TextField(null=True, blank=True)
    file = models.FileField(upload_to=by_month, max_length=200)
    preview = models.FileField(upload_to="media/previews", null=True, blank=True)
    digest = models.BinaryField(max_length=32)
    size = models.BigIntegerField()
    state = models.ForeignKey(WorkflowState, models.PROTECT, related_name="documents")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="documents")
    department = models.ForeignKey(
        Department, models.PROTECT, to_field="code", db_column="department_code", null=True
    )
    supersedes = models.ForeignKey("self", models.SET_NULL, null=True, blank=True)
    tags = models.ManyToManyField(Tag, related_name="documents")
    reviewers = models.ManyToManyField(
        settings.AUTH_USER_MODEL, through="Review", related_name="reviewed_documents"
    )
    cost = models.DecimalField(max_digits=15, decimal_places=6, null=True, blank=True)
    relevance = models.FloatField(null=True, blank=True)
    is_confidential = models.BooleanField(default=False)
    metadata = models.JSONField(null=True, blank=True)
    keep_for = models.DurationField(null=True, blank=True)
    effective_on = models.DateField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    deleted_at = models.DateTimeField(null=True, blank=True)
    comments = GenericRelation("documents.Comment")

    objects = LiveDocuments()
    everything = models.Manager()

    class Meta:
        db_table = "documents"

    def __str__(self):
        return f"{self.number} {self.title}"


class Contract(Document):
    """A document with a price: a table of its own whose key is the key of the document."""

    partner = models.CharField(max_length=120)
    amount = models.DecimalField(max_digits=15, decimal_places=4)
    currency = models.CharField(max_length=3)
    signed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "contracts"


class ConfidentialDocument(Document):
    """A proxy: it has a content type and permissions, and no table."""

    class Meta:
        proxy = True


class DocumentVersion(models.Model):
    """What a document was before its present upload."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    document = models.ForeignKey(Document, models.CASCADE, related_name="versions")
    sequence = models.PositiveIntegerField()
    file = models.FileField(upload_to="documents/versions", max_length=200)
    note = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "document_versions"
        constraints = [
            models.UniqueConstraint(fields=["document", "sequence"], name="one_version_per_sequence")
        ]


class Review(models.Model):
    """One reviewer's word on one document."""

    document = models.ForeignKey(Document, models.CASCADE, related_name="reviews")
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="reviews")
    approved = models.BooleanField(null=True)
    score = models.FloatField(null=True)
    spent = models.DurationField(null=True)
    decided_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "document_reviews"


class Comment(models.Model):
    """A remark on anything: the target is a content type and a number."""

    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.PositiveBigIntegerField()
    target = GenericForeignKey("content_type", "object_id")
    # Without a constraint: the remark stays when the version it was made on is gone.
    version = models.ForeignKey(
        DocumentVersion, models.DO_NOTHING, null=True, blank=True, db_constraint=False
    )
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="comments")
    text = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "comments"
        indexes = [models.Index(fields=["content_type", "object_id"], name="comments_by_target")]
