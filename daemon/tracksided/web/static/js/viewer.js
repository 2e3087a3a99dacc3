// Shows one picture of a list large, and turns to the others.

import { byId, say } from "./dom.js";

export class Viewer {
  constructor() {
    this.entries = [];
    this.index = 0;
    this.owner = null;
    this.dialog = byId("viewer");
    this.dialog.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (event.target === this.dialog || button?.hasAttribute("data-close")) this.dialog.close();
      else if (button?.dataset.move) this.turn(Number(button.dataset.move));
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.turn(-1);
      if (event.key === "ArrowRight") this.turn(1);
    });
  }

  /** Open one of the entries {title, when, address} of a list. */
  open(owner, entries, index) {
    this.owner = owner;
    this.show(entries, index);
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** Take the newer entries of a list, if it is the one that is looked at. */
  follow(owner, entries) {
    if (this.dialog.open && owner === this.owner && entries.length) this.show(entries, this.index);
  }

  turn(places) {
    this.show(this.entries, this.index + places);
  }

  show(entries, index) {
    this.entries = entries;
    this.index = (index + entries.length) % entries.length;
    const { title, when, address } = entries[this.index];
    const image = byId("viewer-image");
    if (image.getAttribute("src") !== address) image.src = address;
    image.alt = `${title}, ${when}`;
    say(byId("viewer-title"), `${title} (${when})`);
  }
}
