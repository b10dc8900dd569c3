// What is broken, by whom, against whom, and how one knows.

import { h } from "./dom.js";
import { detail } from "./feed.js";
import { bytes, clock, cores, duration, figure, many, percent, plain, rate } from "./format.js";
import { breachesOf, seen } from "./seen.js";
import {
  card,
  empty,
  facts,
  kindTag,
  link,
  nodeLink,
  search,
  shareBar,
  stateTag,
  table,
  tenant,
  told,
} from "./parts.js";

const since = (b) => ((b.resolved_unix_ms || Date.now()) - (b.firing_unix_ms || b.since_unix_ms)) / 1000;

function culprits(b) {
  if (!b.culprits.length) return null;
  const memory = b.culprits.some((c) => c.over_request_bytes !== null);
  return h(
    "div",
    { class: "culprits" },
    h("h4", {}, memory ? "Who is over its request" : "Who took it"),
    h(
      "ol",
      { class: "ranks" },
      b.culprits.map((c) =>
        h(
          "li",
          { key: `${c.tenant}\n${c.pod}` },
          h(
            "span",
            { class: "who" },
            tenant(c.tenant, b.cluster),
            h("span", { class: "muted small" }, ` ${plain(c.pod)}`),
          ),
          shareBar(c.share, "waits"),
          h("span", { class: "num" }, percent(c.share)),
          h(
            "span",
            { class: "num muted" },
            c.over_request_bytes === null
              ? `${cores(c.stolen_cores)} cores`
              : `${bytes(c.over_request_bytes)} over${c.growth_bytes_per_second === null ? "" : `, ${rate(c.growth_bytes_per_second)}`}`,
          ),
        ),
      ),
    ),
  );
}

/** All of one breach. */
function evidence(b, several) {
  const command = `partywall explain ${b.fingerprint} --cluster ${b.cluster}`;
  return h(
    "div",
    { class: "evidence" },
    facts([
      ...b.evidence.map(([name, value]) => figure(name, value)),
      b.node && ["node", nodeLink(b.node, b.cluster)],
      b.subject && ["about", plain(b.subject)],
      several && ["cluster", plain(b.cluster)],
      ["held since", clock(b.since_unix_ms)],
      b.firing_unix_ms && ["fired", clock(b.firing_unix_ms)],
      b.resolved_unix_ms && ["over since", clock(b.resolved_unix_ms)],
      ["seen of the window", percent(b.covered)],
      [
        "certainty",
        b.confidence === null ? "measured" : `${percent(b.confidence)}, inferred`,
        "How sure it is that this tenant is the cause",
      ],
    ]),
    culprits(b),
    h(
      "div",
      { class: "command" },
      h("code", {}, command),
      h("button", { type: "button", class: "quiet", "data-copy": command }, "Copy"),
    ),
  );
}

function entry(b, several, open) {
  return h(
    "details",
    {
      class: `breach ${b.state}`,
      key: `${b.fingerprint} ${b.firing_unix_ms}`,
      "data-fingerprint": b.fingerprint,
      open,
    },
    h(
      "summary",
      {},
      h(
        "span",
        { class: "line" },
        kindTag(b.kind),
        stateTag(b.state),
        h(
          "span",
          { class: "parties" },
          plain(b.tenant),
          b.against ? [h("span", { class: "muted" }, " → "), plain(b.against)] : null,
        ),
        h(
          "span",
          { class: "muted since" },
          b.state === "resolved" ? `over since ${clock(b.resolved_unix_ms)}` : duration(since(b)),
        ),
      ),
      h("span", { class: "summary" }, plain(b.summary)),
    ),
    evidence(b, several),
  );
}

const matches = (wanted) => (b) =>
  !wanted ||
  [b.kind, b.tenant, b.against, b.node, b.subject, b.fingerprint, b.cluster].some((text) =>
    text.toLowerCase().includes(wanted),
  );

