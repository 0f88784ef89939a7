#!/usr/bin/env python
"""The command line. ``manage.py up`` starts the whole installation; see ``manage.py help`` for the rest."""

import os
import sys

from nopenai_site.environment import BadEnvironment


def main() -> int:
    try:
        return run()
    except BadEnvironment as fault:
        print(f"These settings can't be used:\n{fault}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as fault:
        if sys.prefix != sys.base_prefix:
            raise
        print(f"This Python has no {fault.name}. Use .venv/bin/python, which `make run` makes.", file=sys.stderr)
        return 1


def run() -> int:
    if sys.argv[1:2] == ["up"]:
        # `up` starts the very database that Django would connect to, and stays small: it never imports Django.
        from nopenai_site.up.command import run as run_up

        return run_up(sys.argv[2:])

    if sys.argv[1:] == ["supervisor"]:
        # The core settings have no app whose command Django could find; without them it would start in twice the time.
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings_core")
        from nopenai_site.management.commands.supervisor import main as supervise

        supervise()

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings")
    from django.core.management import execute_from_command_line

    from nopenai_site import logs

    logs.configure("WARN")  # commands say on standard output what they do; services (`prepare`) set up their own
    execute_from_command_line(sys.argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
