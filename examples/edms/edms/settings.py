"""Settings of the EDMS example; what differs between installations is read from `.env`."""

import os
from pathlib import Path

from edms import environment

BASE_DIR = Path(__file__).resolve().parent.parent
# Everything that is data lives here, so that a demo can run outside of the checkout.
HOME = Path(os.environ.get("EDMS_HOME") or BASE_DIR).resolve()
ENV_FILE = HOME / ".env"
ENV = environment.load(ENV_FILE)

SECRET_KEY = ENV.get("SECRET_KEY", "demonstration-only-8w2h0f5kq7xz3v9c1m6n4b-not-for-production")
DEBUG = ENV.get("DEBUG", "False") == "True"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
DATABASE_URL = ENV.get("DATABASE_URL") or "sqlite:///db.sqlite3"
DATABASES = {"default": environment.database(DATABASE_URL, HOME)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "edms",
    "edms.accounts",
    "edms.documents",
    "edms.audit",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = [
    "edms.accounts.hashers.QuickPBKDF2PasswordHasher",
    "edms.accounts.hashers.SteadyScryptPasswordHasher",
]
ROOT_URLCONF = "edms.urls"

# Not UTC on purpose: a naive time that slips through somewhere is then seen at once.
TIME_ZONE = "Asia/Almaty"
USE_TZ = True

# Uploads are recorded as documents/… and media/…, relative to this folder.
STORAGE_ROOT = HOME / ENV.get("STORAGE_ROOT", "storage")
MEDIA_ROOT = STORAGE_ROOT
MEDIA_URL = "files/"
