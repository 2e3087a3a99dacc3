// A list of pictures of the open run: those of its newest step, or those of the whole run.

import { el, say } from "./dom.js";
import { pictureTitle } from "./format.js";

const SHOWN_AT_FIRST = 8;

export class Pictures {
  /** @param parts {section, list, more}: elements. @param viewer that enlarges a picture. */
  constructor(parts, viewer) {
    this.parts = parts;
    this.viewer = viewer;
    this.drawn = "";
    this.entries = [];
    this.isAll = false;
    parts.more.addEventListener("click", () => {
      this.isAll = true;
      this.draw();
    });
  }

  /** Show these entries: {title, when, address, moves}. */
  update(entries) {
    this.parts.section.hidden = !entries.length;
    const drawn = JSON.stringify(entries);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.entries = entries;
    this.draw();
    this.viewer.follow(this, entries);
  }

  draw() {
    const { list, more } = this.parts;
    const count = this.isAll ? this.entries.length : Math.min(SHOWN_AT_FIRST, this.entries.length);
    while (list.children.length > count) list.lastChild.remove();
    for (let index = 0; index < count; index += 1) {
      const { title, when, address, moves } = this.entries[index];
      const item = list.children[index] ?? list.appendChild(this.make(index));
      const image = item.querySelector("img");
      const still = item.querySelector("canvas");
      image.hidden = moves;
      still.hidden = !moves;
      image.alt = `${title}, ${when}`;
      still.setAttribute("aria-label", image.alt);
      if (image.getAttribute("src") !== address) image.src = address;
      say(item.querySelector("span"), moves ? `${title} (animation)` : title);
    }
    more.hidden = count === this.entries.length;
    say(more, `Show all ${this.entries.length} pictures`);
  }

  make(index) {
    // What moves is still here, by its first frame, and moves where it is looked at alone.
    const still = el("canvas", { role: "img" });
    const image = el("img", { alt: "", onload: () => drawStill(still, image) });
    return el("li", {}, el("button", { type: "button", onclick: () => this.viewer.open(this, this.entries, index) },
      image, still, el("span")));
  }
}

/** The pictures of the newest step that has any, maps of layers first. */
export function newestOf(key, document_) {
  const when = (document_?.folder ?? "").replaceAll("_", " ");
  return [...(document_?.pictures ?? [])].sort(mapsFirst).map((name) => ({
    title: pictureTitle(name), when, moves: false,
    address: `/runs/${key}/${document_.folder}/${encodeURIComponent(name)}`,
  }));
}

/** The pictures of the whole run, in their newest version; heads of layers are animations. */
export function overviewOf(key, document_) {
  const entries = (document_?.overview ?? []).map(({ name, version }) => ({
    title: name === "entropy.png" ? "Entropy by layer and step" : pictureTitle(name),
    when: "over the whole run",
    moves: /_head\d+\.png$/.test(name),
    address: `/runs/${key}/overview/${encodeURIComponent(name)}?version=${version}`,
  }));
  return entries.sort((left, right) =>
    left.moves - right.moves || left.title.localeCompare(right.title, "en", { numeric: true }));
}

function mapsFirst(left, right) {
  const rank = (name) => (/_attn\.png$/.test(name) ? 0 : /_heads\.png$/.test(name) ? 1 : 2);
  return rank(left) - rank(right) || left.localeCompare(right, "en", { numeric: true });
}

function drawStill(canvas, image) {
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
}
