// What several views are made of.

import { h, s } from "./dom.js";
import { overdue } from "./feed.js";
import { cores, duration, plain } from "./format.js";

/** `#tenant=red&cluster=east` */
export function link(values) {
  const parts = Object.entries(values).filter(([, value]) => value !== undefined && value !== null);
  return `#${parts.map(([key, value]) => (value === true ? key : `${key}=${encodeURIComponent(value)}`)).join("&")}`;
}

/** What the ledger's columns are called that are no party's. No tenant's name begins like that. */
export const SELF = "<self>";
export const SUM = "<Σ>";

// Asked by names of tenants, of which one may be "constructor": no object.
const CLASSES = new Map([
  ["<idle>", "an idle CPU"],
  ["<steal>", "the hypervisor"],
  ["<throttled>", "its own CPU limit"],
  ["<unresolved>", "not resolved"],
  ["<unknown>", "cannot be named"],
  ["<outside>", "outside the cluster"],
  ["<gone>", "tenants that are gone"],
  [SELF, "the tenant itself"],
  [SUM, "all other tenants"],
]);

/** What is no tenant, in words. */
export const classWords = (name) => CLASSES.get(name);
export const isTenant = (name) => !name.startsWith("<");

/** Serves everybody, and is nobody's neighbour. No tenant can be called so. */
export const SYSTEM = "system";

/** Entered against another tenant: as `partywall` counts it. */
export const isStolen = (waiter, runner) =>
  waiter !== runner && runner !== SYSTEM && isTenant(waiter) && isTenant(runner);

/** A tenant's name that leads to it; what is no tenant is a word. */
export function tenant(name, cluster, cls = "") {
  if (!name) return h("span", { class: "muted" }, "–");
  const words = classWords(name);
  if (!isTenant(name)) return h("span", { class: `class ${cls}`, title: words }, words ?? plain(name));
  return h("a", { class: `tenant ${cls}`, href: link({ tenant: name, cluster }), title: plain(name) }, plain(name));
}

export const nodeLink = (name, cluster) =>
  name
    ? h("a", { class: "name", href: link({ node: name, cluster }), title: plain(name) }, plain(name))
    : h("span", { class: "muted" }, "all nodes");

/** Why there is nothing to see, and what would have to be. */
export const empty = (what, why) =>
  h("div", { class: "empty" }, h("p", { class: "what" }, what), h("p", { class: "why" }, why));

/** A field that filters what is shown; it shows what it was given before, when its view comes back. */
export const search = (ui, filter, placeholder, label) =>
  h("input", {
    type: "search",
    key: "filter",
    value: ui.filter[filter],
    placeholder,
    "aria-label": label,
    "data-filter": filter,
  });

/**
 * Details (`feed.js`) as `draw(answer)` draws them; where they are no longer new, above that how old they are, and why. `without`: said where there are none.
 */
export function told(entry, without, draw) {
  if (!entry.answer)
    return entry.problem ? empty(without, plain(entry.problem)) : h("p", { class: "loading" }, "Asking…");
  const old = overdue(entry);
  return [
    // Always there: what stands below is not made anew with it, and keeps focus and scroll position.
    h(
      "p",
      { class: "note warn", hidden: old === null },
      old === null ? null : `This is ${duration(old)} old: ${plain(entry.problem ?? "no newer answer has come yet")}.`,
    ),
    draw(entry.answer),
  ];
}

/** A card: a heading, what stands beside it, and what it is about. */
export const card = (attributes, heading, aside, ...body) =>
  h(
    "section",
    { ...attributes, class: `card ${attributes.class ?? ""}` },
    h("div", { class: "head" }, h("h2", {}, heading), aside ? h("div", { class: "aside" }, aside) : null),
    ...body,
  );

/** Use against what was promised and what may be used. */
export function bar(used, entitled, quota, label) {
  const scale = Math.max(used, entitled ?? 0, quota ?? 0, 1e-9);
  const share = (n) => `${Math.min(100, (n / scale) * 100).toFixed(2)}%`;
  // Without a promise there is nothing to be over.
  const over = entitled > 0 && used > entitled * 1.005;
  return h(
    "span",
    {
      class: `bar ${over ? "over" : entitled === 0 && !quota ? "free" : ""}`,
      role: "img",
      "aria-label": label,
      title: label,
    },
    h("span", { class: "fill", style: { width: share(used) } }),
    entitled ? h("span", { class: "tick promised", style: { left: share(entitled) } }) : null,
    quota ? h("span", { class: "tick quota", style: { left: share(quota) } }) : null,
  );
}

/** A share of something, as a bar. */
export const shareBar = (share, cls = "") =>
  h(
    "span",
    { class: `bar ${cls}`, "aria-hidden": "true" },
    h("span", { class: "fill", style: { width: `${Math.min(100, share * 100).toFixed(2)}%` } }),
  );

