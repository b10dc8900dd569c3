// All tenants at a glance.

import { h } from "./dom.js";
import { bytes, cores, count, many, percent, plain, rate } from "./format.js";
import {
  SYSTEM,
  bar,
  card,
  classWords,
  empty,
  heat,
  isStolen,
  isTenant,
  link,
  search,
  shareBar,
  table,
  tenant,
  verdictTag,
} from "./parts.js";
import { breachesOf, feedItem, reports, seen, sum } from "./seen.js";

function figures(clusters, cluster) {
  const nodes = clusters.flatMap((c) => c.nodes);
  const tenants = clusters.flatMap((c) => c.tenants);
  const breaches = breachesOf(clusters);
  const firing = breaches.filter((b) => b.state === "firing");
  const reporting = nodes.filter(reports);
  const covered = nodes.length ? sum(nodes, (n) => n.covered) / nodes.length : 0;
  const holes = new Set(
    clusters.flatMap((c) =>
      c.traffic
        .filter((t) => t.verdict === "leaked" || t.verdict === "open")
        .map((t) => `${c.name}\n${t.from}\n${t.to}`),
    ),
  );
  const stolen = sum(
    tenants.filter((t) => t.resolved_by !== "system"),
    (t) => t.stolen_cores,
  );
  const left = sum(clusters, (c) => c.breaches_left_out);
  const kpi = (view, label, value, note, cls = "") =>
    h(
      "a",
      { class: `kpi ${cls}`, href: link({ [view]: true, cluster }) },
      h("span", { class: "label" }, label),
      h("span", { class: "value" }, value),
      h("span", { class: "note" }, note),
    );
  return h(
    "div",
    { class: "kpis" },
    kpi(
      "breaches",
      "Firing breaches",
      count(firing.length),
      breaches.length - firing.length + left > 0
        ? `${many(breaches.length - firing.length + left, "more", "more")} not yet`
        : firing.length
          ? "each with evidence"
          : "nothing broken now",
      firing.length ? "bad" : "good",
    ),
    kpi(
      "ledger",
      "Waited for other tenants",
      h("span", {}, cores(stolen), h("small", {}, " cores")),
      "while somebody else's tasks ran",
      stolen >= 0.01 ? "warm" : "",
    ),
    kpi(
      "fence",
      "Pairs with a hole in the fence",
      count(holes.size),
      "open or leaked since the start",
      holes.size ? "warm" : "",
    ),
    kpi(
      "nodes",
      "CPU in use",
      h("span", {}, cores(sum(nodes, (n) => n.used_cores)), h("small", {}, ` of ${count(sum(nodes, (n) => n.cpus))}`)),
      many(tenants.filter((t) => t.name !== SYSTEM).length, "tenant"),
    ),
    kpi(
      "nodes",
      "Nodes that report",
      h("span", {}, count(reporting.length), h("small", {}, ` of ${count(nodes.length)}`)),
      nodes.length ? `${percent(covered)} of the window seen` : "no agent has reported yet",
      reporting.length < nodes.length || !nodes.length ? "bad" : "",
    ),
  );
}

/** Live breaches by the tenant that broke the rule, and by whom it was done to. */
function countBreaches(cluster) {
  const by = new Map();
  for (const b of cluster.breaches) {
    if (b.state !== "firing") continue;
    for (const [name, side] of [
      [b.tenant, 0],
      [b.against, 1],
    ]) {
      if (!name) continue;
      if (!by.has(name)) by.set(name, [0, 0]);
      by.get(name)[side] += 1;
    }
  }
  return by;
}

/** Among those without a breach: who waits or makes wait first, what is nobody's tenant last. */
const weight = (t) =>
  t.name === SYSTEM || !isTenant(t.name) ? -1 : 0.5 * Math.min(1, t.stolen_cores + t.taken_cores);

