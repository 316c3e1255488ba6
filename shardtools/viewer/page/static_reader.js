// A dataset read by the page itself: manifest, sidecars and ranges of shards, with no program on the server.

import { blake2b } from "./blake2b.js";
import { Placard, bytes as sized, quoted, sentence } from "./dom.js";
import { beside, checkedUrl, nameOf, readFile } from "./fetching.js";
import { crc32 } from "./crc32.js";
import { findInKeys } from "./key_file.js";
import { kindOf } from "./kinds.js";
import { isZstd, noZstd, openShard } from "./shard.js";

const MOST_MANIFEST = 64 << 20;
const JOINED = 16 << 20; // a page of samples up to this size is one request
const OPEN_SHARDS = 8;
const HELD = 64 << 20;
const WHOLE = 64 << 20;
const SCANNED = 64 << 20;
const SEARCHED_SHARDS = 64;

/** Open the dataset or shard at a URL. */
export async function openStatic(source, { signal } = {}) {
  const url = checkedUrl(source, location.href);
  const name = nameOf(url);
  if (!/\.json$/.test(name) && !/@\d+/.test(name)) return openOne(url, signal);
  const manifestUrl = /\.json$/.test(name) ? url : beside(url, ".json");
  const datasetUrl = manifestUrl.replace(/\.json(?=$|[?#])/, "");
  const [data, view] = await Promise.all([
    readFile(manifestUrl, { limit: MOST_MANIFEST, signal }).catch((error) => {
      if (error.status === 404 && isZstd(datasetUrl)) throw noZstd(datasetUrl);
      throw error.status === 404
        ? new Placard(`${nameOf(manifestUrl)} does not exist`, "A page finds the shards by the manifest. htindex makes it.", `htindex ${quoted(datasetUrl)}`)
        : error;
    }),
    readFile(beside(datasetUrl, ".view.json"), { limit: MOST_MANIFEST, optional: true, signal }).catch((error) => {
      if (error.name === "AbortError") throw error;
      return null; // the summary is an extra
    }),
  ]);
  return new StaticReader(datasetUrl, parseManifest(data, manifestUrl), view && parseView(view));
}

async function openOne(url, signal) {
  const shard = await openShard(url, { signal });
  const fields = {};
  for (const field of shard.field) fields[shard.fields[field]] = (fields[shard.fields[field]] ?? 0) + 1;
  const manifest = { shards: [{ url, samples: shard.length, size: shard.filesize }], fields, facts: {}, job: {} };
  const reader = new StaticReader(url, manifest, null);
  reader.opened.set(0, Promise.resolve(shard));
  return reader;
}

function parseManifest(data, url) {
  const text = new TextDecoder().decode(data);
  let manifest;
  try {
    if (/^\s*</.test(text)) throw new Error("it is a web page, which some servers send for what does not exist");
    manifest = JSON.parse(text);
    if (!Array.isArray(manifest?.shardlist)) throw new Error("it has no shardlist");
    const number = (value, what) => {
      if (!Number.isSafeInteger(value) || value < 0) throw new Error(`a shard has no valid ${what}`);
      return value;
    };
    return {
      shards: manifest.shardlist.map((shard) => ({
        url: checkedUrl(encodeName(String(shard.url)), url), samples: number(shard.nsamples, "nsamples"),
        size: Number.isSafeInteger(shard.filesize) ? shard.filesize : null,
        name: lastPart(String(shard.url)), checksum: typeof shard.checksum === "string" ? shard.checksum : null,
      })),
      fields: isObject(manifest.fields) ? manifest.fields : {}, job: isObject(manifest.job) ? manifest.job : {},
      classes: Array.isArray(manifest.classes) ? manifest.classes : null, facts: manifest,
    };
  } catch (error) {
    if (error instanceof Placard) throw error;
    throw new Placard(`${nameOf(url)} is not a manifest`, `${sentence(error.message.replace(/\.$/, ""))}. htindex makes one.`, `htindex ${quoted(url.replace(/\.json(?=$|[?#])/, ""))}`);
  }
}

/** The name of a shard beside its manifest as a relative URL: "a#b.tar" is a name, not a fragment. */
function encodeName(name) {
  return /^[a-z][a-z0-9+.-]*:/i.test(name) ? name : `./${name.split("/").map(encodeURIComponent).join("/")}`;
}

/** The name of a shard as the digests have it: not decoded. */
const lastPart = (url) => (/^https?:/i.test(url) ? url.replace(/[?#].*$/s, "") : url).split("/").pop();

/** The digest of the states of shards, as in the summary and the file of keys; null if the manifest does not say them all. */
function digestOf(shards) {
  if (shards.some(({ size, checksum }) => size === null || !checksum)) return null;
  const states = shards.map(({ name, size, checksum, samples }) => `[${JSON.stringify(name)}, ${size}, ${JSON.stringify(checksum)}, ${samples}]`);
  const text = `[${states.join(", ")}]`.replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return blake2b(new TextEncoder().encode(text));
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function parseView(data) {
  try {
    const view = JSON.parse(new TextDecoder().decode(data));
    return isObject(view) && view.format === "shardtools view" && view.version === 1 ? view : null;
  } catch {
    return null;
  }
}

class StaticReader {
  constructor(url, manifest, view) {
    this.url = url;
    this.spec = url;
    this.manifest = manifest;
    this.can = { where: false, arrays: false, sql: false };
    this.first = new Float64Array(manifest.shards.length + 1); // index of each shard's first sample
    manifest.shards.forEach((shard, i) => (this.first[i + 1] = this.first[i] + shard.samples));
    this.samples = this.first[manifest.shards.length];
    this.opened = new Map();
    this.isStale = view !== null && !this.isFor(view);
    this.view = this.isStale ? null : view;
    this.held = []; // spans of tar files that were read last: {shard, start, stop, data}
  }

  get digest() {
    return (this.hash ??= [digestOf(this.manifest.shards)])[0];
  }

  /** Whether a summary was made for the shards as they are. Old ones only have the number of samples. */
  isFor(view) {
    return typeof view.digest === "string" ? view.digest === this.digest : view.samples === null || view.samples === this.samples;
  }

  /** The summary of the dataset, as `NAME.view.json` has it; the manifest's part of it where there is no such file. */
  about() {
    const { shards, fields, job, classes, facts } = this.manifest;
    const sizes = shards.map((shard) => shard.size);
    const known = {
      name: nameOf(this.url), spec: this.url, samples: this.samples, shards: shards.length,
      bytes: sizes.includes(null) ? null : sizes.reduce((sum, size) => sum + size, 0),
      fields: Object.entries(fields).map(([name, count]) => ({ name, kind: kindOf(name), count })),
      classes: classes && { field: "cls", values: classes.slice(0, 5000).map((name, value) => ({ value, name: String(name), count: null })), rest: Math.max(0, classes.length - 5000) },
      description: facts.description, license: facts.license, histograms: [], history: job, thumbnails: [], columns: [],
    };
    if (!this.view) return { ...known, isStale: this.isStale };
    const described = Array.isArray(this.view.fields) ? this.view.fields.filter(isObject).map((field) => ({ ...field, name: String(field.name), kind: kindOf(String(field.name)) })) : known.fields;
    const { name, spec, samples, shards: all, description, license } = known; // what the manifest says now
    return { ...known, ...this.view, name, spec, samples, shards: all, description, license, fields: described, classes: this.named(this.view.classes) };
  }

  /** Classes as they were counted, with the names that the manifest has now. */
  named(classes) {
    const names = this.manifest.classes;
    if (!names || classes?.field !== "cls" || !Array.isArray(classes.values)) return classes;
    return { ...classes, values: classes.values.filter(isObject).map((one) => ({ ...one, name: names[one.value] ?? one.name })) };
  }

  classNames() {
    return this.manifest.classes;
  }

  /** The number of the shard with a sample. */
  shardOf(index) {
    let low = 0, high = this.manifest.shards.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.first[middle] <= index) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The table of a shard; the last few stay open. */
  shard(number, signal) {
    let shard = this.opened.get(number);
    if (!shard) {
      const { url, size, checksum, samples } = this.manifest.shards[number];
      shard = openShard(url, { size, checksum, signal, spec: this.url }).then((opened) => {
        if (opened.length !== samples) throw new Placard(`The manifest and the sidecar of ${nameOf(url)} differ`, "Make the manifest again:", `htindex ${quoted(this.url)}`);
        return opened;
      });
      shard.catch(() => this.opened.delete(number));
    }
    this.opened.delete(number);
    this.opened.set(number, shard);
    if (this.opened.size > OPEN_SHARDS) this.opened.delete(this.opened.keys().next().value);
    return shard;
  }

  /** {total, at, samples} of a page; with a condition, `more` is where to go on. Classes only: "cls = 7". */
  async rows({ at = 0, count = 48, where = "", key = "", signal } = {}) {
    if (key) at = await this.find(key, signal);
    if (where) return this.scan(where, at, count, signal);
    at = Math.max(0, Math.min(at, this.samples - 1));
    const samples = [];
    let failed = null;
    for (let index = at; index < Math.min(at + count, this.samples); ) {
      const number = this.shardOf(index), stop = Math.min(this.first[number + 1], at + count);
      try {
        const shard = await this.shard(number, signal);
        for (; index < stop; index += 1) samples.push(this.row(shard, number, index));
      } catch (error) {
        if (error.name === "AbortError") throw error;
        failed ??= error;
        for (; index < stop; index += 1) samples.push(this.unreadable(number, index, error));
      }
    }
    if (failed && samples.every(({ error }) => error)) throw failed;
    return { total: this.samples, at, samples };
  }

  /** A sample of a shard that cannot be read. */
  unreadable(number, index, error) {
    const shard = nameOf(this.manifest.shards[number].url), row = index - this.first[number];
    return { index, key: "", shard, number, row, start: 0, stop: 0, fields: [], error: error.message };
  }

  row(shard, number, index) {
    const row = index - this.first[number];
    return {
      index, key: shard.key(row), shard: nameOf(shard.url), number, row, packing: shard.packing,
      start: shard.start[row], stop: shard.stop[row],
      fields: shard.members(row).map((member) => ({ kind: kindOf(member.name), ...member })),
    };
  }

  /** Read what a page of samples needs by one range for each shard, if that is not too much. */
  async prefetch(samples, signal) {
    const spans = new Map();
    for (const sample of samples) {
      if (sample.error) continue;
      const span = spans.get(sample.number);
      if (!span) spans.set(sample.number, { start: sample.start, stop: sample.stop });
      else span.stop = Math.max(span.stop, sample.stop);
    }
    await Promise.all([...spans].map(async ([number, { start, stop }]) => {
      if (stop - start > JOINED || this.holding(number, start, stop)) return;
      const shard = await this.shard(number, signal);
      this.hold({ number, start, stop, data: await shard.read(start, stop, { signal }) });
    }));
  }

  holding(number, start, stop) {
    return this.held.find((span) => span.number === number && span.start <= start && span.stop >= stop);
  }

  hold(span) {
    this.held.unshift(span);
    let size = 0;
    this.held = this.held.filter(({ data }) => (size += data.length) <= HELD);
  }

  /** The bytes of a field, or a part of them. A whole one is checked by its CRC-32. */
  async field(sample, name, { start = 0, stop = null, limit = WHOLE, signal } = {}) {
    const member = sample.fields.find((field) => field.name === name);
    if (!member) throw new Placard(`This sample has no ${name}`);
    const end = Math.min(stop ?? member.size, member.size);
    if (end - start > limit) throw new Placard(`${sized(member.size)} are too many to show`, "The commands below fetch this field.");
    const from = member.offset + start, to = member.offset + end;
    const held = this.holding(sample.number, from, to);
    const data = held ? held.data.subarray(from - held.start, to - held.start)
      : await (await this.shard(sample.number, signal)).read(from, to, { signal });
    if (start === 0 && end === member.size && member.crc32 !== null && crc32(data) !== member.crc32) {
      throw new Placard("The data of this field are damaged", "They do not have the CRC-32 that the sidecar has for them. If the dataset was written again since this page was loaded, load it anew.");
    }
    return data;
  }

  /** The picture for a card, made by the server: there is none. */
  thumb() {
    return null;
  }

  /** The index of a key: by the file of keys, else in the sidecars of the first shards. */
  async find(key, signal) {
    const rows = await findInKeys(this.url, key, this, { signal });
    for (const index of rows ?? []) {
      if (index >= this.samples) continue;
      const number = this.shardOf(index);
      if ((await this.shard(number, signal)).key(index - this.first[number]) === key) return index;
    }
    const shards = this.manifest.shards.length;
    for (let number = 0; rows === null && number < Math.min(shards, SEARCHED_SHARDS); number += 1) {
      const row = (await this.shard(number, signal)).find(key);
      if (row >= 0) return this.first[number] + row;
    }
    if (rows === null && shards > SEARCHED_SHARDS) {
      throw new Placard(`“${key}” is not in the first ${SEARCHED_SHARDS} shards`, "With a file of keys, a page finds any key at once. htindex makes it.", `htindex --table ${quoted(this.url)}`);
    }
    throw new Placard(`There is no sample “${key}”`, "Keys are compared exactly.");
  }

  /** Read on from `at` until a page of samples of one class is found, or enough was read. */
  async scan(where, at, count, signal) {
    const wanted = /^\s*"?(cls|cls2|class|[\w.]+\.cls)"?\s*=\s*(-?\d+)\s*$/.exec(where);
    if (!wanted) {
      throw new Placard("Without a server, only classes can be searched", "As in cls = 7. htview answers any condition in SQL.", `htview ${quoted(this.url)}`);
    }
    const samples = [];
    let read = 0;
    while (at < this.samples && samples.length < count && read < SCANNED) {
      const number = this.shardOf(at);
      const shard = await this.shard(number, signal);
      const end = Math.min(this.first[number + 1], at + 256);
      const batch = [];
      for (; at < end && (!batch.length || batch.at(-1).stop - batch[0].start < JOINED); at += 1) batch.push(this.row(shard, number, at));
      await this.prefetch(batch, signal);
      for (const sample of batch) {
        if (samples.length === count) {
          at = sample.index;
          break;
        }
        if (await this.isClass(sample, wanted[1], wanted[2], signal)) samples.push(sample);
      }
      read += batch.at(-1).stop - batch[0].start;
    }
    return { total: null, at: samples[0]?.index ?? at, samples, more: at < this.samples ? at : null };
  }

  async isClass(sample, field, value, signal) {
    const member = sample.fields.find(({ name }) => name === field);
    if (!member || member.size > 64) return false;
    return Number(new TextDecoder().decode(await this.field(sample, field, { signal })).trim()) === Number(value);
  }
}
