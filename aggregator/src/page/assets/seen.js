// What is seen, how well, and what of it is broken: the same in every view.

import { h } from "./dom.js";
import { duration, many, percent, plain } from "./format.js";
import { kindTag, link, stateTag } from "./parts.js";

export const sum = (rows, pick) => rows.reduce((all, row) => all + (pick(row) ?? 0), 0);

/** A node that has been silent for longer than this is counted as such. */
export const SILENT_SECONDS = 5;
export const reports = (node) => node.age_seconds <= SILENT_SECONDS;

/** Live breaches of all clusters, as the aggregator has them: what fires first. */
export const breachesOf = (clusters) =>
  clusters
    .flatMap((c) => c.breaches)
    .sort((a, b) => (a.state === b.state ? b.since_unix_ms - a.since_unix_ms : a.state === "firing" ? -1 : 1));

/** How much the silence is worth. */
export function seen(nodes) {
  if (!nodes.length) return "And nothing is seen: no agent has reported yet.";
  const reporting = nodes.filter(reports).length;
  const covered = sum(nodes, (n) => n.covered) / nodes.length;
  return `${reporting} of ${many(nodes.length, "node")} ${reporting === 1 ? "reports" : "report"}; ${percent(covered)} of the window was seen.`;
}

/** A breach in a list, which leads to all of it; `cluster`: the one that was chosen. */
export const feedItem = (b, cluster) =>
  h(
    "li",
    { key: b.fingerprint, class: b.state },
    h(
      "a",
      { href: link({ breach: b.fingerprint, cluster }) },
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
