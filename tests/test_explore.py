"""The widgets of medaug.explore in a real JupyterLab in a real chromium: every control shows, files are written, paint becomes image; nothing leaves the machine."""
import os
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from gallery import HEART, brain_store, ended_experiment, generator_checkpoint
from lab import CHROMIUM, Widget, chromium_page, jupyterlab, key_latencies, run_all, write_notebook
from medaug.data.phantom import write_phantom
from medaug.explore.gan import make_slices, style
from medaug.gan.checkpoints import load_checkpoint

pytestmark = [pytest.mark.xdist_group("explore"),
              pytest.mark.skipif(not Path(CHROMIUM).exists() and "CI" not in os.environ, reason="there is no chromium")]
SMALL = dict(channel_base=1024, channel_max=32, z_dim=32, w_dim=32, mapping_layers=2)
PANELS = ("store", "raw", "b_sg", "c_sg", "paint", "scores", "differences", "patients", "progress")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    store = brain_store(folder/"store256", 256)
    brains = brain_store(folder/"store64", 64)
    write_phantom(HEART, folder/"heart", patients=2, size=32, depth=6, progress_bar=False)
    gans = {gan: generator_checkpoint(folder/f"{gan}.pt", gan, brains, **SMALL) for gan in ("b-sg", "m-sg", "c-sg")}
    return SimpleNamespace(folder=folder, store=store, brains=brains, gans=gans, experiment=ended_experiment(folder/"experiment"))


@pytest.fixture(scope="module")
def page(gallery, tmp_path_factory):
    """The notebook with all widgets, run; afterwards nothing may have gone wrong in the browser."""
    folder, errors, it = tmp_path_factory.mktemp("lab"), [], gallery.folder
    (folder/"notebooks").mkdir()
    write_notebook(folder/"notebooks"/"widgets.ipynb", [
        "from medaug.data.splits import Split\nfrom medaug.explore import *",
        f"browse_dataset({str(it/'store256')!r}, split=Split(('brain_0',), ('brain_1',), ('brain_2',)))",
        f"browse_dataset({str(it/'heart')!r}, 'd-heart')",
        f"explore_gan({str(it/'b-sg.pt')!r})",
        f"explore_gan({str(it/'c-sg.pt')!r}, masks={str(it/'m-sg.pt')!r})",
        f"paint_mask({str(it/'c-sg.pt')!r}, masks={str(it/'store64')!r})",
        f"explore_results({str(gallery.experiment)!r})",
        f"watch_experiment({str(gallery.experiment)!r})",
        "browse_dataset('no/such/folder')"])
    with jupyterlab(folder, folder/"notebooks") as address, chromium_page(errors) as page:
        run_all(page, address, "widgets.ipynb")
        page.wait_for_function(f"document.querySelectorAll('.medaug-explore img').length >= {len(PANELS)}", timeout=60_000)
        yield page
    assert not errors


@pytest.fixture
def widget(page, request):
    return Widget(page, PANELS.index(request.param))


def of(name):
    return pytest.mark.parametrize("widget", [name], indirect=True)


def shows(widget, act):
    """Does `act` and asserts that the picture in the browser has become another."""
    before, after = widget.changes(act)
    assert before.shape != after.shape or (before != after).any()
    return before, after


@of("store")
def test_every_control_of_the_browser_shows(widget):
    for label, key in (("slice", "ArrowRight"), ("level, %", "ArrowRight"), ("width, %", "ArrowLeft"), ("label map", "ArrowRight")):
        shows(widget, lambda: widget.press(label, key))
    shows(widget, lambda: widget.panel.get_by_role("checkbox").nth(1).click())
    assert "brain_0 (training), slice 5 of 6" in widget.text()
    shows(widget, lambda: widget.choose("patient", "brain_1 · validation"))
    assert "brain_1 (validation)" in widget.text()
    shows(widget, lambda: widget.choose("part", "training"))
    assert widget.options("patient") == ["brain_0 · training"]


@of("store")
def test_the_saved_picture_is_the_one_that_is_seen(widget, tmp_path):
    assert widget.save(tmp_path/"slice.png") == f"Wrote {tmp_path/'slice.png'}"
    assert np.array_equal(np.asarray(Image.open(tmp_path/"slice.png")), widget.picture())
    assert "Error" in (again := widget.save(tmp_path/"slice.png")) and again.endswith("is there already; give another name")


