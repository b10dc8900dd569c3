// One tenant closely, and the table of pods.

import { h } from "./dom.js";
import { detail, line } from "./feed.js";
import { bytes, cores, count, duration, many, plain, rate } from "./format.js";
import {
  bar,
  card,
  empty,
  facts,
  heat,
  isStolen,
  link,
  nodeLink,
  shareBar,
  spark,
  table,
  tenant,
  told,
  verdictTag,
} from "./parts.js";
import { feedItem } from "./seen.js";

/** Who ran while it waited, or who waited while it ran. */
function ledgerList(cluster, name, side) {
  const { parties, cells } = cluster.ledger;
  const at = parties.indexOf(name);
  const [mine, other] = side === "waits" ? [0, 1] : [1, 0];
  const rows = cells
    .filter((c) => c[mine] === at)
    .map((c) => [parties[c[other]], c[2]])
    .sort((a, b) => b[1] - a[1]);
  if (!rows.length)
    return empty(
      side === "waits" ? "It did not wait." : "Nobody waited for it.",
      "In this window, on any node that reports.",
    );
  const most = rows[0][1];
  return h(
    "ol",
    { class: "ranks" },
    rows
      .slice(0, 10)
      .map(([party, value]) =>
        h(
          "li",
          { key: party },
          h(
            "span",
            { class: "who" },
            party === name ? h("span", { class: "class" }, "itself") : tenant(party, cluster.name),
          ),
          shareBar(value / most, (side === "waits" ? isStolen(name, party) : isStolen(party, name)) ? "waits" : "calm"),
          h("span", { class: "num" }, cores(value)),
        ),
      ),
    rows.length > 10 ? h("li", { class: "muted" }, `and ${rows.length - 10} more`) : null,
  );
}

function trafficRows(cluster, name) {
  const rows = cluster.traffic
    .filter((t) => t.from === name || t.to === name)
    .map((t) => ({ ...t, key: `${t.from}\n${t.to}\n${t.verdict}` }));
  if (!rows.length)
    return empty(
      "Nothing crossed.",
      "No flow between this tenant and another, or the outside, was seen since the aggregator's start.",
    );
  const columns = [
    { id: "from", label: "From", by: (r) => r.from, cell: (r) => tenant(r.from, cluster.name) },
    { id: "to", label: "To", by: (r) => r.to, cell: (r) => tenant(r.to, cluster.name) },
    {
      id: "verdict",
      label: "Verdict",
      by: (r) => r.verdict,
      cell: (r) =>
        h(
          "a",
          { class: "plain", href: link({ fence: true, cluster: cluster.name, from: r.from, to: r.to }) },
          verdictTag(r.verdict),
        ),
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
      id: "connections",
      label: "Connections",
      cls: "num wide",
      descending: true,
      by: (r) => r.connections,
      cell: (r) => count(r.connections),
    },
  ];
  return (ui) => table("traffic-table", columns, rows, ui.order["traffic-table"], "Traffic of this tenant");
}

/** Pods of a tenant, or of a node. */
export const podTable = (id, entry, cluster, ui, withTenant) =>
  told(entry, "The pods cannot be told.", (answer) => pods(id, answer, cluster, ui, withTenant));

function pods(id, answer, cluster, ui, withTenant) {
  const rows = answer.pods.map((p) => ({ ...p, key: `${p.node}\n${p.namespace}\n${p.name}` }));
  if (!rows.length) return empty("No pod was seen.", "None ran in this window on any node that reports.");
  const columns = [
    {
      id: "pod",
      label: "Pod",
      cls: "name",
      by: (r) => `${r.namespace}/${r.name}`,
      cell: (r) =>
        h(
          "span",
          { title: plain(`${r.namespace}/${r.name}`) },
          r.namespace ? h("span", { class: "muted" }, `${plain(r.namespace)}/`) : null,
          plain(r.name),
        ),
    },
    withTenant
      ? { id: "tenant", label: "Tenant", by: (r) => r.tenant, cell: (r) => tenant(r.tenant, cluster) }
      : { id: "node", label: "Node", cls: "wide", by: (r) => r.node, cell: (r) => nodeLink(r.node, cluster) },
    {
      id: "used",
      label: "CPU",
      cls: "num",
      descending: true,
      by: (r) => r.used_cores,
      cell: (r) => cores(r.used_cores),
    },
    {
      id: "promised",
      label: "Promised",
      cls: "num",
      descending: true,
      by: (r) => r.entitled_cores,
      cell: (r) => cores(r.entitled_cores),
    },
    {
      id: "stolen",
      label: "Waits for others",
      cls: "num",
      descending: true,
      by: (r) => r.stolen_cores,
      cell: (r) => heat(r.stolen_cores),
    },
    {
      id: "slowdown",
      label: "Slower",
      cls: "num",
      title: "How much longer it takes than it would alone",
      descending: true,
      by: (r) => r.slowdown,
      cell: (r) => (r.slowdown === null ? "–" : `${r.slowdown.toFixed(2)} ×`),
    },
    {
      id: "throttled",
      label: "Own limit",
      cls: "num wide",
      title: "Waits for its own CPU limit, in cores",
      descending: true,
      by: (r) => r.throttled_cores,
      cell: (r) => cores(r.throttled_cores),
    },
    {
      id: "p99",
      label: "Wait p99",
      cls: "num wide",
      title: "One wait in a hundred is longer",
      descending: true,
      by: (r) => r.wait_p99_seconds,
      cell: (r) => (r.wait_p99_seconds === null ? "–" : duration(r.wait_p99_seconds)),
    },
    {
      id: "memory",
      label: "Memory",
      cls: "num",
      descending: true,
      by: (r) => r.memory_bytes,
      cell: (r) => bytes(r.memory_bytes),
    },
  ];
  return [
    table(id, columns, rows, ui.order[id] ?? { id: "stolen", down: true }, "Pods"),
    answer.pods_left_out
      ? h("p", { class: "note" }, `${many(answer.pods_left_out, "more pod")}; partywall top --once shows all.`)
      : null,
  ];
}

