"""What was done, by whom, to what: rows that nobody may change."""

import hashlib
import json
from datetime import timezone

from django.db import models


class AuditManager(models.Manager):
    def record(self, **values):
        """Appends an entry, sealed over the one before it."""
        entry = self.model(**values)
        last = self.order_by("id").last()
        entry.seal = entry.sealed(last.seal if last else "")
        entry.save(force_insert=True)
        return entry

    def first_broken(self):
        """The first entry whose seal does not fit, or None."""
        previous = ""
        for entry in self.order_by("id").iterator():
            if entry.seal != entry.sealed(previous):
                return entry
            previous = entry.seal
        return None


class AuditEntry(models.Model):
    """
    One event. It outlives what it speaks of, so it refers by plain integers, which no database
    checks and no fixture renumbers. Its seal covers those integers, every microsecond of the time,
    and the seal before it.
    """

    at = models.DateTimeField(db_index=True)
    actor_id = models.IntegerField(null=True)
    action = models.CharField(max_length=20)
    object_type = models.CharField(max_length=60)
    object_id = models.BigIntegerField(null=True)
    request_id = models.UUIDField(null=True)
    ip = models.GenericIPAddressField(null=True)
    took = models.DurationField(null=True)
    details = models.JSONField(default=dict)
    seal = models.CharField(max_length=64)

    objects = AuditManager()

    class Meta:
        db_table = "audit_trail"

    def sealed(self, previous):
        """The seal that belongs here, after an entry with the seal `previous`."""
        at = self.at.astimezone(timezone.utc).isoformat(timespec="microseconds")
        content = [previous, at, self.actor_id, self.action, self.object_type, self.object_id, self.details]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
