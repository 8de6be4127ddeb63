// The browser's half of Gallery (gallery.py): asks for a page of thumbnails, and again whenever something has changed.

const REST = 150; // milliseconds between two questions, while photos arrive quickly

function render({ model, el }) {
  const root = element("div", "imgclassify imgclassify-gallery", el);
  const list = element("ul", "photos", root);
  const pages = element("div", "pages", root, { hidden: true });
  const button = (text, parent, label) => {
    const made = element("button", "jupyter-button widget-button", parent, { textContent: text, type: "button" });
    made.setAttribute("aria-label", label);
    return made;
  };
  const back = button("‹", pages, "Earlier photos");
  const where = element("span", "hint", pages);
  const on = button("›", pages, "Later photos");
  const problem = element("p", "error", root);
  problem.setAttribute("role", "alert");

  const myself = `${Math.random()}`; // the same widget may be shown twice
  let first = 0, size = 0, timer = 0, focus = null, addresses = [];

  const ask = () => { timer = 0; model.send({ view: myself, first }); };
  const turn = (pagesOn) => { first = Math.max(0, first + pagesOn * size); ask(); };

  function correct(photo, place, move) {
    focus = place;
    model.send({ view: myself, photo, move });
  }

  function show({ photos, total, page, first: shown }, buffers) {
    addresses.forEach((each) => URL.revokeObjectURL(each));
    addresses = buffers.map((each) => URL.createObjectURL(new Blob([each], { type: "image/jpeg" })));
    [first, size] = [shown, page];
    list.replaceChildren();
    root.classList.toggle("captions", photos.some(([, caption]) => caption));
    photos.forEach(([id, caption, other], place) => {
      const item = element("li", "", list);
      const name = `${model.get("label")}, photo ${first + place + 1}${caption && `: ${caption}`}`;
      element("img", "", item, { src: addresses[place], alt: name, title: caption });
      if (caption) element("span", "caption", item, { textContent: caption });
      const remove = button("×", item, `Remove: ${name}`);
      remove.classList.add("remove");
      remove.title = "Remove";
      remove.onclick = () => correct(id, place, false);
      if (!other) return;
      const move = button(`Move to ${other}`, item, `Move to ${other}: ${name}`);
      move.classList.add("move");
      move.title = move.textContent;
      move.onclick = () => correct(id, place, true);
    });
    root.hidden = !total;
    pages.hidden = total <= page;
    where.textContent = `${first + 1} to ${first + photos.length} of ${total}`;
    back.disabled = first === 0;
    on.disabled = first + page >= total;
    if (focus === null) return;
    const all = list.querySelectorAll(".remove"); // the next photo has taken its place
    (all[Math.min(focus, all.length - 1)] ?? root).focus();
    focus = null;
  }

  function answered(message, buffers) {
    if (message.changed) timer ||= setTimeout(ask, REST);
    if (message.view !== myself) return;
    problem.textContent = message.error ?? "";
    if (message.photos) show(message, buffers);
  }

  root.tabIndex = -1;
  back.onclick = () => turn(-1);
  on.onclick = () => turn(1);
  model.on("msg:custom", answered);
  ask();
  return () => {
    clearTimeout(timer);
    addresses.forEach((each) => URL.revokeObjectURL(each));
    model.off("msg:custom", answered);
  };
}

export default { render };
