// Arrays as pictures and plots, on a canvas.

const ANCHORS = {
  gray: [[0, 0, 0], [255, 255, 255]],
  viridis: [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]],
  magma: [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]],
  coolwarm: [[59, 76, 192], [123, 159, 249], [192, 212, 245], [221, 221, 221], [242, 203, 183], [238, 132, 104], [180, 4, 38]],
};

export const COLOUR_MAPS = Object.keys(ANCHORS);

const LEVELS = 256;

function levels(name) {
  const anchors = ANCHORS[name] ?? ANCHORS.gray, table = new Uint8Array(LEVELS * 3);
  for (let level = 0; level < LEVELS; level += 1) {
    const place = (level / (LEVELS - 1)) * (anchors.length - 1), low = Math.min(Math.floor(place), anchors.length - 2);
    for (let c = 0; c < 3; c += 1) table[3 * level + c] = anchors[low][c] + (place - low) * (anchors[low + 1][c] - anchors[low][c]);
  }
  return table;
}

/** [least, greatest] of some values that are finite; [0, 1] if none is. */
export function extent(values) {
  let least = Infinity, greatest = -Infinity;
  for (const value of values) {
    if (value < least && value > -Infinity) least = value;
    if (value > greatest && value < Infinity) greatest = value;
  }
  return least > greatest ? [0, 1] : [least, greatest];
}

/** The values that are black and white of an array: all of a byte for one in colour, else the extremes. */
export function autoRange(array) {
  return array.dtype === "uint8" && layout(array.shape)?.channels >= 3 ? [0, 255] : extent(array.values);
}

/** How an array is shown: {kind, height, width, channels, order, leading} or null; leading axes are chosen by index. */
export function layout(shape) {
  const sides = shape.length;
  if (shape.includes(0)) return null;
  if (sides === 0) return { kind: "number", leading: [] };
  if (sides === 1) return { kind: "plot", leading: [] };
  const last = shape[sides - 1];
  if (sides >= 3 && (last === 1 || last === 3 || last === 4)) {
    return { kind: "picture", height: shape[sides - 3], width: shape[sides - 2], channels: last, leading: shape.slice(0, -3) };
  }
  if (sides === 3 && shape[0] === 3) return { kind: "picture", planes: true, height: shape[1], width: last, channels: 3, leading: [] };
  return { kind: "picture", height: shape[sides - 2], width: last, channels: 1, leading: shape.slice(0, -2) };
}

/** A canvas with an array as a picture; `index` chooses along leading axes, low and high are black and white. */
export function picture(array, { index = [], map = "gray", low, high, most = 1024 } = {}) {
  const plan = layout(array.shape);
  const { height, width, channels, planes } = plan;
  const size = height * width * channels;
  const number = plan.leading.reduce((at, side, axis) => at * side + Math.min(index[axis] ?? 0, side - 1), 0);
  const values = array.values.subarray(number * size, (number + 1) * size);
  const bytes = array.dtype === "uint8" && channels >= 3;
  if (low === undefined || high === undefined) [low, high] = bytes ? [0, 255] : extent(values);
  const step = Math.max(1, Math.ceil(Math.max(height, width) / most));
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(width / step);
  canvas.height = Math.ceil(height / step);
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const scale = high > low ? 255 / (high - low) : 0, table = levels(map);
  let out = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step, out += 4) {
      const at = y * width + x;
      image.data[out + 3] = 255;
      if (channels < 3) {
        const level = Math.max(0, Math.min(255, Math.round((values[at] - low) * scale))) || 0;
        for (let c = 0; c < 3; c += 1) image.data[out + c] = table[3 * level + c];
      } else {
        for (let c = 0; c < channels; c += 1) image.data[out + c] = (values[planes ? c * height * width + at : at * channels + c] - low) * scale;
      }
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

const SVG = "http://www.w3.org/2000/svg";

/** Values as a line. */
export function plot(values, width = 320, height = 160) {
  const svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "polyline");
  const [least, greatest] = extent(values);
  const points = Math.min(values.length, 2 * width), scale = greatest > least ? (height - 8) / (greatest - least) : 0;
  const place = (i) => {
    const value = values[Math.floor((i * values.length) / points)];
    const x = points > 1 ? (i * width) / (points - 1) : width / 2;
    return Number.isFinite(value) ? `${x.toFixed(1)},${(height - 4 - (value - least) * scale).toFixed(1)}` : "";
  };
  line.setAttribute("points", Array.from({ length: points }, (_, i) => place(i)).filter(Boolean).join(" "));
  line.setAttribute("class", "line");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "plot");
  svg.append(line);
  return svg;
}
