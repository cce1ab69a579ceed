// Three planes of a patient with a crosshair, or one plane of each modality. The volumes come from the kernel once a patient;
// from then on slices, windows, overlays, zoom and the values under the pointer need no kernel.

// `across` and `down` are the axes of the volume (right, anterior, superior) that run along a plane's picture.
const PLANES = [
  { name: "sagittal", across: 1, down: 2 },
  { name: "coronal", across: 0, down: 2 },
  { name: "axial", across: 0, down: 1 },
];
const LETTERS = [["L", "R"], ["P", "A"], ["I", "S"]]; // at the beginning and the end of each axis
const BAR = 20; // pixels for the words above a plane

// Whether a plane's picture runs against its axis: the front is at the left; radiologists have the right at the left.
const flipped = (plane, radiological) => (plane.across === 1 ? true : radiological);

async function render({ model: view, el }) {
  const { state, tell, line, end } = await contact({ model: view, el }, () => {});
  const canvas = document.createElement("canvas"), small = document.createElement("canvas");
  const readout = document.createElement("div"), pen = canvas.getContext("2d");
  const volumes = new Map(); // modality → voxels; -1 holds the labels
  let patient = null, place = [0, 0, 0], centre = [0, 0, 0], zoom = 1, active = 2, hover = null, drag = null, due = false;
  let wheel = 0;

  canvas.tabIndex = 0;
  canvas.className = "medaug-viewer";
  canvas.style.cssText = "touch-action: none; cursor: crosshair; max-width: 100%; height: auto; background: #181818";
  canvas.setAttribute("role", "application");
  canvas.setAttribute("data-lm-suppress-shortcuts", "true"); // or JupyterLab would take the keys for its own commands
  readout.className = "medaug-readout";
  readout.style.cssText = "font: 13px monospace; min-height: 1.5em; white-space: pre-wrap";
  const range = document.createElement("input"), label = document.createElement("label");
  range.type = "range";
  range.style.cssText = "width: 260px; vertical-align: middle";
  label.append("slice ", range);
  label.style.cssText = "font-size: 13px";
  for (const part of [canvas, readout, label]) el.insertBefore(part, line);

  const shape = () => state.get("shape"), spacing = () => state.get("spacing"), side = () => state.get("side");
  const inside = (x, axis) => Math.min(Math.max(x, 0), shape()[axis] - 1);
  const panels = () => (state.get("layout") === "planes"
    ? [2, 1, 0].map((axis) => ({ axis, modality: state.get("modality") }))
    : state.get("modalities").map((_, modality) => ({ axis: state.get("axis"), modality })));
  const scale = () => (zoom * side()) / Math.max(...shape().map((n, axis) => n * spacing()[axis])); // screen pixels a millimetre

  function want() {
    for (const modality of new Set([-1, ...panels().map((panel) => panel.modality)])) {
      if (volumes.has(modality) || modality >= state.get("modalities").length) continue;
      volumes.set(modality, null);
      tell({ kind: "want", patient, modality });
    }
  }

  // The black and white intensities of a modality.
  function window_of(modality) {
    const level = state.get("level"), width = state.get("width"), [low, high] = state.get("ranges")[modality] || [0, 1];
    if (state.get("units") === "HU") return [level - width / 2, level + width / 2];
    const span = (high - low) / 100;
    return [low + (level - width / 2) * span, low + (level + width / 2) * span];
  }

  // A plane of voxels as colours, one pixel a voxel, its first row the last voxel of the axis `down`.
  function coloured({ axis, modality }) {
    const { across, down } = PLANES[axis], n = shape(), strides = [n[1] * n[2], n[2], 1];
    const image = new ImageData(n[across], n[down]), voxels = volumes.get(modality), labels = volumes.get(-1);
    const [low, high] = window_of(modality), gain = 255 / Math.max(high - low, 1e-12);
    const colours = state.get("colours"), opacities = state.get("opacities");
    for (let row = 0, at = 0; row < n[down]; row++) {
      let index = place[axis] * strides[axis] + (n[down] - 1 - row) * strides[down];
      for (let column = 0; column < n[across]; column++, at += 4, index += strides[across]) {
        const grey = voxels ? Math.min(Math.max((voxels[index] - low) * gain, 0), 255) : 0;
        const kind = labels ? labels[index] : 0, share = kind ? opacities[kind - 1] : 0;
        const colour = share ? colours[(kind - 1) % colours.length] : null;
        for (let c = 0; c < 3; c++) image.data[at + c] = colour ? grey * (1 - share) + colour[c] * share : grey;
        image.data[at + 3] = 255;
      }
    }
    return image;
  }

  // The screen position of a point of the volume in a panel, and the point under a screen position.
  const box = (number) => [number * (side() + 4), BAR];
  function to_screen(number, axis, point) {
    const { across, down } = PLANES[axis], [left, top] = box(number), k = scale();
    const sign = flipped(PLANES[axis], state.get("radiological")) ? -1 : 1;
    return [left + side() / 2 + sign * (point[across] - centre[across]) * spacing()[across] * k,
      top + side() / 2 - (point[down] - centre[down]) * spacing()[down] * k];
  }
  function to_point(number, axis, [x, y]) {
    const { across, down } = PLANES[axis], [left, top] = box(number), k = scale(), point = place.map((n) => n + 0.5);
    const sign = flipped(PLANES[axis], state.get("radiological")) ? -1 : 1;
    point[across] = centre[across] + (sign * (x - left - side() / 2)) / (spacing()[across] * k);
    point[down] = centre[down] - (y - top - side() / 2) / (spacing()[down] * k);
    return point;
  }

  function words(text, x, y, align = "center") {
    pen.textAlign = align;
    pen.textBaseline = "middle";
    pen.strokeStyle = "#000";
    pen.lineWidth = 3;
    pen.strokeText(text, x, y);
    pen.fillText(text, x, y);
  }

  function draw_panel(panel, number) {
    const { axis, modality } = panel, plane = PLANES[axis], { across, down } = plane, [left, top] = box(number), s = side();
    const image = coloured(panel), flip = flipped(plane, state.get("radiological"));
    small.width = image.width;
    small.height = image.height;
    small.getContext("2d").putImageData(image, 0, 0);
    pen.save();
    pen.beginPath();
    pen.rect(left, top, s, s);
    pen.clip();
    pen.imageSmoothingEnabled = false;
    const kx = spacing()[across] * scale() * (flip ? -1 : 1), ky = spacing()[down] * scale();
    pen.translate(left + s / 2, top + s / 2);
    pen.scale(kx, ky);
    pen.drawImage(small, -centre[across], centre[down] - shape()[down]);
    pen.restore();
    pen.save();
    pen.beginPath();
    pen.rect(left, top, s, s);
    pen.clip();
    const [x, y] = to_screen(number, axis, place.map((n) => n + 0.5));
    pen.strokeStyle = "rgba(255, 255, 0, 0.75)";
    pen.lineWidth = 1;
    pen.beginPath();
    for (const [from, to] of [[[left, y], [x - 6, y]], [[x + 6, y], [left + s, y]], [[x, top], [x, y - 6]], [[x, y + 6], [x, top + s]]]) {
      pen.moveTo(...from);
      pen.lineTo(...to);
    }
    pen.stroke();
    pen.restore();
    pen.fillStyle = "#EBEBEB";
    pen.font = "bold 13px sans-serif";
    const [start, finish] = flip ? [...LETTERS[across]].reverse() : LETTERS[across];
    words(start, left + 9, top + s / 2);
    words(finish, left + s - 9, top + s / 2);
    words(LETTERS[down][1], left + s / 2, top + 10);
    words(LETTERS[down][0], left + s / 2, top + s - 10);
    const name = state.get("layout") === "planes" ? plane.name : state.get("modalities")[modality];
    pen.fillStyle = number === active_panel() ? "#FFD54A" : "#EBEBEB";
    words(`${name} ${place[axis] + 1}/${shape()[axis]}`, left + s / 2, BAR / 2);
  }

  const active_panel = () => (state.get("layout") === "planes" ? [2, 1, 0].indexOf(active) : 0);

  // What stands at a voxel, in words.
  function said(voxel, modality) {
    const n = shape(), index = (voxel[0] * n[1] + voxel[1]) * n[2] + voxel[2];
    const voxels = volumes.get(modality), labels = volumes.get(-1), a = state.get("affine");
    const world = [0, 1, 2].map((r) => a[4 * r] * voxel[0] + a[4 * r + 1] * voxel[1] + a[4 * r + 2] * voxel[2] + a[4 * r + 3]);
    const value = voxels ? Number(voxels[index].toPrecision(7)) : "", kind = labels ? labels[index] : 0;
    return `${state.get("modalities")[modality] ?? "label map"} ${value} · voxel (${voxel.join(", ")}) · `
      + `(${world.map((x) => x.toFixed(1)).join(", ")}) mm · ${kind ? `${kind} ${state.get("classes")[kind - 1]}` : "background"}`;
  }

  function draw() {
    due = false;
    if (!patient) return;
    const shown = panels(), s = side();
    const [w, h] = [shown.length * (s + 4) - 4, s + BAR];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    pen.fillStyle = "#181818";
    pen.fillRect(0, 0, w, h);
    shown.forEach(draw_panel);
    const at = hover || { voxel: place, modality: shown[0].modality };
    readout.textContent = said(at.voxel, at.modality);
    const axis = state.get("layout") === "planes" ? active : state.get("axis");
    [range.min, range.max, range.value] = [1, shape()[axis], place[axis] + 1];
    range.setAttribute("aria-valuetext", `${PLANES[axis].name} slice ${place[axis] + 1} of ${shape()[axis]}`);
    const convention = state.get("radiological") ? "radiological: the patient's right is at the left"
      : "neurological: the patient's left is at the left";
    canvas.setAttribute("aria-label", `${state.get("description")}; ${convention}; ${range.getAttribute("aria-valuetext")}`);
    canvas.dataset.ready = shown.every((panel) => volumes.get(panel.modality) || !state.get("modalities").length) && volumes.get(-1) ? "yes" : "";
    canvas.dataset.place = place.join(" ");
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn || 0) + 1);
  }

  function soon() {
    if (!due) requestAnimationFrame(draw);
    due = true;
  }

  function go(to) {
    const next = to.map((x, axis) => inside(Math.floor(x), axis));
    if (next.some((x, axis) => x !== place[axis])) tell({ kind: "place", place: next });
    place = next;
    soon();
  }

  const step = (axis, by) => go(place.map((x, a) => (a === axis ? x + by : x)));

  function reset() {
    centre = shape().map((n) => n / 2);
    zoom = 1;
  }

  function magnify(factor, point = place.map((x) => x + 0.5)) {
    const before = zoom;
    zoom = Math.min(Math.max(zoom * factor, 1), 20);
    centre = zoom === 1 ? shape().map((n) => n / 2) : centre.map((c, axis) => point[axis] - ((point[axis] - c) * before) / zoom);
    soon();
  }

  // The panel under the pointer, and the position in the canvas's own pixels.
  function under(event) {
    const frame = canvas.getBoundingClientRect(), k = canvas.width / frame.width;
    const at = [(event.clientX - frame.left) * k, (event.clientY - frame.top) * k];
    const number = Math.min(Math.max(Math.floor(at[0] / (side() + 4)), 0), panels().length - 1);
    const { axis, modality } = panels()[number], point = to_point(number, axis, at);
    return { at, number, axis, modality, point, voxel: point.map((x, a) => inside(Math.floor(x), a)) };
  }

  const covered = (point) => point.every((x, axis) => x >= 0 && x < shape()[axis]);

  canvas.addEventListener("wheel", (event) => {
    if (!patient) return;
    event.preventDefault();
    const { axis, point } = under(event);
    active = axis;
    if (event.ctrlKey) { magnify(event.deltaY < 0 ? 1.15 : 1 / 1.15, point); return; }
    wheel += event.deltaMode ? event.deltaY * 100 : event.deltaY; // a notch is about 100, a touch pad sends small parts of it
    const by = Math.trunc(wheel / 50);
    if (!by) return;
    wheel = 0;
    step(axis, -Math.sign(by) * Math.max(1, Math.round(Math.abs(by) / 2)));
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    if (!patient) return;
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
    event.preventDefault();
    const here = under(event);
    active = here.axis;
    const kind = event.button === 2 ? "window" : event.button === 1 || event.shiftKey ? "pan" : "cross";
    drag = { kind, from: here, centre: [...centre], level: state.get("level"), width: state.get("width") };
    if (kind === "cross") go(here.point);
    soon();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!patient) return;
    const here = under(event);
    hover = covered(here.point) ? here : null;
    if (drag && drag.kind === "cross" && here.axis === drag.from.axis) go(here.point);
    if (drag && drag.kind === "pan") {
      const now = to_point(drag.from.number, drag.from.axis, here.at);
      centre = centre.map((c, axis) => c + drag.from.point[axis] - now[axis]);
    }
    if (drag && drag.kind === "window") {
      const unit = drag.width / side();
      state.set("level", drag.level - (here.at[1] - drag.from.at[1]) * unit);
      state.set("width", Math.max(drag.width + (here.at[0] - drag.from.at[0]) * unit, 1));
      state.save_changes();
    }
    soon();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { hover = null; soon(); });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => { reset(); soon(); });

  const KEYS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
  canvas.addEventListener("keydown", (event) => {
    const key = event.key, axis = state.get("layout") === "planes" ? active : state.get("axis");
    if (!patient || event.altKey || event.ctrlKey || event.metaKey) return;
    if (key in KEYS) step(axis, KEYS[key]);
    else if (key === "Home" || key === "End") step(axis, (key === "Home" ? -1 : 1) * shape()[axis]);
    else if (key === "+" || key === "=") magnify(1.25);
    else if (key === "-") magnify(0.8);
    else if (key === "0") { reset(); soon(); }
    else if (["s", "c", "a"].includes(key)) { active = ["s", "c", "a"].indexOf(key); soon(); }
    else if (key === "r") { state.set("radiological", !state.get("radiological")); state.save_changes(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  range.addEventListener("input", () => {
    const axis = state.get("layout") === "planes" ? active : state.get("axis");
    go(place.map((x, a) => (a === axis ? range.value - 1 : x)));
  });

  function receive(message, buffers) {
    if (message.kind === "volume" && message.patient === patient) {
      const { buffer, byteOffset, byteLength } = buffers[0], Kind = { int16: Int16Array, float32: Float32Array, uint8: Uint8Array }[message.type];
      volumes.set(message.modality, new Kind(buffer.slice(byteOffset, byteOffset + byteLength)));
      soon();
    }
    if (message.kind === "picture") tell({ kind: "picture", png: canvas.toDataURL("image/png").split(",")[1] });
  }

  function arrive() {
    if (!state.get("patient")) return;
    if (state.get("patient") !== patient) {
      patient = state.get("patient");
      volumes.clear();
      place = [...state.get("place")];
      hover = null;
      active = state.get("axis");
      reset();
    }
    want();
    soon();
  }

  const moved = () => { place = [...state.get("place")]; soon(); };
  const other = "change:level change:width change:opacities change:radiological";
  state.on("msg:custom", receive);
  state.on("change:patient change:modality change:layout", arrive);
  state.on("change:place", moved);
  state.on(other, soon);
  arrive();
  return () => {
    end();
    state.off("msg:custom", receive);
    state.off("change:patient change:modality change:layout", arrive);
    state.off("change:place", moved);
    state.off(other, soon);
  };
}

export default { render };
