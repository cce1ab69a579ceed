"""How much processor time does a training step of small networks take, here and in another checkout?

    python benchmarks/gan_step.py [--before FOLDER] [--cases 32 64] [--precisions float32 bf16] [--rounds 3]

Networks about as small as the demo's: channel_base 1024, at most 64 channels, batch 8, B-SG with two modalities and two
classes. Each measurement is a process of its own with one thread: 17 steps that don't count, and 16 that do, one of
them with R1 and four with path lengths. Processor time in place of the clock's: it holds on a busy machine too. The two
checkouts take turns; the least of the rounds counts. Writes results/gan_step.json.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from machine import machine, write_results

HERE = Path(__file__).resolve().parent.parent


def step(resolution, precision):
    """Milliseconds of the processor that a training step takes."""
    import torch
    from gan_training import medaug
    torch.set_num_threads(1)
    train, *_ = medaug((resolution, 1024, 64, 8, 0), precision, "cpu")
    for _ in range(17):
        train()
    begin = time.process_time()
    for _ in range(16):
        train()
    return (time.process_time() - begin)/16*1000


def measured(folder, resolution, precision):
    """The same in a process that imports medaug from `folder`."""
    command = [sys.executable, __file__, "--one", str(resolution), precision]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    return json.loads(done.stdout.decode().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--cases", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(step(int(given.one[0]), given.one[1])))
        return
    folders = {"now": HERE} | ({"before": given.before.resolve()} if given.before else {})
    told = {**machine("torch"), "rows": []}
    for resolution in given.cases:
        for precision in given.precisions:
            rounds = [
                {name: measured(folder, resolution, precision) for name, folder in folders.items()}
                for _ in range(given.rounds)
            ]
            row = {name: round(min(one[name] for one in rounds), 1) for name in folders}
            if given.before:
                row["times as fast"] = round(row["before"]/row["now"], 2)
            told["rows"].append({"resolution": resolution, "precision": precision, "milliseconds a step": row})
            write_results(__file__, told)


if __name__ == "__main__":
    main()
