"""What all benchmarks share: facts about the machine, and writing the results."""
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

# the end of an experiment's file whose runs take one thread each
ONE_THREAD_EACH = "resources: {%s}\n" % ", ".join(
    f"{stage}: {{threads: 1}}" for stage in ("prepare", "train_gan", "generate", "train_unet", "compare"))


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def machine(*packages):
    """The processor, its cores and their load before the run, the date, and the versions of `packages`."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load average before": round(os.getloadavg()[0], 1),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def peak_memory():
    """The bytes that this program has held at most; `ru_maxrss` also holds the size of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])*1024


def write_results(script, results):
    path = Path(script).parent/"results"/f"{Path(script).stem}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(path.read_text())


def write_part(script, part, found):
    """Put what was found below the name `part` into the results; other processes may write other parts meanwhile."""
    path = Path(script).parent/"results"/f"{Path(script).stem}.json"
    path.parent.mkdir(exist_ok=True)
    with FileLock(Path(tempfile.gettempdir())/f"{path.name}.lock"):
        write_results(script, {**(json.loads(path.read_text()) if path.is_file() else {}), part: found})


def median_and_range(values, digits=0):
    """The median, least and greatest of a few repetitions."""
    found = statistics.median(values), min(values), max(values)
    rounded = [round(value, digits) if digits else round(value) for value in found]
    return dict(zip(("median", "least", "greatest"), rounded))


def run_in_folder(main):
    """Call `main` with the folder of the command line, or with a temporary one."""
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
