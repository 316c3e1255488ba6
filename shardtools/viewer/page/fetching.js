// Bytes at a URL by single ranges, which need no preflight; every failure becomes a placard.

import { Placard, bytes as sized, quoted } from "./dom.js";

/** Return the URL if a page may fetch it. */
export function checkedUrl(text, base) {
  let url;
  try {
    url = new URL(text, base);
  } catch {
    throw new Placard("This is not an address", String(text).slice(0, 200));
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    const can = ["s3:", "gs:", "hf:", "file:"].includes(url.protocol);
    throw new Placard(`A browser cannot read ${url.protocol} addresses`, can ? "htview can: it serves this page with a proxy." : "", can ? `htview ${quoted(text)}` : "");
  }
  return url.href;
}

/** The URL of a file beside another: the suffix goes before a query. */
export function beside(url, suffix) {
  const parts = new URL(url);
  parts.pathname += suffix;
  return parts.href;
}

/** The last part of a URL's path, decoded. */
export function nameOf(url) {
  const last = new URL(url).pathname.split("/").pop();
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

/** The command that shows the dataset of a file. */
const command = (url) => `htview ${quoted(url.replace(/(\.view)?\.json|\.index\.npz|\.keys/, ""))}`;

async function request(url, options) {
  let response;
  try {
    // no-cache: the browser asks whether what it keeps is still the one.
    response = await fetch(url, { credentials: "omit", referrerPolicy: "no-referrer", cache: "no-cache", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const origin = new URL(url).origin;
    const why = origin === location.origin
      ? `${url}: no answer.`
      : `${url}: no answer, or ${origin} does not allow other pages to read it (CORS). docs/viewer.md says what to set there.`;
    throw new Placard("The server cannot be reached from here", why, command(url));
  }
  if (response.ok) return response;
  const what = { 401: "needs a login", 403: "may not be read", 404: "does not exist", 416: "is shorter than expected" };
  const placard = new Placard(`${nameOf(url)} ${what[response.status] ?? `cannot be read (status ${response.status})`}`, url);
  placard.status = response.status;
  throw placard;
}

/** All bytes of a file of at most `limit` bytes; null if there is none and `optional`. */
export async function readFile(url, { limit, optional = false, signal } = {}) {
  let response;
  try {
    response = await request(url, { signal });
  } catch (error) {
    if (optional && (error.status === 404 || error.status === 403)) return null;
    throw error;
  }
  return collect(response, limit, `${nameOf(url)} is too large for a page`, url);
}

/** The bytes of a response, which may not be more than `limit`. */
async function collect(response, limit, title, url) {
  const tooLarge = () => new Placard(title, `At most ${sized(limit)} are read.`, command(url));
  if (Number(response.headers.get("Content-Length")) > limit) {
    await response.body.cancel();
    throw tooLarge();
  }
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size > limit) {
      await reader.cancel();
      throw tooLarge();
    }
  }
  return concatenate(parts, size);
}

export function concatenate(parts, size) {
  if (parts.length === 1) return parts[0];
  const all = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Whether there is a file at a URL. */
export async function exists(url, signal) {
  try {
    const response = await request(url, { signal, headers: { Range: "bytes=0-0" } });
    await response.body?.cancel();
    return true;
  } catch (error) {
    if (error.status === 404) return false;
    if (error.status) return true; // it may not be read, or is empty
    throw error;
  }
}

/** Bytes start to stop of the file at a URL. */
export async function readRange(url, start, stop, { signal } = {}) {
  if (stop <= start) return new Uint8Array(0);
  const response = await request(url, { signal, headers: { Range: `bytes=${start}-${stop - 1}` } });
  const whole = response.status === 200;
  if (whole && !(start === 0 && Number(response.headers.get("Content-Length")) === stop)) {
    await response.body.cancel();
    throw new Placard("This server sends no ranges", `${url}: it answered with the whole file.`, command(url));
  }
  const data = await collect(response, stop - start, "The server sent more than was asked for", url);
  if (data.length !== stop - start) {
    throw new Placard(`${nameOf(url)} ends too early`, `Bytes ${start} to ${stop} were asked for, ${data.length} came.`);
  }
  return data;
}
