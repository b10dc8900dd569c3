// The page in a real browser, behind a proxy with a path prefix. Started by the harness with a file that says what to look at; says what it found as
// JSON. A check that fails ends it with a message.

import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";

const asked = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const { chromium } = createRequire(path.join(asked.playwright, "package.json"))("playwright-core");

const PREFIX = "/some/where/";
const SIZES = { wide: { width: 1600, height: 1000 }, narrow: { width: 390, height: 844 } };
/** Where no clock shows UTC, not even its minutes. */
const ZONE = "Asia/Kolkata";

let checks = 0;
const ok = (value, words) => {
  checks += 1;
  assert.ok(value, words);
};
const same = (found, wanted, words) => {
  checks += 1;
  assert.deepEqual(found, wanted, words);
};

/** What stands before the aggregator in a cluster: takes the prefix off and hands on. */
function proxy(origin) {
  const { hostname, port } = new URL(origin);
  const server = http.createServer((request, response) => {
    if (!request.url.startsWith(PREFIX)) {
      response.writeHead(404).end();
      return;
    }
    const onward = http.request(
      {
        hostname,
        port,
        method: request.method,
        path: request.url.slice(PREFIX.length - 1),
        headers: { ...request.headers, host: `${hostname}:${port}` },
      },
      (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      },
    );
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  });
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done(server)));
}

const server = await proxy(asked.origin);
const base = `http://127.0.0.1:${server.address().port}`;
const home = base + PREFIX;
const browser = await chromium.launch({
  executablePath: asked.chromium,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});

/** A page of which everything that goes wrong is noted. */
async function open(theme, size) {
  const context = await browser.newContext({
    colorScheme: theme,
    viewport: SIZES[size],
    timezoneId: ZONE,
    permissions: ["clipboard-read", "clipboard-write"],
  });
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) wrong.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(home)) wrong.push(`request to ${request.url()}`);
    if (request.method() !== "GET") wrong.push(`${request.method()} ${request.url()}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) wrong.push(`${response.status()} of ${response.url()}`);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) =>
      globalThis.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`),
    );
  });
  return {
    page,
    async close() {
      same(await page.evaluate(() => globalThis.violations), [], "violations of the policy");
      same(await page.evaluate(() => globalThis.ran), undefined, "a tenant's name was run");
      same(wrong, [], "what went wrong in the page");
      await context.close();
    },
  };
}

const go = async (page, hash) => {
  await page.evaluate((to) => {
    location.hash = to;
  }, hash);
  await page.waitForTimeout(120);
};

const picture = (page, name) =>
  page.screenshot({ path: path.join(asked.pictures, `${name}.png`), animations: "disabled" });
const text = (page, selector) => page.locator(selector).first().innerText();

/** Cells of a matrix: `{row, column, cls, value, text, says}`. */
const cells = (page, id) =>
  page.evaluate((table) => {
    const columns = [...document.querySelectorAll(`#${table} thead th`)].map((th) => th.dataset.key);
    return [...document.querySelectorAll(`#${table} tbody tr`)].flatMap((tr) =>
      [...tr.cells].slice(1).map((td, at) => ({
        row: tr.dataset.row,
        column: columns[at + 1],
        cls: td.className,
        value: td.dataset.value,
        text: td.textContent,
        says: td.dataset.says,
      })),
    );
  }, id);

const VIEWS = ["overview", "ledger", "fence", "breaches", "nodes"];