const COLUMNS = (several) =>
  [
    {
      id: "name",
      label: "Tenant",
      cls: "name",
      by: (r) => classWords(r.t.name) ?? r.t.name,
      cell: (r) => tenant(r.t.name, r.cluster),
    },
    several && { id: "cluster", label: "Cluster", by: (r) => r.cluster, cell: (r) => plain(r.cluster) },
    {
      id: "breaches",
      label: "Breaches",
      title: "Firing: broken by this tenant · done to it",
      descending: true,
      by: (r) => r.broke * 1000 + r.suffers + weight(r.t),
      cell: (r) => tally(r),
    },
    {
      id: "used",
      label: "CPU",
      cls: "num",
      title: "Cores in use, mean over the window",
      descending: true,
      by: (r) => r.t.used_cores,
      cell: (r) => cores(r.t.used_cores),
    },
    {
      id: "share",
      label: "of what was promised",
      cls: "wide bars",
      title: "Use against the sum of requests (tick) and the quota (double tick)",
      descending: true,
      by: (r) => (r.t.entitled_cores ? r.t.used_cores / r.t.entitled_cores : r.t.used_cores * 1e6),
      cell: (r) => [
        bar(
          r.t.used_cores,
          r.t.entitled_cores,
          r.t.quota_cores,
          `${cores(r.t.used_cores)} used, ${cores(r.t.entitled_cores)} promised${r.t.quota_cores === null ? "" : `, quota ${cores(r.t.quota_cores)}`}`,
        ),
        h("span", { class: "muted small" }, r.t.entitled_cores ? cores(r.t.entitled_cores) : "nothing"),
      ],
    },
    {
      id: "quota",
      label: "Quota",
      cls: "num wide",
      title: "Cores that it may use in all",
      descending: true,
      by: (r) => r.t.quota_cores,
      cell: (r) => cores(r.t.quota_cores),
    },
    {
      id: "stolen",
      label: "Waits for others",
      cls: "num",
      title: "Cores that other tenants took while this one's tasks waited",
      descending: true,
      by: (r) => r.t.stolen_cores,
      cell: (r) => heat(r.t.stolen_cores),
    },
    {
      id: "taken",
      label: "Makes wait",
      cls: "num",
      title: "Cores that this tenant had while others' tasks waited for them",
      descending: true,
      by: (r) => r.t.taken_cores,
      cell: (r) => heat(r.t.taken_cores),
    },
    {
      id: "memory",
      label: "Memory",
      cls: "num",
      title: "Working set; where no node tells, memory with its cache",
      descending: true,
      by: (r) => r.t.working_set_bytes ?? r.t.memory_bytes,
      cell: (r) => bytes(r.t.working_set_bytes ?? r.t.memory_bytes),
    },
    { id: "pods", label: "Pods", cls: "num", descending: true, by: (r) => r.t.pods, cell: (r) => count(r.t.pods) },
  ].filter(Boolean);

function tally(r) {
  if (!r.broke && !r.suffers) return h("span", { class: "muted" }, "–");
  return h(
    "span",
    { class: "tally" },
    r.broke ? h("b", { class: "broke", title: "broken by this tenant" }, `${r.broke} by it`) : null,
    r.suffers ? h("span", { class: "suffers", title: "done to this tenant" }, `${r.suffers} to it`) : null,
  );
}

