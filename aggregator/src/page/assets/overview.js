// All tenants at a glance, and one tenant closely.

import { h } from "./dom.js";
import { detail, line } from "./feed.js";
import { bytes, cores, count, duration, many, percent, plain, rate } from "./format.js";
import {
  bar,
  card,
  classWords,
  empty,
  facts,
  isTenant,
  kindTag,
  link,
  nodeLink,
  shareBar,
  spark,
  stateTag,
  table,
  tenant,
  verdictTag,
} from "./parts.js";

const sum = (rows, pick) => rows.reduce((all, row) => all + (pick(row) ?? 0), 0);

/** A node that has been silent for longer than this is counted as such. */
export const SILENT_SECONDS = 5;
export const reports = (node) => node.age_seconds <= SILENT_SECONDS;

/** Live breaches of all clusters, as the aggregator has them: what fires first. */
export const breachesOf = (clusters) =>
  clusters
    .flatMap((c) => c.breaches)
    .sort((a, b) => (a.state === b.state ? b.since_unix_ms - a.since_unix_ms : a.state === "firing" ? -1 : 1));

function figures(clusters) {
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
  const kpi = (href, label, value, note, cls = "") =>
    h(
      "a",
      { class: `kpi ${cls}`, href },
      h("span", { class: "label" }, label),
      h("span", { class: "value" }, value),
      h("span", { class: "note" }, note),
    );
  return h(
    "div",
    { class: "kpis" },
    kpi(
      "#breaches",
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
      "#ledger",
      "Waited for other tenants",
      h("span", {}, cores(stolen), h("small", {}, " cores")),
      "while somebody else's tasks ran",
      stolen >= 0.01 ? "warm" : "",
    ),
    kpi(
      "#fence",
      "Pairs with a hole in the fence",
      count(holes.size),
      "open or leaked since the start",
      holes.size ? "warm" : "",
    ),
    kpi(
      "#nodes",
      "CPU in use",
      h("span", {}, cores(sum(nodes, (n) => n.used_cores)), h("small", {}, ` of ${count(sum(nodes, (n) => n.cpus))}`)),
      many(tenants.filter((t) => t.name !== "system").length, "tenant"),
    ),
    kpi(
      "#nodes",
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
  t.name === "system" || !isTenant(t.name) ? -1 : 0.5 * Math.min(1, t.stolen_cores + t.taken_cores);

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

const heat = (n) => h("span", { class: n >= 0.01 ? "hot" : "" }, cores(n));

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
    figures(clusters),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "stack" },
        card(
          { class: "grow", id: "tenants" },
          "Tenants",
          h("input", {
            type: "search",
            key: "filter",
            placeholder: "Name or namespace",
            "aria-label": "Filter tenants",
            "data-filter": "tenants",
          }),
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
        rows.length ? h("div", { class: "columns even" }, worstWaits(clusters), holes(clusters)) : null,
      ),
      card(
        { class: "side", id: "now" },
        "Breaches now",
        breaches.length > 8 ? h("a", { href: "#breaches" }, `all ${breaches.length}`) : null,
        breaches.length
          ? h(
              "ul",
              { class: "feed" },
              breaches.slice(0, 8).map((b) => feedItem(b)),
            )
          : empty("Nothing is broken.", seen(nodes)),
      ),
    ),
  );
}

/** The pairs of different tenants that wait most. */
function worstWaits(clusters) {
  const pairs = clusters.flatMap(({ name: cluster, ledger: { parties, cells } }) =>
    cells
      .filter(([w, r]) => w !== r && isTenant(parties[w]) && isTenant(parties[r]))
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
    h("a", { href: "#ledger" }, "ledger"),
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
function holes(clusters) {
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
    h("a", { href: "#fence" }, rows.length > 8 ? `all ${rows.length}` : "fence"),
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

/** How much the silence is worth. */
export function seen(nodes) {
  if (!nodes.length) return "And nothing is seen: no agent has reported yet.";
  const reporting = nodes.filter(reports).length;
  const covered = sum(nodes, (n) => n.covered) / nodes.length;
  return `${reporting} of ${many(nodes.length, "node")} ${reporting === 1 ? "reports" : "report"}; ${percent(covered)} of the window was seen.`;
}

const feedItem = (b) =>
  h(
    "li",
    { key: b.fingerprint, class: b.state },
    h(
      "a",
      { href: link({ breach: b.fingerprint }) },
      h(
        "span",
        { class: "line" },
        kindTag(b.kind),
        stateTag(b.state),
        h("span", { class: "muted since" }, duration((Date.now() - b.since_unix_ms) / 1000)),
      ),
      h("span", { class: "summary" }, plain(b.summary)),
    ),
  );

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
          shareBar(value / most, isTenant(party) && party !== name ? "waits" : "calm"),
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
export function podTable(id, entry, cluster, ui, withTenant) {
  if (!entry.answer)
    return entry.problem
      ? empty("The pods cannot be told.", plain(entry.problem))
      : h("p", { class: "loading" }, "Asking…");
  const rows = entry.answer.pods.map((p) => ({ ...p, key: `${p.node}\n${p.namespace}\n${p.name}` }));
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
    entry.answer.pods_left_out
      ? h("p", { class: "note" }, `${many(entry.answer.pods_left_out, "more pod")}; partywall top --pods shows all.`)
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
  const pods = detail(
    `api/tenant?cluster=${encodeURIComponent(cluster.name)}&name=${encodeURIComponent(name)}`,
    ui.redraw,
  );
  return h(
    "div",
    { class: "view", key: `tenant ${cluster.name} ${name}` },
    h(
      "div",
      { class: "title" },
      h("a", { href: "#overview", class: "back" }, "Tenants"),
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
            breaches.map((b) => feedItem(b)),
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
      h("a", { href: "#fence" }, "all tenants"),
      typeof rows === "function" ? rows(ui) : rows,
    ),
    card({ id: "pods" }, "Pods", null, podTable("pod-table", pods, cluster.name, ui, false)),
  );
}
