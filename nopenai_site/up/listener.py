"""The one port, bound before anything starts and held while everything runs.

The gateway inherits the socket. While it restarts, connections wait in the backlog instead of being refused.
"""

import errno
import socket

BACKLOG = 2048


class PortFault(Exception):
    """The port can't be had. ``str()`` is meant for the operator."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        PortFault: with the reason and what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except socket.gaierror as fault:
        raise PortFault(f"NOPENAI_HOST={host} is not an address of this machine: {fault.strerror}") from fault
    except OSError as fault:
        raise PortFault(_explanation(fault.errno, host, port)) from fault
    return listening


def url(host: str, port: int) -> str:
    """Where a client on this machine reaches the port."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _explanation(number: int | None, host: str, port: int) -> str:
    if number == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is in use by another program. Stop that program (find it with: ss -ltnp 'sport = "
            f":{port}'), or choose another port: NOPENAI_PORT={port + 1 if port < 65_535 else 8080} make run"
        )
    if number == errno.EACCES:
        return f"Port {port} may only be used by root. Choose one above 1023: NOPENAI_PORT=8080 make run"
    if number == errno.EADDRNOTAVAIL:
        return f"NOPENAI_HOST={host} is not an address of this machine. Use 127.0.0.1, or 0.0.0.0 for all of them"
    return f"Port {port} on {host} can't be used: {errno.errorcode.get(number or 0, number)}"
