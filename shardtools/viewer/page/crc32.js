// CRC-32 as in gzip, four bytes at a time.

const TABLES = Array.from({ length: 4 }, () => new Int32Array(256));
for (let byte = 0; byte < 256; byte += 1) {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  TABLES[0][byte] = value;
}
for (let byte = 0; byte < 256; byte += 1) {
  for (let table = 1; table < 4; table += 1) {
    const before = TABLES[table - 1][byte];
    TABLES[table][byte] = (before >>> 8) ^ TABLES[0][before & 255];
  }
}

/** The CRC-32 of some bytes, as an unsigned number. */
export function crc32(data) {
  const [t0, t1, t2, t3] = TABLES;
  let value = -1, at = 0;
  for (const end = data.length - 3; at < end; at += 4) {
    value ^= data[at] | (data[at + 1] << 8) | (data[at + 2] << 16) | (data[at + 3] << 24);
    value = t3[value & 255] ^ t2[(value >>> 8) & 255] ^ t1[(value >>> 16) & 255] ^ t0[value >>> 24];
  }
  for (; at < data.length; at += 1) value = t0[(value ^ data[at]) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}
