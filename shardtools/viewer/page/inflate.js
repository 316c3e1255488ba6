// Decompression with the browser's own DecompressionStream.

import { Placard } from "./dom.js";
import { concatenate } from "./fetching.js";

const PIECE = 1 << 16;
const STUCK_MS = 2000;

/**
 * The first `size` bytes that deflated data give. The stream is never closed: at a full flush Chromium would drop what
 * was inflated and not read yet. Data that give too little show by a read that waits after all was written.
 */
export async function inflate(data, size, format = "deflate-raw") {
  const stream = new DecompressionStream(format);
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  let failed = false;
  const written = (async () => {
    for (let at = 0; at < data.length && !failed; at += PIECE) await writer.write(data.subarray(at, at + PIECE));
  })().catch(() => {});
  const parts = [];
  let got = 0;
  try {
    while (got < size) {
      const { done, value } = await orStuck(reader.read(), written);
      if (done) break;
      parts.push(value);
      got += value.length;
    }
  } catch {
    got = -1;
  }
  failed = true;
  reader.cancel().catch(() => {});
  writer.abort().catch(() => {});
  if (got < size) throw new Placard("A part of the shard cannot be decompressed", "Its data are damaged. Fetch or make the shard again.");
  return concatenate(parts, got).subarray(0, size);
}

/** A read, or an error if it still waits some time after everything was written. */
function orStuck(read, written) {
  let timer;
  const stuck = written.then(() => new Promise((_, reject) => (timer = setTimeout(reject, STUCK_MS, new Error("stuck")))));
  return Promise.race([read, stuck]).finally(() => clearTimeout(timer));
}

/** The contents of a gzip file of at most `limit` bytes: values such as those of json.gz. */
export async function gunzip(data, limit) {
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return concatenate(parts, size);
    parts.push(value);
    size += value.length;
    if (size > limit) {
      await reader.cancel();
      throw new Placard("This is too large when it is decompressed", "The commands below fetch it.");
    }
  }
}
