// The browser's half of CropBox (crop.py): a photo with a square that is dragged, resized at its corner, or moved by
// keys and buttons. The square is (left, top, side) in units of the photo's shorter side. The kernel hears of it when
// it has come to rest.

const REST = 200; // milliseconds without a move before the kernel is told
const STEP = 0.02; // of an arrow key, in units of the shorter side; five times as much with Shift
const ZOOM = 1.15;
const KEYS = "Arrow keys move the square, plus and minus change its size, Home puts it back.";
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function render({ model, el }) {
  const [width, height] = model.get("size");
  const shorter = Math.min(width, height);
  const name = model.get("name");
  const root = element("figure", "imgclassify imgclassify-crop", el);
  const frame = element("div", "frame", root);
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.setProperty("--aspect", width / height);
  const address = URL.createObjectURL(new Blob([model.get("photo")], { type: "image/jpeg" }));
  element("img", "", frame, { src: address, alt: name, draggable: false });
  const square = element("div", "square", frame, { tabIndex: 0 });
  square.setAttribute("role", "application");
  square.setAttribute("aria-label", `What the model sees of ${name}. ${KEYS}`);
  square.title = `Drag to move. ${KEYS}`;
  const corner = element("div", "corner", square, { title: "Drag to resize" });
  element("figcaption", "", root, { textContent: name });
  const buttons = element("div", "buttons", root);
  const button = (text, tip, press) => {
    const made = element("button", "jupyter-button widget-button", buttons, { textContent: text, type: "button", title: tip, onclick: press });
    made.setAttribute("aria-label", `${tip}: ${name}`);
  };
  const said = element("div", "said", root);
  said.setAttribute("role", "status");

  let [left, top, side] = model.get("square");
  let drag = null, timer = 0;

  const within = (value, low, high) => Math.min(Math.max(value, low), high);

  function show() {
    square.style.left = `${(100 * left * shorter) / width}%`;
    square.style.top = `${(100 * top * shorter) / height}%`;
    square.style.width = `${(100 * side * shorter) / width}%`;
    square.style.height = `${(100 * side * shorter) / height}%`;
  }

  // Moves the square, inside the photo; a new side keeps what is at its centre, or its upper left corner.
  function move(newLeft, newTop, newSide = side) {
    side = within(newSide, model.get("min_side"), 1);
    left = within(newLeft, 0, width / shorter - side);
    top = within(newTop, 0, height / shorter - side);
    show();
    clearTimeout(timer);
    timer = setTimeout(tell, REST);
  }

  function tell() {
    timer = 0;
    model.set("square", [left, top, side]);
    model.save_changes();
  }

  function resize(factor) {
    const wanted = within(side * factor, model.get("min_side"), 1);
    move(left + (side - wanted) / 2, top + (side - wanted) / 2, wanted);
  }

  function pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = STEP * (event.shiftKey ? 5 : 1);
    if (MOVES[event.key]) move(left + step * MOVES[event.key][0], top + step * MOVES[event.key][1]);
    else if (event.key === "+" || event.key === "=") resize(ZOOM);
    else if (event.key === "-" || event.key === "_") resize(1 / ZOOM);
    else if (event.key === "Home") move(...model.get("start"));
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function grabbed(event) {
    if (event.button) return;
    const unit = (frame.clientWidth * shorter) / width; // pixels of the screen
    drag = { x: event.clientX, y: event.clientY, left, top, side, unit, resizes: event.target === corner };
    square.setPointerCapture(event.pointerId);
    square.focus({ preventScroll: true });
    event.preventDefault();
  }

  function dragged(event) {
    if (!drag) return;
    const x = (event.clientX - drag.x) / drag.unit, y = (event.clientY - drag.y) / drag.unit;
    if (!drag.resizes) return move(drag.left + x, drag.top + y);
    const room = Math.min(width / shorter - drag.left, height / shorter - drag.top);
    move(drag.left, drag.top, Math.min(drag.side + Math.max(x, y), room));
  }

  function follow() {
    if (timer || drag) return; // the user is moving it
    [left, top, side] = model.get("square");
    show();
  }

  const announce = () => { said.textContent = model.get("said"); };

  button("−", "Smaller square", () => resize(1 / ZOOM));
  button("+", "Larger square", () => resize(ZOOM));
  button("Centre", "Central square", () => move(...model.get("start")));
  square.onkeydown = pressed;
  square.onpointerdown = grabbed;
  square.onpointermove = dragged;
  square.onpointerup = square.onpointercancel = square.onlostpointercapture = () => { drag = null; };
  model.on("change:square", follow);
  model.on("change:said", announce);
  show();
  return () => {
    clearTimeout(timer);
    URL.revokeObjectURL(address);
    model.off("change:square", follow);
    model.off("change:said", announce);
  };
}

export default { render };
