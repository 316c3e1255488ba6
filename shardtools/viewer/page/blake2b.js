// BLAKE2b with 16 bytes of output and no key (RFC 7693). A word of 64 bits is two numbers: the low half, the high half.

const IV = [0xf3bcc908, 0x6a09e667, 0x84caa73b, 0xbb67ae85, 0xfe94f82b, 0x3c6ef372, 0x5f1d36f1, 0xa54ff53a,
  0xade682d1, 0x510e527f, 0x2b3e6c1f, 0x9b05688c, 0xfb41bd6b, 0x1f83d9ab, 0x137e2179, 0x5be0cd19];
const ORDERS = ["0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0"].map((row) => Array.from(row, (digit) => 2 * parseInt(digit, 16)));
const SIZE = 16, BLOCK = 128;

const v = new Uint32Array(32), m = new Uint32Array(32);

/** v[a] += v[b] + (low, high) */
function add(a, b, low, high) {
  const sum = v[a] + v[b] + low;
  v[a + 1] = v[a + 1] + v[b + 1] + high + Math.floor(sum / 0x100000000);
  v[a] = sum;
}

/** v[a] = (v[a] ^ v[b]) rotated to the right by `bits` */
function turn(a, b, bits) {
  let low = v[a] ^ v[b], high = v[a + 1] ^ v[b + 1];
  if (bits >= 32) [low, high, bits] = [high, low, bits - 32];
  v[a] = bits ? (low >>> bits) | (high << (32 - bits)) : low;
  v[a + 1] = bits ? (high >>> bits) | (low << (32 - bits)) : high;
}

function mix(a, b, c, d, x, y) {
  add(a, b, m[x], m[x + 1]);
  turn(d, a, 32);
  add(c, d, 0, 0);
  turn(b, c, 24);
  add(a, b, m[y], m[y + 1]);
  turn(d, a, 16);
  add(c, d, 0, 0);
  turn(b, c, 63);
}

function compress(h, block, count, last) {
  const view = new DataView(block.buffer, block.byteOffset, BLOCK);
  for (let i = 0; i < 32; i += 1) m[i] = view.getUint32(4 * i, true);
  v.set(h);
  v.set(IV, 16);
  v[24] ^= count;
  v[25] ^= Math.floor(count / 0x100000000);
  if (last) {
    v[28] = ~v[28];
    v[29] = ~v[29];
  }
  for (let round = 0; round < 12; round += 1) {
    const order = ORDERS[round % 10];
    for (let i = 0; i < 4; i += 1) mix(2 * i, 2 * i + 8, 2 * i + 16, 2 * i + 24, order[2 * i], order[2 * i + 1]);
    for (let i = 0; i < 4; i += 1) mix(2 * i, 8 + ((2 * i + 2) & 7), 16 + ((2 * i + 4) & 7), 24 + ((2 * i + 6) & 7), order[2 * i + 8], order[2 * i + 9]);
  }
  for (let i = 0; i < 16; i += 1) h[i] ^= v[i] ^ v[i + 16];
}

/** The hash of some bytes, in hexadecimal digits. */
export function blake2b(data) {
  const h = new Uint32Array(IV);
  h[0] ^= 0x01010000 ^ SIZE;
  let at = 0;
  for (; data.length - at > BLOCK; at += BLOCK) compress(h, data.subarray(at, at + BLOCK), at + BLOCK, false);
  const rest = new Uint8Array(BLOCK);
  rest.set(data.subarray(at));
  compress(h, rest, data.length, true);
  return hex(new Uint8Array(h.buffer, 0, SIZE));
}

/** Bytes as hexadecimal digits. */
export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
