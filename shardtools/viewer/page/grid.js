// A page of samples as cards.

import { count, h, plural, stepButtons, visible } from "./dom.js";
import { card, fillCards } from "./cards.js";
import { TEXTUAL, VISUAL, kindOf, visualFirst } from "./kinds.js";

const SIZES = ["7rem", "10rem", "14rem", "20rem", "30rem"];
export const COUNT = 48;

/** Show the samples from `at` on. */
export async function showGrid(app, state) {
  const at = Math.max(0, Number(state.at) || 0);
  const waiting = h("div.cards", { vars: { "--card": SIZES[app.settings.zoom] }, "aria-hidden": "true" },
    Array.from({ length: COUNT }, () => h("article.card.waiting", h("div.visual"), h("h3", "\u00a0"), h("div.lines", h("p", "\u00a0")))));
  if (!app.main.querySelector(".cards:not(.strip)")) app.show(h("div.toolbar", "\u00a0"), waiting);
  const size = sizeOf(app.settings.zoom), thumbs = app.settings.visual || drawnLarge(app);
  const page = await app.reader.rows({ at, count: COUNT, where: state.where ?? "", thumbs, size, signal: app.signal });
  if (page.total !== null && at >= page.total) page.samples = [];
  const options = { where: state.where, visual: app.settings.visual || null, lines: app.settings.lines, size };
  const cards = page.samples.map((sample) => card(app, sample, options));
  const box = h("div.cards", { vars: { "--card": SIZES[app.settings.zoom] } }, cards.map(({ element }) => element));
  app.show(toolbar(app, state, page, at, box), page.samples.length ? box : h("p.empty", page.total ? `There are ${plural(page.total, "sample")}.` : "No sample matches."), pager(app, state, page, at));
  app.say(page.samples.length ? `${plural(page.samples.length, "sample")} from ${count(page.at)}` : "No sample matches");
  keys(app, state, page, at, box);
  cards.find(({ sample }) => sample.index === app.settings.seen)?.element.querySelector("a").focus();
  app.settings.seen = null;
  await fillCards(app, cards);
}

/** The side of thumbnails, in pixels. */
const sizeOf = (zoom) => (zoom > 2 ? 512 : 256) * (devicePixelRatio > 1.5 ? 2 : 1);

/** The field that most cards draw large, "" if a server makes no small picture of it. */
function drawnLarge(app) {
  const [first] = visualFirst(app.reader.about().fields.map((field) => field.name));
  return first !== undefined && ["image", "picture", "npy"].includes(kindOf(first)) ? first : "";
}

/** Where the pages before and after are: {before, after}, null where there is none. */
function neighbours(page, at) {
  const before = at > 0 ? Math.max(0, at - COUNT) : null;
  if (page.total === null) return { before: null, after: page.more ?? null };
  return { before, after: at + COUNT < page.total ? at + COUNT : null };
}

function toolbar(app, state, page, at, box) {
  const shown = page.samples.length;
  const range = shown ? `${count(page.total === null ? page.samples[0].index : at)} – ${count(page.total === null ? page.samples.at(-1).index : at + shown - 1)}` : "none";
  const total = page.total === null ? `of ${count(app.reader.samples)} searched on` : `of ${count(page.total)}`;
  const jump = page.total > COUNT && h("input.place", {
    type: "range", min: 0, max: Math.max(0, page.total - 1), value: at, step: 1, "aria-label": "Place in the dataset", "aria-valuetext": `sample ${count(at)}`,
    onchange: (event) => app.go({ ...state, at: Number(event.target.value) }),
  });
  return h("div.toolbar",
    pageButtons(app, state, page, at), h("span.range", range, " ", h("span.quiet", total)),
    state.where && h("a.chip", { href: app.link({ at: 0 }), title: "Show all samples" }, visible(state.where), h("span", { "aria-hidden": "true" }, " ×")),
    jump, h("span.space"), fieldMenu(app), zoom(app, box));
}

function pageButtons(app, state, page, at) {
  const { before, after } = neighbours(page, at);
  const link = (to) => (to === null ? null : app.link({ ...state, at: to }));
  return stepButtons("Pages", "Page", link(before), link(after));
}

