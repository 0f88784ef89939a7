#!/usr/bin/env python
"""The command line. ``manage.py up`` starts the whole installation; see ``manage.py help`` for the rest."""

import os
import sys


def main() -> int:
    if sys.argv[1:2] == ["up"]:
        # `up` starts the very database that Django would connect to, and stays small: it never imports Django.
        from nopenai_site.up.command import run

        return run(sys.argv[2:])

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
