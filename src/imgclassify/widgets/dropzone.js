// The browser's half of DropZone (dropzone.py). Files are sent one after another, in pieces. Each piece is sent only
// after the last one has been acknowledged, so that the socket is never flooded, and no more than one piece is in
// memory here. Nothing is sent anywhere but to the kernel.
//
// To the kernel:    { id, name, size, first, offset } with one buffer, or { id, cancel }
// From the kernel:  { id, offset } to go on from there, { id, done }, or { id, error } with a sentence

const RESTARTED = "The kernel was restarted or has ended: run this cell again, then choose the photos again.";
const NOTICE = 4; // seconds without an answer before the zone says that it waits
const PATIENCE = 60; // seconds without an answer before it gives up
const SHOWN = 12; // sentences about bad files; of more, only their number is shown
const PICTURE = /\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic|heif)$/i; // only used to leave out other files of a folder
const EDITABLE = "input, textarea, select, [contenteditable='true'], .cm-content";

const nothing = () => ({ files: 0, bytes: 0, arrived: 0, arrivedBytes: 0, bad: 0, first: true, cancelled: false });
const count = (number) => (number === 1 ? "1 photo" : `${number} photos`);
const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true });
const isPicture = ({ name, type }) => !name.startsWith(".") && (type?.startsWith("image/") || PICTURE.test(name));

// All pictures in a dropped folder and the folders in it, in the order of their names.
async function picturesIn(folder) {
  const reader = folder.createReader();
  const entries = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 at a time
    if (!some.length) break;
    entries.push(...some);
  }
  const found = [];
  for (const entry of entries.sort(byName)) {
    if (entry.isDirectory) found.push(...(await picturesIn(entry)));
    else if (isPicture(entry)) found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
  }
  return found;
}

