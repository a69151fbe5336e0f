"""``make demo``: web, both workers, beat and Flower on this machine, as their containers would start them."""

import os
import secrets
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from honcho.manager import Manager

from demo.servers import servers

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".demo"
PROCESSES = {
    "web": "web/start",
    "worker": "worker/start default",
    "worker-heavy": "worker/start heavy_tasks",
    "beat": "beat/start",
    "flower": "flower/start",
}


def main() -> None:
    http, flower = int(os.environ.get("HTTP_PORT", "8080")), int(os.environ.get("FLOWER_PORT", "5555"))
    for variable, port in {"HTTP_PORT": http, "FLOWER_PORT": flower}.items():
        refuse_if_taken(variable, port)
    for folder in ("state/mail", "state/media/spool", "run", "flower"):
        (DATA / folder).mkdir(parents=True, exist_ok=True)
    passwords = read_or_make_secrets()
    with servers(DATA, passwords["REDIS_PASSWORD"]) as addresses:
        variables = {
            **passwords,
            "PUBLIC_URL": f"http://localhost:{http}",
            "WEB_BIND": f"127.0.0.1:{http}",
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_PORT": str(flower),
            "FLOWER_DB": str(DATA / "flower" / "flower"),
            "STATE_DIR": str(DATA / "state"),
            "STATIC_ROOT": str(DATA / "static"),
            "RUN_DIR": str(DATA / "run"),
            **{name: value for name, value in addresses.items() if name not in os.environ},
        }
        write_activate(variables)
        os.environ.update(variables, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", PYTHONUNBUFFERED="1")
        prepare()
        print(welcome(variables))
        run()


def refuse_if_taken(variable: str, port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            sys.exit(f"Port {port} is taken; free it, or choose another one: {variable}={port + 1} make demo")


def read_or_make_secrets() -> dict[str, str]:
    """The demo's passwords, made once: they belong to the data beside them. Those of the environment win."""
    names = ("DJANGO_SECRET_KEY", "REDIS_PASSWORD", "FLOWER_PASSWORD", "ADMIN_PASSWORD")
    file = DATA / "secrets"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text("".join(f"{name}={secrets.token_urlsafe(24)}\n" for name in names))
    kept = dict(line.split("=", 1) for line in file.read_text().splitlines())
    return {name: os.environ.get(name) or kept[name] for name in names}


def write_activate(variables: dict[str, str]) -> None:
    """``. .demo/activate``: a shell in which the commands of the tutorials work, while the demo runs."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    file = DATA / "activate"
    file.touch(mode=0o600)
    file.write_text(f". {shlex.quote(str(ROOT / '.venv/bin/activate'))}\n" + "".join(lines))


def prepare() -> None:
    manage = [sys.executable, "manage.py"]
    environment = {**os.environ, "SERVICE": "migrate"}
    for command in (["collectstatic", "--no-input", "--verbosity=0"], ["prepare"]):
        done = subprocess.run([*manage, *command], cwd=ROOT / "app", env=environment, stdout=subprocess.PIPE)
        if done.returncode:
            sys.exit(done.returncode)


def welcome(variables: dict[str, str]) -> str:
    return f"""
  Site    {variables["PUBLIC_URL"]}
  Admin   {variables["PUBLIC_URL"]}/admin/     admin   {variables["ADMIN_PASSWORD"]}
  Flower  http://localhost:{variables["FLOWER_PORT"]}            flower  {variables["FLOWER_PASSWORD"]}

  Mail goes to {DATA / "state" / "mail"}; `make mail` shows it.
  Celery by hand, in another terminal:  . .demo/activate && cd app && celery -A config worker -l INFO
  Ctrl-C stops everything. What is in .demo/ is there again next time.
"""


def run() -> None:
    """Run the processes until one ends or Ctrl-C; honcho passes the signal on and waits for them."""
    manager = Manager()
    for name, command in PROCESSES.items():
        manager.add_process(name, f"exec {shlex.quote(str(ROOT / 'services'))}/{command}", cwd=str(ROOT / "app"))
    manager.loop()
    sys.exit(0 if manager.returncode in {0, 130, -2, -15} else manager.returncode)


if __name__ == "__main__":
    main()