const range = (n, each) => Array.from({ length: n }, (_, at) => each(at + 1)).join("");
const VERDICTS = ["leaked", "open", "unknown", "blocked", "allowed", "within"];
const tags = VERDICTS.map((v) => `<span class="verdict v-${v}">${v}</span>`).join("");
/** What has a colour that means something, whether the scene has it or not. */
const COLOURED = `
  <div class="matrix"><table><tbody><tr>
    ${range(6, (n) => `<td class="l${n}">l${n}</td><td class="calm c${n}">c${n}</td>`)}
    ${VERDICTS.map((v) => `<td class="mark m-${v}"><small>${v}</small></td>`).join("")}
  </tr></tbody></table></div>
  <div class="scale">${range(6, (n) => `<span class="step l${n}">${n}</span>`)}</div>
  <ul class="verdicts"><li>${tags}</li><li class="none">${tags}</li></ul>
  <section class="card">${tags}<span class="hot">hot</span><p class="note warn">warn</p><span class="bad">bad</span></section>`;

/** What is written with less contrast than WCAG AA asks, 4.5: of the page, and of `more`. Runs in the page. */
function faint(more) {
  const probe = document.createElement("div");
  probe.innerHTML = more;
  document.querySelector("main").append(probe);
  const colour = (words) => words.match(/[\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((n) => (n / 255 <= 0.04045 ? n / 255 / 12.92 : ((n / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const below = (element) => {
    const found = colour(getComputedStyle(element).backgroundColor);
    return found[3] === 0 && element.parentElement ? below(element.parentElement) : found;
  };
  const found = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.nodeName === "OPTION") continue;
    const both = [colour(getComputedStyle(element).color), below(element)].map((rgb) => light(rgb.slice(0, 3)));
    const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (contrast < 4.5) found.add(`${element.nodeName} .${element.className}: ${contrast.toFixed(2)}`);
  }
  probe.remove();
  return [...found];
}

async function live() {
  for (const theme of ["light", "dark"]) {
    for (const size of Object.keys(SIZES)) {
      const { page, close } = await open(theme, size);
      await page.goto(home);
      await page.waitForSelector("#tenant-table tbody tr");
      // A line needs a few points.
      await page.waitForTimeout(2500);
      const deep = ["tenant=blue", "node=node-b", "fence&from=red&to=green"];
      for (const hash of [...VIEWS, ...deep]) {
        await go(page, hash);
        if (hash.includes("=")) await page.waitForTimeout(500);
        await page.waitForFunction(() => !document.querySelector("main .loading"));
        const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        ok(wider <= 0, `#${hash} is ${wider} px wider than ${SIZES[size].width} px`);
        same(await page.evaluate(faint, COLOURED), [], `too faint in #${hash}, ${theme}`);
        await picture(page, `${hash.split(/[=&]/)[0]}${hash.includes("=") ? "-one" : ""}-${theme}-${size}`);
      }
      if (theme === "light" && size === "wide") await everything(page);
      if (theme === "dark") {
        const paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        const light = paper
          .match(/\d+/g)
          .slice(0, 3)
          .reduce((sum, n) => sum + Number(n), 0);
        ok(light < 150, `dark is ${paper}`);
      }
      await close();
    }
  }
  await lost();
  return {};
}

/** What there must be to read, wherever it is drawn. */
async function everything(page) {
  await go(page, "overview");
  const overview = await text(page, "main");
  for (const name of ["amber", "blue", "green", "red", "violet", "a-tenant-whose-name-is-as-long-as"])
    ok(overview.includes(name), `the overview lacks ${name}`);
  ok(/2\s*of 2/.test(await text(page, ".kpi:last-child")), "both nodes report");
  ok((await page.title()).startsWith("("), `the title tells of what fires: ${await page.title()}`);
  // Sorted by a click, the other way by a second.
  const names = () => page.locator("#tenant-table tbody th").allInnerTexts();
  await page.click("#tenant-table thead button[data-sort=name]");
  const up = await names();
  same(
    up,
    [...up].sort((a, b) => a.localeCompare(b, "en", { numeric: true })),
    "sorted by name",
  );
  await page.click("#tenant-table thead button[data-sort=name]");
  same(await names(), up.toReversed(), "sorted the other way");
  same(await page.getAttribute("#tenant-table th:first-child", "aria-sort"), "descending");
  await page.fill("[data-filter=tenants]", "gree");
  same(await names(), ["green"], "filtered");
  await page.fill("[data-filter=tenants]", "nobody");
  ok((await text(page, "#tenants .empty")).includes("nobody"), "what was filtered away is said");
  await page.fill("[data-filter=tenants]", "");

  // A filter that is in force stands in its box, also when one comes back to it.
  await page.fill("[data-filter=tenants]", "red");
  await page.click("#tenant-table a.tenant");
  await page.waitForSelector("#pod-table");
  await page.goBack();
  await page.waitForSelector("#tenant-table");
  same(await names(), ["red"], "filtered still");
  for (const view of VIEWS) {
    const box = `[data-filter=${view === "overview" ? "tenants" : view}]`;
    await go(page, view);
    if (view !== "overview") await page.fill(box, "red");
    await go(page, "tenant=red");
    await go(page, view);
    same(await page.inputValue(box), "red", `the filter in #${view}`);
    await page.fill(box, "");
    same(await page.inputValue(box), "", `the filter in #${view}, taken away`);
  }

  // Moments are UTC, wherever the browser is, in a form that partywall reads.
  ok(await page.evaluate(() => new Date().getTimezoneOffset() !== 0), "the browser is elsewhere");
  same(
    await page.evaluate(async () => (await import("./format.js")).clock(1_700_000_000_500)),
    "2023-11-14T22:13:20Z",
    "a moment of another day",
  );
  const [judged, moment] = await page.$eval("#judged", (time) => [time.textContent, time.dateTime]);
  ok(/\d\d:\d\d:\d\dZ$/.test(judged) && `${moment.slice(0, 19)}Z`.endsWith(judged), `${judged} is ${moment}`);

  // Fence: the worst verdict of each pair, and why.
  await go(page, "fence");
  const marks = new Map(
    (await cells(page, "fence-grid")).filter((c) => c.value).map((c) => [`${c.row} ${c.column}`, c.value]),
  );
  same(marks.get("red blue"), "open");
  same(marks.get("red green"), "leaked");
  same(marks.get("red amber"), "blocked");
  same(marks.get("blue green"), "allowed");
  await page.click("#fence-grid tr[data-row=red] td[data-column=green]");
  await page.waitForSelector("#flow-table tbody tr");
  const flows = await text(page, "#flow-table");
  ok(flows.includes("green/only-blue") || flows.includes("only-blue"), `the flow names the policy: ${flows}`);
  ok(flows.includes("8443/TCP"), flows);
  same(
    new URL(page.url()).hash,
    "#fence=&from=red&to=green".replace("fence=", "fence").replace("&from", "&cluster=default&from"),
    "a deep link to the pair",
  );
  await page.check("[data-flag=neutral]");
  ok(
    (await cells(page, "fence-grid")).some((c) => c.column === "system" && c.value?.includes("within")),
    "system is shown where it is asked for",
  );
  await page.uncheck("[data-flag=neutral]");

  // Breaches: evidence, culprits, the command, a link.
  await go(page, "breaches");
  const noisy = page
    .locator("details.breach.firing", { hasText: "red → blue" })
    .filter({ hasText: "Noisy neighbour" })
    .first();
  ok(await noisy.count(), `red's breach against blue: ${await text(page, "#live-breaches")}`);
  await noisy.locator("summary").click();
  const evidence = await noisy.innerText();
  ok(/stolen\s+0\.\d+ cores/.test(evidence), `evidence: ${evidence}`);
  ok(evidence.includes("red/batch"), `culprits: ${evidence}`);
  const fingerprint = await noisy.getAttribute("data-fingerprint");
  ok(/^[0-9a-f]{16}$/.test(fingerprint), fingerprint);
  await noisy.locator("[data-copy]").click();
  same(
    await page.evaluate(() => navigator.clipboard.readText()),
    `partywall explain ${fingerprint} --cluster default`,
    "what was copied",
  );
  // It stays open while the page draws itself anew.
  await page.waitForTimeout(2200);
  ok(await noisy.evaluate((details) => details.open), "an open breach stays open");
  await picture(page, "breach-open-light-wide");
  await go(page, `breach=${fingerprint}`);
  ok((await text(page, "#chosen")).includes("Noisy neighbour"), "a deep link to a breach");
  await go(page, "breach=0123456789abcdef");
  ok((await text(page, "#chosen")).includes("No such breach"), "a link to nothing says so");
  await go(page, "breaches");
  await page.waitForSelector("#history-table tbody tr");
  ok(
    (await text(page, "#history-table")).includes("violet"),
    `history has what violet did: ${await text(page, "#history-table")}`,
  );

  // A cluster that was chosen is kept by whatever one follows, and is the one that history is asked of.
  const asks = page.waitForRequest(/\/api\/history\?cluster=default$/);
  await go(page, "breaches&cluster=default");
  await asks;
  await page.waitForSelector("#history-table tbody tr");
  for (const hash of [...VIEWS, "tenant=blue", "node=node-b", "fence&from=red&to=green", `breach=${fingerprint}`]) {
    await go(page, `${hash}&cluster=default`);
    await page.waitForFunction(() => !document.querySelector("main .loading"));
    const links = await page.evaluate(() => [
      ...[...document.querySelectorAll("a[href^='#']:not([data-skip])")].map((a) => a.getAttribute("href")),
      ...[...document.querySelectorAll("[data-href]")].map((cell) => cell.dataset.href),
    ]);
    ok(links.length > VIEWS.length, `#${hash} has only ${links.length} links`);
    same(
      links.filter((to) => !to.slice(1).split("&").includes("cluster=default")),
      [],
      `links of #${hash} that forget the cluster`,
    );
  }

  // Names that would be markup, and one that turns the direction of text.
  await go(page, "node=node-a");
  await page.waitForSelector("#node-pod-table tbody tr");
  ok((await text(page, "#node-pod-table")).includes("<img src=x onerror=globalThis.ran=1>"), "a cgroup's name is text");
  same(await page.locator("main img").count(), 0, "and no element");
  await go(page, "node=node-b");
  await page.waitForFunction(
    () => document.querySelector("h1")?.textContent === "node-b" && document.querySelector("#node-pod-table tbody tr"),
  );
  const pods = await text(page, "#node-pod-table");
  ok(pods.includes("/system.slice/<script>globalThis.ran=1</script>"), `a cgroup's name is text: ${pods}`);
  // The aggregator refuses such names; should one come all the same, nothing in it is hidden.
  same(
    await page.evaluate(async () => (await import("./format.js")).plain("a\u202egnp.\u0007\u200b")),
    "a⟨202e⟩gnp.⟨07⟩⟨200b⟩",
  );
  const features = await text(page, "#features");
  ok(
    features.includes("1 feature off") && features.includes("bpf is locked down"),
    `what is off, and why: ${features}`,
  );
  ok((await text(page, "#losses")).includes("uplink/queue_full"), "losses");
  ok((await text(page, ".title")).includes("eu-central-1b"), "zone");

  // A tenant may be called like anything that an object of JavaScript has.
  same(await page.evaluate(async () => typeof (await import("./parts.js")).classWords("constructor")), "undefined");
  // Who waits while the system runs was not disturbed by another tenant.
  await go(page, "ledger");
  const calm = (await cells(page, "ledger-grid")).filter((c) => c.column === "system" && c.value);
  ok(calm.length, "somebody waited while the system ran");
  for (const c of calm) ok(c.cls.includes("calm"), `${c.says} is drawn as ${c.cls}`);

  // By keyboard alone.
  const first = page.locator("#ledger-grid td[tabindex='0']");
  await first.focus();
  const before = await text(page, "#ledger .readout");
  await page.keyboard.press("ArrowDown");
  const after = await text(page, "#ledger .readout");
  ok(before !== after && after.includes("waited"), `the readout follows: ${before} / ${after}`);
  await page.waitForTimeout(1200);
  same(await page.evaluate(() => document.activeElement?.nodeName), "TD", "the focus outlives a redraw");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#pod-table");
  ok(new URL(page.url()).hash.startsWith("#tenant="), "Enter follows");
  await go(page, "ledger");
  await page.selectOption("[data-go=on]", "node-b");
  await page.waitForFunction(
    () => document.querySelector("#ledger h2")?.textContent === "On node-b" && document.querySelector("#ledger-grid"),
  );
  same(
    [
      ...new Set((await cells(page, "ledger-grid")).filter((c) => c.value && c.column !== "<Σ>").map((c) => c.row)),
    ].sort(),
    ["blue", "red"],
    "the ledger of one node",
  );

  // What was chosen outlives the page.
  await page.click("#theme");
  await page.click("#theme");
  await page.reload();
  await page.waitForSelector("#ledger-grid");
  same(await page.evaluate(() => document.documentElement.dataset.theme), "dark", "the theme is kept");
  await page.click("#theme");
  same(await page.evaluate(() => document.documentElement.dataset.theme), undefined, "and given back");

  // What every answer bears; nothing can be changed.
  for (const one of ["", "page.js", "api/snapshot", "api/nothing"]) {
    const answer = await fetch(home + one);
    if (one === "api/nothing") same(answer.status, 404);
    else {
      same(answer.headers.get("x-content-type-options"), "nosniff");
      ok(answer.headers.get("content-security-policy").startsWith("default-src 'none'"), one);
      const again = await fetch(home + one, { headers: { "If-None-Match": answer.headers.get("etag") } });
      if (one !== "api/snapshot") same(again.status, 304, one);
    }
    await answer.arrayBuffer();
  }
  same((await fetch(`${home}api/snapshot`, { method: "POST" })).status, 405, "nothing is taken");
}

/** For some seconds: how often something changed that is read aloud when it does, and whether `#id`, which is not, went on. */
const aloud = (page, id) =>
  page.evaluate(async (of) => {
    let changes = 0;
    const watch = new MutationObserver((list) => {
      changes += list.length;
    });
    for (const one of document.querySelectorAll("[role=status], [role=alert]"))
      watch.observe(one, { subtree: true, childList: true, characterData: true });
    const before = document.getElementById(of).textContent;
    await new Promise((done) => setTimeout(done, 2500));
    watch.disconnect();
    return { changes, went: document.getElementById(of).textContent !== before };
  }, id);

/** What is asked for while it is looked at, and the card that it is in. */
const DETAILS = {
  "tenant=blue": "#pods",
  "fence&from=red&to=green": "#flows",
  breaches: "#history",
  "ledger&on=node-b": "#ledger",
};
const OLD = "> .head + .note.warn";

/** Details that do not come any more: what was known stays, with its age and the reason. */
async function late(page) {
  const says = (card, words) =>
    page.waitForFunction(
      ([at, end]) => new RegExp(`^This is .+ old: ${end}\\.$`).test(document.querySelector(at)?.innerText),
      [`${card} ${OLD}`, words],
      { timeout: 15_000 },
    );
  for (const [hash, card] of Object.entries(DETAILS)) {
    await go(page, hash);
    await page.waitForSelector(`${card} table`);
    ok(await page.locator(`${card} ${OLD}`).isHidden(), `${card} is new`);
  }
  const details = /\/api\/(tenant|flows|history|node)\b/;
  await page.route(details, (route) => route.abort());
  for (const [hash, card] of Object.entries(DETAILS)) {
    await go(page, hash);
    await says(card, "it cannot be reached");
    ok(await page.locator(`${card} table tbody tr`).count(), `${card} keeps what was known`);
  }
  await picture(page, "old-light-wide");
  await page.unroute(details);
  await page.locator(`#ledger ${OLD}`).waitFor({ state: "hidden", timeout: 15_000 });
  // Neither an answer nor a refusal.
  await page.route(details, () => {});
  await says("#ledger", "no newer answer has come yet");
  checks += 2;
}

/** The aggregator goes away under an open page, and comes back. */
async function lost() {
  const context = await browser.newContext({ viewport: SIZES.wide });
  const page = await context.newPage();
  await page.goto(home);
  await page.waitForSelector("#tenant-table tbody tr");
  same(await aloud(page, "judged"), { changes: 0, went: true }, "read aloud while all is well");
  await page.route("**/api/snapshot", (route) => route.abort());
  await page.waitForSelector("#notice:not([hidden])", { timeout: 10_000 });
  ok((await text(page, "#alarm")).includes("No connection to the aggregator"), "a lost connection is said");
  same(await aloud(page, "since"), { changes: 0, went: true }, "read aloud while the connection is lost");
  same(await page.evaluate(() => document.documentElement.dataset.state), "lost");
  ok((await page.locator("#tenant-table tbody tr").count()) > 0, "what was known stays");
  await picture(page, "lost-light-wide");
  await page.unroute("**/api/snapshot");
  await page.waitForFunction(() => document.documentElement.dataset.state === "live", null, { timeout: 20_000 });
  checks += 1;
  await late(page);
  await context.close();
}

/** What stands still must be what the gRPC snapshot says. */
async function still() {
  const { ledger, traffic, tenants } = asked.truth;
  const { page, close } = await open("light", "wide");
  await page.goto(`${home}#ledger`);
  await page.waitForSelector("#ledger-grid");
  const shown = await cells(page, "ledger-grid");
  const named = (name) => !name.startsWith("<");
  const wanted = new Map();
  const sums = new Map();
  for (const [waiter, runner, value] of ledger) {
    if (!named(waiter)) continue;
    const key = waiter === runner ? `${waiter} <self>` : `${waiter} ${runner}`;
    wanted.set(key, (wanted.get(key) ?? 0) + value);
    // The system serves everybody: nobody was disturbed by another tenant while it ran.
    if (waiter !== runner && runner !== "system" && named(runner)) sums.set(waiter, (sums.get(waiter) ?? 0) + value);
  }
  ok(wanted.has("self red"), "a tenant called self waits");
  for (const { row, value } of shown.filter((c) => c.column === "<Σ>")) {
    const truth = sums.get(row) ?? 0;
    ok(Math.abs(Number(value) - truth) < 1e-5, `${row} waited ${truth} for other tenants, and ${value} is shown`);
  }
  let compared = 0;
  for (const { row, column, value, text: drawn } of shown) {
    if (column === "<Σ>") continue;
    const truth = wanted.get(`${row} ${column}`) ?? 0;
    if (value === undefined) {
      ok(truth < 0.0005 || row === column, `${row} waited ${truth} for ${column}, and nothing is shown`);
      continue;
    }
    ok(Math.abs(Number(value) - truth) < 2e-6, `${row} waited ${truth} for ${column}, and ${value} is shown`);
    const digits = drawn.split(".")[1]?.length ?? 0;
    ok(
      Math.abs(Number(drawn) - truth) <= 0.5 * 10 ** -digits + 1e-6,
      `${row} waited ${truth} for ${column}, and ${drawn} is drawn`,
    );
    wanted.delete(`${row} ${column}`);
    compared += 1;
  }
  ok(compared >= 4, `only ${compared} cells have a value`);
  for (const [key, value] of wanted) ok(value < 0.0005, `${key}: ${value} is nowhere`);

  await page.goto(`${home}#fence`);
  await page.waitForSelector("#fence-grid");
  await page.check("[data-flag=neutral]");
  const pairs = new Map();
  for (const { from, to, verdict } of traffic)
    pairs.set(`${from} ${to}`, new Set([...(pairs.get(`${from} ${to}`) ?? []), verdict]));
  const map = (await cells(page, "fence-grid")).filter((c) => c.value);
  same(
    Object.fromEntries(map.map((c) => [`${c.row} ${c.column}`, c.value.split(" ").sort()]).sort()),
    Object.fromEntries([...pairs].map(([key, set]) => [key, [...set].sort()]).sort()),
    "the fence as the snapshot has it",
  );

  // Nobody has reported for a while by now: that is said.
  await page.goto(`${home}#nodes`);
  await page.waitForFunction(() => document.querySelector("#node-table")?.innerText.includes("silent for"), null, {
    timeout: 15_000,
  });
  ok((await text(page, "#nodes")).includes("0 of 2 nodes report"), await text(page, "#nodes h2"));
  await picture(page, "silent-light-wide");
  await page.goto(`${home}#overview`);
  const all = await text(page, "#tenant-table");
  for (const { name } of tenants) ok(name.startsWith("<") || all.includes(name), `the overview lacks ${name}`);
  await close();
  return { compared };
}

/** With many tenants it still draws, and soon. */
async function crowd() {
  const { page, close } = await open("light", "wide");
  await page.goto(home);
  await page.waitForSelector("#tenant-table tbody tr");
  await page.waitForFunction(() => performance.getEntriesByName("partywall-drawn").length > 0);
  const first = await page.evaluate(() => performance.getEntriesByName("partywall-drawn")[0].startTime);
  const rows = await page.locator("#tenant-table tbody tr").count();
  ok(rows >= 200, `${rows} tenants in the table`);
  await picture(page, "crowd-overview-light-wide");
  await go(page, "ledger");
  await page.waitForSelector("#ledger-grid");
  const some = await cells(page, "ledger-grid");
  same(new Set(some.map((c) => c.row)).size, 25, "24 and the others");
  const other = some.find((c) => c.row === "~other" && c.column === "<Σ>");
  ok(Number(other.value) > 1, "the others are summed, not left out");
  await picture(page, "crowd-ledger-light-wide");
  await page.fill("[data-filter=ledger]", "tenant-117");
  ok(
    (await cells(page, "ledger-grid")).some((c) => c.row === "tenant-117"),
    "one can be brought in",
  );
  await page.fill("[data-filter=ledger]", "");
  const began = Date.now();
  await page.selectOption("[data-size=ledger]", "96");
  await page.waitForFunction(() => document.querySelectorAll("#ledger-grid tbody tr").length === 97);
  const widened = Date.now() - began;
  const count = (await cells(page, "ledger-grid")).length;
  // The longest time that nothing else could be done in, over some redraws.
  const redraw = await page.evaluate(
    () =>
      new Promise((done) => {
        let most = 0;
        let last = performance.now();
        const end = last + 7000;
        const tick = () => {
          const now = performance.now();
          most = Math.max(most, now - last);
          last = now;
          if (now < end) setTimeout(tick);
          else done(most);
        };
        tick();
      }),
  );
  ok(first < 3000, `first drawn after ${first} ms`);
  ok(redraw < 1500, `a redraw takes ${redraw} ms`);
  same(
    await page.evaluate(() => document.documentElement.dataset.state),
    "live",
    "asked for less often, it is live all the same",
  );
  await picture(page, "crowd-ledger-96-light-wide");
  const bytes = (await (await fetch(`${home}api/snapshot`)).arrayBuffer()).byteLength;
  await close();
  return {
    first_render_ms: Math.round(first),
    redraw_ms: Math.round(redraw),
    widened_ms: widened,
    cells: count,
    answer_bytes: bytes,
    tenants: rows,
  };
}

let code = 0;
try {
  const found = await { live, still, crowd }[asked.part]();
  process.stdout.write(JSON.stringify({ checks, ...found }));
} catch (error) {
  process.stderr.write(`${error.message}\n${error.stack?.split("\n").slice(0, 6).join("\n")}\n`);
  code = 1;
} finally {
  await browser.close();
  server.close();
}
process.exit(code);
