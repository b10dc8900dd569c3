// Who reached whom, and what the fence says of it.

import { h } from "./dom.js";
import { detail } from "./feed.js";
import { bytes, clock, count, many, plain, rate } from "./format.js";
import { OTHER, largest, matrix } from "./matrix.js";
import { seen } from "./seen.js";
import {
  SYSTEM,
  VERDICTS,
  card,
  empty,
  facts,
  link,
  search,
  table,
  tenant,
  told,
  verdictIcon,
  verdictTag,
} from "./parts.js";

const ORDER = Object.keys(VERDICTS);
const SIZES = [12, 24, 48, 96];
/** Neither is anybody's tenant. */
const NEUTRAL = new Set([SYSTEM, "<outside>"]);

export function fence(all, ui) {
  const clusters = ui.clusters(all);
  const cluster = clusters[0];
  const { from, to } = ui.route;
  const traffic = cluster.traffic.filter((t) => ui.flags.neutral || !(NEUTRAL.has(t.from) || NEUTRAL.has(t.to)));
  const by = new Map();
  for (const t of cluster.traffic) if (t.from !== t.to) by.set(t.verdict, (by.get(t.verdict) ?? 0) + 1);
  return h(
    "div",
    { class: "view", key: "fence" },
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Across the fence"),
      h(
        "p",
        { class: "muted" },
        "Who opened traffic to whom, and what the policies in force say of it. Since the aggregator's start.",
        clusters.length > 1 ? ` Cluster ${plain(cluster.name)}: choose another above.` : "",
      ),
    ),
    h(
      "ul",
      { class: "verdicts" },
      ORDER.map((v) =>
        h(
          "li",
          { class: by.get(v) ? "" : "none", key: v },
          verdictTag(v),
          h("b", {}, count(by.get(v) ?? 0)),
          h("span", { class: "muted" }, VERDICTS[v].words),
        ),
      ),
    ),
    card(
      { id: "fence", class: "flush" },
      "Cross-tenant map",
      [
        h(
          "label",
          { class: "check" },
          h("input", { type: "checkbox", key: "neutral", "data-flag": "neutral", checked: ui.flags.neutral }),
          "with system and outside",
        ),
        h(
          "label",
          {},
          "Show ",
          h(
            "select",
            { "data-size": "fence", key: "size" },
            SIZES.map((n) => h("option", { value: n, selected: n === ui.sizes.fence }, `the ${n} largest`)),
          ),
        ),
        search(ui, "fence", "Tenant", "Bring a tenant in"),
      ],
      traffic.length ? map(traffic, cluster, ui) : empty("No flows seen between tenants.", nothing(cluster)),
    ),
    from || to ? pair(cluster, from ?? "", to ?? "", ui) : null,
    unnamed(cluster),
  );
}

/** Why the map is empty: there may be nothing, or nothing may have been looked at. */
function nothing(cluster) {
  const blind = cluster.nodes.filter((n) => n.features.some((f) => f.name === "flows" && !f.present));
  const hidden = cluster.traffic.length
    ? ` ${many(cluster.traffic.length, "row")} of system and the outside ${cluster.traffic.length === 1 ? "is" : "are"} hidden.`
    : "";
  return `${seen(cluster.nodes)}${blind.length ? ` On ${many(blind.length, "node")} flows are not seen: ${plain(blind[0].features.find((f) => f.name === "flows").reason)}.` : ""}${hidden}`;
}

function map(traffic, cluster, ui) {
  const weights = new Map();
  const worst = (v) => 10 ** (ORDER.length - ORDER.indexOf(v));
  for (const t of traffic)
    for (const name of [t.from, t.to])
      weights.set(name, (weights.get(name) ?? 0) + worst(t.verdict) + Math.log1p(t.bytes) / 100);
  const wanted = ui.filter.fence.toLowerCase();
  const always = wanted ? [...weights.keys()].filter((name) => name.toLowerCase().includes(wanted)) : [];
  const { shown, left } = largest(weights, ui.sizes.fence, always);
  const as = (name) => (shown.includes(name) ? name : OTHER);
  const cells = new Map();
  for (const t of traffic) {
    const key = `${as(t.from)}\n${as(t.to)}`;
    const cell = cells.get(key) ?? new Map();
    const sum = cell.get(t.verdict) ?? { bytes: 0, rate: 0, connections: 0 };
    sum.bytes += t.bytes;
    sum.rate += t.bytes_per_second;
    sum.connections += t.connections;
    cells.set(key, cell.set(t.verdict, sum));
  }
  const names = left.length ? [...shown, OTHER] : shown;
  const cell = (row, column) => {
    const found = cells.get(`${row}\n${column}`);
    if (!found) return row === column ? { cls: "own" } : null;
    const verdicts = ORDER.filter((v) => found.has(v));
    const label = (name) => (name === OTHER ? `${left.length} others` : plain(name));
    const says = `${label(row)} → ${label(column)}: ${verdicts.map((v) => `${v} ${bytes(found.get(v).bytes)} in ${many(found.get(v).connections, "connection")}, now ${rate(found.get(v).rate)}`).join("; ")}`;
    const href =
      row === OTHER || column === OTHER ? null : link({ fence: true, cluster: cluster.name, from: row, to: column });
    const chosen = row === ui.route.from && column === ui.route.to;
    return {
      cls: `mark m-${verdicts[0]}${chosen ? " chosen" : ""}`,
      content: [
        verdicts.map((v) => verdictIcon(v)),
        names.length <= 12 ? h("small", {}, rate(verdicts.reduce((sum, v) => sum + found.get(v).rate, 0))) : null,
      ],
      says,
      value: verdicts.join(" "),
      href,
    };
  };
  return [
    matrix({
      id: "fence-grid",
      rows: names,
      columns: names,
      cell,
      corner: h("span", {}, "opened by ↓ · to →"),
      caption: "Who opened traffic to whom, by verdict",
      cluster: cluster.name,
      left: { rows: left.length, columns: left.length },
    }),
    h(
      "p",
      { class: "readout", "data-readout": "Point at a cell; choose one to see its flows." },
      "Point at a cell; choose one to see its flows.",
    ),
  ];
}

