// The exported model in the browser: everything is computed here, nothing is sent.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { decode, prepare, read } from "./prepare.js";

// Loads what `imgclassify page` has put beside this file. `report` is told the share that has arrived.
export async function load(report = () => {}) {
  const about = await (await get("about.json", { cache: "no-cache" })).json();
  const { bytes } = about, total = bytes.model + bytes.runtime;
  let arrived = 0;
  const count = (more) => report((arrived += more) / total);
  const names = [`model.onnx.gz?${about.checksum}`, "ort-wasm-simd-threaded.wasm.gz"]; // no cached model of before
  const files = names.map((name) => unpacked(name, count));
  const [model, runtime] = await Promise.all(files);
  ort.env.wasm.wasmBinary = runtime;
  ort.env.wasm.numThreads = 1; // more would need special headers
  const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  const side = about.input_shape[0];

  let last = Promise.resolve(); // a session answers one picture at a time: camera and uploads take turns

  // An answer for prepared pixels, as `Prediction` in Python: `top` has all classes, the most probable first.
  async function answer(input) {
    const tensor = new ort.Tensor("uint8", input, [1, side, side, 3]);
    const given = await (last = last.catch(() => {}).then(() => session.run({ pictures: tensor })));
    const top = about.class_names.map((label, at) => ({ label, probability: given.probabilities.data[at] }));
    top.sort((a, b) => b.probability - a.probability);
    const familiarity = given.familiarity ? given.familiarity.data[0] : null;
    const known = familiarity === null || familiarity >= about.unfamiliar_below;
    return { label: top[0].label, confidence: top[0].probability, top, familiarity, known, input };
  }

  await answer(new Uint8Array(side * side * 3)); // the first answer takes longest
  return {
    about,
    side,
    async classify(file) {
      return answer(prepare(await decode(file, side), side, about.crop));
    },
    async classifyFrame(video) {
      return answer(prepare(read(video, video.videoWidth, video.videoHeight), side, about.crop));
    },
  };
}

async function get(name, options = {}) {
  const found = await fetch(new URL(name, import.meta.url), options);
  if (!found.ok) throw new Error(`${name} cannot be loaded (${found.status})`);
  return found;
}

// A gzip file as bytes. Some servers unpack it themselves.
async function unpacked(name, count) {
  const counting = new TransformStream({
    transform(part, controller) {
      count(part.length);
      controller.enqueue(part);
    },
  });
  const packed = await new Response((await get(name)).body.pipeThrough(counting)).arrayBuffer();
  const [first, second] = new Uint8Array(packed, 0, 2);
  if (first !== 0x1f || second !== 0x8b) return packed;
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
