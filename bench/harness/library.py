"""Compiles the small C libraries that are compared with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .server import Server

SOURCES = Path(__file__).resolve().parent.parent


def build(server: Server, name: str) -> Path:
    """The library made from NAME.c, in the server's directory."""
    headers = server.program("pg_config", "--includedir-server").strip()
    library = server.directory / f"{name}.so"
    command = ["gcc", "-O2", "-fPIC", "-shared", f"-I{headers}", str(SOURCES / f"{name}.c"), "-o", str(library)]
    subprocess.run(command, check=True, timeout=60)
    return library
