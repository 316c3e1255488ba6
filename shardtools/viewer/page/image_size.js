// The sides of a picture by its first bytes, before a browser spends memory on it.

const be16 = (d, at) => (d[at] << 8) | d[at + 1];
const be32 = (d, at) => be16(d, at) * 65536 + be16(d, at + 2);
const le16 = (d, at) => d[at] | (d[at + 1] << 8);
const le24 = (d, at) => le16(d, at) | (d[at + 2] << 16);
const le32 = (d, at) => le16(d, at) + le16(d, at + 2) * 65536;
const text = (d, at, size) => String.fromCharCode(...d.subarray(at, at + size));

function jpeg(d) {
  for (let at = 2; at + 9 < d.length && d[at] === 0xff; ) {
    const marker = d[at + 1];
    if (marker === 0xff) at += 1;
    else if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc) return [be16(d, at + 7), be16(d, at + 5)];
    else at += 2 + be16(d, at + 2);
  }
  return null;
}

function webp(d) {
  const kind = text(d, 12, 4);
  if (kind === "VP8X") return [le24(d, 24) + 1, le24(d, 27) + 1];
  if (kind === "VP8L") return [(le16(d, 21) & 0x3fff) + 1, ((le32(d, 21) >>> 14) & 0x3fff) + 1];
  return kind === "VP8 " ? [le16(d, 26) & 0x3fff, le16(d, 28) & 0x3fff] : null;
}

/** [width, height], or null where they are not known. */
export function imageSize(d) {
  if (d.length < 32) return null;
  if (d[0] === 0x89 && text(d, 1, 3) === "PNG") return [be32(d, 16), be32(d, 20)];
  if (d[0] === 0xff && d[1] === 0xd8) return jpeg(d);
  if (text(d, 0, 4) === "GIF8") return [le16(d, 6), le16(d, 8)];
  if (text(d, 0, 4) === "RIFF" && text(d, 8, 4) === "WEBP") return webp(d);
  if (text(d, 0, 2) === "BM") return [le32(d, 18), Math.abs(le32(d, 22) | 0)];
  return null;
}
