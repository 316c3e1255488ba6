// Arrays of a hub: names, history, and slices as pictures, one version or two side by side.

import { commandPanel, cut, fill, h, placard, quoted, short, visible } from "./dom.js";
import { autoRange, extent, layout, picture, plot } from "./draw.js";
import { colourChoice, sliders } from "./value.js";

const NEUROGLANCER = "https://neuroglancer-demo.appspot.com/";

export async function showArrays(app, state) {
  const tree = await app.reader.tree(app.signal);
  const nav = h("nav.tree", { "aria-label": "Arrays" }, tree.length ? h("ul.plain", tree.slice(0, 5000).map((array) => h("li",
    h("a", { href: app.link({ arrays: array.path }), "aria-current": array.path === state.arrays ? "page" : null }, visible(cut(array.path, 120))),
    h("span.quiet", `${(array.shape ?? []).join(" × ")} ${array.dtype ?? ""}`)))) : h("p.empty", "There is no array."));
  const chosen = tree.find((array) => array.path === state.arrays);
  const detail = h("div.detail", chosen ? h("div.waiting") : state.arrays ? placard(new RangeError(`There is no array “${state.arrays}”`)) : h("p.quiet", tree.length ? "Choose an array." : ""));
  app.show(h("div.arrays", nav, detail));
  nav.querySelector("li:has([aria-current])")?.scrollIntoView({ block: "nearest" });
  if (chosen) fill(detail, await arrayView(app, chosen, state));
}

async function arrayView(app, array, state) {
  const versions = await app.reader.history(array.path, app.signal).catch((error) => {
    if (error.name === "AbortError") throw error;
    return [];
  });
  const names = versions.map((entry) => String(entry.version));
  const { branches, tags } = await app.reader.versions(app.signal);
  const choices = Object.entries({ "commits of main": names, tags, branches: branches.filter((name) => name !== "main") });
  const shared = { index: leading(array.shape).map((size, axis) => Math.min(size - 1, Number(state.index?.split(",")[axis]) || 0)), map: "gray", range: null, drawn: null, aim: () => {}, served: null };
  const panels = h("div.versions"), elsewhere = h("div.elsewhere"), served = h("div.served");
  const shown = [state.version ?? names[0] ?? "", ...(state.beside ? [state.beside] : [])];
  const redraw = () => Promise.all([...panels.children].map((panel) => panel.draw()));
  let timer;
  const note = () => { // browsers bear few changes of the address in a second
    clearTimeout(timer);
    timer = setTimeout(address, 200);
  };
  const address = () => {
    if (app.signal.aborted) return;
    const index = shared.index.some(Boolean) ? shared.index.join(",") : undefined;
    history.replaceState(null, "", app.link({ arrays: array.path, version: shown[0] === names[0] ? undefined : shown[0], beside: shown[1], index }));
    app.main.dataset.ready = location.hash;
  };
  const rebuild = () => {
    fill(panels, shown.map((version, i) => versionPanel(app, array, version, choices, shared, (next) => ((shown[i] = next), note(), rebuild()))));
    fill(elsewhere, commandPanel("For other programs", exports(app.reader.spec, array.path, shown[0])));
    shared.served = showServed(app, array, shown, shared, served);
    return redraw();
  };
  const beside = h("button", { type: "button", "aria-pressed": String(shown.length > 1), onclick: (event) => {
    if (shown.length > 1) shown.pop();
    else shown.push(names[1] ?? names[0] ?? "");
    event.currentTarget.setAttribute("aria-pressed", shown.length > 1);
    note();
    rebuild();
  } }, "Two versions");
  const contrast = h("span.contrast", ["low", "high"].map((side, i) => h("label.choice", side, h("input", { type: "number", step: "any", placeholder: "auto", "aria-label": `${side} end of the colours`, onchange: (event) => {
    shared.range = shared.range ?? [undefined, undefined];
    shared.range[i] = event.target.value === "" ? undefined : Number(event.target.value);
    redraw();
  } }))));
  rebuild();
  await shared.served;
  return [h("div.toolbar", h("h1", visible(array.path)), h("span.quiet", `${array.shape.join(" × ")} ${array.dtype}, chunks ${(array.chunks ?? []).join(" × ")}`), h("span.space"), names.length > 1 && beside),
    h("div.toolbar", sliders(leading(array.shape), shared.index, () => (note(), redraw())), colourChoice((name) => ((shared.map = name), redraw())), contrast),
    panels, elsewhere, served, log(versions)];
}