function render({ model, el }) {
  const root = element("div", "imgclassify imgclassify-drop", el);
  const zone = element("div", "zone", root, { role: "group" });
  const label = element("span", "label", zone);
  element("span", "hint", zone, { textContent: "or paste them, or" });
  const buttons = element("span", "buttons", zone);
  const button = (text, parent) => element("button", "jupyter-button widget-button", parent, { textContent: text, type: "button" });
  const choose = button("Choose photos", buttons);
  const chooseFolder = button("Choose folder", buttons);
  const input = element("input", "", zone, { type: "file", multiple: true, hidden: true, accept: "image/*,.heic,.heif" });
  const folderInput = element("input", "", zone, { type: "file", multiple: true, hidden: true, webkitdirectory: true });
  const sending = element("div", "sending", root, { hidden: true });
  const progress = element("progress", "", sending);
  progress.setAttribute("aria-label", "Photos sent");
  const cancel = button("Cancel", sending);
  const status = element("p", "status hint", root);
  status.setAttribute("role", "status");
  const problems = element("div", "problems", root);
  problems.setAttribute("role", "alert");

  const myself = `${Math.random()}/`; // the same widget may be shown twice: this tells their answers apart
  let queue = [], current = null, lost = false, watch = 0, sent = 0;
  let batch = nothing(); // what was chosen together

  const say = (text) => { if (status.textContent !== text) status.textContent = text; };

  function complain(text) {
    batch.bad += 1;
    if (batch.bad <= SHOWN) element("p", "error", problems, { textContent: text });
    else {
      const more = problems.querySelector(".more") ?? element("p", "error more", problems);
      more.textContent = `${batch.bad - SHOWN} more could not be used.`;
    }
  }

  function update() {
    sending.hidden = !current;
    if (!current) return;
    progress.max = batch.bytes || 1;
    progress.value = batch.arrivedBytes + current.offset;
    say(`Sending ${count(batch.files)}: ${current.file.name} (${batch.files - queue.length} of ${batch.files})`);
  }

  function send(message, buffers) {
    try {
      model.send(message, undefined, buffers);
    } catch {
      end(RESTARTED); // the connection is closed
    }
  }

  // Stops everything; what has arrived completely stays.
  function end(problem) {
    queue = [];
    current = null;
    clearInterval(watch);
    if (problem) complain(problem);
    update();
  }

  function add(files) {
    if (!files.length) return;
    const first = !current;
    if (first) {
      batch = nothing();
      problems.replaceChildren();
    }
    if (lost) return complain(RESTARTED);
    batch.files += files.length;
    for (const file of files) batch.bytes += file.size;
    queue.push(...files);
    if (!first) return update();
    clearInterval(watch);
    watch = setInterval(check, 1000);
    next();
  }

  function next() {
    const file = queue.shift();
    if (file) {
      current = { id: myself + (sent += 1), file, offset: 0, since: performance.now() };
      return sendPiece();
    }
    end();
    const { arrived, files, cancelled } = batch;
    if (cancelled) say(`Cancelled: ${arrived} of ${count(files)} had arrived.`);
    else say(arrived === files ? `${count(arrived)} sent.` : `${arrived} of ${count(files)} could be used.`);
  }

  async function sendPiece() {
    const mine = current;
    const { id, file, offset } = mine;
    let content;
    update();
    try {
      content = await file.slice(offset, offset + model.get("piece_bytes")).arrayBuffer();
    } catch {
      if (mine !== current) return;
      send({ id, cancel: true });
      complain(`${file.name} can no longer be read: it was moved, changed or deleted.`);
      return finished();
    }
    if (mine !== current) return; // cancelled in the meantime
    mine.since = performance.now();
    send({ id, name: file.name, size: file.size, first: batch.first, offset }, [content]);
    batch.first = false;
  }

  function finished() {
    if (!current) return;
    batch.arrivedBytes += current.file.size;
    next();
  }

  function answered({ id, offset, done, error }) {
    if (!current || id !== current.id) return; // another view's, or cancelled
    current.since = performance.now();
    if (offset !== undefined) {
      current.offset = offset;
      return sendPiece();
    }
    if (done) batch.arrived += 1;
    else complain(error);
    finished();
  }

  function check() {
    if (!root.isConnected) return stop();
    const waiting = (performance.now() - current.since) / 1000;
    if (waiting > PATIENCE) {
      send({ id: current.id, cancel: true });
      end(`The kernel has not answered for ${PATIENCE} seconds. If it is busy, try again when it is not; if it was restarted, run this cell again.`);
      say("Stopped.");
    } else if (waiting > NOTICE) say("Waiting for the kernel, which is busy.");
  }

  function stop() {
    if (!current) return;
    queue = [];
    batch.cancelled = true;
    send({ id: current.id, cancel: true });
    next();
  }

  function cancelled() {
    const onlyItsAnswerIsMissing = current.offset + model.get("piece_bytes") >= current.file.size;
    if (!onlyItsAnswerIsMissing) return stop();
    queue = [];
    batch.cancelled = true;
  }

  function disconnected() {
    lost = true;
    if (current) end(RESTARTED);
    say("");
  }

  function chosen({ target }) {
    const files = [...target.files];
    target.value = ""; // so that the same file can be chosen again
    if (target === input) return add(files);
    add(files.filter(isPicture).sort((a, b) => byName({ name: a.webkitRelativePath }, { name: b.webkitRelativePath })));
    if (files.length && !files.some(isPicture)) say("There are no photos in this folder.");
  }

  async function dropped(event) {
    zone.classList.remove("over");
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    event.preventDefault();
    event.stopPropagation();
    if (!items.length) return say("This is not a file: save the picture first, then drop the file.");
    const entries = items.map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]); // gone after the first await
    try {
      const files = [];
      for (const [entry, file] of entries) files.push(...(entry?.isDirectory ? await picturesIn(entry) : [file]));
      add(files);
      if (!files.length) say("There are no photos in this folder.");
    } catch {
      say("The folder could not be read: drop its photos instead.");
    }
  }

  function dragged(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // else the browser would refuse the drop
    event.dataTransfer.dropEffect = "copy";
    zone.classList.add("over");
  }

  // Pasted photos go to the zone that has the focus or is under the mouse, or else to the only one of a page without focus.
  function pasted(event) {
    if (event.defaultPrevented || event.target.closest?.(EDITABLE) || !root.checkVisibility()) return;
    const here = root.matches(":hover, :focus-within");
    const others = [...document.querySelectorAll(".imgclassify-drop")].some((each) => each !== root && each.checkVisibility());
    if (!here && (others || document.activeElement !== document.body)) return;
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) event.preventDefault();
    if (files.length) add(files);
    else if (here) say("The clipboard holds no photo.");
  }

  function relabel() {
    label.textContent = model.get("label");
    zone.setAttribute("aria-label", model.get("label"));
    choose.setAttribute("aria-label", `Choose photos: ${model.get("label")}`);
    chooseFolder.hidden = !model.get("folder");
    choose.classList.toggle("mod-primary", chooseFolder.hidden); // one of two buttons does not stand out
  }

  choose.onclick = () => input.click();
  chooseFolder.onclick = () => folderInput.click();
  input.onchange = folderInput.onchange = chosen;
  cancel.onclick = () => { cancelled(); choose.focus(); };
  zone.onclick = (event) => { if (event.target.tagName !== "BUTTON" && event.target.tagName !== "INPUT") choose.focus(); };
  zone.ondragenter = zone.ondragover = dragged;
  zone.ondragleave = (event) => { if (!zone.contains(event.relatedTarget)) zone.classList.remove("over"); };
  zone.ondrop = dropped;
  document.addEventListener("paste", pasted);
  model.on("msg:custom", answered);
  model.on("comm_live_update", disconnected); // the widget manager's: the kernel has gone
  model.on("change:label", relabel);
  model.on("change:folder", relabel);
  relabel();
  return () => {
    stop();
    document.removeEventListener("paste", pasted);
    model.off("msg:custom", answered);
    model.off("comm_live_update", disconnected);
    model.off("change:label", relabel);
    model.off("change:folder", relabel);
  };
}

export default { render };
