// Where samples lie in a shard, by its sidecar (NAME.index.npz), and the bytes of its tar file by ranges.

import { Placard, quoted } from "./dom.js";
import { beside, exists, nameOf, readFile, readRange } from "./fetching.js";
import { inflate } from "./inflate.js";
import { parseNpy, parseNpz } from "./npy.js";

const BLOCK = 512;
const MOST_SIDECAR = 64 << 20;
const MOST_INFLATED = 512 << 20;
const TRAILER = 8; // of gzip

/** The table of the shard at a URL: see `Shard`. `size` and `checksum` are the manifest's, null where it has none. */
export async function openShard(url, { size = null, checksum = null, signal, spec = url } = {}) {
  if (isZstd(url)) throw noZstd(spec);
  const data = await readFile(beside(url, ".index.npz"), { limit: MOST_SIDECAR, optional: true, signal });
  if (data === null) throw await noSidecar(url, spec, signal);
  let shard;
  try {
    const arrays = await parseNpz(data, MOST_INFLATED);
    shard = new Shard(url, arrays);
  } catch (error) {
    throw new Placard(`The sidecar of ${nameOf(url)} is damaged`, `${error.message}. ${error.why ?? ""} Make it again:`, `htindex --overwrite ${quoted(spec)}`);
  }
  const differs = /^crc32:/.test(checksum) && /^crc32:/.test(shard.checksum) && checksum !== shard.checksum;
  if (differs || (size !== null && shard.filesize !== size)) {
    throw new Placard(`The sidecar of ${nameOf(url)} is of another version of the shard`, "If the dataset was written again since this page was loaded, load it anew. Else make the sidecar again:", `htindex --overwrite ${quoted(spec)}`);
  }
  if (shard.packing === "zstd") throw noZstd(spec);
  if (shard.packing === "gzip" && !shard.entries.length && shard.length) {
    throw new Placard("This .tgz has no entry points", "Another program wrote it, so that a sample cannot be read without all before it. htview reads it, and htmapper writes it anew.", `htview ${quoted(spec)}`);
  }
  return shard;
}

/** What to say of a shard without a sidecar. */
async function noSidecar(url, spec, signal) {
  const name = nameOf(url);
  if (!/\.(tar|tgz|tzst)(\.\w+)?$/.test(name)) return new Placard("This is not the address of a dataset", `${url}\nName its shards, as in https://host/train-@1000.tgz, its manifest (.json), or one shard (.tar or .tgz).`);
  if (!(await exists(url, signal))) return new Placard(`${name} does not exist`, url);
  const other = /gz$/.test(name) ? " If another program compressed them, use htview instead, which needs none." : "";
  return new Placard(`${name} has no sidecar`, `A page needs it to know where samples are. htindex makes the sidecars of all shards.${other}`, `htindex ${quoted(spec)}`);
}

/** Whether the shards with a name are compressed as no browser can read them. */
export const isZstd = (url) => /\.tar\.zst$|\.tzst$/.test(nameOf(url));

export const noZstd = (spec) => new Placard("Browsers cannot decompress zstd", "htview can: it serves this page, and decompresses on the way.", `htview ${quoted(spec)}`);

/** Samples of a shard: start and stop of their spans, and first[i] to first[i + 1], their members. */
class Shard {
  constructor(url, arrays) {
    const column = (name) => (name in arrays ? parseNpy(arrays[name]).values : new Uint8Array(0));
    const meta = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(column("meta")));
    if (meta.version !== 1 || !Array.isArray(meta.fields)) throw new Error(`It has the format ${meta.version}`);
    this.url = url;
    this.filesize = meta.filesize;
    this.checksum = meta.checksum;
    this.fields = meta.fields.map(String);
    this.entries = column("entries");
    this.packing = meta.packing ?? (this.entries.length ? "gzip" : /\.t?gz$/.test(nameOf(url)) ? "gzip" : "tar");
    this.crc32 = column("crc32");
    this.size = column("size");
    this.field = column("field");
    this.keys = column("key_data");
    this.layOut(column("members"), column("lead"), column("head"), column("key_length"));
    this.length = this.start.length;
  }

  layOut(members, lead, head, keyLength) {
    const samples = members.length;
    this.start = new Float64Array(samples);
    this.stop = new Float64Array(samples);
    this.first = new Float64Array(samples + 1);
    this.keyEnd = new Float64Array(samples);
    this.offset = new Float64Array(this.size.length);
    let at = 0, member = 0, keyEnd = 0;
    for (let i = 0; i < samples; i += 1) {
      at += lead.length ? lead[i] : 0;
      this.start[i] = at;
      for (const stop = member + members[i]; member < stop; member += 1) {
        if (!(this.field[member] < this.fields.length)) throw new Error("A field is out of range");
        this.offset[member] = at + head[member];
        at = this.offset[member] + Math.ceil(this.size[member] / BLOCK) * BLOCK;
      }
      this.stop[i] = at;
      this.first[i + 1] = member;
      this.keyEnd[i] = keyEnd += keyLength[i];
    }
    if (!Number.isSafeInteger(at) || member !== this.size.length || keyEnd !== this.keys.length) throw new Error("Its columns do not fit together");
  }

  key(row) {
    const bytes = this.keys.subarray(row ? this.keyEnd[row - 1] : 0, this.keyEnd[row]);
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      return Array.from(bytes, (byte) => (byte < 128 ? String.fromCharCode(byte) : `\\x${byte.toString(16)}`)).join("");
    }
  }

  /** The row of a key, -1 if it is not here. */
  find(key) {
    const wanted = new TextEncoder().encode(key);
    for (let row = 0, start = 0; row < this.length; start = this.keyEnd[row], row += 1) {
      if (this.keyEnd[row] - start !== wanted.length) continue;
      if (wanted.every((byte, i) => this.keys[start + i] === byte)) return row;
    }
    return -1;
  }

  /** The fields of a sample: [{name, offset, size, crc32}], offsets in the tar file. */
  members(row) {
    const members = [];
    for (let member = this.first[row]; member < this.first[row + 1]; member += 1) {
      members.push({
        name: this.fields[this.field[member]], offset: this.offset[member], size: this.size[member],
        crc32: this.crc32.length ? this.crc32[member] : null,
      });
    }
    return members;
  }

  /** The bytes to fetch for start to stop of the tar file: {start, stop, skip}, with skip in what they decompress to. */
  packedRange(start, stop) {
    if (this.packing === "tar") return { start, stop, skip: 0 };
    const count = this.entries.length / 2;
    let low = 0, high = count - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.entries[2 * middle] <= start) low = middle;
      else high = middle - 1;
    }
    let next = low;
    while (next < count && this.entries[2 * next] < stop) next += 1;
    const end = next < count ? this.entries[2 * next + 1] : this.filesize - TRAILER;
    return { start: this.entries[2 * low + 1], stop: end, skip: start - this.entries[2 * low] };
  }

  /** Bytes start to stop of the tar file. */
  async read(start, stop, options) {
    const range = this.packedRange(start, stop);
    if (this.packing !== "tar" && range.skip + stop - start > MOST_INFLATED) throw new Placard("This is too large for a page");
    const data = await readRange(this.url, range.start, range.stop, options);
    if (this.packing === "tar") return data;
    return (await inflate(data, range.skip + stop - start)).subarray(range.skip);
  }
}
