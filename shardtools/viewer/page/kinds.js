// What a field holds, by its name: the last extension, without .gz.

const KINDS = {
  image: ["jpg", "jpeg", "png", "webp", "gif", "bmp", "avif", "ico"],
  picture: ["tif", "tiff", "ppm", "pgm", "pbm", "pnm"], // which a server can show, and a browser cannot
  text: ["txt", "text", "transcript", "md", "csv", "tsv", "yaml", "yml", "xml", "py", "log", "srt", "vtt", "caption"],
  json: ["json", "jsn"],
  jsonl: ["jsonl"],
  number: ["cls", "cls2", "class", "index", "inx", "count", "id"],
  audio: ["mp3", "wav", "flac", "ogg", "oga", "opus", "m4a", "aac"],
  video: ["mp4", "webm", "mov", "m4v", "ogv", "mkv"],
  npy: ["npy"],
  npz: ["npz"],
  svg: ["svg"],
  html: ["html", "htm", "xhtml"],
  pdf: ["pdf"],
};

const BY_EXTENSION = new Map(Object.entries(KINDS).flatMap(([kind, names]) => names.map((name) => [name, kind])));

export const isGzipped = (field) => /\.gz$/i.test(field);

export function extension(field) {
  return field.replace(/\.gz$/i, "").split(".").pop().toLowerCase();
}

export function kindOf(field) {
  return BY_EXTENSION.get(extension(field)) ?? "bytes";
}

const TYPES = {
  jpg: "image/jpeg", ico: "image/x-icon", mp3: "audio/mpeg", m4a: "audio/mp4", oga: "audio/ogg", opus: "audio/ogg",
  mov: "video/mp4", m4v: "video/mp4", ogv: "video/ogg", mkv: "video/webm",
};

/** The type of a picture, sound or film; nothing else gets one, so that no browser runs it. */
export function mediaType(field) {
  const kind = kindOf(field), name = extension(field);
  if (kind !== "image" && kind !== "audio" && kind !== "video") return "application/octet-stream";
  return TYPES[name] ?? `${kind}/${name}`;
}

/** What is drawn large on a card, best first. */
export const VISUAL = ["image", "picture", "npy", "video", "svg", "audio"];

/** What is read for a card's lines of text. */
export const TEXTUAL = ["text", "json", "jsonl", "number"];

/** The names of fields, as the page lists them: pictures first, then the rest in its own order. */
export function visualFirst(names) {
  const rank = (name) => (VISUAL.indexOf(kindOf(name)) + 1 || VISUAL.length + 1);
  return [...names].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}
