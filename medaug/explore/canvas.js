// A label map under the mouse. It draws what the kernel says and tells the kernel what the hand does: it decides nothing.
// Until the kernel's label map is back, the stroke is drawn over the old one, so that the brush follows the hand whatever
// the kernel is busy with.

function palette(model) {
  return model.get("colours").map(([r, g, b]) => [r, g, b]);
}

// The label map over the grey ground, one pixel a voxel.
function composed(model, size) {
  const image = new ImageData(size, size), colours = palette(model), opacity = model.get("opacity");
  const labels = bytesOf(model, "labels"), ground = bytesOf(model, "ground");
  for (let i = 0; i < size * size; i++) {
    const grey = ground.length ? ground[i] : 0, colour = colours[labels[i] - 1], share = colour ? opacity : 0;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = grey * (1 - share) + (colour ? colour[c] : 0) * share;
    image.data[4 * i + 3] = 255;
  }
  return image;
}

async function render({ model: view, el }) {
  const { state: model, tell: send, pending, line, end } = await contact({ model: view, el }, () => draw());
  const size = model.get("size"), side = model.get("side"), scale = side / size;
  const canvas = document.createElement("canvas"), small = document.createElement("canvas");
  canvas.width = canvas.height = side;
  small.width = small.height = size;
  canvas.tabIndex = 0;
  canvas.className = "medaug-canvas";
  canvas.style.cssText = "touch-action: none; cursor: crosshair; image-rendering: pixelated; max-width: 100%";
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", model.get("description"));
  canvas.setAttribute("data-lm-suppress-shortcuts", "true"); // or JupyterLab would take the keys for its own commands
  el.insertBefore(canvas, line);
  const pen = canvas.getContext("2d");
  let pointer = null, down = false;

  const marks = () => pending().flatMap((message) => message.points || []);

  function draw() {
    small.getContext("2d").putImageData(composed(model, size), 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, side, side);
    const radius = model.get("radius") * scale, brush = ["paint", "erase"].includes(model.get("tool"));
    const circle = ([row, column]) => { pen.beginPath(); pen.arc(column * scale, row * scale, radius, 0, 2 * Math.PI); };
    if (brush) {
      const [r, g, b] = model.get("tool") === "paint" ? palette(model)[model.get("structure") - 1] || [0, 0, 0] : [0, 0, 0];
      pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${model.get("opacity")})`;
      marks().forEach((point) => { circle(point); pen.fill(); });
    }
    for (const [colour, width] of [["#000", 3], ["#fff", 1]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      if (pointer && brush) { circle(pointer); pen.stroke(); }
      const place = model.get("place");
      if (place.length) {
        const [row, column] = place.map((x) => x * scale);
        pen.beginPath();
        pen.moveTo(column - 5, row); pen.lineTo(column + 5, row); pen.moveTo(column, row - 5); pen.lineTo(column, row + 5);
        pen.stroke();
      }
    }
  }

  function tell(message) {
    send(message);
    draw();
  }

  const place_of = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * size, ((event.clientX - box.left) / box.width) * size];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
    down = true;
    tell({ kind: "begin", points: [place_of(event)] });
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    pointer = place_of(event);
    if (down) tell({ kind: "drag", points: [pointer] });
    else draw();
  });
  canvas.addEventListener("pointerup", () => { down = false; });
  canvas.addEventListener("pointercancel", () => { down = false; });
  canvas.addEventListener("pointerleave", () => { pointer = null; draw(); });
  canvas.addEventListener("keydown", (event) => {
    if (["Tab", "Shift", "Control", "Meta", "Alt"].includes(event.key) || event.altKey) return;
    const command = event.ctrlKey || event.metaKey; // the Command key of a Mac
    if (command && !["z", "Z", "y"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    tell({ kind: "key", key: (command ? "Control+" : "") + event.key });
  });

  const watched = "change:labels change:ground change:opacity change:radius change:tool change:structure change:place";
  model.on(watched, draw);
  draw();
  return () => { end(); model.off(watched, draw); };
}

export default { render };
