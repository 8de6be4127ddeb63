// The browser's half of CameraClassifier (camera.py). Frames go to the kernel and nowhere else; the next one is sent
// only after the last one has been answered.

const UPLOAD = " Or use the upload box.";
const INSECURE = "This page cannot use a camera: browsers allow it only on https:// or on localhost. Use the upload box instead.";
const REFUSED = {
  NotAllowedError: "Access to the camera was denied: allow it in the browser's address bar and start again." + UPLOAD,
  NotFoundError: "No camera was found: connect one and start again." + UPLOAD,
  NotReadableError: "The camera is busy: close the program that uses it and start again." + UPLOAD,
};
const PATIENCE = 20; // seconds to wait for an answer before the camera is switched off
const NOTHING = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"; // an empty picture
const BURST_SIDE = 320; // pixels, at least; enough for a network of 224 whose training crops its pictures
const BURST_PACE = 200; // milliseconds between the frames of a burst
const EXACT = 128; // pixels; larger frames are sent as JPEG, because PNG would have hundreds of kilobytes
const SEEN = "The model's view";
const FEW = 30; // classes that are shown without unfolding
const PACE = 1000 / 15; // shortest time between frames, in milliseconds: faster looks no better and takes processor time from others

function render({ model, el }) {
  const root = element("div", "imgclassify imgclassify-camera", el);
  const buttons = element("div", "buttons", root);
  const button = (label) => element("button", "jupyter-button widget-button", buttons, { textContent: label, type: "button" });
  const [start, snapshot, continuous, why] = ["Start camera", "Snapshot", "Continuous", "Why?"].map(button);
  why.title = "Show what in the picture speaks for the answer";
  start.classList.add("start");
  const burstButtons = element("div", "buttons bursts", root);
  const status = element("p", "status", root);
  status.setAttribute("role", "status");
  const panels = element("div", "panels", root);
  const panel = (caption) => {
    const made = element("figure", "", panels);
    element("figcaption", "", made, { textContent: caption });
    return made;
  };
  const video = element("video", "preview", panel("Camera (mirrored)"), { muted: true, playsInline: true });
  const viewPanel = panel(SEEN);
  const viewCaption = viewPanel.querySelector("figcaption");
  const view = element("img", "view", viewPanel, { alt: "", src: NOTHING });
  const verdict = panel("Most probable classes");
  const said = element("p", "verdict", verdict);
  const bars = element("div", "bars", verdict);
  const rate = element("p", "rate", verdict);
  const known = element("div", "known", root);

  const canvas = document.createElement("canvas");
  const myself = `${Math.random()}/`; // the same widget may be shown twice: this tells their answers apart
  let stream = null, opening = false, opened = 0, sent = 0, waiting = null, repeat = false, times = [], watch = 0;
  let burst = null; // { name, taken } while a burst button is held
  let explaining = false, shown = null; // the frame that was sent last

  function say(text, bad = false) {
    status.textContent = text;
    status.classList.toggle("error", bad);
  }

  function update() {
    start.textContent = stream || opening ? "Stop camera" : "Start camera";
    start.classList.toggle("mod-primary", !stream && !opening);
    snapshot.disabled = continuous.disabled = !stream || opening;
    for (const each of burstButtons.children) {
      each.disabled = !stream || opening;
      each.classList.toggle("held", burst?.name === each.dataset.name);
    }
    continuous.textContent = repeat ? "Pause" : "Continuous";
    why.setAttribute("aria-pressed", explaining);
    why.classList.toggle("mod-active", explaining);
    video.classList.toggle("on", Boolean(stream));
  }

  function stop(text = "The camera is off.", bad = false) {
    opened += 1; // a start that is still under way gives its camera back
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = waiting = burst = shown = null;
    opening = repeat = false;
    clearInterval(watch);
    say(text, bad);
    update();
  }

  // At least as many pixels as the largest frame needs.
  function resolution() {
    const height = Math.max(480, model.get("frame_side"), model.get("bursts").length ? BURST_SIDE : 0);
    return { width: { ideal: Math.round((height * 4) / 3) }, height: { ideal: height } };
  }

  async function open() {
    const mine = (opened += 1);
    opening = true;
    say("Waiting for the camera: the browser may ask for your permission.");
    update();
    try {
      const given = await navigator.mediaDevices.getUserMedia({ video: resolution() });
      if (mine !== opened) return given.getTracks().forEach((track) => track.stop());
      stream = video.srcObject = given;
      given.getVideoTracks()[0].onended = () => stop("The camera was disconnected." + UPLOAD, true);
      watch = setInterval(check, 1000);
      await video.play();
      if (mine !== opened) return;
      opening = false;
      say("The camera is on. Nothing is sent before you press another button.");
      update();
    } catch (error) {
      if (mine === opened) stop(REFUSED[error.name] ?? `The camera cannot be used (${error.message}).` + UPLOAD, true);
    }
  }

  function check() {
    if (!root.isConnected) stop();
    else if (waiting && performance.now() - waiting.since > PATIENCE * 1000)
      stop(`The kernel has not answered for ${PATIENCE} seconds, so the camera is off. If it was restarted, run the cell again.`, true);
  }

  // The central square, halved until it is near its final size, because one large step would skip pixels. Not mirrored.
  function square(side) {
    let size = Math.min(video.videoWidth, video.videoHeight);
    const draw = canvas.getContext("2d", { willReadFrequently: true });
    canvas.width = canvas.height = Math.max(size, side);
    draw.imageSmoothingQuality = "high";
    draw.drawImage(video, (video.videoWidth - size) / 2, (video.videoHeight - size) / 2, size, size, 0, 0, size, size);
    while (size !== side) {
      const next = size > 2 * side ? Math.ceil(size / 2) : side;
      draw.drawImage(canvas, 0, 0, size, size, 0, 0, next, next);
      size = next;
    }
    const pixels = draw.getImageData(0, 0, side, side);
    canvas.width = canvas.height = side;
    draw.putImageData(pixels, 0, 0);
  }

  function expect() {
    return (waiting = { frame: myself + (sent += 1), since: performance.now(), taking: burst });
  }

  function post(content) {
    const { frame, taking } = waiting;
    waiting.explained = explaining;
    if (!taking) shown = content;
    model.send(taking ? { frame, burst: taking.name } : { frame, why: explaining }, undefined, [content]);
  }

  function send() {
    if (!stream || waiting || !video.videoWidth) return;
    const mine = expect();
    const side = Math.max(model.get("frame_side"), burst ? BURST_SIDE : 0);
    square(side);
    const ready = async (blob) => {
      const content = await blob.arrayBuffer();
      if (mine === waiting) post(content);
    };
    canvas.toBlob(ready, side > EXACT ? "image/jpeg" : "image/png", 0.92);
  }

  function answered({ frame, error, top, verdict: none, view: address, caption }) {
    if (frame !== waiting?.frame) return;
    const { since, taking, explained } = waiting;
    waiting = null;
    if (error) {
      repeat = false;
      burst = null;
      update();
      return say(error, true);
    }
    if (top) show(top, none, address, caption);
    else say(`${taking.name}: ${(taking.taken += 1)} taken.`);
    if (!repeat && !taking && shown && explained !== explaining) { // the switch was pressed meanwhile
      expect();
      return post(shown);
    }
    if (repeat || burst) setTimeout(send, since + (burst ? BURST_PACE : PACE) - performance.now());
  }

  function show(top, none, address, caption) {
    viewCaption.textContent = caption || SEEN;
    view.src = address;
    view.classList.toggle("smooth", address.startsWith("data:image/jpeg")); // a large one, without visible pixels
    said.textContent = none || top[0][0];
    bars.classList.toggle("plain", Boolean(none));
    bars.replaceChildren();
    for (const [label, probability] of top) {
      element("span", "label", bars, { textContent: label });
      element("span", "bar", element("span", "track", bars)).style.width = `${100 * probability}%`;
      element("span", "percent", bars, { textContent: `${(100 * probability).toFixed(1)}%` });
    }
    view.alt = `${viewCaption.textContent}: ${none || top[0][0]}?`;
    const now = performance.now();
    times = [...times.filter((time) => now - time < 3000), now];
    rate.textContent = repeat && times.length > 2 ? `${((1000 * (times.length - 1)) / (now - times[0])).toFixed(1)} predictions per second` : "";
  }

  function toggle() {
    repeat = !repeat;
    times = [];
    say(repeat ? "Classifying what the camera sees, as fast as possible." : "Paused.");
    update();
    send();
  }

  // A burst lasts as long as its button is held, by mouse, finger, Space or Enter.
  function hold(name) {
    if (burst || !stream) return;
    repeat = false;
    burst = { name, taken: 0 };
    say(`${name}: hold the button.`);
    update();
    send();
  }

  function release() {
    if (!burst) return;
    burst = null;
    update();
  }

  function burstButton(name) {
    const made = element("button", "jupyter-button widget-button", burstButtons, { textContent: `Hold: ${name}`, type: "button" });
    made.dataset.name = name;
    made.title = `While you hold it, five photos per second are taken: ${name}`;
    made.onpointerdown = (event) => { if (!event.button) { made.setPointerCapture(event.pointerId); hold(name); } };
    made.onpointerup = made.onpointercancel = made.onlostpointercapture = made.onblur = made.onkeyup = release;
    made.onkeydown = ({ key }) => { if (key === " " || key === "Enter") hold(name); };
    made.oncontextmenu = (event) => event.preventDefault(); // of a long press
  }

  // What depends on the model and the names of the bursts, which may both come later.
  function arrange() {
    const names = model.get("class_names");
    snapshot.hidden = continuous.hidden = why.hidden = viewPanel.hidden = verdict.hidden = known.hidden = !names.length;
    const few = names.length <= FEW;
    const list = element(few ? "p" : "details", "", null);
    if (few) list.append("It knows only these classes: ");
    else element("summary", "", list, { textContent: `It knows ${names.length} classes, such as ${names.slice(0, 3).join(", ")}.` });
    list.append(element("b", "", null, { textContent: names.join(", ") }), ".");
    known.replaceChildren(list);
    burst = null;
    burstButtons.replaceChildren();
    burstButtons.hidden = !model.get("bursts").length;
    model.get("bursts").forEach(burstButton);
    update();
  }

  const hidden = () => document.hidden && (stream || opening) && stop("The camera was switched off while the page was hidden.");
  const leaving = () => stop();
  start.onclick = () => (stream ? stop() : open());
  snapshot.onclick = () => { repeat = false; say("A snapshot."); update(); send(); };
  continuous.onclick = toggle;
  why.onclick = () => {
    explaining = !explaining;
    update();
    if (repeat || waiting || !shown) return;
    expect();
    post(shown); // the snapshot again
  };
  model.on("msg:custom", answered);
  model.on("change:class_names", arrange);
  model.on("change:bursts", arrange);
  document.addEventListener("visibilitychange", hidden);
  window.addEventListener("pagehide", leaving);
  arrange();
  stop();
  if (!navigator.mediaDevices?.getUserMedia) {
    start.disabled = true;
    say(INSECURE, true);
  }
  return () => {
    stop();
    model.off("msg:custom", answered);
    model.off("change:class_names", arrange);
    model.off("change:bursts", arrange);
    document.removeEventListener("visibilitychange", hidden);
    window.removeEventListener("pagehide", leaving);
  };
}

export default { render };
