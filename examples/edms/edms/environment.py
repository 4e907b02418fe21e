"""Where the configuration comes from: the process environment first, then the `.env` file."""

import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit


def read_env(path: Path) -> dict[str, str]:
    """The `KEY=value` lines of a file, without quotes; a missing file is an empty one."""
    values = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        key, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and not key.startswith("#"):
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            values[key.strip()] = value
    return values


def load(path: Path) -> dict[str, str]:
    """The environment wins, so that one command can be pointed at another database."""
    return read_env(path) | os.environ


def database(url: str, home: Path) -> dict:
    """Django's settings for `sqlite:///file` (relative to `home`) or `postgres://…`."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": home / unquote(parts.path[1:])}
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError(f"DATABASE_URL must begin with sqlite:/// or postgres://, not {parts.scheme}:")
    options = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", unquote(parts.hostname or "")),
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
    }
