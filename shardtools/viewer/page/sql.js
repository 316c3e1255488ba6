// A question in SQL: the answer as a table, and as cards where it has a column `index` or `key`.

import { cut, fill, h, placard, plural, short, visible } from "./dom.js";
import { card, fillCards } from "./cards.js";

const CARDS = 48;
const ROWS = 1000;

export async function showSql(app, state) {
  const query = state.sql ?? "";
  const box = h("textarea", { id: "query", rows: 3, spellcheck: "false", "aria-label": "Query in SQL" });
  box.value = query || "select cls, count(*) as samples from samples group by cls order by samples desc";
  const run = () => app.go({ sql: box.value });
  box.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && run());
  const answer = h("div.answer", query && h("div.waiting"));
  app.show(h("div.query", box, h("button.primary", { type: "button", onclick: run }, "Run"), h("span.quiet", "Ctrl+Enter")), answer);
  if (!query) return;
  try {
    await showAnswer(app, await app.reader.sql(query, app.signal), answer);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    fill(answer, placard(error)); // the question stays
  }
}

async function showAnswer(app, result, answer) {
  const names = result.columns.map((column) => column.name);
  answer.replaceChildren();
  const indices = await indicesOf(app, names, result.rows);
  app.say(plural(result.rows.length, "row"));
  answer.append(h("p.quiet", `${plural(result.rows.length, "row")}${result.truncated ? ", and more that are not shown" : ""}`));
  const cards = [];
  if (indices.length) {
    const samples = await Promise.all(indices.map(async (index) => (await app.reader.rows({ at: index, count: 1, signal: app.signal })).samples[0]));
    cards.push(...samples.filter(Boolean).map((sample) => card(app, sample, {})));
    answer.append(h("div.cards", { vars: { "--card": "10rem" } }, cards.map(({ element }) => element)));
  }
  answer.append(table(result));
  await fillCards(app, cards);
}

async function indicesOf(app, names, rows) {
  const column = names.indexOf("index"), keys = names.indexOf("key");
  const shown = rows.slice(0, CARDS);
  if (column >= 0) return shown.map((row) => Number(row[column])).filter(Number.isSafeInteger);
  if (keys < 0) return [];
  return Promise.all(shown.map((row) => app.reader.find(String(row[keys]), app.signal)));
}

function table({ columns, rows }) {
  const isNumber = columns.map((_, i) => rows.slice(0, 20).every((row) => row[i] === null || typeof row[i] === "number"));
  const cell = (value) => (value === null ? "" : typeof value === "number" ? short(value) : visible(cut(typeof value === "object" ? JSON.stringify(value) : String(value), 300)));
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Answer" }, h("table",
    h("thead", h("tr", columns.map((column, i) => h(isNumber[i] ? "th.number" : "th", visible(column.name))))),
    h("tbody", rows.slice(0, ROWS).map((row) => h("tr", row.map((value, i) => h(isNumber[i] ? "td.number" : "td", cell(value))))))));
}
