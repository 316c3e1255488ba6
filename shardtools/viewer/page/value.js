// Values of fields as elements: small on a card, whole on the page of a sample.

import { Placard, bytes, count, cut, fill, h, placard, short, visible } from "./dom.js";
import { COLOUR_MAPS, autoRange, extent, layout, picture, plot } from "./draw.js";
import { imageSize } from "./image_size.js";
import { gunzip } from "./inflate.js";
import { isGzipped, mediaType } from "./kinds.js";
import { parseNpy, parseNpz } from "./npy.js";

const MOST_PIXELS = 100e6;
const CARD = 32 << 20;
const CARD_MEDIA = 4 << 20;
const WHOLE = 64 << 20;
const TEXT = 1 << 18;
const HEX = 1 << 12;
const NODES = 5000;

async function load(reader, sample, field, { limit, signal, stop = null }) {
  if (field.error) throw new Placard(`${field.name} cannot be read`, field.error);
  const data = await reader.field(sample, field.name, { limit, signal, stop });
  return isGzipped(field.name) && stop === null ? gunzip(data, limit) : data;
}

const decode = (data) => new TextDecoder().decode(data);

/** An address for some bytes, to be freed when the element needs them no more. */
function source(element, data, type) {
  const url = URL.createObjectURL(new Blob([data], { type }));
  element.src = url;
  return url;
}

const TINY = 64; // the side of pictures whose pixels are shown as squares

async function image(data, field, alt, most) {
  const size = imageSize(data);
  if (size && size[0] * size[1] > most) throw new Placard(`${count(size[0])} × ${count(size[1])} pixels are too many to show`, "The commands below fetch it.");
  const element = h("img", { alt, decoding: "async", draggable: "false" });
  const url = source(element, data, mediaType(field.name));
  try {
    await element.decode();
  } catch {
    throw new Placard("This is no picture that a browser can show", `${bytes(data.length)} in ${field.name}`);
  } finally {
    URL.revokeObjectURL(url);
  }
  if (Math.max(element.naturalWidth, element.naturalHeight) < TINY) element.classList.add("tiny");
  return element;
}

const policy = window.trustedTypes?.createPolicy("sandboxed", { createHTML: (text) => text });

// By the page's own policy alone, a frame may load pictures and styles from the server of the page.
const NOTHING_LOADED = "<!doctype html><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:\">";

/** A document of somebody else's, in a frame without scripts, origin, forms or links that lead out. */
function sandboxed(document, title) {
  const frame = h("iframe.foreign", { sandbox: "", title, referrerpolicy: "no-referrer" }), content = NOTHING_LOADED + document;
  frame.srcdoc = policy ? policy.createHTML(content) : content;
  return frame;
}

/** An SVG file as an image in such a frame: as an image it can neither run scripts nor load anything. */
function svgFrame(data, title) {
  let binary = "";
  for (let at = 0; at < data.length; at += 4096) binary += String.fromCharCode(...data.subarray(at, at + 4096));
  return sandboxed(`<title>svg</title><img alt="" width="100%" height="100%" src="data:image/svg+xml;base64,${btoa(binary)}">`, title);
}

/** A player, or a note in its place once the browser finds that it cannot play these bytes. */
function media(kind, data, field, signal) {
  const element = h(kind, { controls: true, "aria-label": field.name });
  element.addEventListener("error", () => element.replaceWith(placard(new Placard(`This browser cannot play this ${kind}`, `${bytes(data.length)} in ${field.name}`), true)));
  const url = source(element, data, mediaType(field.name));
  signal.addEventListener("abort", () => URL.revokeObjectURL(url));
  return element;
}

function still(array) {
  const plan = layout(array.shape);
  if (!plan || plan.kind === "number") return h("div.excerpt", array.values.length ? short(array.values[0]) : "empty");
  return plan.kind === "plot" ? plot(array.values) : picture(array, { most: 320 });
}