const end = (e, cluster) => {
  const name = e.pod ? `${plain(e.namespace)}/${plain(e.pod)}` : e.kind || e.unattributed || "";
  return h(
    "span",
    { class: "end" },
    e.tenant ? tenant(e.tenant, cluster) : null,
    h("span", { class: "muted small" }, name ? `${name} ` : "", plain(e.address)),
  );
};

/** The flows of one cell, each with its reason. */
function pair(cluster, from, to, ui) {
  const entry = detail(
    `api/flows?cluster=${encodeURIComponent(cluster.name)}&from=${encodeURIComponent(from)}&to=${encodeURIComponent(to)}`,
    ui.redraw,
  );
  const close = h("a", { href: link({ fence: true, cluster: ui.route.cluster }) }, "close");
  const heading = h("span", {}, plain(from || "anybody"), " → ", plain(to || "anybody"));
  return card(
    { id: "flows", key: "flows" },
    heading,
    close,
    told(entry, "The flows cannot be told.", (answer) => flows(answer, cluster, from, to, ui)),
  );
}

function flows(answer, cluster, from, to, ui) {
  const rows = answer.flows.map((f) => ({
    ...f,
    key: [f.from.address, f.to.address, f.protocol, f.port, f.from.pod, f.to.pod].join("\n"),
  }));
  const columns = [
    { id: "verdict", label: "Verdict", by: (r) => ORDER.indexOf(r.verdict), cell: (r) => verdictTag(r.verdict) },
    { id: "from", label: "From", by: (r) => r.from.pod, cell: (r) => end(r.from, cluster.name) },
    { id: "to", label: "To", by: (r) => r.to.pod, cell: (r) => end(r.to, cluster.name) },
    {
      id: "port",
      label: "Port",
      cls: "num",
      by: (r) => r.port,
      cell: (r) => (r.port ? `${r.port}/${r.protocol}` : r.protocol),
    },
    {
      id: "rate",
      label: "Now",
      cls: "num",
      descending: true,
      by: (r) => r.bytes_per_second,
      cell: (r) => rate(r.bytes_per_second),
    },
    { id: "bytes", label: "In all", cls: "num", descending: true, by: (r) => r.bytes, cell: (r) => bytes(r.bytes) },
    {
      id: "last",
      label: "Last seen",
      cls: "num wide",
      descending: true,
      by: (r) => r.last_seen_unix_ms,
      cell: (r) => clock(r.last_seen_unix_ms),
    },
    {
      id: "reason",
      label: "Why",
      cls: "reason",
      cell: (r) =>
        h(
          "span",
          {},
          plain(r.reason),
          h("span", { class: "muted small" }, ` seen by ${r.seen_by === "both" ? "both ends" : `the ${r.seen_by}`}`),
        ),
    },
  ];
  return [
    rows.length
      ? table(
          "flow-table",
          columns,
          rows,
          ui.order["flow-table"] ?? { id: "bytes", down: true },
          "Flows between these two",
        )
      : empty(
          "No flow of these two is remembered now.",
          "The sums above last longer than the flows that they are made of.",
        ),
    answer.left_out
      ? h(
          "p",
          { class: "note" },
          `${many(answer.left_out, "more flow")}: partywall flows --from ${plain(from)} --to ${plain(to)}`,
        )
      : null,
  ];
}

/** What is not in the map, and why. */
function unnamed(cluster) {
  const words = (reason) => reason.replaceAll("_", " ");
  const rows = cluster.unattributed.filter((u) => u.bytes > 0);
  const folded = cluster.folded.filter((f) => f.bytes > 0);
  if (!rows.length && !folded.length) return null;
  return card(
    { id: "unnamed" },
    "Not in the map",
    h("span", { class: "muted" }, "one end cannot be named, or there was no room to tell flows apart"),
    facts(
      [
        ...rows.map((u) => [words(u.reason), `${bytes(u.bytes)}, now ${rate(u.bytes_per_second)}`]),
        ...folded.map((f) => [`${plain(f.tenant)}: no room`, `${bytes(f.bytes)}, now ${rate(f.bytes_per_second)}`]),
      ],
      "stack",
    ),
  );
}
