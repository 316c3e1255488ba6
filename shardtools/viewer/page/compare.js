// Two datasets side by side, sample by sample of the same key; what differs is marked.

import { count, h, placard, stepButtons, visible } from "./dom.js";
import { card, choose, fillCards } from "./cards.js";

const COUNT = 24;

/** Pairs of samples: those of `a` in order, with the one of the same key in `b`. */
export async function showCompare(app, state) {
  const datasets = app.readers.filter((reader) => !reader.can.arrays), [a, b] = datasets, at = Math.max(0, Number(state.at) || 0);
  if (!b) {
    app.show(placard(new RangeError("Two datasets are needed: ?a=URL&b=URL, or htview A B")));
    return;
  }
  const { signal } = app;
  const page = await a.rows({ at, count: COUNT, signal });
  const other = await b.rows({ at, count: COUNT, signal }).catch((error) => ({ samples: [], error }));
  if (other.error?.name === "AbortError") throw other.error;
  const byKey = new Map(other.samples.map((sample) => [sample.key, sample]));
  const partners = await Promise.all(page.samples.map((sample) => byKey.get(sample.key) ?? partner(b, sample.key, signal)));
  const link = (place) => (place === null ? null : app.link({ compare: "", at: place }));
  const before = at > 0 ? Math.max(0, at - COUNT) : null, after = at + COUNT < page.total ? at + COUNT : null;
  const sides = [[], []];
  const rows = page.samples.map((sample, i) => row({ ...app, readers: datasets }, sample, partners[i], sides));
  app.show(h("div.toolbar", stepButtons("Pages", "Page", link(before), link(after)),
    h("span.range", `${count(at)} – ${count(at + page.samples.length - 1)} `, h("span.quiet", `of ${count(page.total)}`))),
  h("div.pairs", h("div.pair.names", h("strong", visible(a.about().name)), h("strong", visible(b.about().name))), rows));
  app.keys.set("PageDown", () => after !== null && app.go({ compare: "", at: after })).set("PageUp", () => before !== null && app.go({ compare: "", at: before }));
  const differing = rows.filter((element) => element.classList.contains("differs")).length;
  app.say(`${differing} of ${rows.length} differ`);
  await Promise.all(sides.map((cards, i) => fillCards({ ...app, reader: datasets[i] }, cards)));
}

/** The sample of a key in another dataset, an error if it has none. */
async function partner(reader, key, signal) {
  try {
    const page = await reader.rows({ key, count: 1, signal });
    return page.samples[0] ?? new RangeError(`There is no sample “${key}”`);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return error;
  }
}

/** How the fields of two samples differ: {name: "only in A" | "only in B" | "differs" | "same" | "same size"}. */
function differences(a, b) {
  const others = new Map(b.fields.map((field) => [field.name, field]));
  const result = {};
  for (const field of a.fields) {
    const other = others.get(field.name);
    others.delete(field.name);
    if (!other) result[field.name] = "only in A";
    else if (field.size !== other.size) result[field.name] = "differs";
    else if (Number.isInteger(field.crc32) && Number.isInteger(other.crc32)) result[field.name] = field.crc32 === other.crc32 ? "same" : "differs";
    else result[field.name] = "same size";
  }
  for (const name of others.keys()) result[name] = "only in B";
  return result;
}

function row(app, sample, other, sides) {
  const missing = other instanceof Error;
  const found = missing ? {} : differences(sample, other);
  const differs = missing || Object.values(found).some((value) => value !== "same" && value !== "same size");
  const add = (side, one) => {
    const entry = card({ ...app, reader: app.readers[side] }, one, { visual: visual(sample, other), href: () => app.link({ sample: one.index, of: side || undefined }) });
    sides[side].push(entry);
    return entry.element;
  };
  const marks = Object.entries(found).map(([name, how]) => h(`li.${how.replaceAll(" ", "-")}`, visible(name), " ", h("span", how)));
  return h(differs ? "div.pair.differs" : "div.pair", add(0, sample), missing ? h("article.card", placard(other, true)) : add(1, other), h("ul.marks", { "aria-label": "Differences" }, marks));
}

/** The field that both draw large: what the first would draw, if the second has it. */
function visual(sample, other) {
  const large = choose(sample).large?.name;
  return other instanceof Error || other.fields.some((field) => field.name === large) ? large : null;
}
