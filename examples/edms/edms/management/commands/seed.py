"""Fills an empty EDMS with data that is the same in every run, and as awkward as real data is."""

import hashlib
import random
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.models import Session
from django.core.management import BaseCommand, CommandError
from django.db import models, transaction

from edms import uploads
from edms.accounts.models import Department, Role, User, UserRole
from edms.audit.models import AuditEntry
from edms.documents.models import (
    Comment, Contract, Document, DocumentVersion, Review, Tag, WorkflowState,
)

START = datetime(2024, 1, 8, 3, 30, tzinfo=timezone.utc)

ENV = """\
# Configuration of EDMS. Do not commit.
SECRET_KEY="{secret_key}"
DEBUG=False
DATABASE_URL={database_url}
STORAGE_ROOT={storage_root}

EMAIL_HOST=mail.example.org
EMAIL_HOST_USER=edms
EMAIL_HOST_PASSWORD='p@ss word#1'
export RETENTION_YEARS=7
"""

STATES = (
    "draft submitted registered assigned in_review returned on_hold legal_check finance_check "
    "translation approval_1 approval_2 approved signed published expired rejected withdrawn archived"
).split()
FINAL = {"expired", "rejected", "withdrawn", "archived"}
GROUPS = ["Readers", "Writers", "Approvers", "Бухгалтерия", "Юристы", "Leitung", "監査", "Auditors"]
ROLES = {
    "clerk": "Clerk", "head": "Head of department", "lawyer": "Юрист",
    "auditor": "監査役", "archivist": "Archivar(in)", "operator": "Operator",
}
NAMES = [
    ("Айгүл", "Сұлтанова"), ("Zoë", "Müller-Lüdenscheidt"), ("Иван", "Петров"), ("小龍", "李"),
    ("Łukasz", "Żółć"), ("Sinéad", "O'Brien"), ("محمد", "الأحمد"), ("Jose\u0301", "Nu\u0301n\u0303ez"),
    ("José", "Núñez"), ("İpek", "Işık"),  # the same name twice: once decomposed, once composed
]
REMARKS = [
    "Looks good 👍🏽", "", "NULL", "\\N", "two\nlines\r\nand a\ttab", "trailing blanks   ",
    'She said "no", he said \'yes\'', "C:\\temp\\x; DROP TABLE documents;--", "0", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 שלום",
    "<b>&amp;</b> {{ template }} ${shell} %s %(name)s", "ﬁ ligature, zero\u200bwidth, \ufeffmark",
]


