// What is shown of an answer: hypotheses with their scores, tokens to hover or walk over, attention.

import { END, columns, hypotheses, labelled } from "./attention.js";

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// One text's answers. `outputs` is [N, ...] by name, `source` the joined tokens of the text, where the model tells them.
export function article(text, outputs, row, source) {
  const found = hypotheses(outputs, row);
  const shown = element("article", {}, element("h3", { dir: "auto" }, text));
  if (outputs.truncated?.[row]) {
    shown.append(element("p", { class: "hint" }, "Longer than the model's limit: only the beginning was read."));
  }
  if (!found.length) shown.append(element("p", {}, "No hypothesis that is permitted was found."));
  const looks = found.map((each) => each.attention).filter(Boolean);
  const count = source === undefined ? columns(looks) : source.split(" ").length;
  const side = columns(looks) > 0 ? sourceSide(text, source, count) : undefined;
  if (side) shown.append(...side.parts);
  const list = element("ol", { class: "hypotheses", "aria-label": `Hypotheses for ${text}` });
  for (const each of found) list.append(hypothesis(each, side));
  shown.append(list);
  if (found.length && outputs.attention && !side) {
    shown.append(element("p", { class: "hint" }, "This model has no attention to show."));
  }
  return shown;
}

function sourceSide(text, source, count) {
  const { labels, told } = labelled(source, text, count);
  const spans = labels.map((label) => element("span", { class: label === END ? "heated end" : "heated" }, label));
  const parts = [element("p", { class: "tokens source", "aria-label": "Source tokens", dir: "auto" }, ...spans)];
  if (!told) {
    parts.unshift(element("p", { class: "hint" },
      "The model does not tell its source's tokens: these are words, characters or positions that fit their number."));
  }
  return { labels, spans, parts };
}

function hypothesis(each, side) {
  const numbers = [`score ${each.score.toFixed(4)}`];
  if (each.logProbability !== undefined) numbers.push(`log-probability ${each.logProbability.toFixed(4)} nats`);
  if (each.length !== undefined) numbers.push(`${each.length} ${each.length === 1 ? "token" : "tokens"}`);
  const item = element("li", {},
    element("span", { class: "answer", dir: "auto" }, each.text || "(empty)"), " ",
    element("span", { class: "numbers" }, numbers.join(" · ")));
  if (each.length > 0) item.append(...tokenRow(each, side));
  return item;
}

// The tokens as buttons: hover or focus shows where one looks, a click keeps it shown; arrow keys walk.
function tokenRow(each, side) {
  const { labels } = labelled(each.tokens, each.text, each.length);
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const buttons = labels.map((label, at) => element("button", {
    type: "button", tabindex: at ? -1 : 0, "aria-pressed": "false", class: label === END ? "end" : "",
  }, label));
  let kept;
  const show = (at) => {
    clear(side);
    readout.textContent = at === undefined ? "" : described(each, labels, at, side);
    if (at !== undefined && side && each.attention) light(side, each, at);
  };
  buttons.forEach((button, at) => {
    button.addEventListener("pointerenter", () => show(at));
    button.addEventListener("pointerleave", () => show(kept));
    button.addEventListener("focus", () => show(at));
    button.addEventListener("blur", () => show(kept));
    button.addEventListener("click", () => {
      kept = kept === at ? undefined : at;
      buttons.forEach((other, number) => other.setAttribute("aria-pressed", String(number === kept)));
      show(at);
    });
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = { Home: 0, End: buttons.length - 1 }[event.key] ?? (step && at + step);
      if (!buttons[next]) return;
      event.preventDefault();
      button.tabIndex = -1;
      buttons[next].tabIndex = 0;
      buttons[next].focus();
    });
  });
  const list = element("ul", { class: "tokens", "aria-label": "Tokens; arrow keys walk over them", dir: "auto" },
    ...buttons.map((button) => element("li", {}, button)));
  return side && each.attention ? [list, readout, heatMap(each, labels, side)] : [list, readout];
}

function light(side, each, at) {
  const strongest = each.alignment.get(at);
  side.spans.forEach((span, source) => {
    span.style.setProperty("--weight", each.attention[at][source] ?? 0);
    span.classList.toggle("strongest", source === strongest);
  });
}

function clear(side) {
  side?.spans.forEach((span) => {
    span.style.removeProperty("--weight");
    span.classList.remove("strongest");
  });
}

// One line for eyes and for screen readers.
function described(each, labels, at, side) {
  const parts = [`“${labels[at]}”`];
  const logProbability = each.tokenLogProbabilities?.[at];
  if (logProbability !== undefined) {
    parts.push(`${logProbability.toFixed(3)} nats (probability ${Math.exp(logProbability).toFixed(3)})`);
  }
  if (side && each.attention) {
    const looks = side.labels.map((label, source) => [label, each.attention[at][source] ?? 0])
      .sort((one, other) => other[1] - one[1]).slice(0, 3).filter(([, weight]) => weight >= 0.01);
    parts.push(`looks at ${looks.map(([label, weight]) => `“${label}” ${weight.toFixed(2)}`).join(", ")}`);
  }
  return parts.join(", ");
}

function heatMap(each, labels, side) {
  const details = element("details", {}, element("summary", {}, "Attention as a table"));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return; // made once, when it is first opened
    const head = element("tr", {}, element("td"), ...side.labels.map((label) => element("th", { scope: "col" }, label)));
    const rows = labels.map((label, at) => element("tr", {}, element("th", { scope: "row" }, label),
      ...side.labels.map((_, source) => {
        const weight = each.attention[at]?.[source] ?? 0;
        const made = element("td", { class: "heated" }, weight >= 0.005 ? weight.toFixed(2).replace("0.", ".") : "");
        made.style.setProperty("--weight", weight);
        return made;
      })));
    details.append(element("div", { class: "map", tabindex: "0", role: "region", "aria-label": "Attention table" },
      element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))));
  });
  return details;
}
