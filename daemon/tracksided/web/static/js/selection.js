// Which runs are drawn and which one is open. The address of the page holds both.

const MAX_DRAWN = 8; // as many as the server sends, and as there are colours
const MAX_AT_FIRST = 4;

export class Selection {
  /** @param onChange called after each change by the user. */
  constructor(onChange) {
    this.onChange = onChange;
    this.read();
    // A bookmark of another choice, taken while the page is open, loads nothing anew.
    addEventListener("hashchange", () => {
      this.read();
      this.onChange();
    });
  }

  read() {
    const parameters = new URLSearchParams(location.hash.slice(1));
    this.drawn = (parameters.get("runs") ?? "").split(",").filter(Boolean).slice(0, MAX_DRAWN);
    this.open = parameters.get("open");
    this.isChosen = this.drawn.length > 0; // by somebody, and not by default
  }

  /** Fit the selection to the runs that there are; true if it changed. */
  fit(runs) {
    const before = this.key();
    const known = new Set(runs.map((run) => run.key));
    this.drawn = this.drawn.filter((key) => known.has(key));
    if (!this.isChosen || !this.drawn.length) {
      const alive = runs.filter((run) => run.alive);
      const first = (alive.length ? alive : runs.slice(0, 1)).slice(0, MAX_AT_FIRST);
      // What is drawn keeps its colour; what is new comes after it.
      const wanted = new Set(first.map((run) => run.key));
      const kept = alive.length ? this.drawn.filter((key) => wanted.has(key)) : this.drawn;
      const added = [...wanted].filter((key) => !kept.includes(key));
      this.drawn = kept.length || added.length ? [...kept, ...added] : [];
    }
    if (!this.drawn.includes(this.open)) this.open = this.drawn[0] ?? null;
    return this.key() !== before;
  }

  toggle(key) {
    this.isChosen = true;
    if (this.drawn.includes(key)) this.drawn = this.drawn.filter((other) => other !== key);
    else this.drawn = [...this.drawn, key].slice(-MAX_DRAWN);
    if (!this.drawn.includes(this.open)) this.open = this.drawn[0] ?? null;
    this.changed();
  }

  show(key) {
    this.isChosen = true; // or what is read would be exchanged when its training ends
    if (!this.drawn.includes(key)) this.drawn = [...this.drawn, key].slice(-MAX_DRAWN);
    this.open = key;
    this.changed();
  }

  /** Place of a run among those that are drawn, which gives it its colour; null if it is not. */
  place(key) {
    const index = this.drawn.indexOf(key);
    return index < 0 ? null : index;
  }

  key() {
    return `${this.drawn.join(",")} ${this.open}`;
  }

  changed() {
    history.replaceState(null, "", `#runs=${this.drawn.join(",")}&open=${this.open ?? ""}`);
    this.onChange();
  }
}
