"""A SLURM cluster of one node on this machine, for a test; stopping it removes all of it."""
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

# jobs don't inherit SLURM_CONF from the executor: the configuration must lie where SLURM looks
_DEFAULT = Path("/etc/slurm")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def missing_programs():
    """The SLURM programs that are not installed."""
    return [program for program in PROGRAMS if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")]


def _configure(folder):
    folder.mkdir()
    (folder/"key").write_bytes(os.urandom(128))
    (folder/"key").chmod(0o400)
    for name in ("state", "spool"):
        (folder/name).mkdir()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=socket.gethostname().split(".")[0], ports=_free_ports(2), folder=folder)
    )
    (folder/"gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")


@contextmanager
def slurm(folder):
    """The environment in which SLURM's commands reach a cluster of one node, two cores and two (pretended) GPUs, kept
    in `folder`."""
    _configure(folder)
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}
    log = open(folder/"output.log", "w")
    start = lambda *words: subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    munged = start(
        "munged",
        "--foreground",
        "--force",
        f"--socket={folder}/munge.socket",
        f"--key-file={folder}/key",
        f"--pid-file={folder}/munged.pid",
        f"--log-file={folder}/munged.log",
        f"--seed-file={folder}/seed",
    )
    processes = [munged]
    found_at_the_usual_place = [_DEFAULT/name for name in ("slurm.conf", "gres.conf")]
    try:
        for path in found_at_the_usual_place:
            if path.is_symlink() and "pytest-of-" in str(path.readlink()):      # left by a test that was killed
                path.unlink()
            path.symlink_to(folder/path.name)
        _wait(lambda: (folder/"munge.socket").exists(), folder)
        processes += [start("slurmctld", "-D"), start("slurmd", "-D")]
        _wait(
            lambda: (
                "idle"
                in subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True).stdout
            ),
            folder,
        )
        yield environment
    finally:
        subprocess.run(["scancel", "--full", "--signal=KILL", "--partition=test"], env=environment, capture_output=True)
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(20)
        for path in found_at_the_usual_place:
            if path.is_symlink() and path.readlink().parent == folder:
                path.unlink()
        log.close()


def _wait(ready, folder, patience=60):
    deadline = time.monotonic() + patience
    while not ready():
        assert time.monotonic() < deadline, "SLURM did not start:\n" + "\n".join(
            path.read_text()[-2000:] for path in sorted(folder.glob("*.log"))
        )
        time.sleep(0.3)
