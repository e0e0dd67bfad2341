"""Processes of one machine meet where no other machine can reach them: by itself torch listens on all interfaces."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from datetime import timedelta

from torch.distributed import Store, TCPStore, register_rendezvous_handler

SCHEME = "loopback"


def meeting_place() -> dict[str, str]:
    """`init_method` for torch, if MASTER_ADDR is this machine's loopback; nothing for one process or several machines.

    Also has gloo and NCCL stay on that interface, if their variables do not name another.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not _is_loopback(os.environ.get("MASTER_ADDR", "")):
        return {}
    if names := [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])
        os.environ.setdefault("NCCL_SOCKET_IFNAME", names[0])
    # launchers such as accelerate's listen already, and bring a store of their own
    return {} if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else {"init_method": f"{SCHEME}://"}


def _meet(url: str, timeout: timedelta = timedelta(minutes=30), **_) -> Iterator[tuple[Store, int, int]]:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    own = {}
    if rank == 0:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        own = {"master_listen_fd": socket.create_server((address, port), family=family, backlog=count).detach()}
    yield TCPStore(address, port, count, rank == 0, timeout, **own), rank, count


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


try:
    register_rendezvous_handler(SCHEME, _meet)
except RuntimeError:  # in a notebook that has imported it before
    pass