/** A line of figures, the newest at the right. */
export function spark(points, pick, label, cls = "") {
  const [width, height] = [260, 48];
  const values = points.map(pick);
  const most = Math.max(...values, 0.001);
  const x = (at) => (values.length < 2 ? width : (at / (values.length - 1)) * width);
  const y = (value) => height - 2 - (value / most) * (height - 6);
  const path = values.map((value, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  return h(
    "figure",
    { class: `spark ${cls}` },
    h(
      "figcaption",
      {},
      label,
      h("b", {}, cores(values.at(-1) ?? 0)),
      h("span", { class: "muted" }, ` most ${cores(most)}`),
    ),
    s(
      "svg",
      {
        viewBox: `0 0 ${width} ${height}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `${label}: now ${cores(values.at(-1) ?? 0)} cores, at most ${cores(most)} since this page was opened`,
      },
      s("path", { class: "area", d: path ? `${path}L${width} ${height}L${x(0).toFixed(1)} ${height}Z` : "" }),
      s("path", { class: "stroke", d: path }),
    ),
  );
}

/** Worst first. Each has a shape of its own: colour alone tells nothing to one man in twelve. */
export const VERDICTS = {
  leaked: { words: "delivered, though policies in force deny it", shape: "M4 4l8 8M12 4l-8 8" },
  open: { words: "delivered, and no NetworkPolicy isolates either end", shape: "M8 3.2a4.8 4.8 0 1 0 .01 0z" },
  unknown: { words: "cannot be judged, and why", shape: "M5.6 6a2.4 2.4 0 1 1 3.2 2.3c-.6.3-.8.7-.8 1.5M8 12.2v.3" },
  blocked: { words: "tried, not delivered", shape: "M8 3.2a4.8 4.8 0 1 0 .01 0zM4.6 11.4l6.8-6.8" },
  allowed: { words: "admitted by a NetworkPolicy or the policy file", shape: "M3.6 8.4l3 3 5.8-6.6" },
  within: { words: "one end is system's or outside: the fence has nothing to say", shape: "M5 8h6" },
};

export const verdictIcon = (verdict) =>
  s(
    "svg",
    { class: `icon v-${verdict}`, viewBox: "0 0 16 16", "aria-hidden": "true" },
    s("path", { d: VERDICTS[verdict].shape }),
  );

export const verdictTag = (verdict) =>
  h("span", { class: `verdict v-${verdict}`, title: VERDICTS[verdict].words }, verdictIcon(verdict), verdict);

const KINDS = {
  NoisyNeighbour: "cpu",
  NodeOvercommitted: "cpu",
  SystemNoise: "cpu",
  QuotaNear: "quota",
  QuotaExceeded: "quota",
  LimitRangeExceeded: "quota",
  MemorySqueeze: "memory",
  CrossTenantOom: "memory",
  FlatNetwork: "fence",
  FenceLeak: "fence",
  Probe: "fence",
  CredentialReach: "fence",
};

/** "NoisyNeighbour" → "Noisy neighbour", with the family it is of. */
export function kindTag(kind) {
  const words = kind.replace(/([a-z])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);
  return h("span", { class: `kind k-${KINDS[kind] ?? "cpu"}` }, words);
}

export const stateTag = (state) => h("span", { class: `state s-${state}` }, state);

/** Figures in a row: `[["used", "0.4 cores"], …]` */
export const facts = (rows, cls = "") =>
  h(
    "dl",
    { class: `facts ${cls}` },
    rows.filter(Boolean).map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", {}, value))),
  );

/**
 * A table that can be sorted. `columns`: `{id, label, title, cls, by(row), cell(row), descending}`; `order`: `{id, down}`.
 * What is clicked is told by `data-sort`.
 */
export function table(id, columns, rows, order, caption) {
  const chosen = columns.find((column) => column.id === order.id && column.by);
  const sorted = chosen ? [...rows].sort((a, b) => compare(chosen.by(a), chosen.by(b)) * (order.down ? -1 : 1)) : rows;
  const heads = columns.map((column) => {
    const sort = chosen === column ? (order.down ? "descending" : "ascending") : null;
    const label = column.by
      ? h(
          "button",
          { type: "button", "data-sort": column.id, "data-table": id, "data-down": column.descending ? "1" : "0" },
          column.label,
        )
      : column.label;
    return h("th", { scope: "col", class: column.cls, title: column.title, "aria-sort": sort }, label);
  });
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      { id },
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, heads)),
      h(
        "tbody",
        {},
        sorted.map((row) =>
          h(
            "tr",
            { key: row.key },
            columns.map((column, at) =>
              h(at ? "td" : "th", { class: column.cls, scope: at ? null : "row" }, column.cell(row)),
            ),
          ),
        ),
      ),
    ),
  );
}

function compare(a, b) {
  // What is absent goes last among the large, first among the small.
  if (typeof a === "string" || typeof b === "string")
    return String(a).localeCompare(String(b), "en", { numeric: true });
  return (a ?? -Infinity) - (b ?? -Infinity);
}

/** Cores that are worth a look: as much as makes a victim, by the default policy. */
export const heat = (n) => h("span", { class: n >= 0.01 ? "hot" : "" }, cores(n));
