// The first page of a dataset: what is in it, and what it was made of.

import { Placard, bytes, count, cut, h, placard, quoted, short, visible } from "./dom.js";
import { card, fillCards } from "./cards.js";

const CLASSES = 40;
const MOSAIC = 240;

export async function showOverview(app) {
  const { reader } = app, about = reader.about();
  const parts = [
    about.isStale && h("section", placard(stale(about.spec))),
    figures(about),
    about.description && h("p.description", visible(cut(String(about.description), 500))),
    about.thumbnails?.length ? mosaic(about.thumbnails, app) : firstSamples(app),
    h("div.columns",
      about.fields.length > 0 && section("Fields", fieldTable(about)),
      about.classes?.values?.length > 0 && section("Classes", classBars(about.classes, app)),
      ...(about.histograms ?? []).slice(0, 24).map((histogram) => section(histogram.column, bars(histogram, app))),
      section("Made by", history(about.history, app))),
  ];
  app.show(...parts);
}

function stale(spec) {
  return new Placard("The summary was made before the dataset changed", "Its counts, histograms and pictures are left out. Make it again:", `htview --publish --overwrite ${quoted(spec)}`);
}

function section(title, ...content) {
  return h("section.panel", h("h2", visible(String(title))), ...content);
}

function figures(about) {
  const pairs = [["samples", count(about.samples)], [about.shards === 1 ? "shard" : "shards", count(about.shards)]];
  if (about.bytes !== null) pairs.push(["bytes", bytes(about.bytes)]);
  if (about.samples && about.bytes) pairs.push(["a sample", bytes(about.bytes / about.samples)]);
  if (about.license) pairs.push(["license", visible(cut(String(about.license), 30))]);
  return h("dl.figures", pairs.map(([name, value]) => h("div", h("dd", value), h("dt", name))));
}

function fieldTable(about) {
  const sized = about.fields.some((field) => field.bytes);
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Fields" }, h("table", h("thead", h("tr", h("th", "field"), h("th", "kind"), h("th.number", "samples"), sized && h("th.number", "bytes"), sized && h("th", "example"))),
    h("tbody", about.fields.slice(0, 200).map((field) => h("tr",
      h("th", { scope: "row" }, visible(cut(field.name, 60))), h("td.kind", field.kind), h("td.number", count(field.count)),
      sized && h("td.number", field.bytes ? bytes(field.bytes) : ""),
      sized && h("td.example", field.example === undefined || field.example === null ? "" : visible(cut(String(field.example), 80))))))));
}

function classBars(classes, app) {
  const most = Math.max(1, ...classes.values.slice(0, 5000).map((entry) => entry.count ?? 0));
  const counted = classes.values.some((entry) => entry.count !== null && entry.count !== undefined);
  const shown = classes.values.slice(0, CLASSES);
  const left = classes.values.length - shown.length + (classes.rest ?? 0);
  const column = /^\w+$/.test(classes.field) ? classes.field : `"${String(classes.field).replaceAll('"', '""')}"`;
  return [
    h("ul.bars", shown.map((entry) => {
      const value = typeof entry.value === "number" ? entry.value : `'${String(entry.value).replaceAll("'", "''")}'`;
      const label = entry.name === null || entry.name === undefined || entry.name === "" ? String(entry.value) : String(entry.name);
      return h("li", h("a", { href: app.link({ where: `${column} = ${value}`, at: 0 }), title: visible(label) },
        h("span.label", visible(cut(label, 60))),
        counted && h("span.bar", { vars: { "--share": (entry.count ?? 0) / most } }), counted && h("span.number", count(entry.count))));
    })),
    left > 0 && h("p.note", `and ${count(left)} more`),
    counted ? null : h("p.note", "Their samples were not counted."),
  ];
}

