// Contact with the kernel, put before the code of each canvas.
// anywidget passes no message of the kernel on to a widget that needed more than two seconds to start. So a canvas keeps its
// state in a plain model of ipywidgets, whose messages always arrive, and tells the user when the kernel doesn't answer.

const PATIENCE = 4000; // milliseconds without an answer before a line says so, and the message is sent again

function bytesOf(state, name) {
  const view = state.get(name);
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

// The model that `model` names, and `tell(message)`, which sends one message at a time and calls `heard` after the answer.
// A message carries the view's name and a number, so that the kernel acts on it once, however often it arrives.
async function contact({ model, el }, heard) {
  const state = await model.widget_manager.get_model(model.get("contact"));
  const view = Math.random().toString(36).slice(2), queue = [], line = document.createElement("div");
  let underWay = null, sent = 0, number = 0;
  line.setAttribute("role", "status");
  line.className = "medaug-contact";
  line.style.cssText = "color: #B34700; min-height: 1.4em; font-size: 13px";

  function send() {
    sent = Date.now();
    if (state.comm_live) state.send(underWay);
  }

  function next() {
    if (underWay || !queue.length) return;
    underWay = { ...queue.shift(), view, number: ++number };
    send();
  }

  function tell(message) {
    const last = queue[queue.length - 1];
    if (message.kind === "drag" && last && last.kind === "drag") last.points.push(...message.points);
    else if (message.kind === "place" && last && last.kind === "place") last.place = message.place;
    else queue.push(message);
    next();
  }

  function say() {
    const late = underWay && Date.now() - sent > PATIENCE;
    const text = !state.comm_live ? "Contact with the kernel is lost: run the cell again."
      : underWay && (late || line.textContent) ? "The kernel has not answered yet: it is busy, or it has stopped. What you do here is kept." : "";
    if (line.textContent !== text) line.textContent = text;
    if (late) send();
  }

  function answered() {
    if (underWay && state.get("answered")[view] >= underWay.number) underWay = null;
    next();
    say();
    heard();
  }

  const clock = setInterval(say, 500);
  state.on("change:answered", answered);
  state.on("comm_live_update", say);
  el.appendChild(line);
  const pending = () => [...(underWay ? [underWay] : []), ...queue];
  const end = () => { clearInterval(clock); state.off("change:answered", answered); state.off("comm_live_update", say); };
  tell({ kind: "hello" });
  return { state, tell, pending, line, end };
}
