"""What happens to the stack: one function for each fault. It strikes, yields while the fault lasts, and mends.

``hold`` is how many seconds a fault lasts; where the restart policy mends, it is none.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.producer import Producer
from tests.chaos.stack import ChaosStack
from tests.stack.project import SERVICES, docker
from tests.waiting import eventually


@dataclass
class Scene:
    stack: ChaosStack
    producer: Producer
    random: random.Random


@dataclass
class Fault:
    name: str
    act: Callable[[Scene], Iterator[None]]
    hold: float = 0.0
    #: Whether there is such a part in plain Celery.
    plain: bool = True
    #: Whether it is drawn when none is named.
    drawn: bool = True
    #: Whether Redis is without its data after it: what nobody made durable is gone.
    empties: bool = False


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, hold: float = 0.0, plain: bool = True, drawn: bool = True, empties: bool = False
) -> Callable[[Callable[[Scene], Iterator[None]]], None]:
    def register(act: Callable[[Scene], Iterator[None]]) -> None:
        FAULTS[name] = Fault(name, act, hold, plain, drawn, empties)

    return register


# --- of every service ---------------------------------------------------------------------------------------


def kill(service: str) -> Callable[[Scene], Iterator[None]]:
    def act(scene: Scene) -> Iterator[None]:
        scene.stack.signal("KILL", *scene.stack.mains(service))
        yield  # the restart policy mends

    return act


def freeze(service: str) -> Callable[[Scene], Iterator[None]]:
    def act(scene: Scene) -> Iterator[None]:
        """Of one container, if there are more: the others take over, and then it wakes up."""
        container = scene.random.choice(sorted(scene.stack.ids(service)))
        pids = [pid for pid, _, _ in scene.stack.tree(container)]
        scene.stack.signal("STOP", *pids)
        yield
        scene.stack.signal("CONT", *pids)

    return act


for each in SERVICES:
    fault(f"kill {each}")(kill(each))
    fault(f"freeze {each}", hold=60, drawn=each == "worker")(freeze(each))


# --- of workers ---------------------------------------------------------------------------------------------


@fault("kill the worker's children")
def kill_children(scene: Scene) -> Iterator[None]:
    scene.stack.signal("KILL", *scene.stack.children("worker"))
    yield


@fault("out of memory")
def out_of_memory(scene: Scene) -> Iterator[None]:
    """A task takes all memory of its container, and the kernel ends its process."""
    scene.producer.place("greedy", 0.1).result()
    number = scene.producer.orders[-1].number
    eventually(lambda: any(each[1:3] == ("began", number) for each in scene.stack.journal()), 20, "it has begun")
    yield


@fault("rolling restart")
def rolling_restart(scene: Scene) -> Iterator[None]:
    yield
    services = ("web", "worker", "worker-heavy", "beat")
    scene.stack.compose("up", "--detach", "--no-deps", "--force-recreate", "--wait", *services)


@fault("scale 1, 4, 1")
def scale_workers(scene: Scene) -> Iterator[None]:
    yield
    for replicas in (1, 4, 1, 2):
        scale(scene, "worker", replicas)
        time.sleep(2)


@fault("two beats", hold=15)
def two_beats(scene: Scene) -> Iterator[None]:
    scale(scene, "beat", 2)
    yield
    scale(scene, "beat", 1)


@fault("two reconcilers", plain=False)
def two_reconcilers(scene: Scene) -> Iterator[None]:
    """One more, which looks without a pause and suspects Redis at every look."""
    yield
    scene.stack.python("""
import time
from celeriac.jobs import reconcile
reconcile.EVERY = 0.0
reconciler, until = reconcile.Reconciler(app), time.monotonic() + 15
while time.monotonic() < until:
    reconciler.suspicious = True
    reconciler.look()
""")


def scale(scene: Scene, service: str, replicas: int) -> None:
    words = ("--detach", "--no-deps", "--no-recreate", "--wait", "--scale", f"{service}={replicas}", service)
    scene.stack.compose("up", *words)


# --- of Redis -------------------------------------------------------------------------------------------------


@fault("flushall", empties=True)
def flushall(scene: Scene) -> Iterator[None]:
    scene.stack.redis("FLUSHALL")
    yield


@fault("kill redis, truncated file", empties=True)
def truncated(scene: Scene) -> Iterator[None]:
    """Redis comes back as it was some seconds ago: frozen, the end of its file cut off, killed."""
    mains = scene.stack.mains("redis")
    scene.stack.signal("STOP", *mains)
    cut = scene.random.randint(16, 128)
    script = f"for file in /data/appendonlydir/*.incr.aof; do truncate --size=-{cut}K $file; done"
    scene.stack.exec("redis", "sh", "-c", script)
    scene.stack.signal("KILL", *mains)
    yield


@fault("full redis", hold=15)
def full(scene: Scene) -> Iterator[None]:
    scene.stack.redis("CONFIG", "SET", "maxmemory", "1")
    yield
    scene.stack.redis("CONFIG", "SET", "maxmemory", "400mb")


# --- of Redis and Postgres -----------------------------------------------------------------------------------


def pause(service: str) -> Callable[[Scene], Iterator[None]]:
    def act(scene: Scene) -> Iterator[None]:
        (container,) = scene.stack.ids(service)
        docker("pause", container)
        yield
        docker("unpause", container)

    return act


def restart(service: str) -> Callable[[Scene], Iterator[None]]:
    def act(scene: Scene) -> Iterator[None]:
        yield
        scene.stack.compose("restart", service)

    return act


def cut_off(service: str, network: str) -> Callable[[Scene], Iterator[None]]:
    def act(scene: Scene) -> Iterator[None]:
        """From one network only, without a closed socket that anyone would notice."""
        name, containers = f"{scene.stack.project}_{network}", scene.stack.ids(service)
        for container in containers:
            docker("network", "disconnect", name, container)
        yield
        for container in containers:
            docker("network", "connect", "--alias", service, name, container)

    return act


for each in ("redis", "postgres"):
    fault(f"pause {each}", hold=15)(pause(each))
    fault(f"restart {each}")(restart(each))
for each in ("worker", "web"):
    for network, server in (("broker", "redis"), ("database", "postgres")):
        fault(f"cut {each} off {server}", hold=15)(cut_off(each, network))
