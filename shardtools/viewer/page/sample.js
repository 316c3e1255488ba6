// One sample: every field in full, where it lies, and how to fetch it.

import { Placard, bytes, commandPanel, count, fill, h, placard, quoted, stepButtons, visible } from "./dom.js";
import { COUNT } from "./grid.js";
import { visualFirst } from "./kinds.js";
import { inFull } from "./value.js";

const DOWNLOAD = 64 << 20;

export async function showSample(app, state) {
  const index = Number(state.sample), isIndex = Number.isSafeInteger(index) && index >= 0;
  const page = isIndex ? await app.reader.rows({ at: index, count: 1, signal: app.signal }) : { samples: [] };
  const sample = page.samples[0];
  app.settings.seen = index;
  if (!sample || sample.index !== index) {
    app.show(placard(new RangeError(`index ${state.sample} is out of range: the dataset has ${count(app.reader.samples)} samples`)));
    return;
  }
  const order = visualFirst(sample.fields.map((field) => field.name));
  const fields = order.map((name) => sample.fields.find((field) => field.name === name));
  const panels = fields.map((field) => fieldPanel(app, sample, field));
  app.show(heading(app, state, sample), sample.error && placard(new Placard("This sample cannot be read", sample.error)), h("div.fields", panels.map(({ element }) => element)), place(sample), commands(app, sample));
  keys(app, state, index);
  app.say(`Sample ${count(index)}, ${sample.key}`);
  await app.reader.prefetch([sample], app.signal).catch(() => {}); // each panel says what is wrong
  await Promise.all(panels.map(({ load }) => load()));
}

const exists = (app, index) => index >= 0 && (app.reader.samples === null || index < app.reader.samples);

/** The state of the page of the grid that has a sample. */
const gridOf = (index, state) => ({ at: index - (index % COUNT), where: state.where });

function heading(app, state, sample) {
  const link = (to) => (exists(app, to) ? app.link({ ...state, sample: to }) : null);
  return h("div.toolbar", stepButtons("Samples", "Sample", link(sample.index - 1), link(sample.index + 1)),
    h("h1", visible(sample.key)), h("span.quiet", `sample ${count(sample.index)}${app.reader.samples === null ? "" : ` of ${count(app.reader.samples)}`}`),
    h("span.space"), h("a.button", { href: app.link(gridOf(sample.index, state)) }, "Back to the grid"));
}

function fieldPanel(app, sample, field) {
  const body = h("div.body.waiting");
  const element = h("section.panel.field", { "data-field": field.name, "data-kind": field.kind },
    h("h2", visible(field.name), h("span.quiet", bytes(field.size)), h("span.space"), download(app, sample, field)), body);
  const load = async () => {
    try {
      fill(body, await inFull(app.reader, sample, field, app.signal));
    } catch (error) {
      if (error.name !== "AbortError") fill(body, placard(error));
    }
    body.classList.remove("waiting");
  };
  return { element, load };
}

function download(app, sample, field) {
  if (field.size > DOWNLOAD) return null;
  const save = async (event) => {
    const button = event.currentTarget;
    try {
      const data = await app.reader.field(sample, field.name, { signal: app.signal });
      const url = URL.createObjectURL(new Blob([data], { type: "application/octet-stream" }));
      h("a", { href: url, download: `${sample.key.split("/").pop()}.${field.name}` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    } catch (error) {
      button.replaceWith(placard(error, true));
    }
  };
  return h("button", { type: "button", onclick: save, "aria-label": `Download ${visible(field.name)}` }, "Download");
}

function place(sample) {
  const rows = sample.fields.map((field) => h("tr", h("th", { scope: "row" }, visible(field.name)), h("td.number", count(field.offset)), h("td.number", count(field.size)),
    h("td", field.crc32 === null || field.crc32 === undefined ? "" : field.crc32.toString(16).padStart(8, "0"))));
  return h("section.panel", h("h2", "Where it lies"), h("p", typeof sample.shard === "number" ? `Shard ${count(sample.shard)}` : h("code", visible(sample.shard)), `, row ${count(sample.row)}`),
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Where the fields lie" }, h("table.place-table", h("thead", h("tr", h("th", "field"), h("th.number", "offset in the tar file"), h("th.number", "bytes"), h("th", "CRC-32"))), h("tbody", rows))));
}

/** A text as a Python literal. */
const literal = (text) => JSON.stringify(text);

function commands(app, sample) {
  const spec = app.reader.spec, field = visualFirst(sample.fields.map(({ name }) => name))[0];
  const lines = [
    `htextract ${quoted(spec)} --sample ${quoted(sample.key)}${field ? ` -f ${quoted(field)} > ${quoted(`${sample.key.split("/").pop()}.${field}`)}` : ""}`,
    `import shardtools as st; st.open(${literal(spec)})[${sample.index}]${field ? `[${literal(field)}]` : ""}`,
  ];
  return commandPanel("Fetch the same", lines);
}

function keys(app, state, index) {
  const to = (sample) => () => exists(app, sample) && app.go({ ...state, sample });
  app.keys.set("ArrowLeft", to(index - 1)).set("ArrowRight", to(index + 1));
  app.keys.set("Escape", () => app.go(gridOf(index, state)));
}
