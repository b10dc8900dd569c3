// Where it is seen from, how well, and what that costs.

import { h } from "./dom.js";
import { detail } from "./feed.js";
import { bytes, cores, count, duration, many, percent, plain } from "./format.js";
import { reports } from "./seen.js";
import { podTable } from "./tenant.js";
import { bar, card, empty, facts, link, nodeLink, search, shareBar, table } from "./parts.js";

const lost = (losses) => losses.reduce((sum, l) => sum + (l.count > 0 ? 1 : 0), 0);
const off = (node) => node.features.filter((f) => !f.present);

const age = (n) =>
  h(
    "span",
    { class: reports(n) ? "" : "bad" },
    reports(n) ? duration(n.age_seconds) : `silent for ${duration(n.age_seconds)}`,
  );

const coverage = (n) =>
  h(
    "span",
    { class: "pair" },
    shareBar(n.covered, n.covered < 0.9 ? "short" : "whole"),
    h("span", { class: "num" }, percent(n.covered)),
  );

const place = (n) => [n.zone || n.region || "", n.hybrid ? "hybrid" : ""].filter(Boolean).map(plain).join(", ") || "–";

function columns(several) {
  return [
    { id: "name", label: "Node", cls: "name", by: (r) => r.n.name, cell: (r) => nodeLink(r.n.name, r.cluster) },
    several && { id: "cluster", label: "Cluster", by: (r) => r.cluster, cell: (r) => plain(r.cluster) },
    { id: "zone", label: "Zone", cls: "wide", by: (r) => place(r.n), cell: (r) => place(r.n) },
    {
      id: "age",
      label: "Last report",
      cls: "num",
      descending: true,
      by: (r) => r.n.age_seconds,
      cell: (r) => age(r.n),
    },
    {
      id: "covered",
      label: "Seen",
      title: "Share of the window that its reports cover",
      by: (r) => r.n.covered,
      cell: (r) => coverage(r.n),
    },
    {
      id: "used",
      label: "CPU",
      cls: "num",
      descending: true,
      by: (r) => r.n.used_cores / r.n.cpus,
      cell: (r) => h("span", {}, cores(r.n.used_cores), h("span", { class: "muted" }, ` of ${r.n.cpus}`)),
    },
    {
      id: "off",
      label: "Off",
      cls: "num",
      title: "Features that this node's agent has not",
      descending: true,
      by: (r) => off(r.n).length,
      cell: (r) =>
        off(r.n).length
          ? h(
              "a",
              {
                href: link({ node: r.n.name, cluster: r.cluster }),
                title: off(r.n)
                  .map((f) => `${f.name}: ${f.reason}`)
                  .join("\n"),
              },
              count(off(r.n).length),
            )
          : h("span", { class: "muted" }, "–"),
    },
    {
      id: "losses",
      label: "Losses",
      cls: "num",
      title: "Places at which something was lost",
      descending: true,
      by: (r) => lost(r.n.losses),
      cell: (r) =>
        lost(r.n.losses)
          ? h("a", { href: link({ node: r.n.name, cluster: r.cluster }) }, count(lost(r.n.losses)))
          : h("span", { class: "muted" }, "–"),
    },
    {
      id: "cost",
      label: "Agent's CPU",
      cls: "num",
      title: "Of one core",
      descending: true,
      by: (r) => r.n.agent_cores,
      cell: (r) => percent(r.n.agent_cores, 2),
    },
    {
      id: "memory",
      label: "Agent's memory",
      cls: "num",
      title: "Without its maps, which are the kernel's",
      descending: true,
      by: (r) => r.n.agent_memory_bytes,
      cell: (r) => bytes(r.n.agent_memory_bytes),
    },
    {
      id: "clock",
      label: "Clock",
      cls: "num wide",
      title: "Its wall clock minus the aggregator's",
      by: (r) => Math.abs(r.n.clock_offset_seconds ?? 0),
      cell: (r) =>
        r.n.clock_offset_seconds === null
          ? "–"
          : `${r.n.clock_offset_seconds < 0 ? "−" : "+"}${duration(Math.abs(r.n.clock_offset_seconds))}`,
    },
    {
      id: "oom",
      label: "OOM kills",
      cls: "num wide",
      descending: true,
      by: (r) => r.n.oom_kills,
      cell: (r) => count(r.n.oom_kills),
    },
  ].filter(Boolean);
}

export function nodes(all, ui) {
  const clusters = ui.clusters(all);
  const rows = clusters.flatMap((c) => c.nodes.map((n) => ({ key: `${c.name}\n${n.name}`, cluster: c.name, n })));
  const wanted = ui.filter.nodes.toLowerCase();
  const found = rows.filter((r) =>
    [r.n.name, r.n.zone, r.n.region].some((text) => text.toLowerCase().includes(wanted)),
  );
  const silent = rows.filter((r) => !reports(r.n)).length;
  return h(
    "div",
    { class: "view", key: "nodes" },
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Nodes and coverage"),
      h("p", { class: "muted" }, "What is seen, how well, and what that costs. What is not seen is said here."),
    ),
    card(
      { id: "nodes" },
      silent
        ? `${rows.length - silent} of ${many(rows.length, "node")} ${rows.length - silent === 1 ? "reports" : "report"}`
        : many(rows.length, "node"),
      search(ui, "nodes", "Node or zone", "Filter nodes"),
      !rows.length
        ? empty(
            "No node has reported.",
            "Agents begin when they are started on nodes: the chart's DaemonSet does that; --aggregator must lead here.",
          )
        : found.length
          ? table("node-table", columns(clusters.length > 1), found, ui.order["node-table"], "Nodes: coverage and cost")
          : empty(`No node has “${plain(ui.filter.nodes)}” in its name or zone.`, `There are ${rows.length}.`),
    ),
    card(
      { id: "clusters" },
      all.clusters.length > 1 ? "Clusters" : "Cluster",
      h("span", { class: "muted" }, "where names and rules come from"),
      clusters.map((c) => source(c)),
    ),
    card(
      { id: "own-losses" },
      "Lost at the aggregator",
      h("span", { class: "muted" }, "since its start"),
      lossList(all.losses, "What it was told it has kept, named and counted."),
    ),
  );
}