export function overview(all, ui) {
  const clusters = ui.clusters(all);
  const { cluster } = ui.route;
  const rows = clusters.flatMap((c) => {
    const counted = countBreaches(c);
    return c.tenants.map((t) => {
      const [broke, suffers] = counted.get(t.name) ?? [0, 0];
      return { key: `${c.name}\n${t.name}`, cluster: c.name, t, broke, suffers };
    });
  });
  const wanted = ui.filter.tenants.toLowerCase();
  const found = rows.filter(
    (r) => r.t.name.toLowerCase().includes(wanted) || r.t.namespaces.some((n) => n.toLowerCase().includes(wanted)),
  );
  const breaches = breachesOf(clusters);
  const nodes = clusters.flatMap((c) => c.nodes);
  return h(
    "div",
    { class: "view", key: "overview" },
    figures(clusters, cluster),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "stack" },
        card(
          { class: "grow", id: "tenants" },
          "Tenants",
          search(ui, "tenants", "Name or namespace", "Filter tenants"),
          !rows.length
            ? empty(
                "No tenants yet.",
                nodes.length
                  ? `${many(nodes.length, "node")} ${nodes.length === 1 ? "reports" : "report"}, and no pod has been seen.`
                  : "No agent has reported to this aggregator: is one running, and does its --aggregator lead here?",
              )
            : !found.length
              ? empty(`No tenant has “${plain(ui.filter.tenants)}” in its name.`, `There are ${rows.length}.`)
              : table(
                  "tenant-table",
                  COLUMNS(clusters.length > 1),
                  found,
                  ui.order["tenant-table"],
                  "Tenants: use, promise, waits and breaches",
                ),
        ),
        rows.length ? h("div", { class: "columns even" }, worstWaits(clusters, cluster), holes(clusters, cluster)) : null,
      ),
      card(
        { class: "side", id: "now" },
        "Breaches now",
        breaches.length > 8 ? h("a", { href: link({ breaches: true, cluster }) }, `all ${breaches.length}`) : null,
        breaches.length
          ? h(
              "ul",
              { class: "feed" },
              breaches.slice(0, 8).map((b) => feedItem(b, cluster)),
            )
          : empty("Nothing is broken.", seen(nodes)),
      ),
    ),
  );
}

/** The pairs of different tenants that wait most. */
function worstWaits(clusters, chosen) {
  const pairs = clusters.flatMap(({ name: cluster, ledger: { parties, cells } }) =>
    cells
      .filter(([w, r]) => isStolen(parties[w], parties[r]))
      .map(([w, r, value]) => ({
        key: `${cluster}\n${parties[w]}\n${parties[r]}`,
        cluster,
        waiter: parties[w],
        runner: parties[r],
        value,
      })),
  );
  const most = pairs.sort((a, b) => b.value - a.value).slice(0, 8);
  return card(
    { id: "worst-waits" },
    "Who waits for whom",
    h("a", { href: link({ ledger: true, cluster: chosen }) }, "ledger"),
    most.length
      ? h(
          "ol",
          { class: "ranks pairs" },
          most.map((p) =>
            h(
              "li",
              { key: p.key },
              h(
                "span",
                { class: "who" },
                tenant(p.waiter, p.cluster),
                h("span", { class: "muted" }, " waits for "),
                tenant(p.runner, p.cluster),
              ),
              shareBar(p.value / most[0].value, "waits"),
              h("span", { class: "num" }, cores(p.value)),
            ),
          ),
        )
      : empty("No tenant waited for another.", seen(clusters.flatMap((c) => c.nodes))),
  );
}

/** What passed between tenants that nothing admits, the worst first. */
function holes(clusters, chosen) {
  const worse = ["leaked", "open"];
  const rows = clusters.flatMap((c) =>
    c.traffic.filter((t) => worse.includes(t.verdict)).map((t) => ({ ...t, cluster: c.name })),
  );
  rows.sort(
    (a, b) =>
      worse.indexOf(a.verdict) - worse.indexOf(b.verdict) ||
      b.bytes_per_second - a.bytes_per_second ||
      b.bytes - a.bytes,
  );
  return card(
    { id: "holes" },
    "Holes in the fence",
    h("a", { href: link({ fence: true, cluster: chosen }) }, rows.length > 8 ? `all ${rows.length}` : "fence"),
    rows.length
      ? h(
          "ol",
          { class: "ranks holes" },
          rows
            .slice(0, 8)
            .map((t) =>
              h(
                "li",
                { key: `${t.cluster}\n${t.from}\n${t.to}\n${t.verdict}` },
                h(
                  "a",
                  { class: "plain", href: link({ fence: true, cluster: t.cluster, from: t.from, to: t.to }) },
                  verdictTag(t.verdict),
                ),
                h(
                  "span",
                  { class: "who" },
                  tenant(t.from, t.cluster),
                  h("span", { class: "muted" }, " → "),
                  tenant(t.to, t.cluster),
                ),
                h("span", { class: "num muted" }, rate(t.bytes_per_second)),
              ),
            ),
        )
      : empty(
          "None was seen.",
          "Nothing passed between tenants that a policy denies or that no policy is about, since the aggregator's start.",
        ),
  );
}
