"""What every benchmark says of the machine it ran on, and how it writes what it found."""
import datetime
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def machine(*packages):
    """The processor, the cores, how busy they were beforehand, the date, and the versions of `packages`."""
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "load average before": round(os.getloadavg()[0], 1),
            "date": datetime.date.today().isoformat(), "python": platform.python_version(), **{name: version(name) for name in packages}}


def write_results(script, results):
    path = Path(script).parent/"results"/f"{Path(script).stem}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(path.read_text())


def median_and_range(values, digits=0):
    """The median, least and greatest of a few repetitions."""
    values = sorted(values)
    rounded = [round(value, digits) if digits else round(value) for value in (values[len(values)//2], values[0], values[-1])]
    return dict(zip(("median", "least", "greatest"), rounded))


def run_in_folder(main):
    """Calls `main` with the folder given on the command line, or with one that is removed afterwards."""
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
