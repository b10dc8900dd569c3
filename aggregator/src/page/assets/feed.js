// Asks what changed, again and again: "nothing" is 304 and costs next to nothing. Rests while nobody looks.

/** What is known. Times are this page's own clock: the aggregator's may go otherwise. */
export const known = {
  /** The newest answer; `null` before the first. */
  all: null,
  /** When something was judged anew, and when anything was heard at all. */
  changedAt: 0,
  heardAt: 0,
  /** Seconds between two questions. */
  pause: 1,
  /** Why nothing is heard. */
  problem: null,
};

/** Points that a line has: five minutes, one a second. */
const POINTS = 300;
const ANSWER_MS = 10_000;
/** An answer of this size is asked for less often. */
const LARGE = 256 * 1024;

const lines = new Map();
let etag = "";
let failures = 0;
let timer = 0;
let large = false;

/** `{at, used, stolen, taken}` of a tenant, the oldest first, since the page was opened. */
export const line = (cluster, tenant) => lines.get(`${cluster}\n${tenant}`) ?? [];

function remember(all) {
  const seen = new Set();
  for (const cluster of all.clusters) {
    for (const t of cluster.tenants) {
      const key = `${cluster.name}\n${t.name}`;
      seen.add(key);
      const points = lines.get(key) ?? [];
      points.push({ at: cluster.judged_unix_ms, used: t.used_cores, stolen: t.stolen_cores, taken: t.taken_cores });
      if (points.length > POINTS) points.shift();
      lines.set(key, points);
    }
  }
  for (const key of lines.keys()) if (!seen.has(key)) lines.delete(key);
}

async function ask() {
  const response = await fetch("api/snapshot", {
    headers: etag ? { "If-None-Match": etag } : {},
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  if (response.status === 304) return false;
  if (!response.ok) throw new Error(await said(response));
  const text = await response.text();
  known.all = JSON.parse(text);
  large = text.length > LARGE;
  etag = response.headers.get("ETag") ?? "";
  remember(known.all);
  return true;
}

async function said(response) {
  try {
    return (await response.json()).problem;
  } catch {
    // A proxy's own page says nothing of use.
    return `${response.status} ${response.statusText}`.trim();
  }
}

/** Calls `draw` when there is something new, and once a second in any case. */
export function follow(draw) {
  const round = async () => {
    clearTimeout(timer);
    try {
      const changed = await ask();
      known.heardAt = performance.now();
      if (changed) known.changedAt = known.heardAt;
      known.problem = null;
      failures = 0;
    } catch (error) {
      failures += 1;
      known.problem = reason(error);
    }
    draw();
    const step = (known.all?.step_seconds ?? 1) * 1000;
    const pause = failures ? Math.min(10_000, 1000 * 2 ** (failures - 1)) : Math.max(step, large ? 3000 : 1000);
    known.pause = pause / 1000;
    if (!document.hidden) timer = setTimeout(round, pause);
  };
  let hiddenAt = 0;
  document.addEventListener("visibilitychange", () => {
    const now = performance.now();
    if (document.hidden) {
      hiddenAt = now;
      return;
    }
    // Nothing was asked meanwhile: that was no silence of the aggregator's.
    if (known.all) {
      known.changedAt += now - hiddenAt;
      known.heardAt += now - hiddenAt;
    }
    round();
  });
  addEventListener("online", round);
  setInterval(() => document.hidden || draw(), 1000);
  return round();
}

/** Why a question was not answered. Browsers tell a page no more than that a request failed, each in words of its own. */
const reason = (error) =>
  ({ TimeoutError: "no answer within 10 s", TypeError: "it cannot be reached" })[error.name] ?? error.message;

/** Details that are asked for while they are looked at: the newest answer to a question, or why there is none. */
const details = new Map();

export function detail(path, redraw, everyMs = 3000) {
  let entry = details.get(path);
  if (!entry) {
    // What was looked at long ago is not kept.
    if (details.size > 20) details.delete(details.keys().next().value);
    entry = { answer: null, answeredAt: 0, problem: null, askedAt: -Infinity, asking: false, everyMs };
    details.set(path, entry);
  }
  const now = performance.now();
  if (!entry.asking && now - entry.askedAt > everyMs) {
    entry.asking = true;
    entry.askedAt = now;
    fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) })
      .then(async (response) => {
        if (!response.ok) throw new Error(await said(response));
        entry.answer = await response.json();
        entry.answeredAt = performance.now();
        entry.problem = null;
      })
      .catch((error) => {
        entry.problem = reason(error);
      })
      .finally(() => {
        entry.asking = false;
        redraw();
      });
  }
  return entry;
}

/** An answer that is older than so many questions is old. */
const OLD_PERIODS = 3;

/** How old an answer is, in seconds, where that must be said: the last question failed, or none was answered for long. Else `null`. */
export function overdue(entry) {
  const age = performance.now() - entry.answeredAt;
  // Where all is asked for less often, so are details: they are drawn with it.
  const period = Math.max(entry.everyMs, known.pause * 1000);
  return entry.problem !== null || age > OLD_PERIODS * period ? age / 1000 : null;
}
