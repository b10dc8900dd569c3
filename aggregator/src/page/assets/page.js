// The page as a whole: which view, what a person chose, and how fresh what is shown is.

import { breaches } from "./breaches.js";
import { h, render, s } from "./dom.js";
import { fence } from "./fence.js";
import { follow, known } from "./feed.js";
import { clock, count, duration, plain } from "./format.js";
import { ledger } from "./ledger.js";
import { walk } from "./matrix.js";
import { nodes, oneNode } from "./nodes.js";
import { overview } from "./overview.js";
import { link } from "./parts.js";
import { breachesOf } from "./seen.js";
import { oneTenant } from "./tenant.js";

const VIEWS = { overview: "Overview", ledger: "Ledger", fence: "Fence", breaches: "Breaches", nodes: "Nodes" };
const DRAW = { overview, ledger, fence, breaches, nodes, tenant: oneTenant, node: oneNode };
/** Under which of the views the others belong. */
const BELONGS = { tenant: "overview", node: "nodes" };

/** Nothing new for longer than this many judgements: what is shown is old. */
const STALE_STEPS = 5;

const $ = (id) => document.getElementById(id);

/** `#tenant=red&cluster=east` → `{view: "tenant", tenant: "red", cluster: "east"}` */
function route() {
  const values = {};
  for (const part of location.hash.slice(1).split("&")) {
    const [key, ...rest] = part.split("=");
    try {
      if (key) values[key] = rest.length ? decodeURIComponent(rest.join("=")) : true;
    } catch {
      // A `%` that begins nothing: nobody's link of ours.
    }
  }
  const text = (key) => (typeof values[key] === "string" ? values[key] : undefined);
  const view = text("breach")
    ? "breaches"
    : text("tenant")
      ? "tenant"
      : text("node")
        ? "node"
        : (Object.keys(VIEWS).find((name) => values[name]) ?? "overview");
  return {
    view,
    tenant: text("tenant"),
    cluster: text("cluster"),
    node: text("node"),
    breach: text("breach"),
    from: text("from"),
    to: text("to"),
    on: text("on"),
  };
}

/** What a person has chosen; views read it, the listeners below write it. */
const ui = {
  route: route(),
  filter: { tenants: "", ledger: "", fence: "", breaches: "", nodes: "" },
  order: {
    "tenant-table": { id: "breaches", down: true },
    "node-table": { id: "age", down: true },
    "pod-table": { id: "stolen", down: true },
    "traffic-table": { id: "bytes", down: true },
  },
  sizes: { ledger: 24, fence: 24 },
  flags: { neutral: false },
  /** The one that was chosen, else all. */
  clusters(all) {
    const named = all.clusters.filter((c) => c.name === ui.route.cluster);
    return named.length ? named : all.clusters;
  },
  redraw: () => draw(true),
};

let drawn = null;

function draw(force = false) {
  freshness();
  const all = known.all;
  if (!all) return;
  const look = `${known.changedAt} ${location.hash}`;
  // Ages go on by themselves; everything else only changes with an answer or a choice.
  if (!force && drawn === look) return;
  drawn = look;
  navigation(all);
  const view = DRAW[ui.route.view] ?? overview;
  render($("main"), view(all, ui));
  $("main").setAttribute("aria-busy", "false");
  const firing = breachesOf(all.clusters).filter((b) => b.state === "firing").length;
  const name = ui.route.tenant ?? ui.route.node ?? VIEWS[ui.route.view];
  document.title = `${firing ? `(${firing}) ` : ""}${plain(name)} · Partywall`;
}

function navigation(all) {
  const here = BELONGS[ui.route.view] ?? ui.route.view;
  const firing = breachesOf(ui.clusters(all)).filter((b) => b.state === "firing").length;
  const links = Object.entries(VIEWS).map(([view, words]) =>
    h(
      "a",
      {
        key: view,
        href: link({ [view]: true, cluster: ui.route.cluster }),
        "aria-current": view === here ? "page" : null,
      },
      words,
      view === "breaches" && firing
        ? h("span", { class: "badge", "aria-label": `${firing} firing` }, count(firing))
        : null,
    ),
  );
  const choice =
    all.clusters.length > 1
      ? h(
          "select",
          { key: "cluster", "data-go": "cluster", "aria-label": "Cluster" },
          h("option", { value: "", selected: !ui.route.cluster }, `all ${all.clusters.length} clusters`),
          all.clusters.map((c) => h("option", { value: c.name, selected: c.name === ui.route.cluster }, plain(c.name))),
        )
      : null;
  render($("nav"), links, choice);
  document.querySelector(".brand").href = link({ overview: true, cluster: ui.route.cluster });
  render(
    $("foot"),
    h("span", {}, `Partywall ${all.version}`),
    h("a", { href: "metrics" }, "metrics"),
    h("a", { href: "readyz" }, "ready?"),
    h("span", { class: "muted" }, "read-only; every figure is also at /metrics and in partywall top"),
  );
}