@of("raw")
def test_raw_files_are_browsed(widget):
    shows(widget, lambda: widget.press("slice", "ArrowLeft"))
    assert "D-HEART, la_003, slice 3 of 6" in widget.text()
    shows(widget, lambda: widget.choose("patient", "la_004"))


@of("b_sg")
def test_every_control_of_the_gan_shows(widget):
    for label, key in (("A to B", "ArrowRight"), ("psi", "ArrowLeft"), ("mixing", "ArrowLeft"), ("label map", "End")):
        shows(widget, lambda: widget.press(label, key))
    for name in ("seed A", "seed B"):
        shows(widget, lambda: widget.number(name, 7 if name == "seed A" else 8))
    shows(widget, lambda: widget.panel.get_by_role("checkbox", name="noise").click())
    assert "noise off" in widget.text()


@of("b_sg")
def test_the_saved_slice_is_the_one_between_the_seeds(widget, gallery, tmp_path):
    for name in ("seed A", "seed B"):
        widget.number(name, 3)
    widget.panel.locator("text=/noise off/").wait_for()
    widget.press("mixing", "End"), widget.settle()
    psi = float(widget.labelled("widget-hslider", "psi").locator(".widget-readout").inner_text())
    assert "sample_label.nii.gz" in widget.save(tmp_path/"sample.nii.gz")
    gan = load_checkpoint(gallery.gans["b-sg"])
    images, labels = make_slices(gan, style(gan, 3, psi), noise="none")
    image, label = (np.asarray(nib.load(tmp_path/name).dataobj) for name in ("sample.nii.gz", "sample_label.nii.gz"))
    assert np.allclose(image[:, ::-1, 0].T, images[0].numpy().swapaxes(0, 0), atol=1e-3)
    assert np.array_equal(label[:, ::-1, 0].T, labels[0].numpy())


@of("c_sg")
def test_c_sg_makes_images_for_the_masks_of_m_sg(widget):
    before, after = shows(widget, lambda: widget.press("mask", "ArrowRight"))
    assert (before[18:, -128:] != after[18:, -128:]).any()            # the label map, and
    assert (before[18:, 18:18 + 128] != after[18:, 18:18 + 128]).any()  # the image


def region(stroke):
    """Where the canvas's pixels (64, 64) lie in a tile of 192 pixels, with two pixels around them that the convolutions reach, and what is far from them."""
    near = torch.nn.functional.max_pool2d(torch.from_numpy(stroke)[None].float(), 5, 1, 2)[0].numpy() > 0
    grown = torch.nn.functional.max_pool2d(torch.from_numpy(stroke)[None].float(), 17, 1, 8)[0].numpy() > 0
    return np.kron(near, np.ones((3, 3), bool)), ~np.kron(grown, np.ones((3, 3), bool))


@of("paint")
def test_paint_becomes_image_where_it_is_painted(page, widget, gallery, tmp_path):
    canvas = widget.canvas()
    shows(widget, lambda: widget.panel.get_by_role("button", name="Clear").click())
    widget.press("brush", "End"), widget.press("brush", "ArrowLeft")
    before, _ = shows(widget, lambda: widget.stroke([(20, 40), (26, 44), (24, 30)]))
    widget.settle()
    after = widget.picture()
    painted = np.zeros((64, 64), bool)
    tile = after[18:18 + 192, -194:-2]
    painted[:] = (tile[1::3, 1::3] == (230, 159, 0)).all(-1)
    assert painted[20, 40] and painted[26, 44] and painted[24, 30] and not painted[55, 10] and 300 < painted.sum() < 2500
    change = np.abs(after[18:18 + 192, :192].astype(float) - before[18:18 + 192, :192]).mean(-1)
    near, far = region(painted)
    print(f"mean change of grey in and near the stroke {change[near].mean():.1f}, far from it {change[far].mean():.1f}")
    assert change[near].mean() > 5*change[far].mean() and change[near].mean() > 5

    assert "painted_label.nii.gz" in widget.save(tmp_path/"painted.nii.gz")
    labels = np.asarray(nib.load(tmp_path/"painted_label.nii.gz").dataobj)[:, ::-1, 0].T
    assert np.array_equal(labels, painted)
    gan = load_checkpoint(gallery.gans["c-sg"])
    images, _ = make_slices(gan, style(gan, 0), torch.from_numpy(labels.astype(np.uint8).copy())[None])
    assert np.allclose(np.asarray(nib.load(tmp_path/"painted.nii.gz").dataobj)[:, ::-1, 0, 0].T, images[0, 0].numpy(), atol=1e-3)
    assert canvas.is_visible()