export function breaches(all, ui) {
  const clusters = ui.clusters(all);
  const several = all.clusters.length > 1;
  const wanted = ui.filter.breaches.toLowerCase();
  const live = breachesOf(clusters);
  const found = live.filter(matches(wanted));
  const firing = live.filter((b) => b.state === "firing").length;
  const left = clusters.reduce((sum, c) => sum + c.breaches_left_out, 0);
  const nodes = clusters.flatMap((c) => c.nodes);
  const named = clusters.find((c) => c.name === ui.route.cluster);
  const past = detail(`api/history${named ? `?cluster=${encodeURIComponent(named.name)}` : ""}`, ui.redraw, 5000);
  const chosen = ui.route.breach;
  return h(
    "div",
    { class: "view", key: "breaches" },
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Breaches"),
      h("p", { class: "muted" }, "A rule broken by a named tenant, with evidence."),
    ),
    chosen ? one(chosen, clusters, past, several, ui) : null,
    card(
      { id: "live-breaches" },
      live.length
        ? `${firing} ${firing === 1 ? "fires" : "fire"}${live.length > firing ? `, ${live.length - firing} not yet` : ""}`
        : "Now",
      search(ui, "breaches", "Kind, tenant, node, fingerprint", "Filter breaches"),
      found.length
        ? h(
            "div",
            { class: "list" },
            found.map((b) => entry(b, several, false)),
          )
        : live.length
          ? empty(`None has “${plain(ui.filter.breaches)}” in it.`, `There are ${live.length}.`)
          : empty("Nothing is broken.", seen(nodes)),
      left
        ? h(
            "p",
            { class: "note" },
            `${many(left, "more")} that ${left === 1 ? "is" : "are"} not shown: partywall breaches`,
          )
        : null,
    ),
    history(past, wanted, several, ui),
  );
}

function one(fingerprint, clusters, past, several, ui) {
  const is = (b) => b.fingerprint === fingerprint || (fingerprint.length >= 6 && b.fingerprint.startsWith(fingerprint));
  const found = breachesOf(clusters).find(is) ?? past.answer?.entries.find(is);
  const close = h("a", { href: link({ breaches: true, cluster: ui.route.cluster }) }, "close");
  if (found)
    return card(
      { id: "chosen", class: "chosen", key: "chosen" },
      h("code", {}, plain(found.fingerprint)),
      close,
      entry(found, several, true),
    );
  if (!past.answer && !past.problem)
    return card(
      { id: "chosen", key: "chosen" },
      h("code", {}, plain(fingerprint)),
      close,
      h("p", { class: "loading" }, "Asking…"),
    );
  return card(
    { id: "chosen", key: "chosen" },
    h("code", {}, plain(fingerprint)),
    close,
    empty(
      "No such breach is live, and none is remembered.",
      "It may have been resolved longer ago than history goes back here.",
    ),
  );
}

/** How far back it goes, in words. */
const reach = (past) =>
  past.source === "memory"
    ? `what was resolved in the last ${duration(past.kept_seconds)}, ${past.kept_most} at most; gone with the process`
    : `from the trail, which keeps ${duration(past.kept_seconds)}; the newest ${past.kept_most}`;

const history = (past, wanted, several, ui) =>
  card(
    { id: "history" },
    "History",
    past.answer ? h("span", { class: "muted" }, reach(past.answer)) : null,
    told(past, "History cannot be told.", (answer) => entries(answer, wanted, several, ui)),
  );

function entries(answer, wanted, several, ui) {
  const rows = answer.entries
    .filter(matches(wanted))
    .map((b) => ({ ...b, key: `${b.fingerprint} ${b.firing_unix_ms}` }));
  const columns = [
    {
      id: "fired",
      label: "Fired",
      cls: "num",
      descending: true,
      by: (b) => b.firing_unix_ms,
      cell: (b) =>
        h("a", { href: link({ breach: b.fingerprint, cluster: ui.route.cluster }) }, clock(b.firing_unix_ms)),
    },
    { id: "lasted", label: "Lasted", cls: "num", descending: true, by: since, cell: (b) => duration(since(b)) },
    { id: "kind", label: "Kind", by: (b) => b.kind, cell: (b) => kindTag(b.kind) },
    { id: "tenant", label: "By", by: (b) => b.tenant, cell: (b) => tenant(b.tenant, b.cluster) },
    { id: "against", label: "Against", by: (b) => b.against, cell: (b) => tenant(b.against, b.cluster) },
    several && { id: "cluster", label: "Cluster", by: (b) => b.cluster, cell: (b) => plain(b.cluster) },
    { id: "summary", label: "At its worst", cls: "reason", cell: (b) => plain(b.summary) },
  ].filter(Boolean);
  return [
    rows.length
      ? table(
          "history-table",
          columns,
          rows,
          ui.order["history-table"] ?? { id: "fired", down: true },
          "Breaches that are over",
        )
      : empty(
          "Nothing has been resolved.",
          answer.entries.length ? "Nothing in history matches the filter." : `History here is ${reach(answer)}.`,
        ),
    answer.is_cut
      ? h("p", { class: "note" }, `Older ones are not shown${answer.source === "trail" ? ": partywall history" : ""}.`)
      : null,
  ];
}
