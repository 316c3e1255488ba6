// The page: which dataset, which view of it, and what keys do.
//
//   address -> readers (static_reader.js or server_reader.js) -> fragment -> a view: overview, grid, sample, ...

import { showArrays } from "./arrays.js";
import { showCompare } from "./compare.js";
import { fill, h, placard, visible } from "./dom.js";
import { showGrid } from "./grid.js";
import { showOverview } from "./overview.js";
import { showSample } from "./sample.js";
import { openServer } from "./server_reader.js";
import { showSql } from "./sql.js";
import { openStatic } from "./static_reader.js";

const SETTINGS = "shardtools-viewer";
const HELP = [["← → ↑ ↓", "from card to card, or sample to sample"], ["Enter", "open a sample"], ["Esc", "back to the grid"], ["PgUp PgDn", "pages"],
  ["Home End", "first and last page"], ["+ −", "size of the cards"], ["/", "find"], ["o g", "overview, grid"], ["t", "light or dark"], ["?", "this list"]];

const byId = (id) => document.getElementById(id);
const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content ?? "";

/** What a person chose before, as far as the browser keeps it. */
function loadSettings() {
  const standard = { zoom: 1, theme: "", visual: "", lines: null };
  try {
    const kept = JSON.parse(localStorage.getItem(SETTINGS) ?? "{}");
    if (Number.isInteger(kept.zoom) && kept.zoom >= 0 && kept.zoom < 5) standard.zoom = kept.zoom;
    if (["light", "dark"].includes(kept.theme)) standard.theme = kept.theme;
  } catch {
    // No storage for this page, or something else in it.
  }
  return standard;
}

const app = {
  main: byId("main"), readers: [], reader: null, isStatic: true, settings: loadSettings(), keys: new Map(), signal: null,
  /** Replace what the page shows. */
  show(...parts) {
    app.main.removeAttribute("aria-busy");
    fill(app.main, ...parts);
  },
  /** Tell a screen reader. */
  say(text) {
    byId("said").textContent = text;
  },
  /** The fragment for a state of the page. */
  link(state) {
    const { arrays, ...rest } = state;
    const parts = arrays === undefined ? [] : [`arrays/${encodeURIComponent(arrays)}`];
    for (const [name, value] of Object.entries(rest)) {
      if (value === undefined || value === null || (value === "" && name !== "compare" && name !== "sql")) continue;
      parts.push(value === "" ? name : `${name}=${encodeURIComponent(value)}`);
    }
    return `#${parts.join("&")}`;
  },
  go(state) {
    location.hash = app.link(state);
  },
  set(changes) {
    Object.assign(app.settings, changes);
    document.documentElement.dataset.theme = app.settings.theme;
    try {
      localStorage.setItem(SETTINGS, JSON.stringify({ zoom: app.settings.zoom, theme: app.settings.theme }));
    } catch {
      // No storage: the choice holds as long as the page is open.
    }
  },
  refresh: () => route(),
};

/** The state of the page in the fragment of its address. */
function readState() {
  const state = {};
  for (const part of location.hash.slice(1).split("&").filter(Boolean)) {
    const [, name, value] = /^([^=]*)=?(.*)$/s.exec(part);
    let text;
    try {
      text = decodeURIComponent(value);
    } catch {
      text = value;
    }
    if (name.startsWith("arrays")) state.arrays = decodeURIComponent(name.slice("arrays/".length).replace(/%(?![0-9a-f]{2})/gi, "%25"));
    else if (["at", "where", "sample", "compare", "sql", "of", "key", "version", "beside", "index"].includes(name)) state[name] = text;
  }
  return state;
}

function viewOf(state) {
  if (state.arrays !== undefined || app.reader.can.arrays) return ["arrays", showArrays];
  if (state.compare !== undefined) return ["compare", showCompare];
  if (state.sample !== undefined) return ["grid", showSample];
  if (state.sql !== undefined) return ["sql", showSql];
  if (state.at !== undefined || state.where !== undefined || state.key !== undefined) return ["grid", showGrid];
  return ["overview", showOverview];
}

let running = new AbortController();

async function route() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  app.signal = signal;
  app.keys.clear();
  const state = readState();
  app.reader = app.readers[Number(state.of) || 0] ?? app.readers[0];
  app.of = app.readers.indexOf(app.reader) || undefined;
  const [name, show] = viewOf(state);
  tabs(name);
  app.main.dataset.view = state.sample !== undefined ? "sample" : name;
  app.main.setAttribute("aria-busy", "true");
  try {
    if (app.reader.failed) throw app.reader.failed;
    // A view that was left writes nothing any more.
    const link = (next) => app.link({ of: app.of, ...next });
    const mine = { ...app, link, go: (next) => (location.hash = link(next)), show: (...parts) => signal.aborted || app.show(...parts) };
    if (state.key !== undefined && state.sample === undefined) {
      state.at = await app.reader.find(state.key, signal);
      mine.go({ sample: state.at });
      return;
    }
    await show(mine, state);
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) app.show(placard(error));
  }
  if (!signal.aborted) app.main.dataset.ready = location.hash || "#";
}

