"""``manage.py door``: lets other nodes reach this node's processes, until SIGTERM or SIGINT.

``manage.py`` calls :func:`main` without Django: it needs none.
"""

import sys
from typing import Any, NoReturn

import structlog
import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand

from inference.nodes.door import Door, serve
from inference.nodes.identity import Identity
from nopenai_site import logs
from nopenai_site.environment import Environment
from nopenai_site.secret_key import secret_key_make
from registry.nodes.doors import Address

log = structlog.get_logger(module="door")

_EVERYWHERE = ""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Command(BaseCommand):
    help = "Let other nodes reach this one, at NOPENAI_NODE_ADDRESS."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> NoReturn:
        main()


def main() -> NoReturn:
    environment: Environment = settings.NOPENAI
    logs.configure(environment.log_level, module="door")
    if environment.node_address is None:
        log.critical("There is nothing to open: set NOPENAI_NODE_ADDRESS to host:port, as other nodes reach this one")
        sys.exit(2)
    secret_key_make(environment.data_dir)
    identity = Identity(environment.node_name, str(settings.SECRET_KEY).encode())
    door = Door(environment.run_dir, identity.server())
    try:
        uvloop.run(serve(door, listening_address(environment.node_address), opened=_say))
    except OSError as fault:
        log.critical("The door can't be opened", address=str(environment.node_address), reason=str(fault))
        sys.exit(1)
    sys.exit(0)


def listening_address(reached_at: Address) -> Address:
    """The name by which others reach us may be none of ours; but what is reached on loopback only, listens there."""
    return reached_at if reached_at.host in _LOOPBACK else Address(_EVERYWHERE, reached_at.port)


def _say(address: Address) -> None:
    log.info("The door is open to other nodes", port=address.port)
