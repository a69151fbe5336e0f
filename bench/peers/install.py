"""Installs the peers into an environment of their own, when it is not there or bench/peers.txt has changed."""

import shutil
import subprocess
import sys

from bench.run import PEERS

WANTED = PEERS.parent / "peers.txt"
INSTALLED = PEERS / "installed.txt"


def install() -> None:
    if INSTALLED.exists() and INSTALLED.read_text() == WANTED.read_text():
        return
    shutil.rmtree(PEERS, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(WANTED)]
    subprocess.run([str(PEERS / "bin" / "pip"), "install", *options], check=True)
    shutil.copy(WANTED, INSTALLED)
