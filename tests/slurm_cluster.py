"""A SLURM of one node on this machine, for the tests: three daemons in a temporary folder, on free ports."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=3
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=60 State=UP
"""
MUNGE_FILES = {"socket": "socket", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}


def lacking() -> str | None:
    """What is not installed that SLURM needs."""
    programs = ("munged", "slurmctld", "slurmd")
    missing = [name for name in programs if shutil.which(name, path=_path()) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian, Ubuntu: apt-get install slurm-wlm munge)"
    if importlib.util.find_spec("submitit") is None:
        return "submitit not installed (pip install submitit)"
    return None if os.getuid() == 0 else "root alone starts the daemons of the tests"


@contextmanager
def running_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start SLURM, its files in `folder`; gives the environment in which its commands find it."""
    folder.chmod(0o755)  # or munged warns
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, ports=_free_ports(2)))
    environment = {"SLURM_CONF": str(config), "PATH": _path()}
    files = {name: f"{folder}/munge.{name}" for name in MUNGE_FILES}
    munged = [f"--key-file={key}", *(f"--{option}={files[name]}" for name, option in MUNGE_FILES.items())]
    commands = [["munged", "--foreground", "--force", *munged], ["slurmctld", "-D", "-c"], ["slurmd", "-D"]]
    with ExitStack() as stack:
        for command in commands:
            output = stack.enter_context((folder / f"{command[0]}.out").open("wb"))
            daemon = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment
            )
            stack.callback(_stop, daemon)
            if command[0] == "munged":
                _wait_for(lambda: Path(files["socket"]).exists(), folder)
        _wait_for(lambda: "idle" in ask(environment, "sinfo", "-h", "-o", "%T"), folder)
        # The keeper of a job that still runs would outlive the daemons: it tries for ever to report to them.
        stack.callback(_wait_for, lambda: not ask(environment, "squeue", "-h"), folder)
        stack.callback(ask, environment, "scancel", "--user=root")
        yield environment


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(5)
    except subprocess.TimeoutExpired:
        daemon.kill()


def ask(environment: dict[str, str], *command: str) -> str:
    """What a command of SLURM prints."""
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=30)
    return result.stdout


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _wait_for(condition: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = [path.read_text(errors="replace")[-1500:] for path in folder.glob("*.[lo][ou][gt]")]
            raise TimeoutError("SLURM did not start:\n" + "\n---\n".join(logs))
        time.sleep(0.1)
