// Figures and names as people read them.

// Control characters, and what turns the direction of text: shown by their numbers, so that no name can look like another or like nothing.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A name as it is, with nothing hidden in it. */
export const plain = (name) =>
  String(name).replace(HIDDEN, (c) => `⟨${c.codePointAt(0).toString(16).padStart(2, "0")}⟩`);

/** "0.430": cores, in columns. */
export function cores(n) {
  if (n === null || n === undefined) return "–";
  if (n === 0) return "0";
  if (Math.abs(n) < 0.0005) return "<0.001";
  return n >= 100 ? n.toFixed(1) : n >= 10 ? n.toFixed(2) : n.toFixed(3);
}

/** "0.43": cores, where there is little room. */
export function brief(n) {
  if (n < 0.0005) return "";
  if (n < 0.1) return n.toFixed(3);
  return n < 1 ? n.toFixed(2) : n < 10 ? n.toFixed(1) : n.toFixed(0);
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** "12.3 MiB" */
export function bytes(n) {
  if (n === null || n === undefined) return "–";
  let at = 0;
  let left = Math.abs(n);
  while (left >= 1024 && at < UNITS.length - 1) {
    left /= 1024;
    at += 1;
  }
  const digits = at === 0 ? 0 : left >= 100 ? 0 : left >= 10 ? 1 : 2;
  return `${n < 0 ? "−" : ""}${left.toFixed(digits)} ${UNITS[at]}`;
}

export const rate = (n) => `${bytes(Math.round(n))}/s`;

/** "12.3 k" */
export function count(n) {
  if (n < 10_000) return String(n);
  const [left, unit] = n < 1e6 ? [n / 1e3, "k"] : n < 1e9 ? [n / 1e6, "M"] : [n / 1e9, "G"];
  return `${left >= 100 ? left.toFixed(0) : left.toFixed(1)} ${unit}`;
}

/** "3 nodes" */
export const many = (n, one, more = `${one}s`) => `${count(n)} ${n === 1 ? one : more}`;

export const percent = (share, digits = 0) => `${(share * 100).toFixed(digits)} %`;

/** "12 s", "3 min 4 s", "2 h 5 min" */
export function duration(seconds) {
  const all = Math.max(0, seconds);
  if (all < 0.001) return all === 0 ? "0 s" : `${(all * 1e6).toFixed(0)} µs`;
  if (all < 1) return `${(all * 1e3).toFixed(0)} ms`;
  if (all < 10) return `${all.toFixed(1)} s`;
  if (all < 60) return `${Math.floor(all)} s`;
  const [days, hours, minutes] = [Math.floor(all / 86_400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60];
  if (days) return hours ? `${days} d ${hours} h` : `${days} d`;
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  const rest = Math.floor(all % 60);
  return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
}

/** "14:03:21Z"; with the day where it is another. UTC, as everything else of Partywall says and reads it. */
export function clock(unixMs) {
  if (!unixMs) return "–";
  const at = `${new Date(unixMs).toISOString().slice(0, 19)}Z`;
  const today = new Date().toISOString().slice(0, 11);
  return at.startsWith(today) ? at.slice(11) : at;
}

/** A figure of evidence by the unit in its name: `stolen_cores` → ["stolen", "0.43 cores"]. */
export function figure(name, value) {
  const words = name.split("_");
  const without = (n) => words.slice(0, words.length - n).join(" ");
  if (name.endsWith("bytes_per_second")) return [without(3), rate(value)];
  if (name.endsWith("_per_second")) return [without(2), `${trim(value)}/s`];
  switch (words.at(-1)) {
    case "cores":
      return [without(1) || "cores", `${cores(value)} cores`];
    case "bytes":
      return [without(1) || "bytes", bytes(value)];
    case "seconds":
      return [without(1) || "time", duration(value)];
    case "share":
    case "ratio":
      return [words.join(" "), percent(value, 1)];
    case "slowdown":
      return [words.join(" "), `${value.toFixed(2)} ×`];
    default:
      return [words.join(" "), trim(value)];
  }
}

/** No more digits than say something. */
function trim(value) {
  if (Number.isInteger(value)) return Math.abs(value) < 100_000 ? String(value) : count(value);
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
