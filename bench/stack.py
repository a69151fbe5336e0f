"""What the running stack costs: memory of each service, its health checks, and the speed of its page.

    make up && .venv/bin/python -m bench.stack

Memory is PSS (every shared page counted once, split among those who share it), read from the kernel for the
processes of each container, so it needs root. Requests are sent by wrk from this machine, through nginx.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROBES_PER_HOUR = 3600 / 10  # compose.yaml: x-healthcheck, interval


def main() -> None:
    containers = [json.loads(line) for line in run("docker", "compose", "ps", "--format", "json").splitlines()]
    if not containers:
        sys.exit("The stack is not running: make up")
    memory(containers)
    probes(containers)
    requests()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def memory(containers: list[dict[str, str]]) -> None:
    print(f"{'service':<16}{'PSS, MB':>9}{'processes':>11}")
    total = 0.0
    for container in sorted(containers, key=lambda c: c["Service"]):
        pids = run("docker", "top", container["Name"], "-o", "pid").split()[1:]
        pss = sum(pss_of(pid) for pid in pids)
        total += pss
        print(f"{container['Service']:<16}{pss:>9.0f}{len(pids):>11}")
    print(f"{'all':<16}{total:>9.0f}")


def pss_of(pid: str) -> float:
    found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1000 if found else 0.0


def probes(containers: list[dict[str, str]], times: int = 50) -> None:
    """CPU of each health check's own processes; what Docker spends on starting them is not in it."""
    print(f"\n{'health check':<16}{'CPU, ms':>9}{'CPU-s an hour':>15}")
    for container in sorted(containers, key=lambda c: c["Service"]):
        config = json.loads(run("docker", "inspect", container["Name"]))[0]["Config"]["Healthcheck"]["Test"][1:]
        loop = f"for i in $(seq {times}); do {' '.join(config)} >/dev/null; done; times"
        children = run("docker", "exec", container["Name"], "bash", "-c", loop).splitlines()[-1]
        seconds = sum(60 * float(m) + float(s) for m, s in re.findall(r"(\d+)m([\d.]+)s", children)) / times
        print(f"{container['Service']:<16}{seconds * 1000:>9.1f}{seconds * PROBES_PER_HOUR:>15.1f}")


def requests() -> None:
    if not shutil.which("wrk"):
        print("\nwrk is missing (apt-get install wrk): no requests were measured.")
        return
    port = run("docker", "compose", "port", "nginx", "8080").rpartition(":")[2].strip()
    for path in ("/feedback/", "/"):
        url = f"http://localhost:{port}{path}"
        report = run("wrk", "--threads", "1", "--connections", "8", "--duration", "15s", "--latency", url)
        found = dict(re.findall(r"(Requests/sec|99%):? *([\d.]+\w*)", report))
        errors = re.search(r"Non-2xx.*", report)
        print(f"\nGET {path}: {found['Requests/sec']} requests/s, p99 {found['99%']} {errors[0] if errors else ''}")


if __name__ == "__main__":
    main()