function pager(app, state, page, at) {
  const { after } = neighbours(page, at);
  const searching = page.total === null && after !== null;
  return after === null ? null : h("p.pager", h("a.button", { href: app.link({ ...state, at: after }) }, searching ? `Search on from ${count(after)}` : "Next page"));
}

function zoom(app, box) {
  const by = (step) => () => {
    const before = app.settings.zoom;
    app.set({ zoom: Math.max(0, Math.min(SIZES.length - 1, app.settings.zoom + step)) });
    box.style.setProperty("--card", SIZES[app.settings.zoom]);
    if (sizeOf(before) !== sizeOf(app.settings.zoom)) app.refresh();
  };
  app.keys.set("+", by(1)).set("=", by(1)).set("-", by(-1));
  return h("span.zoom", { role: "group", "aria-label": "Size of the cards" }, h("button", { type: "button", "aria-label": "Smaller", onclick: by(-1) }, "−"), h("button", { type: "button", "aria-label": "Larger", onclick: by(1) }, "+"));
}

/** Which field is drawn large, and which are lines. */
function fieldMenu(app) {
  const names = visualFirst(app.reader.about().fields.map((field) => field.name)).slice(0, 200);
  if (!names.length) return null;
  const { visual, lines, choosing = null } = app.settings;
  const texts = names.filter((name) => TEXTUAL.includes(kindOf(name)));
  const chosen = new Set(lines ?? texts.slice(0, 3));
  const choose = (name, changes) => {
    app.set({ ...changes, choosing: name }); // the menu stays open, and the focus where it was
    app.refresh();
  };
  const toggle = (name) => (event) => {
    if (event.target.checked) chosen.add(name);
    else chosen.delete(name);
    choose(name, { lines: names.filter((other) => chosen.has(other)) });
  };
  const large = h("select", { "aria-label": "Field that is drawn large", onchange: (event) => choose("", { visual: event.target.value }) },
    h("option", { value: "" }, "automatic"), names.filter((name) => [...VISUAL, ...TEXTUAL].includes(kindOf(name))).map((name) => h("option", { value: name, selected: name === visual }, visible(name))));
  const boxes = new Map(texts.map((name) => [name, h("input", { type: "checkbox", checked: chosen.has(name), onchange: toggle(name) })]));
  const summary = h("summary", "Fields");
  const close = (event) => {
    if (event.key !== "Escape") return;
    event.currentTarget.open = false;
    summary.focus();
  };
  app.settings.choosing = null;
  if (choosing !== null) queueMicrotask(() => (boxes.get(choosing) ?? large).focus());
  return h("details.menu", { open: choosing !== null, onkeydown: close }, summary, h("div.sheet", h("label.choice", "large", large),
    h("fieldset", h("legend", "as lines"), texts.map((name) => h("label", boxes.get(name), visible(name))))));
}

function keys(app, state, page, at, box) {
  const { before, after } = neighbours(page, at);
  const links = () => [...box.querySelectorAll(".card h3 a")];
  const to = (place) => () => place !== null && app.go({ ...state, at: place });
  const move = (step) => () => {
    const all = links(), here = all.indexOf(document.activeElement);
    const next = here < 0 ? (step > 0 ? 0 : all.length - 1) : here + step;
    if (next < 0) return to(before)();
    if (next >= all.length) return to(after)();
    all[next].focus();
    all[next].closest(".card").scrollIntoView({ block: "nearest" });
  };
  const columns = () => {
    const all = links(), top = (link) => link.closest(".card").offsetTop;
    const second = all.findIndex((link) => top(link) > top(all[0]));
    return second < 0 ? all.length : second;
  };
  app.keys.set("ArrowRight", move(1)).set("ArrowLeft", move(-1)).set("ArrowDown", () => move(columns())()).set("ArrowUp", () => move(-columns())());
  app.keys.set("PageDown", to(after)).set("PageUp", to(before)).set("n", to(after)).set("p", to(before)).set("Home", to(0));
  if (page.total) app.keys.set("End", to(Math.max(0, page.total - COUNT)));
}
