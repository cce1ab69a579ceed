"""The widgets of medaug.explore in a real JupyterLab in a real chromium: every control shows, files are written,
paint becomes image; nothing leaves the machine.
"""
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import CHECKOUT
from gallery import BRAINS, HEART, brain_store, ended_experiment, generator_checkpoint
from lab import CHROMIUM, ViewerPanel, Widget, canvas_latencies, chromium_page, jupyterlab, run_all, write_notebook
from PIL import Image

from medaug.data.phantom import write_phantom
from medaug.experiment.folder import ExperimentFolder
from medaug.explore.gan import make_slices, style
from medaug.explore.results import improvement
from medaug.explore.scores import of_class, open_scores
from medaug.files import write_json
from medaug.gan.checkpoints import load_checkpoint

pytestmark = [pytest.mark.xdist_group("explore"),
              pytest.mark.skipif(not Path(CHROMIUM).exists() and "CI" not in os.environ, reason="there is no chromium")]
SMALL = dict(channel_base=1024, channel_max=32, z_dim=32, w_dim=32, mapping_layers=2)
PANELS = ("store", "raw", "marked", "head", "b_sg", "c_sg", "paint", "scores", "differences", "patients", "progress",
          "half")


MARKED = """
name: marked
title: MARKED
type: MRI
modalities: [T1w]
classes: [mark, other]
labels: [1, 2]
layout: {images: ["{id}_image.nii.gz"], label: "{id}_label.nii.gz"}
epochs: 1
flip: false
"""


def marked_patient(folder):
    """A patient whose left is marked, stored with reversed axes and other voxel sizes; his voxels in RAS order."""
    folder.mkdir()
    shape, sizes = (24, 30, 16), (1.5, 1.0, 2.5)
    images = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    images[:5], labels[2:4, 10:20, 5:9], labels[12:16, 4:8, 5:9] = 400, 1, 2     # small x: the patient's left
    affine = np.diag([-sizes[0], sizes[1], -sizes[2], 1.0])
    affine[:3, 3] = 40, -20, 30
    for name, voxels in (("image", images), ("label", labels)):
        nib.save(nib.Nifti1Image(voxels[::-1, :, ::-1], affine), folder/f"one_{name}.nii.gz")
    (folder.parent/"marked.yaml").write_text(MARKED)
    return SimpleNamespace(images=images, labels=labels, sizes=sizes,
                           first=(affine @ [shape[0] - 1, 0, shape[2] - 1, 1])[:3])


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    store = brain_store(folder/"store256", 256)
    brains = brain_store(folder/"store64", 64)
    write_phantom(BRAINS, folder/"heads", patients=1, size=128, depth=80, seed=3, progress_bar=False)
    write_phantom(HEART, folder/"heart", patients=2, size=32, depth=6, progress_bar=False)
    gans = {gan: generator_checkpoint(folder/f"{gan}.pt", gan, brains, **SMALL) for gan in ("b-sg", "m-sg", "c-sg")}
    marked, half = marked_patient(folder/"marked"), ended_experiment(folder/"half")
    ended_experiment(folder/"experiment")
    write_json(ExperimentFolder(folder/"experiment").lock_holder,
               {"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-01-01T00:00:00"})
    it = ExperimentFolder(half)
    last = it.of("train_unet")[-1]
    it.part(last).unlink()
    it.scores.unlink()
    return SimpleNamespace(
        marked=marked, half=half, folder=folder, store=store, brains=brains, gans=gans, experiment=folder/"experiment"
    )


@pytest.fixture(scope="module")
def page(gallery, tmp_path_factory):
    """The notebook with all widgets, run; afterwards nothing may have gone wrong in the browser."""
    folder, errors, it = tmp_path_factory.mktemp("lab"), [], gallery.folder
    (folder/"notebooks").mkdir()
    (folder/"notebooks"/"demo").symlink_to(gallery.experiment)      # a short name, for the tutorial's pictures
    write_notebook(folder/"notebooks"/"widgets.ipynb", [
        "from medaug.data.splits import Split\nfrom medaug.explore import *",
        f"browse_dataset({str(it/'store256')!r}, split=Split(('brain_0',), ('brain_1',), ('brain_2',)))",
        f"browse_dataset({str(it/'heart')!r}, 'd-heart')",
        f"browse_dataset({str(it/'marked')!r}, {str(it/'marked.yaml')!r})",
        f"browse_dataset({str(it/'heads')!r}, 'brats20')",
        f"explore_gan({str(it/'b-sg.pt')!r})",
        f"explore_gan({str(it/'c-sg.pt')!r}, masks={str(it/'m-sg.pt')!r})",
        f"paint_mask({str(it/'c-sg.pt')!r}, masks={str(it/'store64')!r})",
        f"explore_results({str(gallery.experiment)!r})",
        "watch_experiment('demo', every=0.3)",
        f"explore_results({str(gallery.half)!r})",
        "browse_dataset('no/such/folder')"])
    with jupyterlab(folder, folder/"notebooks") as address, chromium_page(errors) as page:
        run_all(page, address, "widgets.ipynb")
        page.wait_for_function(
            "count => document.querySelectorAll('.medaug-explore img, canvas.medaug-viewer').length >= count",
            arg=len(PANELS) + 2)
        yield page
    assert not errors