/** How old what is shown is, and whether anything comes. */
function freshness() {
  const now = performance.now();
  const all = known.all;
  const step = all?.step_seconds ?? 1;
  const old = known.changedAt ? (now - known.changedAt) / 1000 : 0;
  const stale = known.changedAt > 0 && old > step * STALE_STEPS + known.pause + 1;
  const lost = known.problem !== null;
  const state = !all ? (lost ? "lost" : "waiting") : lost ? "lost" : stale ? "stale" : "live";
  const judged = all ? Math.min(...all.clusters.map((c) => c.judged_unix_ms)) : 0;
  const words = { waiting: "asking", live: "live", stale: "nothing new", lost: "no connection" }[state];
  // What is read aloud when it changes has neither clock nor duration: those change every second.
  render($("live"), h("span", { class: `dot ${state}`, "aria-hidden": "true" }), h("span", { class: "words" }, words));
  const time = $("judged");
  time.hidden = !judged;
  time.dateTime = judged ? new Date(judged).toISOString() : "";
  time.textContent = judged ? clock(judged) : "";
  document.documentElement.dataset.state = state;
  const [say, seconds] = {
    lost: all
      ? [`No connection to the aggregator: ${known.problem}. Trying again.`, (now - known.heardAt) / 1000]
      : [`The aggregator does not answer: ${known.problem}. Trying again.`],
    stale: ["The aggregator answers, and has judged nothing new; see /healthz.", old],
  }[state] ?? [""];
  $("notice").hidden = !say;
  render($("alarm"), say);
  render($("since"), seconds === undefined ? "" : `For ${duration(seconds)}; what is shown is of ${clock(judged)}.`);
  if (!all && lost) render($("main"), h("p", { class: "loading" }, "Nothing is known yet."));
}

// Theme: the system's, until somebody chooses. What was chosen is kept where the browser lets it be.
const THEMES = ["auto", "light", "dark"];
const SHAPES = {
  auto: [s("circle", { cx: 8, cy: 8, r: 5.6 }), s("path", { class: "solid", d: "M8 2.4a5.6 5.6 0 0 1 0 11.2z" })],
  light: [
    s("circle", { cx: 8, cy: 8, r: 3 }),
    s("path", { d: "M8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3 3l1.2 1.2M11.8 11.8L13 13M13 3l-1.2 1.2M4.2 11.8L3 13" }),
  ],
  dark: [s("path", { d: "M13.2 9.6A5.6 5.6 0 1 1 6.4 2.8a4.6 4.6 0 0 0 6.8 6.8z" })],
};

function stored() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

function theme(name) {
  const chosen = THEMES.includes(name) ? name : "auto";
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  const button = $("theme");
  button.dataset.theme = chosen;
  button.setAttribute("aria-label", `Theme: ${chosen}`);
  button.title = `Theme: ${chosen === "auto" ? "as the system" : chosen}`;
  button.replaceChildren(
    s(
      "svg",
      { viewBox: "0 0 16 16", "aria-hidden": "true" },
      SHAPES[chosen].map((shape) => shape.cloneNode(true)),
    ),
  );
}

theme(stored());
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf($("theme").dataset.theme) + 1) % THEMES.length];
  theme(next);
  try {
    localStorage.setItem("theme", next);
  } catch {
    // Chosen for this visit alone.
  }
});

addEventListener("hashchange", () => {
  const before = ui.route;
  ui.route = route();
  draw(true);
  const elsewhere = before.view !== ui.route.view || before.tenant !== ui.route.tenant || before.node !== ui.route.node;
  if (elsewhere) {
    scrollTo(0, 0);
    $("main").focus({ preventScroll: true });
  } else if (ui.route.from !== before.from || ui.route.to !== before.to) {
    document.getElementById("flows")?.scrollIntoView({ block: "nearest" });
  }
});

document.addEventListener("click", (event) => {
  const { target } = event;
  if (target.closest("[data-skip]")) {
    event.preventDefault();
    $("main").focus();
    return;
  }
  const sort = target.closest("[data-sort]");
  if (sort) {
    const { sort: id, table, down } = sort.dataset;
    const order = ui.order[table];
    ui.order[table] = { id, down: order?.id === id ? !order.down : down === "1" };
    draw(true);
  }
  const copy = target.closest("[data-copy]");
  if (copy) put(copy);
});

/** Into the clipboard, where this is allowed: without TLS a browser may refuse. */
async function put(button) {
  const text = button.dataset.copy;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Select and copy";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1500);
}

document.addEventListener("input", (event) => {
  const { filter } = event.target.dataset;
  if (filter === undefined) return;
  ui.filter[filter] = event.target.value;
  draw(true);
});

document.addEventListener("change", (event) => {
  const { size, flag, go } = event.target.dataset;
  if (size) ui.sizes[size] = Number(event.target.value);
  if (flag) ui.flags[flag] = event.target.checked;
  if (go) {
    const { view, tenant, node, breach, ...rest } = { ...ui.route, [go]: event.target.value || undefined };
    const here = BELONGS[view] ?? view;
    if (go === "cluster") for (const key of ["from", "to", "on"]) rest[key] = undefined;
    location.hash = link({ [here]: true, ...rest });
    return;
  }
  if (size || flag) draw(true);
});

walk($("main"), (href) => {
  location.hash = href;
});

performance.mark("partywall-asked");
follow(draw).then(() => performance.mark("partywall-drawn"));