/** What a card shows large of a sample's field. */
export async function onCard(reader, sample, field, { signal, size }) {
  const kind = field.kind, alt = `${field.name} of ${sample.key}`;
  const thumb = ["image", "picture", "npy"].includes(kind) && reader.thumb(sample, field.name, size, signal);
  if (thumb) {
    const data = await thumb;
    if (data) return image(data.bytes, { name: data.name }, alt, MOST_PIXELS);
  }
  if (kind === "image") return image(await load(reader, sample, field, { limit: CARD, signal }), field, alt, MOST_PIXELS);
  if (kind === "svg") return svgFrame(await load(reader, sample, field, { limit: CARD_MEDIA, signal }), alt);
  if (kind === "audio" || kind === "video") {
    if (field.size > CARD_MEDIA) return h("div.excerpt", `${kind}, ${bytes(field.size)}: open to play`);
    return media(kind, await load(reader, sample, field, { limit: CARD_MEDIA, signal }), field, signal);
  }
  if (kind === "npy") {
    const array = parseNpy(await load(reader, sample, field, { limit: CARD, signal }));
    const element = still(array);
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", alt);
    return h("div.array", element, h("span.shape", `${array.shape.join(" × ") || "number"} ${array.dtype}`));
  }
  return h("div.excerpt", await excerpt(reader, sample, field, signal));
}

/** The beginning of a text, JSON or number, in one line. */
export async function excerpt(reader, sample, field, signal) {
  if (typeof field.text === "string" && !field.text.includes("\0")) return cut(visible(compact(field.text, field.kind)), 300);
  if (!["text", "json", "jsonl", "number"].includes(field.kind)) return `${field.name}, ${bytes(field.size)}`;
  const whole = field.size <= 4096;
  if (!whole && isGzipped(field.name)) return `${field.name}, ${bytes(field.size)}`;
  const text = decode(await load(reader, sample, field, { limit: 4096, signal, stop: whole ? null : 2048 }));
  if (text.includes("\0")) return `${field.name}, ${bytes(field.size)}`;
  return cut(visible(compact(text, field.kind)), 300);
}

/** A text in one line; of JSON, without the quotes and brackets around it. */
function compact(text, kind) {
  const line = text.replace(/\s+/g, " ").trim();
  return kind === "json" ? line.replace(/^\{|\}$/g, "").replace(/"([\w.-]+)":/g, "$1:") : line;
}

// --- the page of a sample

/** A field in full. */
export async function inFull(reader, sample, field, signal) {
  const show = FULL[field.kind] ?? hexDump;
  return show(reader, sample, field, signal);
}

const FULL = { image: fullImage, picture: fullPicture, text: fullText, number: fullText, jsonl: fullText, json: fullJson,
  npy: fullNpy, npz: fullNpz, audio: fullMedia, video: fullMedia, svg: fullSvg, html: fullHtml };

async function fullImage(reader, sample, field, signal) {
  const element = await image(await load(reader, sample, field, { limit: WHOLE, signal }), field, `${field.name} of ${sample.key}`, MOST_PIXELS);
  const side = Math.max(element.naturalWidth, element.naturalHeight);
  if (side < 160) element.classList.add("tiny");
  return h("figure", element, h("figcaption", `${count(element.naturalWidth)} × ${count(element.naturalHeight)} pixels`));
}

async function fullPicture(reader, sample, field, signal) {
  const thumb = await reader.thumb(sample, field.name, 1024, signal);
  if (!thumb) return hexDump(reader, sample, field, signal);
  return h("figure", await image(thumb.bytes, { name: thumb.name }, `${field.name} of ${sample.key}`, MOST_PIXELS));
}

async function fullText(reader, sample, field, signal) {
  const whole = field.size <= TEXT || isGzipped(field.name);
  const text = decode(await load(reader, sample, field, { limit: WHOLE, signal, stop: whole ? null : TEXT }));
  if (text.includes("\0")) return hexDump(reader, sample, field, signal);
  const note = (!whole || text.length > TEXT) && h("p.note", `The first ${bytes(TEXT)} of ${bytes(field.size)}`);
  return [h("pre", { tabindex: "0" }, visible(text.slice(0, TEXT))), note];
}

async function fullJson(reader, sample, field, signal) {
  if (field.size > 8 << 20) return fullText(reader, sample, field, signal);
  const text = decode(await load(reader, sample, field, { limit: 8 << 20, signal }));
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return [h("p.note", "This is not valid JSON."), h("pre", { tabindex: "0" }, visible(text.slice(0, TEXT)))];
  }
  return h("div.json", jsonTree(value, { left: NODES }, 0));
}

