// Makes elements. Text always goes in as text: names of runs come from a training script.

const SVG = "http://www.w3.org/2000/svg";
export const NUM_COLOURS = 8;
const DASHES = ["", "6 3", "2 2", "8 2 2 2", "10 4", "4 2", "1 3", "12 2"];

export const byId = (id) => document.getElementById(id);

/** Make an element; `on*` attributes are listeners, false and null leave an attribute out. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Write a text only where it changed, so that screen readers hear nothing twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A short piece of a run's line, as it is drawn in the curves. */
export function swatch(index) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("class", "swatch");
  picture.setAttribute("viewBox", "0 0 22 8");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "line");
  for (const [name, value] of Object.entries({ x1: 0, x2: 22, y1: 4, y2: 4 })) {
    line.setAttribute(name, value);
  }
  if (index !== null) {
    line.style.stroke = `var(--run-${index % NUM_COLOURS})`;
    line.setAttribute("stroke-dasharray", DASHES[index % NUM_COLOURS]);
  }
  picture.append(line);
  return picture;
}

export const dashOf = (index) =>
  DASHES[index % NUM_COLOURS].split(" ").filter(Boolean).map(Number);

export const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Replace a table by head and rows. A cell is a text, or [text, class]. */
export function fillTable(table, caption, head, rows) {
  const cell = (tag, content, scope) => {
    const [text, kind] = Array.isArray(content) ? content : [content, null];
    return el(tag, { class: kind, scope }, text);
  };
  table.replaceChildren(
    el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {}, ...head.map((text) => cell("th", text, "col")))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text) => cell("td", text, null))))),
  );
}
