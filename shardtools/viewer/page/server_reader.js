// A dataset that htview serves: the same methods as in static_reader.js, over its API.

import { Placard, bytes as sized, sentence } from "./dom.js";
import { kindOf } from "./kinds.js";

const PIECE = 32 << 20;
const SCANNED = 64 << 20;

/** Ask the API; paths are relative to the page, whose address has the token. */
async function ask(api, path, parameters, signal) {
  const url = new URL(api + path, location.href);
  for (const [name, value] of Object.entries(parameters ?? {})) if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  let response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Placard("htview does not answer", "Is it still running? Start it again, and open the address that it prints.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const [what, ...fixes] = (said.error ?? `htview answered with status ${response.status}`).split("; ");
  const placard = new Placard(sentence(what), sentence(fixes.join("; ")));
  placard.status = response.status;
  throw placard;
}

/** The readers of all that htview serves. */
export async function openServer(api, { signal } = {}) {
  const datasets = await (await ask(api, "datasets", {}, signal)).json();
  return Promise.all(datasets.map(async (dataset) => {
    const reader = new ServerReader(api, dataset);
    if (dataset.kind === "hub") return reader;
    try {
      reader.summary = await (await ask(api, `${dataset.id}/about`, {}, signal)).json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      reader.failed = error; // its own views say so; the others are shown
    }
    return reader;
  }));
}

class ServerReader {
  constructor(api, { id, name, kind, spec }) {
    this.api = api;
    this.id = id;
    this.name = name;
    this.kind = kind;
    this.summary = { name, spec: spec ?? name, samples: null, shards: null, bytes: null, fields: [], classes: null, histograms: [], history: {} };
    const shards = kind !== "hub";
    this.can = { where: shards, sql: shards, arrays: !shards };
  }

  ask(path, parameters, signal) {
    return ask(this.api, `${this.id}/${path}`, parameters, signal);
  }

  get spec() {
    return this.summary.spec ?? this.name;
  }

  get samples() {
    return this.summary.samples;
  }

  about() {
    const about = { histograms: [], thumbnails: [], columns: [], history: {}, classes: null, ...this.summary };
    about.fields = (about.fields ?? []).map((field) => ({ ...field, kind: kindOf(field.name) }));
    return about;
  }

  classNames() {
    return Object.fromEntries((this.summary.classes?.values ?? []).map(({ value, name }) => [value, name]));
  }

  async rows({ at = 0, count = 48, where = "", key = "", thumbs = "", size = "", signal } = {}) {
    const page = await (await this.ask("samples", { at, count, where, key, thumbs, size: thumbs && size }, signal)).json();
    for (const sample of page.samples) for (const field of sample.fields) field.kind = kindOf(field.name);
    return page;
  }

  async find(key, signal) {
    const page = await this.rows({ key, count: 1, signal });
    if (!page.samples.length) throw new Placard(`There is no sample “${key}”`, "Keys are compared exactly.");
    return page.samples[0].index;
  }

  async prefetch() {} // the server reads ahead

  async field(sample, name, { start = 0, stop = null, limit = SCANNED, signal } = {}) {
    const size = sample.fields.find((field) => field.name === name)?.size ?? 0;
    const end = Math.min(stop ?? size, size);
    if (end - start > limit) throw new Placard(`${sized(size)} are too many to show`, "The commands below fetch this field.");
    const whole = start === 0 && end === size && size <= PIECE;
    const parts = [];
    for (let at = start; at < end || at === start; at += PIECE) {
      const range = whole ? {} : { start: at, stop: Math.min(at + PIECE, end) };
      const answer = await this.ask("field", { index: sample.index, field: name, ...range }, signal);
      parts.push(new Uint8Array(await answer.arrayBuffer()));
    }
    return parts.length === 1 ? parts[0] : new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  /** A small picture: {bytes, name}, with a name for its type. */
  async thumb(sample, name, size = 160, signal) {
    const answer = await this.ask("thumb", { index: sample.index, field: name, size }, signal);
    const type = (answer.headers.get("Content-Type") ?? "").split("/").pop();
    return { bytes: new Uint8Array(await answer.arrayBuffer()), name: `thumb.${type}` };
  }

  async sql(query, signal) {
    return (await ask(this.api, "sql", { q: query }, signal)).json();
  }

  async tree(signal) {
    return (await this.ask("tree", {}, signal)).json();
  }

  async history(path, signal) {
    return (await this.ask("history", { path }, signal)).json();
  }

  /** The names of {branches, tags}. */
  async versions(signal) {
    return (await this.ask("versions", {}, signal)).json();
  }

  /** Where other programs read an array: {url} of it as Zarr, and {state} for Neuroglancer or why there is none, {refused}. */
  async elsewhere({ path, version }, signal) {
    const found = await (await this.ask("elsewhere", { path, version }, signal)).json();
    return { ...found, url: new URL(found.zarr, location.href).href };
  }

  /** A slice of an array, whose sides are at most `max`: {shape, dtype, values}. */
  async slice({ path, version, index, max = 1024 }, signal) {
    const answer = await this.ask("slice", { path, version, index: index.join(","), max }, signal);
    const TYPES = { uint8: Uint8Array, bool: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, uint32: Uint32Array, int32: Int32Array, float32: Float32Array, float64: Float64Array };
    const dtype = answer.headers.get("X-Dtype"), Type = TYPES[dtype];
    if (!Type) throw new Placard(`Elements of the type ${dtype} are not shown`);
    const shape = (answer.headers.get("X-Shape") ?? "").split(",").filter(Boolean).map(Number);
    return { shape, dtype, values: new Type(await answer.arrayBuffer()) };
  }
}
