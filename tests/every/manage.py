"""A project with every kind of field and relation, for the tests of fixtures."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # The example application reads the URL of its database; so does this one.
    sys.path.append(str(Path(__file__).resolve().parents[2] / "examples/edms"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "every.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