@of("paint")
def test_structures_are_moved_grown_and_erased_by_mouse_and_keys(page, widget):
    area = lambda: int((widget.picture()[19:18 + 192:3, -193:-2:3] == (230, 159, 0)).all(-1).sum())
    middle = lambda: np.argwhere((widget.picture()[19:18 + 192:3, -193:-2:3] == (230, 159, 0)).all(-1)).mean(0)
    widget.panel.get_by_role("button", name="Clear").click()
    widget.press("brush", "Home"), widget.press("brush", "PageUp")
    shows(widget, lambda: widget.stroke([(30, 20), (30, 28)]))
    widget.settle()
    size, place = area(), middle()
    widget.tool("move")
    shows(widget, lambda: widget.stroke([(30, 24), (36, 34), (40, 40)])), widget.settle()
    assert area() == size and np.allclose(middle() - place, (10, 16), atol=1)
    widget.tool("grow")
    shows(widget, lambda: widget.stroke([(40, 42), (40, 48)])), widget.settle()
    grown = area()
    assert grown > 1.3*size
    shows(widget, lambda: (widget.canvas().focus(), page.keyboard.press("-"))), widget.settle()
    assert area() < grown
    place = middle()
    shows(widget, lambda: page.keyboard.press("ArrowUp")), widget.settle()
    assert np.allclose(middle() - place, (-1, 0), atol=0.1)
    shows(widget, lambda: page.keyboard.press("Control+z")), widget.settle()
    assert np.allclose(middle(), place)
    shows(widget, lambda: page.keyboard.press("Delete")), widget.settle()
    assert area() == 0
    assert page.locator(".jp-Notebook .jp-Cell").count() == 10            # and no key reached JupyterLab


@of("differences")
def test_results_show_scores_differences_and_the_worst_patients(page, widget):
    assert "6 patients, best mean 0.649 (MC-SG + w.o. + 2)" in Widget(page, PANELS.index("scores")).text() and "of 6 patients, p =" in widget.text()
    widget.choose("method", "BL + w.o.")
    widget.panel.locator("[role=alert]", has_text="BL + w.o. cannot be compared with BL + w.o.; choose two methods").wait_for()
    shows(widget, lambda: widget.choose("against", "MC-SG + w.o. + 2"))
    assert "worse in 100% of 6 patients" in widget.text()
    patients = Widget(page, PANELS.index("patients"))
    shows(patients, lambda: patients.press("slice", "ArrowLeft"))
    worst = patients.options("patient")
    assert worst[0].startswith("1. la_003") and len(worst) == 6
    shows(patients, lambda: patients.choose("patient", worst[3]))
    assert "missed" in patients.text() and "added" in patients.text()
    scores = Widget(page, PANELS.index("scores"))
    shows(scores, lambda: scores.choose("score", "hd95"))
    assert "best mean 7.5" in scores.text()


@of("progress")
def test_progress_shows_the_table_and_the_curves(widget):
    assert "train_unet" in widget.text() and "not running" in widget.text()
    assert widget.picture().std() > 1


def test_a_mistake_is_one_line(page):
    said = page.locator("[role=alert]", has_text="no/such/folder")
    assert said.count() == 1 and said.inner_text() == "Error no/such/folder: is not a finished slice store (it has no index.json); run medaug prepare"


@of("store")
def test_pictures_follow_the_slider(page, widget):
    """The bound of the design is 150 ms on two idle cores (see benchmarks); here others may be at work, so that only the fastest counts."""
    widget.handle("slice").focus()
    latencies = sorted(key_latencies(page, widget.panel, ["ArrowLeft", "ArrowRight"]*4, pause=0.05))
    print("ms from key to picture:", [round(latency) for latency in latencies])
    assert latencies[0] < 1000
