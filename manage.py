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

    if sys.argv[1:] == ["door"]:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings_core")
        from nopenai_site.management.commands.door import main as keep_the_door

        keep_the_door()

    if concerns_a_running_server(sys.argv[1:]):
        adopt_running_settings()

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings")
    from django.core.management import execute_from_command_line

    from nopenai_site import logs

    logs.configure("WARN")  # commands say on standard output what they do; services (`prepare`) set up their own
    execute_from_command_line(sys.argv)
    return 0


def concerns_a_running_server(arguments: list[str]) -> bool:
    """Not what makes a database ready to be served, what changes code, and what asks for help."""
    alone = ("prepare", "makemigrations", "spectacular", "help", "version")
    return bool(arguments) and arguments[0] not in alone and not {"-h", "--help", "--version"} & set(arguments)


def adopt_running_settings() -> None:
    """Reach the server that runs, whatever shell its settings were given in."""
    from nopenai_site import running

    meant, missing = running.missing_settings(os.environ, running.found())
    if meant is not None and missing:
        os.environ |= missing
        shown = " ".join(f"{name}={value}" for name, value in missing.items())
        print(f"With the settings of the server that runs with pid {meant.pid}: {shown}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