@pytest.fixture
def widget(page, request):
    kind = ViewerPanel if request.param in ("store", "raw", "marked", "head") else Widget
    return kind(page, PANELS.index(request.param))


def of(name):
    return pytest.mark.parametrize("widget", [name], indirect=True)


def shows(widget, act):
    """Does `act` and asserts that the picture in the browser has become another."""
    before, after = widget.changes(act)
    assert before.shape != after.shape or (before != after).any()
    return before, after


@of("store")
def test_every_control_of_the_browser_shows(page, widget):
    def changes(act):
        before, after = widget.drawn(act)
        assert before.shape != after.shape or (before != after).any()

    changes(lambda: widget.press("level, %", "ArrowRight"))
    changes(lambda: widget.press("width, %", "ArrowLeft"))
    changes(lambda: widget.choose("modality", "FLAIR"))
    assert widget.readout().startswith("FLAIR ")
    changes(lambda: widget.choose("sides", "neurological: left at the left"))
    changes(lambda: widget.choose("view", "all modalities"))
    assert widget.colours().shape[1] == 4*324 - 4
    changes(lambda: widget.choose("view", "three planes"))
    changes(lambda: widget.panel.get_by_role("checkbox").nth(1).click())
    opacity = widget.panel.locator(".widget-hslider:not(:has(label:text-matches('.+'))) .noUi-handle").nth(0)
    changes(lambda: (opacity.focus(), page.keyboard.press("End")))
    assert "brain_0 (training), slice" in widget.text()
    changes(lambda: widget.choose("patient", "brain_1 · validation"))
    assert "brain_1 (validation)" in widget.text()
    changes(lambda: widget.choose("part", "training"))
    assert widget.options("patient") == ["brain_0 · training"]


@of("store")
def test_the_saved_picture_is_the_one_that_is_seen_and_a_second_save_offers_another_name(widget, tmp_path):
    assert widget.save(tmp_path/"slice.png") == f"Wrote {tmp_path/'slice.png'}"
    assert np.array_equal(np.asarray(Image.open(tmp_path/"slice.png").convert("RGB")), widget.colours())
    box = widget.labelled("widget-text", "save as").locator("input")
    widget.page.wait_for_function("([box, name]) => box.value == name", arg=[box.element_handle(),
                                                                             str(tmp_path/"slice-2.png")])
    assert widget.save(tmp_path/"slice.png") == f"Error {tmp_path/'slice.png'}: is there already; give another name"
    assert box.input_value() == str(tmp_path/"slice-2.png")


@of("raw")
def test_raw_files_are_browsed(widget):
    before, after = widget.drawn(lambda: widget.choose("patient", "la_004"))
    assert (before != after).any() and "D-HEART, la_004, slice" in widget.text()


def _readout(widget):
    """(value, voxel, mm, label) that the readout says."""
    value, voxel, mm, label = widget.readout().split(" · ")
    numbers = lambda text: tuple(float(x) for x in text[text.index("(") + 1:text.index(")")].split(","))
    return float(value.split()[1]), tuple(map(int, numbers(voxel))), numbers(mm), label