class Command(BaseCommand):
    """
    Everything comes from one random generator, so the data does not depend on the machine or the
    database. The one exception are the sessions: Django signs them with the time.
    """

    help = __doc__

    def add_arguments(self, parser):
        parser.add_argument("--documents", type=int, default=300, metavar="N")
        parser.add_argument("--audit-rows", type=int, default=3000, metavar="N")

    def handle(self, *, documents, audit_rows, **options):
        if User.objects.exists():
            raise CommandError("there is data already; seed wants an empty, migrated database")
        self.rng = random.Random(20240108)
        self.clock = START
        with transaction.atomic():
            self.seed_groups_and_roles()
            self.seed_users()
            self.seed_workflow()
            self.seed_documents(documents)
            self.seed_audit(audit_rows)
            self.seed_sessions()
        self.write_env()
        self.stdout.write(
            f"seeded {User.objects.count()} users, {documents} documents with their files, "
            f"{audit_rows} audit entries in {settings.HOME}"
        )

    def tick(self):
        """The next moment: some with microseconds at the edges, most anywhere."""
        self.clock += timedelta(seconds=self.rng.randint(1, 9000))
        micro = self.rng.choice([0, 1, 1000, 999_999, *self.rng.choices(range(10**6), k=12)])
        return self.clock.replace(microsecond=micro)

    def maybe(self, value, chance=0.7):
        return value if self.rng.random() < chance else None

    def uuid(self):
        return uuid.UUID(int=self.rng.getrandbits(128), version=4)

    def seed_groups_and_roles(self):
        rng = self.rng
        by_name = ("content_type__app_label", "content_type__model", "codename")
        self.permissions = list(Permission.objects.order_by(*by_name))
        top = Department.objects.create(code="HQ", name="Direction générale", budget=Decimal("123456789.01"))
        self.departments = [top]
        for n in range(1, 8):
            budget = Decimal(rng.randint(0, 10**9)) / 100
            self.departments.append(
                Department.objects.create(code=f"D{n:02}", name=f"Отдел {n}", parent=top, budget=budget)
            )
        self.groups = [Group.objects.create(name=name) for name in GROUPS]
        for group in self.groups:
            group.permissions.set(rng.sample(self.permissions, 9))
        self.roles = []
        for code, name in ROLES.items():
            capabilities = rng.sample(["read", "write", "sign", "archive", "see:*"], 3)
            role = Role.objects.create(code=code, name=name, capabilities=capabilities)
            role.groups.set(rng.sample(self.groups, 2))
            self.roles.append(role)

    def seed_users(self):
        rng, self.users = self.rng, []
        for n in range(40):
            user = self.user(n)
            user.save()
            user.groups.set(rng.sample(self.groups, rng.randint(0, 3)))
            user.user_permissions.set(rng.sample(self.permissions, rng.choice([0, 0, 2])))
            self.users.append(user)
            for role in rng.sample(self.roles, rng.randint(1, 2)):
                UserRole.objects.create(
                    user=user, role=role, assigned_by=self.users[0], assigned_at=self.tick(),
                    expires_at=self.maybe(datetime(2038, 1, 19, 3, 14, 8, 1, timezone.utc), 0.3),
                    is_active=rng.random() < 0.9,
                )

    def user(self, n):
        """User number `n`, not saved yet."""
        rng, when = self.rng, self.tick()
        first, last = NAMES[n % len(NAMES)]
        if n in (20, 30):  # service accounts: nobody can log in
            password = "!" + f"service{n}".ljust(40, "x")
        else:
            hasher = "scrypt" if n % 10 == 7 else "default"
            password = make_password(f"password-{n:02}", salt=f"salt{n:018}", hasher=hasher)
        user = User(
            username="admin" if n == 0 else f"user{n:02}", password=password, first_name=first, last_name=last,
            email=f"user{n:02}@example.org" if n % 6 else "", is_superuser=n == 0, is_staff=n < 3,
            is_active=n % 13 != 12, date_joined=when, last_login=self.maybe(self.tick()),
            public_id=self.uuid(), patronymic=[None, "", "Сұлтанқызы"][n % 3],
            department=self.maybe(rng.choice(self.departments), 0.9),
            manager=self.users[n // 5] if n else None,
            born=self.maybe(date(1950, 1, 1) + timedelta(days=rng.randrange(18_000))),
            starts_work_at=self.maybe(time(rng.randint(6, 10), 30, 0, rng.choice([0, 1, 500_000]))),
            last_login_ip=rng.choice([None, f"10.0.{n}.7", f"2001:db8::{n + 1:x}"]),
            quota_bytes=rng.choice([0, 2**31, 2**63 - 1, -(2**63), 10 * 2**30]),
            preferences={"theme": rng.choice(["dark", "light"]), "язык": "kk", "columns": [1, None, "x"]},
            signing_key=self.maybe(rng.randbytes(32), 0.4),
        )
        if n % 4 == 0:
            uploads.attach(user.portrait, f"{user.username}.png", uploads.content(rng, "png", 4000), when)
        elif n % 4 == 1:
            user.portrait = ""  # beside NULL, which the others have
        return user

    def seed_workflow(self):
        self.states = [
            WorkflowState.objects.create(
                code=code, name=code.replace("_", " ").title(), position=n, is_final=code in FINAL
            )
            for n, code in enumerate(STATES)
        ]
        # Not with set(): Python orders a set of strings differently in every run.
        step = WorkflowState.next_states.through
        for state, following in zip(self.states, self.states[1:]):
            if not state.is_final:
                for code in (following.code, self.rng.choice(STATES[-3:])):
                    step.objects.get_or_create(from_workflowstate=state, to_workflowstate_id=code)
        self.tags = [Tag.objects.create(name=word) for word in sorted(set(uploads.WORDS))[:20]]

    def seed_documents(self, count):
        rng, documents, data = self.rng, [], b""
        for n in range(1, count + 1):
            kind, when = rng.choice(uploads.KINDS), self.tick()
            if n % 20:  # every twentieth upload is the previous one once more
                data = uploads.content(rng, kind, int(3000 * 66 ** rng.random()))
            values = dict(
                uuid=self.uuid(), number=f"EDMS-{when:%Y}-{n:05}",
                title=" ".join(rng.choices(uploads.WORDS, k=4)).capitalize(),
                description=rng.choice([None, "", uploads.text(rng, 300)]),
                digest=hashlib.sha256(data).digest(), size=len(data), state=rng.choice(self.states),
                # Three people write half of everything.
                author=rng.choice(self.users + self.users[3:6] * 12),
                department=self.maybe(rng.choice(self.departments)),
                supersedes=self.maybe(rng.choice(documents), 0.1) if documents else None,
                cost=self.maybe(Decimal(rng.randrange(-(10**8), 10**13)).scaleb(-6)),
                relevance=self.maybe(rng.choice([0.1, 1e-7, 1 / 3, 2.5e10, rng.random()])),
                is_confidential=rng.random() < 0.2, metadata=self.metadata(n),
                keep_for=self.maybe(timedelta(days=rng.randint(-1, 3650), microseconds=rng.randrange(10**9))),
                effective_on=self.maybe(date(1899, 12, 30) + timedelta(days=rng.randrange(80_000))),
                created_at=when, updated_at=self.tick(), deleted_at=self.maybe(self.tick(), 0.05),
            )
            if n % 10:
                document = Document(**values)
            else:
                partner = rng.choice(["ТОО «Ромашка»", "Acme, Inc.", "Ōsaka 商事"])
                amount = Decimal(rng.randrange(10**14)).scaleb(-4)
                signed = self.maybe(self.tick())
                document = Contract(**values, partner=partner, amount=amount, currency="KZT", signed_at=signed)
            stem = rng.choice(["Vertrag", "договор", "請求書", "annual report (final)", "scan"])
            uploads.attach(document.file, f"{n:05} {stem}.{kind}", data, when)
            if n % 7 == 0:
                uploads.attach(document.preview, f"{n:05}.png", uploads.content(rng, "png", 2500), when)
            elif n % 7 == 1:
                document.preview = ""
            document.save()
            documents.append(document)
            self.seed_around(document, data, kind)
        drafts = [Document(**values | {"uuid": self.uuid(), "number": f"DRAFT-{n}"}) for n in range(3)]
        for draft in drafts:  # thrown away again: the sequence is ahead of the highest number
            draft.save()
            draft.delete()
        self.documents = documents

    def metadata(self, n):
        """JSON of every shape: SQL NULL, JSON null, empty, numbers beyond 64 bits, keys in no order."""
        return [
            None, models.Value(None, models.JSONField()), {}, [], {"": None, "z": 1, "a": [{}, [[]], ""]},
            {"big": 2**100, "negative": -(2**63) - 1, "float": 0.1, "tiny": 1e-7, "flag": True},
            {"ключ": "значение 🗂", "quote": '"\\/', "control": "\u0001\t", "nested": {"n": n}},
            {"pages": n, "language": "kk", "signers": [n, n + 1]},
        ][n % 8]

    def seed_around(self, document, data, kind):
        """Versions, tags, reviews and remarks of one document."""
        rng, version = self.rng, None
        document.tags.set(rng.sample(self.tags, rng.randint(0, 4)))
        for sequence in range(1, rng.choice([1, 1, 1, 2, 3])):
            when = self.tick()
            version = DocumentVersion(id=self.uuid(), document=document, sequence=sequence, created_at=when)
            name = f"{document.number}-v{sequence}.{kind}"
            uploads.attach(version.file, name, data[: len(data) * 2 // 3] + b"older", when)
            version.save()
        for reviewer in rng.sample(self.users, rng.choice([0, 1, 2])):
            Review.objects.create(
                document=document, reviewer=reviewer, approved=rng.choice([None, True, False]),
                score=self.maybe(rng.random() * 10), decided_at=self.maybe(self.tick()),
                spent=self.maybe(timedelta(microseconds=rng.randrange(10**11))),
            )
        for _ in range(rng.choice([0, 1, 1, 2])):
            target = rng.choice([document, document, document.author])
            Comment.objects.create(
                target=target, author=rng.choice(self.users), text=rng.choice(REMARKS),
                version=version, created_at=self.tick(),
            )

    def seed_audit(self, count):
        rng, seal, entries = self.rng, "", []
        for _ in range(count):
            document, user = rng.choice(self.documents), rng.choice(self.users)
            kind, object_id = rng.choice(
                [("documents.document", document.pk), ("accounts.user", user.pk), ("documents.document", 10**12)]
            )
            entry = AuditEntry(
                at=self.tick(), actor_id=self.maybe(user.pk, 0.95), object_type=kind, object_id=object_id,
                action=rng.choice(["view", "edit", "sign", "print", "разослать"]),
                request_id=self.maybe(self.uuid()), ip=rng.choice([None, "192.0.2.9", "2001:db8:0:1::9"]),
                took=self.maybe(timedelta(microseconds=rng.randrange(10**7))),
                details=rng.choice([{}, {"number": document.number, "was": None}, {"id": 2**64, "кто": "бот"}]),
            )
            entry.seal = seal = entry.sealed(seal)
            entries.append(entry)
        AuditEntry.objects.bulk_create(entries, batch_size=500)

    def seed_sessions(self):
        """Three people are logged in, with session keys that a test can know: the padded user id."""
        for user in self.users[:3]:
            session = {
                SESSION_KEY: str(user.pk),
                BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
                HASH_SESSION_KEY: user.get_session_auth_hash(),
            }
            Session.objects.save(f"{user.pk:032}", session, datetime(2099, 1, 1, tzinfo=timezone.utc))

    def write_env(self):
        """Writes the `.env` that this run behaved as if it had; an existing one is left alone."""
        if settings.ENV_FILE.exists():
            return
        settings.ENV_FILE.touch(mode=0o600)
        settings.ENV_FILE.write_text(
            ENV.format(
                secret_key=settings.SECRET_KEY, database_url=settings.DATABASE_URL,
                storage_root=settings.ENV.get("STORAGE_ROOT", "storage"),
            ),
            "utf-8",
        )
