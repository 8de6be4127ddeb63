// From a picture file to what the network takes, pixel for pixel as in Python: `decode_image` and `prepare_image` in
// images.py, and below them Pillow's Lanczos filter in whole numbers.

const DRAFT_SIDE = 512; // pixels; a JPEG is reduced by 2, 4 or 8 while both of its sides stay at least this long
const MAX_PIXELS = 80_000_000;
const STRIP = 4_000_000; // pixels that are read from the canvas at a time; phones allow few more
const PRECISION = 22; // bits of a filter's weights, as in Pillow
const LOBES = 3;
const FORMATS = "JPEG, PNG, WebP, GIF, BMP and AVIF are accepted";

export class PictureError extends Error {}

// A file as RGB pixels, { data, width, height }: upright, on white, its colours as they are stored.
export async function decode(file, size) {
  const name = file.name || "The picture";
  const head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  const text = String.fromCharCode(...head);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    if (!file.size) throw new PictureError(`${name} is empty: expected a picture file.`);
    if (/^....ftyp(hei|hev|mif|msf)/s.test(text)) throw new PictureError(`${name} is a HEIC photo: export it as JPEG.`);
    throw new PictureError(`${name} is damaged, or not a picture that this browser can read: ${FORMATS}.`);
  }
  const pixels = bitmap.width * bitmap.height;
  if (pixels > MAX_PIXELS) throw new PictureError(`${name} has too many pixels: at most 80 million are accepted.`);
  const isJpeg = head[0] === 0xff && head[1] === 0xd8;
  const times = Math.min(bitmap.width, bitmap.height) / Math.max(size, DRAFT_SIDE);
  const found = read(bitmap, bitmap.width, bitmap.height, isJpeg ? [8, 4, 2, 1].find((each) => times >= each) || 1 : 1);
  bitmap.close();
  return found;
}

// The pixels of an image or a video frame, reduced by a whole factor: means over squares, as a JPEG decoder gives them.
export function read(source, width, height, factor = 1) {
  const [columns, lines] = [Math.ceil(width / factor), Math.ceil(height / factor)];
  const data = new Uint8Array(columns * lines * 3);
  const canvas = document.createElement("canvas");
  const step = Math.max(1, Math.floor(STRIP / width / factor)) * factor;
  canvas.width = width;
  canvas.height = Math.min(step, height);
  const draw = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += step) {
    const here = Math.min(step, height - top);
    draw.fillStyle = "white";
    draw.fillRect(0, 0, width, here);
    draw.drawImage(source, 0, -top, width, height);
    const rgba = draw.getImageData(0, 0, width, here).data;
    if (!rgba[3]) throw new PictureError("The picture is too wide for this browser: shrink it first."); // nothing is drawn
    for (let line = 0; line < here / factor; line++) {
      for (let column = 0; column < columns; column++) {
        const right = Math.min((column + 1) * factor, width), bottom = Math.min((line + 1) * factor, here);
        let [red, green, blue, count] = [0, 0, 0, 0];
        for (let y = line * factor; y < bottom; y++)
          for (let x = column * factor; x < right; x++, count++) {
            const at = 4 * (y * width + x);
            red += rgba[at];
            green += rgba[at + 1];
            blue += rgba[at + 2];
          }
        const to = 3 * ((top / factor + line) * columns + column);
        data[to] = Math.round(red / count);
        data[to + 1] = Math.round(green / count);
        data[to + 2] = Math.round(blue / count);
      }
    }
  }
  return { data, width: columns, height: lines };
}

// The central square of a picture, whose side is a share of the shorter one, in the network's size; RGB, as bytes.
export function prepare({ data, width, height }, size, crop) {
  const bleed = (1 - crop) / 2;
  const live = [width - 2 * bleed * width, height - 2 * bleed * height];
  const side = Math.min(...live);
  const [left, top] = [bleed * width + (live[0] - side) / 2, bleed * height + (live[1] - side) / 2];
  const [columns, rows] = [filter(width, left, left + side, size), filter(height, top, top + side, size)];
  const found = new Uint8Array(size * size * 3);
  // The order matters for the rounding: like Pillow 13, first along what shrinks more.
  if (height > size && height - size > 2 * (width - size)) {
    const span = spanOf(columns), breadth = 3 * (span[1] - span[0]);
    const low = pass(data, [3 * width, 3], rows, span, new Uint8Array(size * breadth), [breadth, 3]);
    return pass(low, [3, breadth], moved(columns, span), [0, size], found, [3, 3 * size]);
  }
  const span = spanOf(rows), breadth = 3 * size;
  const narrow = pass(data, [3, 3 * width], columns, span, new Uint8Array((span[1] - span[0]) * breadth), [3, breadth]);
  return pass(narrow, [breadth, 3], moved(rows, span), [0, size], found, [breadth, 3]);
}

const spanOf = (filters) => [filters[0].start, filters.at(-1).start + filters.at(-1).weights.length];
const moved = (filters, [first]) => filters.map(({ start, weights }) => ({ start: start - first, weights }));

// Filters lines of pixels. Of both arrays are given the distances between neighbours on a line, and between lines.
function pass(from, [step, jump], filters, [first, last], to, [toStep, toJump]) {
  filters.forEach(({ start, weights }, pixel) => {
    for (let line = first; line < last; line++)
      mix(from, step * start + jump * line, step, weights, to, toStep * pixel + toJump * (line - first));
  });
  return to;
}

// One pixel as the weighted sum of others, which follow each other at a distance.
function mix(from, at, distance, weights, to, target) {
  const half = 1 << (PRECISION - 1);
  let [red, green, blue] = [half, half, half];
  for (const weight of weights) {
    red += from[at] * weight;
    green += from[at + 1] * weight;
    blue += from[at + 2] * weight;
    at += distance;
  }
  to[target] = clip(red);
  to[target + 1] = clip(green);
  to[target + 2] = clip(blue);
}

const clip = (sum) => Math.max(0, Math.min(255, sum >> PRECISION));

// For each of `size` pixels, which of the pixels from `low` to `high` it is made of, and with which weights.
function filter(length, low, high, size) {
  const scale = (high - low) / size, stretch = Math.max(1, scale), support = LOBES * stretch;
  return Array.from({ length: size }, (_, pixel) => {
    const centre = low + (pixel + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(length, Math.trunc(centre + support + 0.5));
    const values = Array.from({ length: end - start }, (_, at) => lanczos((at + start - centre + 0.5) / stretch));
    const sum = values.reduce((a, b) => a + b, 0) || 1;
    const whole = (value) => Math.trunc((value / sum) * 2 ** PRECISION + (value < 0 ? -0.5 : 0.5));
    return { start, weights: Int32Array.from(values, whole) };
  });
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const lanczos = (x) => (-LOBES <= x && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0);
