// The page that `imgclassify page` writes: upload, drop, paste and camera; the pictures never leave the device.

import { load } from "./classifier.js";
import { PictureError } from "./prepare.js";

const SHOWN = 5; // classes per answer
const KEPT = 30; // answers on the page
const FEW = 30; // classes that are listed without unfolding
const PACE = 1000 / 30; // shortest time between camera frames, in milliseconds
const READY = "Ready. Your pictures stay on this device.";
const NONE = "none of its classes";
const REFUSED = {
  NotAllowedError: "Access to the camera was denied: allow it in the browser's address bar and start again.",
  NotFoundError: "No camera was found: connect one and start again.",
  NotReadableError: "The camera is busy: close the program that uses it and start again.",
};

const [status, progress, known, zone, choose, input, camera, live, video, results, facts] = [
  "status", "progress", "known", "zone", "choose", "input", "camera", "live", "video", "results", "facts",
].map((id) => document.getElementById(id));
let model = null, stream = null, opened = 0;
let said = ["", false]; // what the status line says when no picture is looked at

function say(text, bad = false) {
  said = [text, bad];
  show(...said);
}

function show(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("error", bad);
}

const ready = load((share) => (progress.value = share)).then(
  (loaded) => {
    model = loaded;
    progress.hidden = true;
    describe();
    say(READY);
  },
  (error) => {
    progress.hidden = true;
    say(`The model cannot be loaded: ${error.message}. Load the page again.`, true);
    throw error;
  },
);
ready.catch(() => {}); // it has been said

function describe() {
  const { class_names: names, accuracy, data, model: name, written_by: author } = model.about;
  const list = element(names.length <= FEW ? "p" : "details", "", known);
  if (names.length > FEW) element("summary", "", list, { textContent: `It knows ${names.length} classes.` });
  else list.append("It knows ");
  element("b", "", list, { textContent: names.join(", ") });
  list.append(".");
  facts.textContent = `${name}, trained on ${data}. ${accuracy} Written by ${author}.`;
}

// An answer as a card: what the model sees, the verdict, the most probable classes.
function card(caption) {
  const made = element("article", "card", null);
  const figure = element("figure", "", made);
  const view = element("canvas", "view", figure, { width: 1, height: 1 });
  element("figcaption", "", figure, { textContent: "what the model sees" });
  const words = element("div", "answer", made);
  element("p", "hint name", words, { textContent: caption });
  const line = element("p", "", words);
  const bars = element("div", "bars", words);
  const fill = (answer) => {
    const { side } = model;
    view.width = view.height = side;
    const rgba = new Uint8ClampedArray(side * side * 4).fill(255);
    answer.input.forEach((value, at) => (rgba[4 * Math.floor(at / 3) + (at % 3)] = value));
    view.getContext("2d").putImageData(new ImageData(rgba, side, side), 0, 0);
    view.classList.toggle("smooth", side > 64);
    view.setAttribute("role", "img");
    const verdict = answer.known ? answer.label : NONE;
    view.setAttribute("aria-label", `what the model sees: ${verdict}?`);
    line.replaceChildren();
    element("span", "verdict", line, { textContent: verdict });
    if (!answer.known) element("span", "hint", line, { textContent: ` nearest: ${answer.label}` });
    bars.classList.toggle("plain", !answer.known);
    bars.replaceChildren();
    for (const { label, probability } of answer.top.slice(0, SHOWN)) {
      element("span", "label", bars, { textContent: label });
      element("span", "bar", element("span", "track", bars)).style.width = `${100 * probability}%`;
      element("span", "percent", bars, { textContent: `${(100 * probability).toFixed(1)}%` });
    }
  };
  return { made, fill };
}

async function classify(files) {
  if (!files.length) return;
  await ready;
  for (const file of files) {
    show(`Looking at ${file.name}.`);
    const { made, fill } = card(file.name);
    try {
      fill(await model.classify(file));
    } catch (error) {
      const text = error instanceof PictureError ? error.message : `${file.name} could not be classified: ${error.message}.`;
      made.replaceChildren(element("p", "error", null, { textContent: text }));
    }
    results.prepend(made);
    while (results.children.length > KEPT) results.lastChild.remove();
  }
  show(...said);
}

choose.onclick = () => input.click();
input.onchange = () => {
  classify([...input.files]);
  input.value = ""; // so that the same file can be chosen again
};
for (const type of ["dragenter", "dragover"])
  document.addEventListener(type, (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
for (const type of ["dragleave", "drop"]) document.addEventListener(type, () => zone.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  classify([...event.dataTransfer.files]);
});
document.addEventListener("paste", ({ clipboardData }) => classify([...clipboardData.files]));

function stop(text, bad = false) {
  opened += 1; // a start that is still under way gives its camera back
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
  live.hidden = true;
  camera.textContent = "Start camera";
  say(text, bad);
}

camera.onclick = async () => {
  if (stream || camera.textContent !== "Start camera") return stop("The camera is off.");
  if (!navigator.mediaDevices) return say("Browsers allow a camera only on https:// or on localhost.", true);
  const mine = (opened += 1);
  camera.textContent = "Stop camera";
  say("Waiting for the camera: the browser may ask for your permission.");
  try {
    await ready;
    const given = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "environment" } });
    if (mine !== opened) return given.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = given;
    given.getVideoTracks()[0].onended = () => stop("The camera was disconnected.", true);
    video.classList.toggle("mirrored", given.getVideoTracks()[0].getSettings().facingMode !== "environment");
    await video.play();
    live.hidden = false;
    say("Classifying what the camera sees, on this device.");
    await watch(mine);
  } catch (error) {
    if (mine === opened) stop(REFUSED[error.name] ?? `The camera cannot be used: ${error.message}.`, true);
  }
};

async function watch(mine) {
  const { made, fill } = card("camera"), times = [];
  live.querySelector(".card")?.remove();
  live.append(made);
  while (mine === opened) {
    const begun = performance.now();
    const answer = await model.classifyFrame(video);
    if (mine !== opened) return;
    fill(answer);
    times.push(performance.now());
    while (times[0] < begun - 3000) times.shift();
    const rate = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
    if (times.length > 2) made.querySelector(".name").textContent = `camera, ${rate.toFixed(0)} answers per second`;
    await new Promise((next) => setTimeout(next, Math.max(0, begun + PACE - performance.now())));
  }
}
