"""How much of a file the kernel has in memory."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from contextlib import suppress

_CHUNK_BYTES = 1 << 30
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def resident_share(files: Iterable[str]) -> float:
    """Of the bytes of all files, 0–1. What can't be looked at is not there; no bytes at all are.

    Opening a file may take as long as a slow disk likes: a thread should do it.
    """
    pages = resident = 0
    for file in files:
        with suppress(OSError):  # its load will say so
            there, all_of_it = _pages(file)
            resident, pages = resident + there, pages + all_of_it
    return resident / pages if pages else 1.0


def _pages(file: str) -> tuple[int, int]:
    """Of a file, those in memory and all. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        chunks = [(start, min(_CHUNK_BYTES, size - start)) for start in range(0, size, _CHUNK_BYTES)]
        resident = sum(_resident_pages(descriptor, start, length) for start, length in chunks)
        return resident, -(-size // mmap.PAGESIZE)
    finally:
        os.close(descriptor)


def _resident_pages(descriptor: int, start: int, length: int) -> int:
    address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        told = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
        if _libc.mincore(address, length, told):
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(page & 1 for page in bytes(told))
    finally:
        _libc.munmap(address, length)