@of("marked")
def test_the_pointer_reads_the_value_the_place_and_the_label_of_the_voxel(page, widget, gallery):
    it, chance = gallery.marked, np.random.default_rng(1)
    axes, extents = ((0, 1), (0, 2), (1, 2)), np.multiply(it.images.shape, it.sizes)
    scale, seen = 320/extents.max(), set()
    for number, (across, up) in enumerate(axes*4):
        number %= 3
        place, voxel = widget.place(), list(widget.place())
        for axis in (across, up):
            voxel[axis] = int(chance.integers(it.images.shape[axis]))
        at = [(voxel[axis] + 0.5 - it.images.shape[axis]/2)*it.sizes[axis]*scale for axis in (across, up)]
        # radiological: the right is at the left, and the front of a sagittal plane
        page.mouse.move(*widget.spot(number, 160 - at[0], 160 - at[1]))
        page.wait_for_function("([box, text]) => box.innerText.includes(text)",
                               arg=[widget.panel.locator(".medaug-readout").element_handle(),
                                    f"voxel ({', '.join(map(str, voxel))})"])
        value, said, mm, label = _readout(widget)
        assert value == pytest.approx(float(it.images[tuple(voxel)]), rel=1e-5) and said == tuple(voxel)
        assert np.allclose(mm, it.first + np.multiply(voxel, it.sizes), atol=0.06)
        assert label == ("background", "1 mark", "2 other")[it.labels[tuple(voxel)]]
        page.mouse.down(), page.mouse.up()          # the crosshair goes there, in all three planes
        page.wait_for_function("([canvas, text]) => canvas.dataset.place == text",
                               arg=[widget.canvas().element_handle(), " ".join(map(str, voxel))])
        seen.add(label)
        assert place[3 - across - up] == widget.place()[3 - across - up]
    page.mouse.move(5, 5)
    page.wait_for_timeout(200)
    assert _readout(widget)[1] == widget.place()


@of("marked")
def test_left_and_right_stand_where_the_letters_say(page, widget):
    def bright():
        """Whether the left and the right half of the axial plane show the marked left of the patient."""
        plane = widget.colours()[20:, :320].astype(int)
        grey = (plane.max(-1) - plane.min(-1) < 5) & (plane.max(-1) > 250)
        return grey[40:-40, 20:150].sum() > 1000, grey[40:-40, 170:-20].sum() > 1000

    def seen_letters():
        """The letter at the left and at the right edge, read from the picture: an R has more pixels than an L."""
        plane = widget.colours()[20:, :320].astype(int)
        edges = [plane[150:170, columns].min(-1) > 200 for columns in (slice(2, 15), slice(-15, -2))]
        return "RL" if edges[0].sum() > edges[1].sum() else "LR"

    assert "the patient's right is at the left" in widget.canvas().get_attribute("aria-label")
    assert (bright(), seen_letters()) == ((False, True), "RL")
    widget.canvas().focus()
    widget.drawn(lambda: page.keyboard.press("r"))
    assert "the patient's left is at the left" in widget.canvas().get_attribute("aria-label")
    assert (bright(), seen_letters()) == ((True, False), "LR")
    widget.drawn(lambda: widget.choose("sides", "radiological: right at the left"))
    assert (bright(), seen_letters()) == ((False, True), "RL")


@of("marked")
def test_wheel_and_keys_move_through_slices_zoom_and_pan(page, widget):
    moved = lambda act: (widget.drawn(act), widget.place())[1]
    for number, axis in enumerate((2, 1, 0)):
        page.mouse.move(*widget.spot(number, 160, 160))
        start = widget.place()
        up = moved(lambda: page.mouse.wheel(0, -100))
        assert up == tuple(x + (a == axis) for a, x in enumerate(start))
        assert moved(lambda: page.mouse.wheel(0, 100)) == start
        page.mouse.down(), page.mouse.up()
        start = widget.place()
        assert moved(lambda: page.keyboard.press("ArrowUp"))[axis] == start[axis] + 1
        assert moved(lambda: page.keyboard.press("ArrowLeft")) == start
        assert moved(lambda: page.keyboard.press("Home"))[axis] == 0
        assert moved(lambda: page.keyboard.press("PageUp"))[axis] == 10
    before, near = widget.drawn(lambda: page.keyboard.press("+"))
    _, panned = widget.drawn(lambda: (page.keyboard.down("Shift"), page.mouse.move(*widget.spot(2, 160, 160)),
                                      page.mouse.down(), page.mouse.move(*widget.spot(2, 190, 170), steps=3),
                                      page.mouse.up(), page.keyboard.up("Shift")))
    _, again = widget.drawn(lambda: page.keyboard.press("0"))
    assert (near != before).any() and (panned != near).any() and (again == before).mean() > 0.99
    assert page.locator(".jp-Notebook .jp-Cell").count() == 13            # and no key reached JupyterLab


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
    """Where the canvas's pixels (64, 64) lie in a tile of 128 pixels, with two pixels around them that the
    convolutions reach, and what is far from them.
    """
    near = torch.nn.functional.max_pool2d(torch.from_numpy(stroke)[None].float(), 5, 1, 2)[0].numpy() > 0
    grown = torch.nn.functional.max_pool2d(torch.from_numpy(stroke)[None].float(), 17, 1, 8)[0].numpy() > 0
    return np.kron(near, np.ones((2, 2), bool)), ~np.kron(grown, np.ones((2, 2), bool))