function bars(histogram, app) {
  const { column, edges, counts } = histogram;
  const most = Math.max(1, ...counts);
  const name = /^\w+(\.\w+)*$/.test(column) ? column : `"${column.replaceAll('"', '""')}"`;
  const isWhole = edges.every((edge, i) => Number.isInteger(edge) && (i === 0 || edge - edges[i - 1] <= 1)); // a bin is a number
  const label = (i) => `${short(edges[i])}${isWhole ? "" : ` to ${short(edges[i + 1])}`}: ${count(counts[i])}`;
  const bar = (i) => {
    const last = i === counts.length - 1, vars = { "--share": counts[i] / most };
    const where = `${name} >= ${edges[i]} and ${name} ${last ? "<=" : "<"} ${edges[i + 1]}`;
    return app.reader.can.where
      ? h("a.column", { href: app.link({ where, at: 0 }), title: label(i), "aria-label": label(i), vars })
      : h("span.column", { title: label(i), vars });
  };
  return [h("div.histogram", { role: app.reader.can.where ? "group" : "img", "aria-label": `${column}: ${short(edges[0])} to ${short(edges.at(-1))}` }, counts.map((_, i) => bar(i))),
    h("div.axis", h("span", short(edges[0])), histogram.nulls > 0 && h("span", `${count(histogram.nulls)} without`), h("span", short(edges.at(-1))))];
}

function history(job, app) {
  const entries = Object.entries(job ?? {});
  if (!entries.length) return h("p.note", "Not known: there is no manifest, or it does not say.");
  const render = (value) => {
    if (Array.isArray(value)) return h("ul.plain", value.slice(0, 20).map((part) => h("li", render(part))), value.length > 20 && h("li.note", `and ${count(value.length - 20)} more`));
    if (typeof value === "object" && value !== null) {
      return h("dl.facts", Object.entries(value).slice(0, 40).map(([name, part]) => [h("dt", visible(cut(name, 60))), h("dd", render(part))]));
    }
    const text = visible(cut(String(value), 300));
    return /^https?:\/\/\S+$/.test(text) && app.isStatic ? h("a", { href: `?src=${encodeURIComponent(text)}`, rel: "noreferrer" }, text) : text;
  };
  return render(Object.fromEntries(entries));
}

function mosaic(thumbnails, app) {
  const pictures = thumbnails.slice(0, MOSAIC).filter(({ index, data }) => Number.isSafeInteger(index) && /^[A-Za-z0-9+/]+=*$/.test(data ?? ""));
  const side = 3.6 * parseFloat(getComputedStyle(document.documentElement).fontSize) + 2; // as in style.css
  const width = app.main.clientWidth - 2 * parseFloat(getComputedStyle(app.main).paddingLeft);
  const most = 4 * Math.max(1, Math.floor((width + 2) / side)); // as many as four rows have
  const step = Math.max(1, pictures.length / most);
  return h("nav.mosaic", { "aria-label": "Samples from all over the dataset" }, Array.from({ length: Math.floor(pictures.length / step) }, (_, i) => {
    const { index, data } = pictures[Math.floor(i * step)];
    const type = data.startsWith("UklG") ? "webp" : data.startsWith("iVBO") ? "png" : "jpeg";
    return h("a", { href: `#sample=${index}`, "aria-label": `Sample ${count(index)}` }, h("img", { alt: "", src: `data:image/${type};base64,${data}`, loading: "lazy", decoding: "async" }));
  }));
}

function firstSamples(app) {
  const box = h("div.cards.strip", { vars: { "--card": "9rem" } }, Array.from({ length: 8 }, () => h("article.card.waiting", h("div.visual"), h("div.lines"))));
  const load = async () => {
    const page = await app.reader.rows({ at: 0, count: 8, signal: app.signal });
    const cards = page.samples.map((sample) => card(app, sample, {}));
    box.replaceChildren(...cards.map(({ element }) => element));
    await fillCards(app, cards);
  };
  load().catch((error) => error.name === "AbortError" || box.replaceChildren(placard(error)));
  return box;
}
