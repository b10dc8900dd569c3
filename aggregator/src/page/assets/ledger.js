// Who waits for whom.

import { h } from "./dom.js";
import { detail } from "./feed.js";
import { brief, cores, duration, many, plain } from "./format.js";
import { OTHER, largest, level, matrix, scale } from "./matrix.js";
import { reports, seen } from "./seen.js";
import { SELF, SUM, SYSTEM, card, classWords, empty, isStolen, isTenant, link, search, told } from "./parts.js";

/** In the order in which they are shown. */
const CLASSES = [SYSTEM, "<idle>", "<throttled>", "<steal>", "<unknown>", "<unresolved>", "<gone>"];
const SIZES = [12, 24, 48, 96];

/** Sums of the ledger between the parties that are shown. */
function fold(ledger, most, wanted) {
  const { parties, cells } = ledger;
  const weights = new Map();
  for (const name of parties) if (isTenant(name) && name !== SYSTEM) weights.set(name, 0);
  for (const [w, r, value] of cells) {
    if (!isStolen(parties[w], parties[r])) continue;
    // What a tenant did to others, and what others did to it.
    for (const name of [parties[w], parties[r]]) if (weights.has(name)) weights.set(name, weights.get(name) + value);
  }
  const always = wanted ? [...weights.keys()].filter((name) => name.toLowerCase().includes(wanted)) : [];
  const { shown, left } = largest(weights, most, always);
  const as = (name) => (weights.has(name) && !shown.includes(name) ? OTHER : name);
  const folded = new Map(parties.map((name) => [name, as(name)]));
  const sums = new Map();
  for (const [w, r, value] of cells) {
    const [waiter, runner] = [folded.get(parties[w]), folded.get(parties[r])];
    // Its own waits are another thing than waits for others, also among those that are summed.
    const key = `${waiter}\n${w === r ? SELF : runner}`;
    sums.set(key, (sums.get(key) ?? 0) + value);
  }
  return { shown, left, sums };
}

const who = (name, left) => (name === OTHER ? `${left} other tenants` : (classWords(name) ?? plain(name)));

export function ledger(all, ui) {
  const clusters = ui.clusters(all);
  const cluster = clusters[0];
  const node = cluster.nodes.some((n) => n.name === ui.route.on) ? ui.route.on : "";
  const entry = node
    ? detail(`api/node?cluster=${encodeURIComponent(cluster.name)}&name=${encodeURIComponent(node)}`, ui.redraw, 2000)
    : null;
  const most = ui.sizes.ledger;
  const tools = [
    h(
      "label",
      {},
      "Node ",
      h(
        "select",
        { "data-go": "on", key: "on", "aria-label": "Node" },
        h("option", { value: "", selected: !node }, "all nodes"),
        cluster.nodes.map((n) => h("option", { value: n.name, selected: n.name === node }, plain(n.name))),
      ),
    ),
    h(
      "label",
      {},
      "Show ",
      h(
        "select",
        { "data-size": "ledger", key: "size" },
        SIZES.map((n) => h("option", { value: n, selected: n === most }, `the ${n} most involved`)),
      ),
    ),
    search(ui, "ledger", "Tenant", "Bring a tenant in"),
  ];
  return h(
    "div",
    { class: "view", key: "ledger" },
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Who waits for whom"),
      h(
        "p",
        { class: "muted" },
        `A row's tenant waited for a CPU while a column's ran there: cores, mean over ${duration(cluster.window_seconds)}.`,
        clusters.length > 1 ? ` Cluster ${plain(cluster.name)}: choose another above.` : "",
      ),
    ),
    card(
      { id: "ledger", class: "flush" },
      node ? `On ${plain(node)}` : `On ${many(cluster.nodes.length, "node")}`,
      tools,
      entry
        ? told(entry, "This node's ledger cannot be told.", (answer) => heatMap(answer.ledger, cluster, most, ui))
        : heatMap(cluster.ledger, cluster, most, ui),
    ),
  );
}

function heatMap(data, cluster, most, ui) {
  const { shown, left, sums } = fold(data, most, ui.filter.ledger.toLowerCase());
  if (!sums.size)
    return empty("Nobody waited.", `No task of any tenant waited for a CPU in this window. ${seen(cluster.nodes)}`);
  const tenants = left.length ? [...shown, OTHER] : shown;
  const keys = [...sums.keys()];
  const classes = CLASSES.filter((name) => keys.some((key) => key.endsWith(`\n${name}`)));
  const rows = keys.some((key) => key.startsWith(`${SYSTEM}\n`)) ? [...tenants, SYSTEM] : tenants;
  const others = (row) => tenants.reduce((sum, column) => sum + (sums.get(`${row}\n${column}`) ?? 0), 0);
  const columns = [...tenants, SUM, SELF, ...classes];
  const cell = (row, column) => {
    if (column === SUM) {
      const value = others(row);
      return {
        cls: "sum",
        content: value >= 0.0005 ? cores(value) : "",
        says: `${who(row, left.length)} waited ${cores(value)} cores for other tenants in all`,
        value,
      };
    }
    if (row === column) return row === OTHER ? crossed(row, column) : { cls: "own", content: "" };
    if (column === SELF) return calm(row, column, "while tasks of its own ran");
    if (column === SYSTEM) return calm(row, column, "while the system's tasks ran");
    if (!isTenant(column)) return calm(row, column, `because of: ${classWords(column)}`);
    return crossed(row, column);
  };
  const crossed = (row, column) => {
    const value = sums.get(`${row}\n${column}`) ?? 0;
    if (value < 0.0005) return null;
    return {
      cls: `l${level(value)}`,
      content: brief(value),
      says: `${who(row, left.length)} waited ${cores(value)} cores while ${who(column, left.length)} ran`,
      value,
      href: row === OTHER ? null : link({ tenant: row, cluster: cluster.name }),
    };
  };
  const calm = (row, column, words) => {
    const value = sums.get(`${row}\n${column}`) ?? 0;
    if (value < 0.0005) return null;
    return {
      cls: `calm c${level(value)}`,
      content: brief(value),
      says: `${who(row, left.length)} waited ${cores(value)} cores ${words}`,
      value,
    };
  };
  const silent = cluster.nodes.filter((n) => !reports(n));
  return [
    matrix({
      id: "ledger-grid",
      rows,
      columns,
      cell,
      corner: h("span", {}, "waits ↓ · runs →"),
      caption: "Who waited while who ran, in cores",
      cluster: cluster.name,
      left: { rows: left.length, columns: left.length },
      groups: [SUM, SELF],
    }),
    h(
      "p",
      { class: "readout", "data-readout": "Point at a cell, or walk with the arrow keys." },
      "Point at a cell, or walk with the arrow keys.",
    ),
    h(
      "div",
      { class: "legend" },
      scale(),
      h("span", {}, h("span", { class: "swatch own" }), "the tenant itself"),
      h("span", {}, h("span", { class: "swatch c4" }), "nobody's fault: own tasks, the system, idle CPUs, limits"),
      h("span", { class: "muted" }, "0.01 cores make a victim, by the default policy"),
    ),
    silent.length
      ? h(
          "p",
          { class: "note warn" },
          `${many(silent.length, "node")} did not report lately: ${silent
            .slice(0, 5)
            .map((n) => plain(n.name))
            .join(", ")}. What happened there is not in it.`,
        )
      : null,
  ];
}
