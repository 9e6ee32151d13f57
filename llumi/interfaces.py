"""By which network the ranks of a job speak: the cluster's own, however this machine's name resolves."""

import contextlib
import fcntl
import os
import socket
import struct

_SIOCGIFADDR = 0x8915
_NAME_BYTES = 256
_ADDRESS = slice(20, 24)


def interface_of(address: str) -> str | None:
    """The network interface of this machine with an IPv4 address, such as eth0 for 10.0.0.11."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # one without an address
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack(f"{_NAME_BYTES}s", name.encode()))
                if socket.inet_ntoa(answer[_ADDRESS]) == address:
                    return name
    return None


def speak_from(address: str) -> None:
    """Let gloo listen there: by itself it asks for the machine's own name, which is 127.0.1.1 on many; what is set wins."""
    if name := interface_of(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
