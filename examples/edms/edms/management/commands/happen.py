"""Lets something happen to a seeded EDMS: ordinary work, or a disaster."""

import hashlib
import random
import uuid
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from django.conf import settings
from django.core.management import BaseCommand, CommandError
from django.db import transaction
from django.db.models import Count

from edms import uploads
from edms.accounts.models import User
from edms.audit.models import AuditEntry
from edms.documents.models import Document, DocumentVersion


class Command(BaseCommand):
    """What happens depends on what is there and on nothing else: it can be repeated elsewhere."""

    help = __doc__

    def add_arguments(self, parser):
        parser.add_argument("step", type=int, choices=[1, 2], help="1: a day of work; 2: a disaster")

    def handle(self, *, step, **options):
        last = AuditEntry.objects.order_by("id").last()
        if last is None:
            raise CommandError("nothing is there yet: run seed first")
        self.rng, self.clock = random.Random(last.pk), last.at
        with transaction.atomic():
            (self.work if step == 1 else self.disaster)()

    def audit(self, action, document, **details):
        self.clock += timedelta(seconds=37, microseconds=123_457)
        AuditEntry.objects.record(
            at=self.clock, actor_id=document.author_id, action=action, ip="192.0.2.17",
            object_type="documents.document", object_id=document.pk, details=details,
        )

    def work(self):
        """Documents move on, one gets a new upload, one is added."""
        edited = list(Document.objects.filter(state__is_final=False).order_by("id")[:80:10])
        for document in edited:
            before, document.state = document.state, document.state.next_states.first()
            document.title += " — rev."
            document.cost = (document.cost or Decimal(0)) + Decimal("0.000001")
            self.audit("edit", document, state=[before.code, document.state_id])
            document.updated_at = self.clock
            document.save()
        self.stdout.write(f"{len(edited)} documents edited and moved on in the workflow")

        revised = edited[0]
        sequence = revised.versions.count() + 1
        old = revised.file.open().read()
        version = DocumentVersion(id=self.uuid(), document=revised, sequence=sequence, created_at=self.clock)
        uploads.attach(version.file, f"{revised.number}-v{sequence}{Path(revised.file.name).suffix}", old, self.clock)
        version.save()
        self.upload(revised, old + b"\nsigned\n")
        revised.save()
        self.audit("upload", revised, version=sequence)
        self.stdout.write(f"document {revised.number}: new upload {revised.file.name}")

        values = dict(uuid=self.uuid(), title="Новый договор", state_id="draft", author=revised.author)
        added = Document(**values, number=f"NEW-{Document.everything.count() + 1:05}", created_at=self.clock)
        self.upload(added, uploads.content(self.rng, "pdf", 60_000), f"{added.number} договор.pdf")
        added.save()
        self.audit("create", added, number=added.number)
        self.stdout.write(f"document {added.number}: added with {added.file.name}")

    def disaster(self):
        """A user is deleted with all that hangs on them, uploads are lost, the configuration is changed."""
        users = User.objects.filter(is_superuser=False).annotate(authored=Count("documents"))
        user = users.order_by("-authored", "id").first()
        name = user.username
        total, models = user.delete()
        documents = models["documents.Document"]
        self.stdout.write(f"user {name} deleted, and with them {documents} documents, {total} rows in all")

        garbled, lost = Document.objects.order_by("-size", "id")[:2]
        Path(garbled.file.path).write_bytes(self.rng.randbytes(70_000))
        self.stdout.write(f"upload {garbled.file.name} overwritten with garbage")
        Path(lost.file.path).unlink()
        self.stdout.write(f"upload {lost.file.name} removed from the disk")

        text = settings.ENV_FILE.read_text("utf-8")
        settings.ENV_FILE.write_text(text.replace("DEBUG=False", "DEBUG=True"), "utf-8")
        self.stdout.write("DEBUG switched on in .env")

    def uuid(self):
        return uuid.UUID(int=self.rng.getrandbits(128), version=4)

    def upload(self, document, data, name=None):
        name = name or Path(document.file.name).name
        document.digest, document.size = hashlib.sha256(data).digest(), len(data)
        document.updated_at = self.clock
        uploads.attach(document.file, f"r{self.clock:%H%M%S}_{name}", data, self.clock)
