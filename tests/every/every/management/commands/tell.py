"""Prints every record as Django sees it, in one order, content types and permissions by their names."""

from django.apps import apps
from django.core.management.base import BaseCommand
from django.core.serializers import get_serializer

BY_NAME = ("contenttypes.contenttype", "auth.permission")


class Command(BaseCommand):
    def handle(self, **options):
        lines = []
        for model in apps.get_models():
            if model._meta.proxy or model._meta.label_lower == "sessions.session":
                continue
            serializer = get_serializer("python")()
            for record in serializer.serialize(model._base_manager.all(), use_natural_foreign_keys=True):
                if record["model"] in BY_NAME:
                    del record["pk"]
                for field in model._meta.many_to_many:
                    if field.name in record["fields"]:
                        record["fields"][field.name].sort()
                lines.append(repr((record["model"], record.get("pk"), sorted(record["fields"].items()))))
        self.stdout.write("\n".join(sorted(lines)))
