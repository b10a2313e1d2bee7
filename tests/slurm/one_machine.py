"""A SLURM of this machine alone: slurmctld, slurmd and munged on loopback, in a temporary folder.

    python tests/slurm/one_machine.py start FOLDER    prints the line that a shell needs
    python tests/slurm/one_machine.py stop FOLDER

It runs as root or as any user (jobs are then that user's), knows nothing of systemd, keeps no
accounting, and claims more cores than the machine may have, so that jobs lie side by side.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CORES = 4
CONFIGURATION = """\
ClusterName=sextant
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# cred_expire is also how long a job that was put back into the queue has to wait
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/daemon
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=closed Nodes=ALL MaxTime=INFINITE State=DOWN
"""


def missing() -> list[str]:
    """The programs of SLURM and munge that this machine lacks."""
    return [name for name in PROGRAMS if _program(name) is None]


def start(folder: Path) -> dict[str, str]:
    """Starts the daemons and waits until the node takes jobs; returns the environment they need.

    Raises:
        RuntimeError: with the end of the daemons' logs, when the node is not ready in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munged refuses a folder that others may write
    for name in ("controller", "daemon"):
        (folder / name).mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    controller_port, daemon_port = _free_ports(2)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=folder,
            controller_port=controller_port,
            daemon_port=daemon_port,
            cores=CORES,
        )
    )
    environment = {"SLURM_CONF": str(configuration)}
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge.{ending}" for option, ending in files.items()]
    _call("munged", f"--key-file={key}", "--force", "--num-threads=2", *options)
    _call("slurmctld", "-c", "-i", environment=environment)
    _call("slurmd", environment=environment)
    deadline = time.monotonic() + 60
    while "idle" not in _node_state(environment):
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            stop(folder)
            raise RuntimeError(f"the node does not come up:\n{logs}")
        time.sleep(0.2)
    return environment


def stop(folder: Path) -> None:
    """Ends every job and then the daemons."""
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    _call("scancel", "--quiet", "--user", getpass.getuser(), environment=environment, check=False)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _call("squeue", "-h", environment=environment).strip():
        time.sleep(0.2)
    for name in ("slurmd", "slurmctld", "munge"):
        _end(folder / f"{name}.pid")


def _end(pid_file: Path) -> None:
    try:
        process = int(pid_file.read_text())
        os.kill(process, signal.SIGTERM)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Path(f"/proc/{process}").exists():
        time.sleep(0.05)


def _node_state(environment: dict[str, str]) -> str:
    return _call("sinfo", "-h", "-p", "main", "-o", "%T", environment=environment, check=False)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for entry in sockets:
        entry.bind(("127.0.0.1", 0))
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


def _program(name: str) -> str | None:
    # daemons stand in sbin, which an ordinary user's PATH often leaves out
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _call(
    name: str, *arguments: str, environment: dict[str, str] | None = None, check: bool = True
) -> str:
    answer = subprocess.run(
        [_program(name) or name, *arguments],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if check and answer.returncode:
        raise RuntimeError(f"{name} {' '.join(arguments)}: {answer.stdout}")
    return answer.stdout


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in ("start", "stop"):
        print(__doc__, file=sys.stderr)
        return 2
    if missing():
        print(f"not on this machine: {', '.join(missing())}", file=sys.stderr)
        return 2
    folder = Path(arguments[1]).resolve()
    if arguments[0] == "stop":
        stop(folder)
        return 0
    for key, value in start(folder).items():
        print(f"export {key}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