function source(c) {
  const how = { api: "the Kubernetes API", files: "files", none: "nothing: no pod has a name" }[c.source] ?? c.source;
  return h(
    "div",
    { class: "cluster", key: c.name },
    facts([
      ["cluster", plain(c.name)],
      ["named by", how],
      ["namespaces", count(c.namespaces)],
      ["pods", count(c.known_pods)],
      c.source === "api" && ["heard of", c.age_seconds === null ? "never" : `${duration(c.age_seconds)} ago`],
      c.source === "api" && ["read", c.synced ? "whole" : "not whole yet"],
    ]),
    c.stale
      ? h("p", { class: "note warn" }, "The API has been silent for too long: what it last said still counts.")
      : null,
    c.problems.length
      ? h(
          "ul",
          { class: "problems" },
          c.problems.map((problem) => h("li", {}, plain(problem))),
        )
      : null,
  );
}

function lossList(losses, none) {
  const rows = losses.filter((l) => l.count > 0).map((l) => ({ ...l, key: `${l.stage}/${l.reason}/${l.unit}` }));
  if (!rows.length) return empty("Nothing was lost.", none);
  return h(
    "ul",
    { class: "losses" },
    rows.map((l) =>
      h(
        "li",
        { key: l.key },
        h("code", {}, `${plain(l.stage)}/${plain(l.reason)}`),
        h("span", { class: "num" }, `${count(l.count)} ${plain(l.unit)}`),
      ),
    ),
  );
}

export function oneNode(all, ui) {
  const { node: name, cluster: named } = ui.route;
  const cluster = all.clusters.find((c) => (named ? c.name === named : c.nodes.some((n) => n.name === name)));
  const n = cluster?.nodes.find((one) => one.name === name);
  const back = h("a", { href: link({ nodes: true, cluster: named }), class: "back" }, "Nodes");
  if (!n)
    return h(
      "div",
      { class: "view", key: "gone" },
      h("div", { class: "title" }, back, h("h1", {}, plain(name))),
      card(
        {},
        "Unknown",
        null,
        empty(
          "No node of this name reports.",
          "It never did, or it has been silent for so long that it was forgotten.",
        ),
      ),
    );
  const entry = detail(
    `api/node?cluster=${encodeURIComponent(cluster.name)}&name=${encodeURIComponent(name)}`,
    ui.redraw,
  );
  const missing = off(n);
  return h(
    "div",
    { class: "view", key: `node ${cluster.name} ${name}` },
    h(
      "div",
      { class: "title" },
      back,
      h("h1", {}, plain(name)),
      h(
        "p",
        { class: "muted" },
        [
          all.clusters.length > 1 ? `cluster ${plain(cluster.name)}` : "",
          place(n) === "–" ? "" : place(n),
          many(n.cpus, "CPU"),
        ]
          .filter(Boolean)
          .join(" · "),
      ),
    ),
    card(
      { id: "node-use" },
      "Seen",
      h("a", { href: link({ ledger: true, cluster: cluster.name, on: name }) }, "its ledger"),
      h(
        "div",
        { class: "useline" },
        bar(n.used_cores, null, n.cpus, `${cores(n.used_cores)} of ${n.cpus} CPUs in use`),
      ),
      facts([
        ["CPU in use", `${cores(n.used_cores)} of ${n.cpus}`],
        ["last report", age(n)],
        ["of the window", percent(n.covered, 1)],
        ["agent's CPU", `${percent(n.agent_cores, 2)} of one core`],
        ["agent's memory", bytes(n.agent_memory_bytes)],
        ["maps in the kernel", bytes(n.map_bytes)],
        [
          "clock",
          n.clock_offset_seconds === null
            ? "not known"
            : `${n.clock_offset_seconds < 0 ? "−" : "+"}${duration(Math.abs(n.clock_offset_seconds))}`,
        ],
        ["OOM kills", count(n.oom_kills)],
      ]),
    ),
    h(
      "div",
      { class: "columns even" },
      card(
        { id: "features" },
        missing.length ? `${many(missing.length, "feature")} off` : "All features are on",
        null,
        h(
          "ul",
          { class: "features" },
          [...missing, ...n.features.filter((f) => f.present)].map((f) =>
            h(
              "li",
              { key: f.name, class: f.present ? "on" : "off" },
              h("code", {}, plain(f.name)),
              h("span", { class: "muted" }, f.present ? "on" : plain(f.reason || "off")),
            ),
          ),
        ),
      ),
      card(
        { id: "losses" },
        "Lost on this node",
        h("span", { class: "muted" }, "since its agent's start"),
        lossList(n.losses, "All that was seen was counted and sent."),
      ),
    ),
    card({ id: "pods" }, "Runs here", null, podTable("node-pod-table", entry, cluster.name, ui, true)),
  );
}
