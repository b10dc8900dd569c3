// Elements without markup: what comes from tenants becomes text and attributes, never HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    // Through the CSSOM: an attribute would be inline style, which the policy forbids.
    if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "key") element.dataset.key = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** An element: `h("a", {href: "#x"}, "text", other)`. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** The same of SVG. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.dataset.key : undefined);

function sameKind(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

/** Makes `old` look like `wanted` and keeps what is there: focus, selection, scroll positions, open details. */
export function morph(old, wanted) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (name === "style" || (name === "open" && old.nodeName === "DETAILS")) continue;
    if (name === "tabindex" && old.dataset.roving !== undefined) continue;
    if (name === "aria-label" && old === document.activeElement) continue;
    if (!wanted.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (name === "style" || (name === "tabindex" && old.dataset.roving !== undefined)) continue;
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style && old.style.cssText !== wanted.style.cssText) old.style.cssText = wanted.style.cssText;
  children(old, wanted);
  // Typed or chosen by a person: theirs while they are at it.
  if (old.nodeName === "SELECT" && document.activeElement !== old) old.value = wanted.value;
}

function children(old, wanted) {
  const keyed = new Map();
  for (const child of old.children) {
    const key = keyOf(child);
    // Cells have none: there are too many to look at each.
    if (key !== undefined) keyed.set(key, child);
    else if (child.nodeName === "TD") break;
  }
  let at = old.firstChild;
  for (const next of [...wanted.childNodes]) {
    const key = keyOf(next);
    const found = key === undefined ? at : keyed.get(key);
    if (found && sameKind(found, next)) {
      if (found === at) at = at.nextSibling;
      else old.insertBefore(found, at);
      morph(found, next);
    } else {
      old.insertBefore(next, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

/** Puts `wanted` in the place of what `root` holds. */
export function render(root, ...wanted) {
  const shell = root.cloneNode(false);
  fill(shell, {}, wanted);
  children(root, shell);
}
