// The newest pictures of the open run, and a viewer for them.

import { byId, el, say } from "./dom.js";
import { pictureTitle } from "./format.js";

const SHOWN_AT_FIRST = 8;

export class Pictures {
  constructor() {
    this.drawn = "";
    this.entries = [];
    this.isAll = false;
    this.open = 0;
    this.viewer = byId("viewer");
    byId("more-pictures").addEventListener("click", () => {
      this.isAll = true;
      this.draw();
    });
    this.viewer.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (event.target === this.viewer || button?.hasAttribute("data-close")) this.viewer.close();
      else if (button?.dataset.move) this.show(this.open + Number(button.dataset.move));
    });
    this.viewer.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.show(this.open - 1);
      if (event.key === "ArrowRight") this.show(this.open + 1);
    });
  }

  update(key, document_) {
    const names = document_?.pictures ?? [];
    byId("maps").hidden = !names.length;
    const drawn = JSON.stringify([key, document_?.folder, names]);
    if (drawn === this.drawn || !names.length) return;
    this.drawn = drawn;
    this.entries = [...names].sort(mapsFirst).map((name) => ({
      title: pictureTitle(name),
      address: `/runs/${key}/${document_.folder}/${encodeURIComponent(name)}`,
    }));
    this.step = document_.folder.replaceAll("_", " ");
    say(byId("maps-step"), this.step);
    this.draw();
    if (this.viewer.open) this.show(this.open);
  }

  draw() {
    const list = byId("picture-list");
    const count = this.isAll ? this.entries.length : Math.min(SHOWN_AT_FIRST, this.entries.length);
    while (list.children.length > count) list.lastChild.remove();
    for (let index = 0; index < count; index += 1) {
      const { title, address } = this.entries[index];
      const item = list.children[index] ?? list.appendChild(this.make(index));
      const image = item.querySelector("img");
      if (image.getAttribute("src") !== address) image.src = address;
      image.alt = `${title}, ${this.step}`;
      say(item.querySelector("span"), title);
    }
    byId("more-pictures").hidden = count === this.entries.length;
    say(byId("more-pictures"), `Show all ${this.entries.length} pictures`);
  }

  make(index) {
    return el("li", {}, el("button", { type: "button", onclick: () => this.show(index) },
      el("img", { alt: "" }), el("span")));
  }

  show(index) {
    if (!this.entries.length) return;
    this.open = (index + this.entries.length) % this.entries.length;
    const { title, address } = this.entries[this.open];
    byId("viewer-image").src = address;
    byId("viewer-image").alt = `${title}, ${this.step}`;
    say(byId("viewer-title"), `${title} (${this.step})`);
    if (!this.viewer.open) this.viewer.showModal();
  }
}

/** Maps of layers first, in the order of their layers; then what compares them. */
function mapsFirst(left, right) {
  const rank = (name) => (/_attn\.png$/.test(name) ? 0 : /_heads\.png$/.test(name) ? 1 : 2);
  return rank(left) - rank(right) || left.localeCompare(right, "en", { numeric: true });
}