/** Show where other programs read the first of the versions, as long as htview runs. */
async function showServed(app, array, shown, shared, place) {
  const [version] = shown;
  try {
    const found = await app.reader.elsewhere({ path: array.path, version }, app.signal);
    if (version !== shown[0]) return;
    const link = h("a.button", { target: "_blank", rel: "noreferrer noopener" }, "Open in Neuroglancer");
    shared.aim = () => found.state && link.setAttribute("href", neuroglancerLink(found, array.dtype, shared));
    shared.aim();
    const panel = commandPanel("As Zarr, while htview runs", [found.url, `import zarr; zarr.open_array(${JSON.stringify(found.url)}, mode="r")[...]`]);
    panel.append(...(found.refused ? [h("p.note", `${found.refused}: there is no link to it.`)] : [h("p", link), h("p.note",
      `The link gives the address above to the scripts of ${new URL(NEUROGLANCER).host}. Whoever has it can read all arrays here while htview runs, and nothing else. The browser may ask whether that site may reach this computer: allow it, or nothing is shown.`)]));
    fill(place, panel);
  } catch (error) {
    if (error.name !== "AbortError" && version === shown[0]) fill(place, placard(error, true));
  }
}

/** The address at which Neuroglancer shows what the page shows: the same picture, in the same range of colours. */
function neuroglancerLink({ url, state }, dtype, { index, drawn }) {
  const aimed = structuredClone(state), [layer] = aimed.layers;
  layer.source.url = `${url}|zarr3:`;
  index.forEach((at, axis) => (aimed.position[axis] = at + 0.5));
  const range = drawn && (dtype.startsWith("float") ? drawn : [Math.floor(drawn[0]), Math.ceil(drawn[1])]);
  if (range && range[0] < range[1] && (dtype.startsWith("float") || range.every(Number.isSafeInteger))) layer.shaderControls = { normalized: { range } };
  return `${NEUROGLANCER}#!${encodeURIComponent(JSON.stringify(aimed))}`;
}

/** Lines that write references to the chunks of an array where they lie, or a copy, and the one that loads it in Python. */
function exports(place, path, version) {
  const name = version ? `${path}:${version}` : path, file = path.split("/").pop();
  return [`htarray export ${quoted(place)} ${quoted(name)} ${quoted(`${file}.json`)} --format kerchunk`, `htarray export ${quoted(place)} ${quoted(name)} ${quoted(`${file}.zarr`)}`,
    `import shardtools as st; st.hub(${JSON.stringify(place)}).load(${JSON.stringify(name)})[...]`];
}

/** The axes of an array that sliders choose along: all but those of its pictures, or of its line. */
const leading = (shape) => layout(shape)?.leading ?? [];

function versionPanel(app, array, version, choices, shared, chosen) {
  const view = h("figure.pixels"), facts = h("p.note", "\u00a0");
  const groups = choices.map(([label, names]) => names.length > 0 && h("optgroup", { label }, names.slice(0, 500).map((name) => h("option", { value: name, selected: name === version }, visible(cut(name, 40))))));
  const panel = h("section.panel", groups.some(Boolean) && h("label.choice", "version", h("select", { onchange: (event) => chosen(event.target.value) }, groups)), view, facts);
  let turn = 0;
  panel.draw = async () => {
    const mine = (turn += 1);
    try {
      const slice = await app.reader.slice({ path: array.path, version, index: shared.index }, app.signal);
      if (mine !== turn) return;
      const [least, greatest] = extent(slice.values), low = shared.range?.[0], high = shared.range?.[1];
      const auto = autoRange(slice);
      const drawn = [low ?? auto[0], high ?? auto[1]];
      fill(view, draw(slice, { map: shared.map, low: drawn[0], high: drawn[1] }));
      if (panel === panel.parentNode?.firstChild) {
        shared.drawn = drawn;
        shared.aim();
      }
      facts.textContent = `${slice.shape.join(" × ")} shown, ${short(least)} to ${short(greatest)}`;
    } catch (error) {
      if (error.name !== "AbortError" && mine === turn) fill(view, placard(error, true));
    }
  };
  return panel;
}

function draw(slice, options) {
  const plan = layout(slice.shape);
  if (!plan) return h("p.empty", "It is empty.");
  if (plan.kind === "number") return h("pre", short(slice.values[0]));
  return plan.kind === "plot" ? plot(slice.values, 800, 240) : picture(slice, options);
}

function log(versions) {
  if (!versions.length) return null;
  return h("section.panel", h("h2", "History"), h("div.scroll", { tabindex: "0", role: "region", "aria-label": "History" }, h("table", h("thead", h("tr", ["version", "time", "author", "message"].map((name) => h("th", name)))),
    h("tbody", versions.slice(0, 500).map((entry) => h("tr", h("td", h("code", visible(cut(String(entry.version), 16)))), h("td", visible(String(entry.time ?? ""))), h("td", visible(cut(String(entry.author ?? ""), 60))), h("td", visible(cut(String(entry.message ?? ""), 300)))))))));
}
