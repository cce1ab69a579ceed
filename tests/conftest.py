"""What all tests share: where the checkout is, and one thread for each process so that several can run side by side."""
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

CHECKOUT = Path(__file__).resolve().parent.parent
