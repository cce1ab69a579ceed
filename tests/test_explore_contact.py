"""The canvas keeps its contact with a busy kernel and in a slow browser, and says when it is lost."""
import os
from pathlib import Path

import pytest
from gallery import brain_store, generator_checkpoint
from lab import CHROMIUM, Widget, chromium_page, jupyterlab, run_all, write_notebook

pytestmark = [pytest.mark.xdist_group("explore"),
              pytest.mark.skipif(not Path(CHROMIUM).exists() and "CI" not in os.environ, reason="there is no chromium")]
SMALL = dict(channel_base=1024, channel_max=32, z_dim=32, w_dim=32, mapping_layers=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The path of a C-SG, beside the store of its label maps."""
    folder = tmp_path_factory.mktemp("c-sg")
    return generator_checkpoint(folder/"c-sg.pt", "c-sg", brain_store(folder/"store", 64), **SMALL)


HASTY = """const timeout = AbortSignal.timeout.bind(AbortSignal);
AbortSignal.timeout = milliseconds => timeout(milliseconds === 2000 ? 0 : milliseconds);"""


def test_twenty_canvases_paint_although_the_kernel_is_busy_and_anywidget_gives_up(checkpoint, tmp_path):
    """anywidget drops each message of the kernel if a canvas needs more than two seconds to start; here it gives up at
    once. A last cell keeps the kernel busy until a file appears.
    """
    (tmp_path/"notebooks").mkdir()
    paint = f"paint_mask({str(checkpoint)!r}, masks={str(checkpoint.parent/'store')!r})"
    busy = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)"
    write_notebook(tmp_path/"notebooks"/"busy.ipynb", ["from medaug.explore import paint_mask", *[paint]*20, busy])
    errors = []
    with jupyterlab(tmp_path, tmp_path/"notebooks") as address, chromium_page(errors) as page:
        page.add_init_script(HASTY)
        run_all(page, address, "busy.ipynb", busy=1)
        page.wait_for_function("document.querySelectorAll('canvas.medaug-canvas').length == 20")
        widgets = [Widget(page, place) for place in range(20)]
        for widget in widgets:
            widget.stroke([(12, 40), (16, 44)])
        for widget in widgets:
            widget.panel.locator(".medaug-contact", has_text="What you do here is kept").wait_for()
        before = [widget.source() for widget in widgets]
        (tmp_path/"notebooks"/"go").touch()
        for widget, source in zip(widgets, before):
            page.wait_for_function("([image, source]) => image.src != source && image.complete",
                                   arg=[widget.image.element_handle(), source])
            page.wait_for_function("line => line.textContent === ''",
                                   arg=widget.panel.locator(".medaug-contact").element_handle())
            widget.settle()
        painted = [widget.picture()[18 + 2*14 + 1, -130 + 2*42 + 1] for widget in widgets]
        dead = [k for k, colour in enumerate(painted) if tuple(colour) != (230, 159, 0)]
        black = [k for k, widget in enumerate(widgets) if (widget.colours()[::6, ::6].max(-1) > 20).mean() < 0.2]
        print(f"of 20 canvases {len(dead)} ignored the stroke, {len(black)} had no image under the label map")
    assert not dead and not black
    assert not [error for error in errors if "Failed to initialize model" not in error]


def test_the_canvas_says_that_its_kernel_has_gone(checkpoint, tmp_path):
    (tmp_path/"notebooks").mkdir()
    paint = f"paint_mask({str(checkpoint)!r}, masks={str(checkpoint.parent/'store')!r})"
    write_notebook(tmp_path/"notebooks"/"gone.ipynb", ["from medaug.explore import paint_mask", paint])
    with jupyterlab(tmp_path, tmp_path/"notebooks") as address, chromium_page([]) as page:
        run_all(page, address, "gone.ipynb")
        widget = Widget(page, 0)
        widget.canvas().wait_for()
        widget.panel.locator("text=/has not started yet/").wait_for(state="hidden")
        page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        lost = "Contact with the kernel is lost: run the cell again."
        widget.panel.locator(".medaug-contact", has_text=lost).wait_for()
