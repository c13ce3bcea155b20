"""Whether a port can be listened on. gRPC's own answer is a line of C++ on standard error, and no reason."""

import socket


def why_taken(host: str, port: int) -> str | None:
    """Why nothing can listen at that address, as the system says; None where something can.

    Args:
        host: name or address; "" for every address of this machine.
        port: 0 for any free one.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: what still waits after one that was killed is in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None
