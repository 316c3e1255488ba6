// Samples as cards, which are filled when they come into view. A bad sample spoils its own card only.

import { Placard, count, cut, fill, h, placard, visible } from "./dom.js";
import { TEXTUAL, VISUAL } from "./kinds.js";
import { excerpt, onCard } from "./value.js";

const AT_ONCE = 6;
const LINES = 3;

/** The fields of a card: one to be drawn large, and some as lines of text. */
export function choose(sample, { visual, lines } = {}) {
  const byName = new Map(sample.fields.map((field) => [field.name, field]));
  const best = VISUAL.map((kind) => sample.fields.find((field) => field.kind === kind)).find(Boolean);
  const texts = sample.fields.filter((field) => TEXTUAL.includes(field.kind));
  const wanted = lines ? lines.map((name) => byName.get(name)).filter(Boolean) : texts.slice(0, LINES);
  const large = visual ? byName.get(visual) : (best ?? texts.find((field) => field.kind !== "number") ?? texts[0] ?? sample.fields[0]);
  return { large, lines: wanted.filter((field) => field !== large) };
}

/** A card and what fills it: {element, sample, load}. */
export function card(app, sample, options) {
  const { large, lines } = choose(sample, options);
  const visual = h("div.visual"), texts = h("div.lines", lines.map(() => h("p", "\u00a0")));
  const element = h("article.card.waiting", visual,
    h("h3", h("a", { href: options.href?.(sample) ?? app.link({ sample: sample.index, where: options.where }) }, visible(cut(sample.key ?? "unreadable", 120))), h("span.index", count(sample.index))), texts);
  const load = async () => {
    const signal = app.signal;
    const one = async (action, place, note) => {
      try {
        fill(place, await action());
      } catch (error) {
        if (error.name !== "AbortError") fill(place, note(error));
      }
    };
    await Promise.all([
      one(() => (sample.error ? unreadable(sample) : large ? onCard(app.reader, sample, large, { signal, size: options.size ?? 320 }) : h("div.excerpt", "no fields")), visual, (error) => placard(error, true)),
      ...lines.map((field, i) => one(async () => line(app, field, await excerpt(app.reader, sample, field, signal)), texts.children[i], (error) => badLine(field, error))),
    ]);
    element.classList.remove("waiting");
  };
  return { element, sample, load };
}

function unreadable({ error }) {
  throw new Placard("This sample cannot be read", error);
}

const badLine = (field, error) => [h("span.field", visible(field.name)), " ", h("span.bad", { title: error.why || null }, error.message)];

function line(app, field, text) {
  const names = field.name === "cls" ? app.reader.classNames() : null;
  const named = names && /^\d+$/.test(text) && Object.hasOwn(names, text) ? names[text] : null;
  return [h("span.field", visible(field.name)), " ", named === null ? text : `${text} · ${visible(cut(String(named), 80))}`];
}

/** Fill cards as they come near the screen, a few at a time; resolves when those on the screen are filled. */
export async function fillCards(app, cards) {
  const { signal } = app;
  const waiting = new Map(cards.map((entry) => [entry.element, entry]));
  const queue = [];
  let running = 0, done;
  const first = new Promise((resolve) => (done = resolve));
  const next = async () => {
    if (signal.aborted) return done();
    const entry = queue.shift();
    if (!entry) return running === 0 && done();
    running += 1;
    await entry.load();
    running -= 1;
    next();
  };
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting || !waiting.has(target)) continue;
      queue.push(waiting.get(target));
      waiting.delete(target);
      observer.unobserve(target);
    }
    while (running < AT_ONCE && queue.length) next();
    if (!running) done();
  }, { rootMargin: "400px" });
  signal.addEventListener("abort", () => observer.disconnect());
  await app.reader.prefetch(cards.map(({ sample }) => sample), signal).catch((error) => {
    if (error.name === "AbortError") throw error; // else each card says what is wrong with it
  });
  for (const { element } of cards) observer.observe(element);
  return cards.length ? first : undefined;
}
