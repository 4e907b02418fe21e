import os
from pathlib import Path

from edms import environment

HOME = Path(os.environ["EDMS_HOME"])
DATABASES = {"default": environment.database(os.environ.get("DATABASE_URL") or "sqlite:///db.sqlite3", HOME)}
IS_POSTGRES = DATABASES["default"]["ENGINE"].endswith("postgresql")
SECRET_KEY = "of a test"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.admin",
    "django.contrib.sessions",
    "django.contrib.sites",
    *(["django.contrib.postgres"] if IS_POSTGRES else []),
    "every",
]
SITE_ID = 1
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
TIME_ZONE = "Asia/Almaty"
USE_TZ = True
MEDIA_ROOT = HOME / "media"
# Only the table of the admin is wanted.
SILENCED_SYSTEM_CHECKS = ["admin.E403", "admin.E406", "admin.E408", "admin.E409", "admin.E410"]