function tabs(current) {
  const { can } = app.reader;
  const names = can.arrays ? [["arrays", "Arrays", { arrays: "" }]]
    : [["overview", "Overview", {}], ["grid", "Grid", { at: 0 }], can.sql && ["sql", "SQL", { sql: "" }]];
  if (!can.arrays && app.readers.filter((reader) => !reader.can.arrays).length > 1) names.push(["compare", "Compare", { compare: "" }]);
  fill(byId("tabs"), names.filter(Boolean).map(([name, text, state]) => h("a", { href: app.link({ of: app.of, ...state }), "aria-current": name === current ? "page" : null }, text)));
  const about = app.reader.about();
  const title = byId("title");
  if (app.readers.length > 1) {
    fill(title, h("select", { "aria-label": "Dataset", onchange: (event) => app.go({ of: event.target.value === "0" ? undefined : event.target.value }) },
      app.readers.map((reader, i) => h("option", { value: i, selected: reader === app.reader }, visible(reader.about().name)))));
  } else fill(title, h("a", { href: app.link({}) }, visible(String(about.name))));
  document.title = `${visible(String(about.name))} · shardtools`;
  byId("find").hidden = can.arrays;
}

/** Find by number, class or condition, or key. */
async function find(text) {
  text = text.trim();
  const field = byId("find-text"), { reader } = app;
  field.blur(); // the keys are for the page again
  if (!text) {
    app.go({ of: app.of, at: 0 });
    return;
  }
  const number = /^#?([\d,_]+)$/.exec(text);
  const digits = number && number[1].replace(/[,_]/g, "");
  if (number && (text.startsWith("#") || !/^0\d/.test(digits))) {
    const index = Number(digits);
    if (reader.samples === null || index < reader.samples) {
      app.go({ of: app.of, sample: index });
      return;
    }
  }
  const isCondition = /[=<>]|\s(like|in|is|between)\s/i.test(text) && !text.startsWith("key:");
  if (isCondition) {
    app.go({ of: app.of, where: text, at: 0 });
    return;
  }
  field.setAttribute("aria-busy", "true");
  try {
    app.go({ of: app.of, sample: await reader.find(text.replace(/^key:/, ""), app.signal) });
  } catch (error) {
    if (error.name === "AbortError") return;
    app.main.querySelector(":scope > .placard")?.remove();
    app.main.prepend(placard(error));
  } finally {
    field.removeAttribute("aria-busy");
  }
}

function toggleTheme() {
  const dark = app.settings.theme ? app.settings.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  app.set({ theme: dark ? "light" : "dark" });
}

function onKey(event) {
  const { target } = event;
  const typing = target.matches?.("input:not([type=range]):not([type=checkbox]), textarea, select, audio, video");
  if (event.key === "Escape" && target.id === "find-text") target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || byId("help").open || target.matches?.("input")) return;
  if (["ArrowUp", "ArrowDown"].includes(event.key) && target.closest?.("pre, .scroll")) return;
  const global = { "/": () => byId("find-text").focus(), t: toggleTheme, "?": () => byId("help").showModal(), o: () => app.go({ of: app.of }), g: () => app.go({ of: app.of, at: 0 }) };
  const action = app.keys.get(event.key) ?? global[event.key];
  if (!action || !app.reader) return;
  event.preventDefault();
  action();
}

/** A form for the address of a dataset: below what is wrong with the one that was asked for, if there is one. */
function welcome(source = "", error = null) {
  const box = h("input", { type: "url", id: "source", value: source, placeholder: "https://host/train-@1000.tgz", autocomplete: "off", "aria-label": "Address of a dataset" });
  const open = (event) => {
    event.preventDefault();
    location.search = `?src=${encodeURIComponent(box.value.trim())}`;
  };
  byId("find").hidden = true;
  app.show(error && placard(error), h("section.welcome", h("h1", error ? "Another dataset" : "Look at a dataset of sharded tar files"), h("p", "The address of a dataset, its manifest, or one shard. This page reads it by itself, from any server that lets it."),
    h("form.command", { onsubmit: open }, box, h("button.primary", { type: "submit" }, "Open"))));
  app.main.dataset.ready = location.hash || "#";
}

async function start() {
  document.documentElement.dataset.theme = app.settings.theme;
  fill(byId("keys"), HELP.map(([key, text]) => [h("dt", h("kbd", key)), h("dd", text)]));
  byId("find").addEventListener("submit", (event) => (event.preventDefault(), find(byId("find-text").value)));
  byId("theme").addEventListener("click", toggleTheme);
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("skip").addEventListener("click", (event) => (event.preventDefault(), byId("main").focus()));
  document.addEventListener("keydown", onKey);
  const api = meta("shardtools-api"), parameters = new URLSearchParams(location.search);
  const sources = ["src", "a", "b"].map((name) => parameters.get(name)).filter(Boolean);
  if (!sources.length && meta("shardtools-src")) sources.push(meta("shardtools-src"));
  if (!api && !sources.length) return welcome();
  try {
    app.isStatic = !api;
    app.readers = api ? await openServer(api) : await Promise.all(sources.slice(0, 2).map((source) => openStatic(source)));
    app.reader = app.readers[0];
    if (!location.hash && parameters.get("a")) history.replaceState(null, "", "#compare");
  } catch (error) {
    byId("find").hidden = true;
    if (parameters.get("src")) welcome(sources[0], error);
    else app.show(placard(error));
    return;
  }
  addEventListener("hashchange", () => {
    scrollTo(0, 0);
    route();
  });
  await route();
}

start();
