"""Password hashing of the example: the same in every Django, so that the same seed is the same data."""

from django.contrib.auth.hashers import PBKDF2PasswordHasher, ScryptPasswordHasher


class QuickPBKDF2PasswordHasher(PBKDF2PasswordHasher):
    """Few iterations: forty accounts are made in a second, not in a minute."""

    iterations = 20_000


class SteadyScryptPasswordHasher(ScryptPasswordHasher):
    """Django 5.1 raised the default from 1 to 5."""

    parallelism = 1
