// The list of runs: ticked ones are drawn, one is open.

import { byId, el, swatch } from "./dom.js";
import { whole } from "./format.js";

/** What to call the state of a run. */
export const stateOf = (run) => (run.problem ? "problem" : run.state);

/** Newest step that is on disk. */
export const stepOf = (run) => run.committed_step || run.last_step;

export class RunList {
  constructor(selection) {
    this.selection = selection;
    this.entries = new Map();
  }

  update(store) {
    const runs = store.overview.runs;
    const list = byId("run-list");
    for (const [key, entry] of this.entries) {
      if (!runs.some((run) => run.key === key)) {
        entry.item.remove();
        this.entries.delete(key);
      }
    }
    runs.forEach((run, index) => {
      const entry = this.entries.get(run.key) ?? this.make(run);
      // Moving an element would take the focus from it.
      if (list.children[index] !== entry.item) list.insertBefore(entry.item, list.children[index]);
      this.fill(entry, run, store);
    });
  }

  make(run) {
    const box = el("input", {
      type: "checkbox",
      "aria-label": `Draw ${run.run}`,
      onchange: () => this.selection.toggle(run.key),
    });
    const line = el("span", { class: "name" });
    const facts = el("span", { class: "facts" });
    const button = el("button", { type: "button", onclick: () => this.selection.show(run.key) }, line, facts);
    const item = el("li", { class: "run" }, el("label", { title: "Draw its curves" }, box), button);
    const entry = { item, box, button, line, facts, drawn: "" };
    this.entries.set(run.key, entry);
    return entry;
  }

  fill(entry, run, store) {
    const place = this.selection.place(run.key);
    const isOpen = this.selection.open === run.key;
    const state = stateOf(run);
    const active = run.active_alerts.length;
    const alerts = active || (store.documents.get(run.key)?.num_alerts ?? 0);
    const step = stepOf(run);
    const drawn = JSON.stringify([place, isOpen, state, active, alerts, step, run.run]);
    if (drawn === entry.drawn) return;
    entry.drawn = drawn;
    entry.item.dataset.open = isOpen;
    entry.box.checked = place !== null;
    entry.button.setAttribute("aria-current", isOpen);
    entry.line.replaceChildren(swatch(place), el("span", { title: run.run }, run.run));
    entry.facts.replaceChildren(
      el("span", { class: "state", "data-state": state }, state),
      ` \u00b7 step ${whole(step)}`,
      alerts ? el("span", { class: "count", "data-active": active > 0 },
        `\u25b2 ${alerts}`, el("span", { class: "hidden" }, active ? " active alerts" : " alerts")) : "",
    );
  }
}
