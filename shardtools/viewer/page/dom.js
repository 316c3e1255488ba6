// Elements and texts. Nothing here parses HTML: whatever comes from a dataset becomes text.

/** What cannot be shown, for the reader of the page: a title, why, and a command that helps. */
export class Placard extends Error {
  constructor(title, why = "", command = "") {
    super(title);
    this.name = "Placard";
    this.why = why;
    this.command = command;
  }
}

/** An element: h("a.link", {href: "#", onclick: f}, "text", child, ...). Functions become listeners. */
export function h(selector, ...rest) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const part of rest.flat(9)) {
    if (part === null || part === undefined || part === false) continue;
    if (part instanceof Node) element.append(part);
    else if (typeof part === "object") setAll(element, part);
    else element.append(String(part));
  }
  return element;
}

function setAll(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The message for an error, in place of what could not be shown. */
export function placard(error, small = false) {
  const known = error instanceof Placard;
  const command = known && error.command && h("div.command", h("code", { tabindex: "0" }, error.command), copyButton(error.command));
  return h(small ? "div.placard.small" : "div.placard", { role: small ? "note" : "alert" },
    h("strong", known ? error.message : "This cannot be shown"),
    (known ? error.why : error.message) && h("p", known ? error.why : error.message),
    !small && command);
}

export function copyButton(text) {
  const button = h("button.copy", { type: "button", "aria-label": `Copy: ${text.slice(0, 80)}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange(); // without permission, or on a page without TLS: mark it, for Ctrl+C
      range.selectNodeContents(button.previousElementSibling);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

/** Buttons that lead on and back to addresses; null where there is none. The noun names what they lead to. */
export function stepButtons(label, noun, before, after) {
  const step = (href, text, name) => (href === null ? h("span.button.off", { "aria-hidden": "true" }, text) : h("a.button", { href, "aria-label": name }, text));
  return h("nav.pages", { "aria-label": label }, step(before, "‹", `${noun} before`), step(after, "›", `Next ${noun.toLowerCase()}`));
}

/** A text in single quotes, for a shell. */
export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** Lines for a terminal, each with a button that copies it. */
export function commandPanel(title, lines) {
  return h("section.panel", h("h2", title), lines.map((line) => h("div.command", h("code", { tabindex: "0" }, line), copyButton(line))));
}

const whole = new Intl.NumberFormat("en-US");

/** 50000000 as "50,000,000"; null as "unknown". */
export const count = (number) => (Number.isFinite(number) ? whole.format(number) : "unknown");

/** "1 shard", "2 shards". */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** 24000000 as "24 MB". */
export function bytes(size) {
  if (!Number.isFinite(size)) return "unknown";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit && size < 100 ? size.toPrecision(size < 10 ? 2 : 3).replace(/\.0+$/, "") : Math.round(size)} ${units[unit]}`;
}

/** A number for an axis or a cell: at most four digits that count. */
export function short(number) {
  if (!Number.isFinite(number)) return String(number);
  if (Number.isInteger(number) && Math.abs(number) < 1e7) return count(number);
  return String(Number(number.toPrecision(4)));
}

/** A text cut to so many characters. */
export function cut(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

/** A text that begins as a sentence does, if it begins with a word. */
export const sentence = (text) => (/^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text);

/** A text with its control characters, and those that reorder text, made visible. */
export function visible(text) {
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
