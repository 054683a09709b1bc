"""The shared memory that the server reserves."""

from __future__ import annotations

from .server import Server, Servers

MEGABYTE = 2**20

# Workers. The server tells its memory in megabytes; over so many more, that is a byte for each.
FEW, MANY = 100_000, 1_100_000


def reserved_memory(servers: Servers, server: Server) -> float | None:
    """Bytes of shared memory that one more worker costs, from what the server would reserve for many and for few.

    Not from pg_shmem_allocations: there, the entries of a hash table are among the anonymous allocations.
    """
    if not servers.has_shared_memory:
        return None
    reserved = [
        int(server.program("postgres", "-D", str(server.data), "-C", "shared_memory_size",
                           "-c", f"rgrid_heartbeat.max_workers={number}"))
        for number in (FEW, MANY)
    ]  # fmt: skip
    return (reserved[1] - reserved[0]) * MEGABYTE / (MANY - FEW)