@of("paint")
def test_paint_becomes_image_where_it_is_painted(page, widget, gallery, tmp_path):
    canvas = widget.canvas()
    shows(widget, lambda: widget.panel.get_by_role("button", name="Clear").click())
    widget.press("brush", "End"), widget.press("brush", "ArrowLeft")
    before, _ = shows(widget, lambda: widget.stroke([(20, 40), (26, 44), (24, 30)]))
    widget.settle()
    after = widget.picture()
    painted = np.zeros((64, 64), bool)
    tile = after[18:18 + 128, -130:-2]
    painted[:] = (tile[1::2, 1::2] == (230, 159, 0)).all(-1)
    assert (
        painted[20, 40] and painted[26, 44] and painted[24, 30] and not painted[55, 10] and 300 < painted.sum() < 2500
    )
    change = np.abs(after[18:18 + 128, :128].astype(float) - before[18:18 + 128, :128]).mean(-1)
    near, far = region(painted)
    print(f"mean change of grey in and near the stroke {change[near].mean():.1f}, far from it {change[far].mean():.1f}")
    assert change[near].mean() > 5*change[far].mean() and change[near].mean() > 5

    assert "painted_label.nii.gz" in widget.save(tmp_path/"painted.nii.gz")
    labels = np.asarray(nib.load(tmp_path/"painted_label.nii.gz").dataobj)[:, ::-1, 0].T
    assert np.array_equal(labels, painted)
    gan = load_checkpoint(gallery.gans["c-sg"])
    images, _ = make_slices(gan, style(gan, 0), torch.from_numpy(labels.astype(np.uint8).copy())[None])
    assert np.allclose(
        np.asarray(nib.load(tmp_path / "painted.nii.gz").dataobj)[:, ::-1, 0, 0].T, images[0, 0].numpy(), atol=1e-3
    )
    assert canvas.is_visible()


@of("paint")
def test_structures_are_moved_grown_and_erased_by_mouse_and_keys(page, widget):
    area = lambda: int((widget.picture()[19:18 + 128:2, -129:-2:2] == (230, 159, 0)).all(-1).sum())
    middle = lambda: np.argwhere((widget.picture()[19:18 + 128:2, -129:-2:2] == (230, 159, 0)).all(-1)).mean(0)
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
    assert page.locator(".jp-Notebook .jp-Cell").count() == 13            # and no key reached JupyterLab


@of("differences")
def test_results_show_scores_differences_and_the_worst_patients(page, widget):
    assert (
        "6 patients, best mean 0.649 (MC-SG + w.o. + 2)" in Widget(page, PANELS.index("scores")).text()
        and "of 6 patients, p =" in widget.text()
    )
    widget.choose("method", "BL + w.o.")
    widget.panel.locator(
        "[role=alert]", has_text="BL + w.o. cannot be compared with BL + w.o.; choose two methods"
    ).wait_for()
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


@of("differences")
def test_a_click_on_a_bar_opens_its_patient(page, widget, gallery):
    patients, scores = Widget(page, PANELS.index("patients")), Widget(page, PANELS.index("scores"))
    scores.choose("score", "dsc"), widget.choose("method", "MC-SG + w.o. + 2"), widget.settle()
    widget.choose("against", "BL + w.o."), widget.settle()
    wide = of_class(open_scores(gallery.experiment), "D-HEART-6")
    ids = improvement(wide, "MC-SG + w.o. + 2", "BL + w.o.").index
    for number in (4, 1):
        widget.image.scroll_into_view_if_needed()
        box = widget.image.bounding_box()
        low, high = -0.64, len(ids) - 1 + 0.64
        x = 0.08 + 0.9*(number - low)/(high - low)
        shows(patients, lambda: widget.image.click(position={"x": x*box["width"], "y": box["height"]/2}))
        assert f", {ids[number]}, slice" in patients.text()


