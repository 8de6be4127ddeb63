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
const PACE = 1000 / 15; // shortest time between frames, in milliseconds: faster looks no better and takes processor time from others

function element(tag, className, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties, { className });
  parent?.append(made);
  return made;
}

function render({ model, el }) {
  const root = element("div", "imgclassify imgclassify-camera", el);
  const buttons = element("div", "buttons", root);
  const button = (label) => element("button", "jupyter-button widget-button", buttons, { textContent: label, type: "button" });
  const [start, snapshot, continuous] = ["Start camera", "Snapshot", "Continuous"].map(button);
  const status = element("p", "status", root);
  status.setAttribute("role", "status");
  const panels = element("div", "panels", root);
  const panel = (caption) => {
    const made = element("figure", "", panels);
    element("figcaption", "", made, { textContent: caption });
    return made;
  };
  const video = element("video", "preview", panel("Camera (mirrored)"), { muted: true, playsInline: true });
  const view = element("img", "view", panel("The model's view"), { alt: "", src: NOTHING });
  const verdict = panel("Most probable classes");
  const bars = element("div", "bars", verdict);
  const rate = element("p", "rate", verdict);
  const known = element("p", "", root, { textContent: "It knows only these classes: " });
  known.append(element("b", "", null, { textContent: model.get("class_names").join(", ") }), ".");

  const canvas = document.createElement("canvas");
  const myself = `${Math.random()}/`; // the same widget may be shown twice: this tells their answers apart
  let stream = null, opening = false, opened = 0, sent = 0, waiting = null, repeat = false, times = [], watch = 0;

  function say(text, bad = false) {
    status.textContent = text;
    status.classList.toggle("error", bad);
  }

  function update() {
    start.textContent = stream || opening ? "Stop camera" : "Start camera";
    start.classList.toggle("mod-primary", !stream && !opening);
    snapshot.disabled = continuous.disabled = !stream || opening;
    continuous.textContent = repeat ? "Pause" : "Continuous";
    video.classList.toggle("on", Boolean(stream));
  }

  function stop(text = "The camera is off.", bad = false) {
    opened += 1; // a start that is still under way gives its camera back
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = waiting = null;
    opening = repeat = false;
    clearInterval(watch);
    say(text, bad);
    update();
  }

  async function open() {
    const mine = (opened += 1);
    opening = true;
    say("Waiting for the camera: the browser may ask for your permission.");
    update();
    try {
      const given = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } } });
      if (mine !== opened) return given.getTracks().forEach((track) => track.stop());
      stream = video.srcObject = given;
      given.getVideoTracks()[0].onended = () => stop("The camera was disconnected." + UPLOAD, true);
      watch = setInterval(check, 1000);
      await video.play();
      if (mine !== opened) return;
      opening = false;
      say("The camera is on. Nothing is sent before you press Snapshot or Continuous.");
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
  function square() {
    const side = model.get("frame_side");
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

  function send() {
    if (!stream || waiting || !video.videoWidth) return;
    const mine = (waiting = { frame: myself + (sent += 1), since: performance.now() });
    square();
    canvas.toBlob(async (blob) => {
      const content = await blob.arrayBuffer();
      if (mine === waiting) model.send({ frame: mine.frame }, undefined, [content]);
    }, "image/png");
  }

  function answered({ frame, error, top, view: address }) {
    if (frame !== waiting?.frame) return;
    const { since } = waiting;
    waiting = null;
    if (error) {
      repeat = false;
      update();
      return say(error, true);
    }
    view.src = address;
    bars.replaceChildren();
    for (const [label, probability] of top) {
      element("span", "label", bars, { textContent: label });
      element("span", "bar", element("span", "track", bars)).style.width = `${100 * probability}%`;
      element("span", "percent", bars, { textContent: `${(100 * probability).toFixed(1)}%` });
    }
    view.alt = `What the model sees: ${top[0][0]}?`;
    const now = performance.now();
    times = [...times.filter((time) => now - time < 3000), now];
    rate.textContent = repeat && times.length > 2 ? `${((1000 * (times.length - 1)) / (now - times[0])).toFixed(1)} predictions per second` : "";
    if (repeat) setTimeout(send, since + PACE - now);
  }

  function toggle() {
    repeat = !repeat;
    times = [];
    say(repeat ? "Classifying what the camera sees, as fast as possible." : "Paused.");
    update();
    send();
  }

  const hidden = () => document.hidden && (stream || opening) && stop("The camera was switched off while the page was hidden.");
  const leaving = () => stop();
  start.onclick = () => (stream ? stop() : open());
  snapshot.onclick = () => { repeat = false; say("A snapshot."); update(); send(); };
  continuous.onclick = toggle;
  model.on("msg:custom", answered);
  document.addEventListener("visibilitychange", hidden);
  window.addEventListener("pagehide", leaving);
  stop();
  if (!navigator.mediaDevices?.getUserMedia) {
    start.disabled = true;
    say(INSECURE, true);
  }
  return () => {
    stop();
    model.off("msg:custom", answered);
    document.removeEventListener("visibilitychange", hidden);
    window.removeEventListener("pagehide", leaving);
  };
}

export default { render };
