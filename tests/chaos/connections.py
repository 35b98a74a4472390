"""Cuts the connections of other processes, as a network that fails does: neither end is told before.

A process that may trace another one can have a duplicate of its socket (Linux 5.6), and shut that down. So nothing but
the sockets of these processes is touched, and no firewall is needed.
"""

import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Iterable
from typing import Final

import psutil

_PIDFD_GETFD: Final = 438
"""Of all architectures; the C library has no name for it before glibc 2.36."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def cut_between(some: Iterable[psutil.Process], others: Iterable[psutil.Process]) -> int:
    """Close every TCP connection that one of the first group has made to one of the second; return how many there were.

    Raises:
        PermissionError: the sockets of these processes cannot be had; run as root, or as who started them.
    """
    ports: set[int] = set()
    for process in others:
        with contextlib.suppress(psutil.NoSuchProcess):
            ports |= {
                connection.laddr.port
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }
    cut = 0
    for process in some:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port in ports:
                    cut += _shut_down(process.pid, connection.fd)
    return cut


def _shut_down(pid: int, descriptor: int) -> bool:
    """Shut a socket of another process down; false if it has closed it by itself meanwhile."""
    process = os.pidfd_open(pid)
    try:
        ours = _LIBC.syscall(_PIDFD_GETFD, process, descriptor, 0)
        problem = ctypes.get_errno()
    finally:
        os.close(process)
    if ours < 0 and problem == errno.EPERM:
        raise PermissionError(problem, f"{os.strerror(problem)}: connections of process {pid} cannot be cut")
    if ours < 0:
        return False
    with contextlib.suppress(OSError), socket.socket(fileno=ours) as connection:
        connection.shutdown(socket.SHUT_RDWR)
        return True
    return False
