// Clicks on the picture of the panel that this stands in: where, as shares of its width and height.
async function render({ model: view, el }) {
  const { tell, end } = await contact({ model: view, el }, () => {});
  const picture = (panel) => panel && panel.querySelector("img.widget-image");

  function clicked(event) {
    const panel = el.closest(".medaug-explore"), image = picture(panel);
    if (!image || event.target !== image) return;
    const box = image.getBoundingClientRect();
    tell({ kind: "click", x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
    const next = panel.nextElementSibling;
    if (next) next.scrollIntoView({ behavior: "smooth", block: "nearest" });
  }

  function pointed(event) {
    const image = picture(el.closest(".medaug-explore"));
    if (image && event.target === image) image.style.cursor = "pointer";
  }

  document.addEventListener("click", clicked);
  document.addEventListener("pointermove", pointed);
  return () => { end(); document.removeEventListener("click", clicked); document.removeEventListener("pointermove", pointed); };
}

export default { render };