export function oneTenant(all, ui) {
  const { tenant: name, cluster: named } = ui.route;
  const cluster = all.clusters.find((c) => (named ? c.name === named : c.tenants.some((t) => t.name === name)));
  const t = cluster?.tenants.find((one) => one.name === name);
  if (!t)
    return h(
      "div",
      { class: "view", key: "gone" },
      card(
        {},
        plain(name),
        null,
        empty(
          "This tenant is not known now.",
          "It has no namespace, and none of its pods ran in this window. Its past may be in the breaches' history.",
        ),
      ),
    );
  const breaches = cluster.breaches.filter((b) => b.tenant === name || b.against === name);
  const points = line(cluster.name, name);
  const rows = trafficRows(cluster, name);
  const entry = detail(
    `api/tenant?cluster=${encodeURIComponent(cluster.name)}&name=${encodeURIComponent(name)}`,
    ui.redraw,
  );
  return h(
    "div",
    { class: "view", key: `tenant ${cluster.name} ${name}` },
    h(
      "div",
      { class: "title" },
      h("a", { href: link({ overview: true, cluster: named }), class: "back" }, "Tenants"),
      h("h1", {}, plain(name)),
      h(
        "p",
        { class: "muted" },
        all.clusters.length > 1 ? `cluster ${plain(cluster.name)}; ` : "",
        t.namespaces.length
          ? `${t.namespaces.length === 1 ? "namespace" : "namespaces"} ${t.namespaces.slice(0, 12).map(plain).join(", ")}${t.namespaces.length > 12 ? ` and ${t.namespaces.length - 12} more` : ""}`
          : "no namespace",
        ` · named by ${t.resolved_by}`,
      ),
    ),
    card(
      { id: "use" },
      "Use",
      h("span", { class: "muted" }, `mean over ${duration(cluster.window_seconds)}`),
      h(
        "div",
        { class: "useline" },
        bar(t.used_cores, t.entitled_cores, t.quota_cores, `${cores(t.used_cores)} cores used`),
      ),
      facts([
        ["CPU", `${cores(t.used_cores)} cores`],
        ["promised", `${cores(t.entitled_cores)} cores`, "The sum of its pods' requests"],
        ["quota", t.quota_cores === null ? "none" : `${cores(t.quota_cores)} cores`],
        ["memory", bytes(t.working_set_bytes ?? t.memory_bytes), "Working set"],
        ["memory promised", bytes(t.requested_memory_bytes), "The sum of its pods' memory requests"],
        ["memory quota", t.quota_memory_bytes === null ? "none" : bytes(t.quota_memory_bytes)],
        ["pods", t.quota_pods === null ? count(t.pods) : `${count(t.pods)} of ${count(t.quota_pods)}`],
        t.node_stall !== null && [
          "stalled, node low",
          `${duration(t.node_stall)}/s`,
          "Time its tasks spent reclaiming memory because the node ran low",
        ],
        t.limit_stall !== null && [
          "stalled, own limit",
          `${duration(t.limit_stall)}/s`,
          "Time its tasks spent reclaiming memory because a limit of its own was reached",
        ],
      ]),
      h(
        "div",
        { class: "sparks" },
        spark(points, (p) => p.used, "CPU in use", "used"),
        spark(points, (p) => p.stolen, "waits for others", "waits"),
        spark(points, (p) => p.taken, "makes others wait", "waits"),
      ),
    ),
    breaches.length
      ? card(
          { id: "tenant-breaches" },
          "Breaches",
          null,
          h(
            "ul",
            { class: "feed" },
            breaches.map((b) => feedItem(b, named)),
          ),
        )
      : null,
    h(
      "div",
      { class: "columns even" },
      card(
        { id: "waits-for" },
        "Waits while these run",
        h("span", { class: "muted" }, "cores"),
        ledgerList(cluster, name, "waits"),
      ),
      card(
        { id: "makes-wait" },
        "Runs while these wait",
        h("span", { class: "muted" }, "cores"),
        ledgerList(cluster, name, "taken"),
      ),
    ),
    card(
      { id: "crosses" },
      "Across the fence",
      h("a", { href: link({ fence: true, cluster: cluster.name }) }, "all tenants"),
      typeof rows === "function" ? rows(ui) : rows,
    ),
    card({ id: "pods" }, "Pods", null, podTable("pod-table", entry, cluster.name, ui, false)),
  );
}
