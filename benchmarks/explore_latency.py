"""How long does it take from a key to the picture on the screen, in JupyterLab in chromium?

Browsing a store of four modalities of 256 × 256: three planes of one, and all four beside each other; a generator of
64 × 64 in StyleGAN2's full width, one and two passes; a stroke of paint and the image that C-SG makes for it. Peer
in the same run: the same slices by `ipywidgets.interact` and matplotlib's `imshow`, the usual way in a notebook.
Writes results/explore_latency.json: milliseconds, and the memory of the kernel and the browser, MiB.

    python benchmarks/explore_latency.py
"""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/"tests"))

from gallery import brain_store, generator_checkpoint
from lab import (
    ViewerPanel,
    Widget,
    canvas_latencies,
    chromium_page,
    jupyterlab,
    key_latencies,
    run_all,
    write_notebook,
)
from machine import machine, median_and_range, run_in_folder, write_results

KEYS = ["ArrowLeft", "ArrowRight"]*10
PEER = """import ipywidgets, matplotlib.pyplot as plt
from medaug.data.store import SliceStore
store = SliceStore({store!r})
def show(slice):
    images, labels = store.batch([slice])
    figure, axes = plt.subplots(1, 4, figsize=(10.3, 2.8))
    for ax, image in zip(axes, images[0]):
        ax.imshow(image, cmap="gray"); ax.imshow(labels[0], alpha=0.4*(labels[0] > 0)); ax.set_axis_off()
    plt.show()
ipywidgets.interact(show, slice=ipywidgets.IntSlider(3, 0, 5))"""


def kernel_memory():
    """The memory of our largest ipykernel process, in MiB."""
    found = [0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ipykernel" in (process/"cmdline").read_bytes():
                found.append(int((process/"status").read_text().partition("VmRSS:")[2].split()[0])//1024)
        except OSError:
            continue
    return max(found)


def stroke_latencies(page, widget, strokes=10):
    """Milliseconds from a click with the brush to the image that C-SG made for it."""
    widget.image.evaluate("""image => { window.strokes = []; window.put = null;
        document.addEventListener('pointerdown', () => { window.put = performance.now(); }, true);
        image.addEventListener('load', () => requestAnimationFrame(() => {
            if (window.put === null) return;
            window.strokes.push(performance.now() - window.put);
            window.put = null;
        })); }""")
    for k in range(strokes):
        widget.stroke([(20 + 2*k, 20 + 2*k)])
        page.wait_for_function(f"window.strokes.length > {k}", timeout=60_000)
        widget.settle(0.3)
    return page.evaluate("window.strokes")


def measure(page, place, label, keys=KEYS):
    place.locator(".widget-hslider", has=page.locator(f"label:text-is('{label}')")).locator(".noUi-handle").focus()
    return median_and_range(key_latencies(page, place, keys))


def viewed(page, browser, view="three planes"):
    """Milliseconds from an arrow key on the viewer to its picture."""
    browser.choose("view", view)
    page.wait_for_timeout(500)
    browser.ready()
    browser.canvas().focus()
    return median_and_range(canvas_latencies(page, browser.canvas(), KEYS))


def main(folder):
    told = machine("jupyterlab", "ipywidgets", "anywidget", "torch", "matplotlib")
    (folder/"lab"/"notebooks").mkdir(parents=True)
    brain_store(folder/"store256", 256)
    brains = brain_store(folder/"store64", 64)
    for gan in ("b-sg", "c-sg"):
        generator_checkpoint(folder/f"{gan}.pt", gan, brains)
    paths = {name: str(folder/name) for name in ("store256", "store64", "b-sg.pt", "c-sg.pt")}
    write_notebook(folder/"lab"/"notebooks"/"latency.ipynb", [
        "from medaug.explore import *", f"browse_dataset({paths['store256']!r})", f"explore_gan({paths['b-sg.pt']!r})",
        f"paint_mask({paths['c-sg.pt']!r}, masks={paths['store64']!r})", PEER.format(store=paths["store256"])])
    errors, threads = [], {"OMP_NUM_THREADS": str(told["cores"])}
    with jupyterlab(folder/"lab", folder/"lab"/"notebooks", threads) as address, chromium_page(errors) as page:
        run_all(page, address, "latency.ipynb")
        page.wait_for_function("document.querySelectorAll('.medaug-explore img, canvas.medaug-viewer').length >= 3")
        browser, gan, paint = ViewerPanel(page, 0), Widget(page, 1), Widget(page, 2)
        peer = page.locator(".jp-Cell-outputArea", has=page.locator(".widget-interact"))
        found = {"browsing 256 × 256, another slice in three planes": viewed(page, browser),
                 "browsing 4 × 256 × 256, another slice": viewed(page, browser, "all modalities"),
                 "the same by interact and matplotlib": measure(page, peer, "slice"),
                 "64 × 64 generator, between two seeds (one pass)": measure(page, gan.panel, "A to B"),
                 "64 × 64 generator, psi (three passes)": measure(page, gan.panel, "psi", ["ArrowLeft"]*12),
                 "64 × 64 C-SG, a stroke of paint to its image": median_and_range(stroke_latencies(page, paint))}
        memory = kernel_memory()
    assert not errors, errors
    ratio = (
        found["the same by interact and matplotlib"]["median"]
        / found["browsing 4 × 256 × 256, another slice"]["median"]
    )
    write_results(
        __file__,
        {
            **told,
            "load average after": round(os.getloadavg()[0], 1),
            "milliseconds": found,
            "ratio, interact and matplotlib to browse_dataset": round(ratio, 1),
            "kernel memory, MiB": memory,
        },
    )


if __name__ == "__main__":
    run_in_folder(main)
