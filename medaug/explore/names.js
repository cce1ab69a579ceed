// Names for screen readers that the widgets of ipywidgets lack: of each slider its label, of the picture its caption.
function name(panel) {
  for (const handle of panel.querySelectorAll("[role=slider]:not([aria-label])")) {
    const slider = handle.closest(".widget-hslider, .widget-slider"), label = slider && slider.querySelector("label");
    const text = label && (label.textContent.trim() || label.title);
    if (text) handle.setAttribute("aria-label", text);
  }
  const caption = panel.querySelector(".medaug-caption"), text = (caption && caption.textContent.trim()) || "picture";
  for (const image of panel.querySelectorAll("img.widget-image")) if (image.alt !== text) image.alt = text;
}

function render({ el }) {
  let observer = null;
  const clock = setInterval(() => {     // the view stands in its panel only after this function has ended
    const panel = el.closest(".medaug-explore");
    if (!panel) return;
    clearInterval(clock);
    observer = new MutationObserver(() => name(panel));
    observer.observe(panel, { childList: true, subtree: true, characterData: true });
    name(panel);
  }, 100);
  return () => { clearInterval(clock); if (observer) observer.disconnect(); };
}

export default { render };
