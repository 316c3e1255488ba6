// The file of keys (NAME.keys): finds the index of any key by two small ranges. docs/formats.md describes it.

import { hex } from "./blake2b.js";
import { beside, readRange } from "./fetching.js";

const MAGIC = "shardtools keys\u0003";
const HEAD = 64;
const MASK = (1n << 64n) - 1n;

function mix(number) {
  number = (number + 0x9e3779b97f4a7c15n) & MASK;
  number = ((number ^ (number >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  number = ((number ^ (number >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return number ^ (number >> 31n);
}

/** The hash of a key: a BigInt of 64 bits. */
export function hashKey(bytes) {
  let hash = mix(BigInt(bytes.length));
  for (let at = 0; at < bytes.length; at += 8) {
    let word = 0n;
    for (let i = Math.min(at + 8, bytes.length) - 1; i >= at; i -= 1) word = (word << 8n) | BigInt(bytes[i]);
    hash = mix(hash ^ word);
  }
  return hash;
}

/** The indices that may have a key, by the file of keys of a dataset; null if there is none for its shards as they are. */
export async function findInKeys(datasetUrl, key, { samples, digest }, options) {
  const url = beside(datasetUrl, ".keys");
  let head;
  try {
    head = await readRange(url, 0, HEAD, options);
  } catch (error) {
    if (error.status === 404 || error.status === 403 || error.status === 416) return null;
    throw error;
  }
  const view = new DataView(head.buffer, head.byteOffset, HEAD);
  const count = Number(view.getBigUint64(16, true)), width = Number(view.getBigUint64(24, true));
  if (new TextDecoder("latin1").decode(head.subarray(0, 16)) !== MAGIC || count !== samples || (width !== 4 && width !== 8)) return null;
  if (digest !== null && hex(head.subarray(32, 48)) !== digest) return null;
  const hash = hashKey(new TextEncoder().encode(key));
  const middle = Number((hash * BigInt(count)) >> 64n), spread = Math.ceil(4 * Math.sqrt(count)) + 8;
  const start = Math.max(0, middle - spread), stop = Math.min(count, middle + spread);
  const size = 12 + width;
  const data = await readRange(url, HEAD + start * size, HEAD + stop * size, options);
  const entries = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const rows = [];
  for (let at = 0; at < data.length; at += size) {
    if (entries.getBigUint64(at, true) >> 8n !== hash >> 8n) continue;
    rows.push(width === 4 ? entries.getUint32(at + 8, true) : Number(entries.getBigUint64(at + 8, true)));
  }
  return rows;
}