function jsonTree(value, budget, depth) {
  budget.left -= 1;
  if (typeof value !== "object" || value === null) {
    return h(`span.${value === null ? "null" : typeof value}`, typeof value === "string" ? JSON.stringify(visible(value)) : String(value));
  }
  const entries = Object.entries(value), isList = Array.isArray(value);
  if (!entries.length) return h("span", isList ? "[]" : "{}");
  const body = h("ul");
  const unfold = () => {
    if (body.childNodes.length) return;
    const shown = entries.slice(0, 500);
    body.append(...shown.map(([name, part]) => h("li", h("span.name", isList ? `${name}` : visible(cut(name, 200))), jsonTree(part, budget, depth + 1))));
    if (entries.length > shown.length) body.append(h("li.note", `and ${count(entries.length - shown.length)} more`));
  };
  const open = depth < 2 && budget.left > 0 && entries.length <= 50;
  if (open) unfold();
  return h("details", { open, ontoggle: unfold }, h("summary", isList ? `list of ${entries.length}` : `${entries.length} ${entries.length === 1 ? "entry" : "entries"}`), body);
}

async function fullNpy(reader, sample, field, signal) {
  return arrayPanel(parseNpy(await load(reader, sample, field, { limit: WHOLE, signal })));
}

async function fullNpz(reader, sample, field, signal) {
  const arrays = await parseNpz(await load(reader, sample, field, { limit: WHOLE, signal }), 4 * WHOLE);
  return Object.entries(arrays).map(([name, data]) => {
    let panel;
    try {
      panel = arrayPanel(parseNpy(data));
    } catch (error) {
      panel = placard(error, true);
    }
    return h("section.part", h("h3", visible(name)), panel);
  });
}

/** An array with its shape, range, and sliders over its leading axes. */
export function arrayPanel(array) {
  const plan = layout(array.shape);
  const facts = h("p.note", `${array.shape.join(" × ") || "number"} ${array.dtype}`);
  if (!plan) return facts;
  const [least, greatest] = extent(array.values);
  facts.append(array.values.some(Number.isFinite) ? `, ${short(least)} to ${short(greatest)}` : ", no finite values");
  if (plan.kind === "number") return [h("pre", short(array.values[0])), facts];
  if (plan.kind === "plot") return [array.values.length <= 64 && h("pre", Array.from(array.values, short).join("  ")), h("figure.wide", plot(array.values, 800, 200)), facts];
  const index = plan.leading.map(() => 0), view = h("figure.pixels");
  let map = "gray";
  const [low, high] = autoRange(array);
  const draw = () => fill(view, picture(array, { index, map, low, high }));
  draw();
  return [sliders(plan.leading, index, draw), plan.channels < 3 && colourChoice((name) => draw((map = name))), view, facts];
}

/** Sliders for the leading axes of an array, which change `index` and call `changed`. */
export function sliders(sides, index, changed) {
  return sides.map((side, axis) => {
    const shown = h("output", `${index[axis]} of ${side}`);
    const slide = (event) => {
      index[axis] = Number(event.target.value);
      shown.textContent = `${index[axis]} of ${side}`;
      changed();
    };
    return h("label.slider", `axis ${axis}`, h("input", { type: "range", min: 0, max: side - 1, value: index[axis], oninput: slide }), shown);
  });
}

export function colourChoice(chosen, current = "gray") {
  return h("label.choice", "colours", h("select", { onchange: (event) => chosen(event.target.value) },
    COLOUR_MAPS.map((name) => h("option", { value: name, selected: name === current }, name))));
}

async function fullMedia(reader, sample, field, signal) {
  return h("figure.wide", media(field.kind, await load(reader, sample, field, { limit: WHOLE, signal }), field, signal));
}

async function fullSvg(reader, sample, field, signal) {
  return svgFrame(await load(reader, sample, field, { limit: 8 << 20, signal }), `${field.name} of ${sample.key}`);
}

async function fullHtml(reader, sample, field, signal) {
  const text = decode(await load(reader, sample, field, { limit: 8 << 20, signal }));
  return [sandboxed(text, `${field.name} of ${sample.key}`), h("p.note", "Shown without scripts, styles and links."),
    h("details", h("summary", "Source"), h("pre", { tabindex: "0" }, visible(text.slice(0, TEXT))))];
}

async function hexDump(reader, sample, field, signal) {
  const data = await reader.field(sample, field.name, { stop: Math.min(field.size, HEX), signal });
  const lines = [];
  for (let at = 0; at < data.length; at += 16) {
    const row = data.subarray(at, at + 16);
    const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex.padEnd(47)}  ${Array.from(row, (byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("")}`);
  }
  return [h("pre.hex", { tabindex: "0" }, lines.join("\n") || "empty"), field.size > data.length && h("p.note", `The first ${bytes(data.length)} of ${bytes(field.size)}`)];
}
