// A matrix of parties: a table that one walks through with the arrow keys, and a line that says what the cell at hand means.

import { h } from "./dom.js";
import { plain } from "./format.js";
import { classWords, isTenant, link } from "./parts.js";

/** Edges of the steps of the scale, in cores. The rule's own threshold, 0.01, is one of them. */
export const STEPS = [0.001, 0.01, 0.03, 0.1, 0.3, 1];

/** 0: nothing to speak of; 1 to 6. */
export function level(value) {
  let at = 0;
  while (at < STEPS.length && value >= STEPS[at]) at += 1;
  return at;
}

/** What the colours mean, with the unit. */
export function scale(cls = "") {
  const label = (step, at) => (at + 1 < STEPS.length ? `${step}–${STEPS[at + 1]}` : `≥ ${step}`);
  return h(
    "div",
    { class: `scale ${cls}`, role: "img", "aria-label": `Scale in cores: ${STEPS.map(label).join(", ")}` },
    h("span", { class: "unit" }, "cores"),
    STEPS.map((step, at) => h("span", { class: `step l${at + 1}` }, label(step, at))),
  );
}

export const OTHER = "~other";

/**
 * The `most` parties with the largest weight, in the order of their names, and how many are left.
 * `weights`: name → weight. Those in `always` are among them.
 */
export function largest(weights, most, always = []) {
  const names = [...weights.keys()];
  const first = (name) => (always.includes(name) ? 1 : 0);
  names.sort((a, b) => first(b) - first(a) || weights.get(b) - weights.get(a) || (a < b ? -1 : 1));
  const shown = names.slice(0, most).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  return { shown, left: names.slice(most) };
}

const head = (name, cluster, left) => {
  if (name === OTHER) return h("span", { class: "class", title: `${left} others, summed` }, `${left} others`);
  const words = classWords(name);
  if (words) return h("span", { class: "class", title: words }, name.replace(/[<>]/g, ""));
  if (!isTenant(name)) return h("span", { class: "class" }, plain(name));
  return h("a", { href: link({ tenant: name, cluster }), title: plain(name), tabindex: "-1" }, plain(name));
};

/**
 * `rows`, `columns`: names; `cell(row, column)`: `{cls, content, says, value, href}` or null; `left`: how many others stand behind `~other`, by axis;
 * `groups`: columns from which on a line is drawn.
 */
export function matrix({ id, rows, columns, cell, corner, caption, cluster, left = {}, groups = [] }) {
  const line = (column) => (groups.includes(column) ? "group" : null);
  const header = h(
    "tr",
    {},
    h("th", { class: "corner", scope: "col" }, corner),
    columns.map((column) =>
      h("th", { scope: "col", key: column, class: line(column) }, h("div", {}, head(column, cluster, left.columns))),
    ),
  );
  let first = true;
  const body = rows.map((row) => {
    const cells = columns.map((column) => {
      const found = cell(row, column) ?? { cls: "none" };
      // No key and no name for assistive technology yet (`walk` gives it with the focus): there are ten thousand of these.
      const attributes = {
        class: `${found.cls ?? ""} ${line(column) ?? ""}`.trim() || null,
        "data-column": column,
        "data-says": found.says,
        "data-href": found.href,
        "data-value": found.value,
        tabindex: first && found.says ? "0" : found.says ? "-1" : null,
      };
      if (attributes.tabindex === "0") first = false;
      return h("td", attributes, found.content);
    });
    return h("tr", { key: row, "data-row": row }, h("th", { scope: "row" }, head(row, cluster, left.rows)), cells);
  });
  const room = columns.length <= 12 ? "roomy" : columns.length <= 20 ? "airy" : "";
  return h(
    "div",
    { class: `scroll matrix ${room}` },
    h("table", { id, role: "grid", "aria-label": caption }, h("thead", {}, header), h("tbody", {}, body)),
  );
}

/** Arrow keys between cells, Enter to follow one; the line below says what is at hand. */
export function walk(root, follow) {
  const say = (cell) => {
    const line = root.querySelector("[data-readout]");
    if (line) line.textContent = cell?.dataset.says ?? line.dataset.readout;
  };
  const cellOf = (event) => event.target.closest?.("td[data-says]");
  root.addEventListener("pointerover", (event) => {
    const cell = cellOf(event);
    if (cell) say(cell);
  });
  root.addEventListener("pointerout", (event) => {
    if (cellOf(event)) say(null);
  });
  root.addEventListener("focusin", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    cell.setAttribute("aria-label", cell.dataset.says);
    say(cell);
  });
  root.addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (cell?.dataset.href) follow(cell.dataset.href);
  });
  root.addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    if (event.key === "Enter" && cell.dataset.href) return follow(cell.dataset.href);
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[
      event.key
    ] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    let next = cell;
    // On to the next cell that says something.
    do {
      next = down
        ? next.parentElement[down > 0 ? "nextElementSibling" : "previousElementSibling"]?.cells[next.cellIndex]
        : next[right > 0 ? "nextElementSibling" : "previousElementSibling"];
    } while (next && next.nodeName === "TD" && !next.dataset.says);
    if (next?.dataset.says) {
      for (const one of [cell, next]) one.dataset.roving = "";
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  });
}
