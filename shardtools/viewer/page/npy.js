// NumPy's files: .npy arrays, and .npz archives of them.

import { Placard } from "./dom.js";
import { inflate } from "./inflate.js";

const TYPES = {
  b1: Uint8Array, u1: Uint8Array, i1: Int8Array, u2: Uint16Array, i2: Int16Array, u4: Uint32Array, i4: Int32Array,
  f4: Float32Array, f8: Float64Array, i8: BigInt64Array, u8: BigUint64Array,
};

function fail(what) {
  throw new Placard("This is not an array that can be shown", what);
}

/** The header of an .npy file: {shape, dtype, fortran, offset, size}, with the number of its elements as size. */
export function npyHeader(data) {
  if (data.length < 12 || data[0] !== 0x93 || String.fromCharCode(...data.subarray(1, 6)) !== "NUMPY") fail("It does not begin like an .npy file.");
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const wide = data[6] >= 2;
  const offset = (wide ? 12 + view.getUint32(8, true) : 10 + view.getUint16(8, true));
  if (offset > data.length) fail("Its header is cut off.");
  const text = new TextDecoder("latin1").decode(data.subarray(wide ? 12 : 10, offset));
  const dtype = /'descr':\s*'([<>|=]?)([a-zA-Z]\d+)'/.exec(text);
  const shape = /'shape':\s*\(([\d,\s]*)\)/.exec(text);
  if (!dtype || !shape) fail(text.slice(0, 200));
  const sides = shape[1].split(",").map((side) => side.trim()).filter(Boolean).map(Number);
  return {
    shape: sides, dtype: dtype[2], bigEndian: dtype[1] === ">", fortran: /'fortran_order':\s*True/.test(text),
    offset, size: sides.reduce((product, side) => product * side, 1),
  };
}

function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
}

/** An .npy file as {shape, dtype, values}, with values in C order; 64-bit integers become numbers. */
export function parseNpy(data) {
  const header = npyHeader(data);
  const name = header.dtype;
  const Type = name === "f2" ? Uint16Array : TYPES[name];
  if (!Type) fail(`Elements of the type ${name} are not shown.`);
  const end = header.offset + header.size * Type.BYTES_PER_ELEMENT;
  if (end > data.length) fail("It is shorter than its header says.");
  const body = data.slice(header.offset, end);
  if (header.bigEndian) swap(body, Type.BYTES_PER_ELEMENT);
  let values = new Type(body.buffer);
  if (name === "f2") values = Float32Array.from(values, halfToNumber);
  if (name === "i8" || name === "u8") values = Float64Array.from(values, Number);
  if (header.fortran && header.shape.length > 1) values = toC(values, header.shape);
  return { shape: header.shape, dtype: dtypeName(name), values };
}

function swap(body, width) {
  for (let at = 0; at + width <= body.length; at += width) body.subarray(at, at + width).reverse();
}

function toC(values, shape) {
  const result = new values.constructor(values.length);
  const steps = shape.map((_, axis) => shape.slice(0, axis).reduce((product, side) => product * side, 1));
  const place = shape.map(() => 0);
  for (let at = 0; at < result.length; at += 1) {
    result[at] = values[place.reduce((sum, index, axis) => sum + index * steps[axis], 0)];
    for (let axis = shape.length - 1; axis >= 0 && ++place[axis] === shape[axis]; axis -= 1) place[axis] = 0;
  }
  return result;
}

function dtypeName(code) {
  const kinds = { b: "bool", u: "uint", i: "int", f: "float" };
  return code === "b1" ? "bool" : `${kinds[code[0]] ?? code[0]}${Number(code.slice(1)) * 8}`;
}

/** The arrays in an .npz file, by name; more than `limit` bytes are refused. */
export async function parseNpz(data, limit) {
  try {
    return await unpackNpz(data, limit);
  } catch (error) {
    if (error instanceof RangeError) fail("An offset in it leads out of it.");
    throw error;
  }
}

async function unpackNpz(data, limit) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const arrays = {};
  let total = 0;
  for (const entry of zipEntries(data, view)) {
    total += entry.size;
    if (total > limit) throw new Placard("This file is too large when it is decompressed");
    const start = entry.local + 30 + view.getUint16(entry.local + 26, true) + view.getUint16(entry.local + 28, true);
    const packed = data.subarray(start, start + entry.packed);
    if (entry.method !== 0 && entry.method !== 8) fail("It is compressed in a way that is not known here.");
    arrays[entry.name.replace(/\.npy$/, "")] = entry.method ? await inflate(packed, entry.size) : packed;
  }
  return arrays;
}

function* zipEntries(data, view) {
  let end = data.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) fail("It does not end like a .npz file.");
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    if (view.getUint32(at, true) !== 0x02014b50) fail("Its directory is damaged.");
    const nameSize = view.getUint16(at + 28, true);
    yield {
      method: view.getUint16(at + 10, true), packed: view.getUint32(at + 20, true), size: view.getUint32(at + 24, true),
      local: view.getUint32(at + 42, true), name: new TextDecoder().decode(data.subarray(at + 46, at + 46 + nameSize)),
    };
    at += 46 + nameSize + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
}
