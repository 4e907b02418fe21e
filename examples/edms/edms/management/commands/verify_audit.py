"""Checks the seals of the audit trail; a microsecond or a number that was lost breaks one."""

from django.core.management import BaseCommand, CommandError

from edms.audit.models import AuditEntry


class Command(BaseCommand):
    help = __doc__

    def handle(self, **options):
        broken = AuditEntry.objects.first_broken()
        if broken:
            raise CommandError(f"audit entry {broken.pk} of {broken.at.isoformat()} does not fit its seal")
        self.stdout.write(f"{AuditEntry.objects.count()} audit entries fit their seals")