@of("progress")
def test_curves_of_all_methods_follow_the_run(page, widget, gallery):
    """The fixture holds the lock of the experiment, as `medaug run` does."""
    it = ExperimentFolder(gallery.experiment)
    assert "train_unet" in widget.text() and "running as process" in widget.text()
    assert widget.options("training")[0] == "all methods, 6 patients" and len(widget.options("training")) == 5
    assert widget.picture().std() > 1
    curves = it.curves(it.of("train_unet")[0])
    shows(widget, lambda: curves.write_text(curves.read_text() + "3,-1.1,0.8,0.8\n"))
    shows(widget, lambda: widget.choose("training", widget.options("training")[-1]))
    it.lock_holder.unlink()
    widget.panel.locator("text=/not running/").wait_for()


def test_an_unfinished_experiment_shows_what_there_is(page, gallery):
    assert page.locator("text=/1 of 2 U-Nets done: these are their scores/").count() == 1
    widget = Widget(page, PANELS.index("half"))
    assert "6 patients, best mean" in widget.text() and "(BL + w.o.)" in widget.text()


def test_a_mistake_is_one_line(page):
    said = page.locator("[role=alert]", has_text="no/such/folder")
    assert (
        said.count() == 1
        and said.inner_text()
        == "Error no/such/folder: is not a finished slice store (it has no index.json); run medaug prepare"
    )


@pytest.mark.parametrize("width, height", [(1500, 1000), (390, 844)])
def test_everybody_can_use_the_widgets(page, width, height):
    """Nothing serious or critical for axe, on a desktop and on a phone; no control is wider than its cell."""
    from axe_playwright_python.sync_playwright import Axe

    page.set_viewport_size({"width": width, "height": height})
    narrow = width < 600 and "void window.jupyterapp.commands.execute('application:toggle-left-area')"
    if narrow:
        page.evaluate(narrow)
    page.wait_for_timeout(500)
    sliders = "[...document.querySelectorAll('.medaug-explore [role=slider]')]"
    page.wait_for_function(f"{sliders}.every(one => one.ariaLabel)")
    found = Axe().run(page, context={"include": [[".medaug-explore"]]}).response
    sizes = page.evaluate("[...document.querySelectorAll('.medaug-explore')].map(one => "
                          "[one.scrollWidth, one.clientWidth])")
    if narrow:
        page.evaluate(narrow)
    page.set_viewport_size({"width": 1500, "height": 1000})
    faults = [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in found["violations"]
              if fault["impact"] in ("serious", "critical")]
    assert faults == []
    assert {"aria-input-field-name", "image-alt", "color-contrast"} <= {rule["id"] for rule in found["passes"]}
    assert [whole for whole, shown in sizes if whole > shown] == [] and len(sizes) >= len(PANELS)


PICTURES = {"viewer": "head", "modalities": "head", "gan": "b_sg", "paint": "paint", "bars": "differences",
            "patient": "patients", "curves": "progress"}


def test_the_pictures_of_the_tutorial_show_these_widgets(page, tmp_path):
    """MEDAUG_PICTURES=1 writes them anew; without it the tutorial's must be as large as those taken now."""
    for name, place in PICTURES.items():
        kind = ViewerPanel if place == "head" else Widget
        widget = kind(page, PANELS.index(place))
        if place == "head":
            widget.choose("view", "all modalities" if name == "modalities" else "three planes")
            page.wait_for_timeout(500)
            widget.ready()
        widget.panel.evaluate("panel => panel.scrollIntoView({block: 'center'})")
        page.wait_for_timeout(300)
        widget.panel.screenshot(path=tmp_path/f"look-{name}.png")
        if place == "head":
            widget.choose("view", "three planes")
        kept = CHECKOUT/"nbs"/"images"/f"look-{name}.png"
        if os.environ.get("MEDAUG_PICTURES"):
            Image.open(tmp_path/f"look-{name}.png").convert("RGB").quantize(128).save(kept, optimize=True)
        sizes = [np.array(Image.open(path).size) for path in (kept, tmp_path/f"look-{name}.png")]
        assert (np.abs(sizes[0]/sizes[1] - 1) < 0.25).all(), (name, sizes)


@of("store")
def test_pictures_follow_the_keys(page, widget):
    """The bound of the design is 150 ms on two idle cores (see benchmarks); here others may be at work, so that only
    the fastest counts.
    """
    widget.canvas().focus()
    latencies = sorted(canvas_latencies(page, widget.canvas(), ["ArrowLeft", "ArrowRight"]*4, pause=0.05))
    print("ms from key to picture:", [round(latency) for latency in latencies])
    assert latencies[0] < 1000
