// Puts the parts together: events change the store, and the page is drawn from it.

import { Charts } from "./charts.js";
import { Connection } from "./connection.js";
import { showAlerts, showDaemon, showDetails } from "./details.js";
import { byId, say } from "./dom.js";
import { EntropyMap } from "./heatmap.js";
import { showMachine } from "./machine.js";
import { newestOf, overviewOf, Pictures } from "./pictures.js";
import { RunList } from "./runs.js";
import { Selection } from "./selection.js";
import { Store } from "./store.js";
import { Viewer } from "./viewer.js";

const store = new Store();
const selection = new Selection(() => {
  if (store.overview) selection.fit(store.overview.runs);
  refresh();
});
const list = new RunList(selection);
const charts = new Charts();
const map = new EntropyMap();
const viewer = new Viewer();
const pictures = new Pictures(
  { section: byId("maps"), list: byId("picture-list"), more: byId("more-pictures") }, viewer);
const overview = new Pictures(
  { section: byId("overview"), list: byId("overview-list"), more: byId("more-overview") }, viewer);
const known = new Map(); // key of a run to the number of its alerts
let state = "connecting";
let isDue = false;

const connection = new Connection(
  (name, data) => {
    store.apply(name, data);
    if (name === "overview") selection.fit(data.runs);
    if (name === "run") announce(data);
    refresh();
  },
  (now) => {
    state = now;
    refresh();
  },
);

/** Draw at the next frame, once for all that has come until then. */
function refresh() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function draw() {
  showDaemon(store.overview, state);
  if (!store.overview) return;
  connection.watch(selection.drawn);
  const { runs } = store.overview;
  byId("empty").hidden = runs.length > 0;
  byId("layout").hidden = byId("skip").hidden = runs.length === 0;
  if (!runs.length) return;
  list.update(store);
  const drawn = selection.drawn.map((key, place) => ({
    name: store.run(key)?.run ?? key,
    place,
    numbers: store.numbers.get(key),
    document: store.documents.get(key),
    active: store.run(key)?.active_alerts ?? [],
  }));
  charts.update(drawn);
  showAlerts(drawn);
  const run = store.run(selection.open);
  byId("content").hidden = !run;
  if (!run) return;
  const numbers = store.numbers.get(run.key);
  const document_ = store.documents.get(run.key);
  showDetails(run, numbers, document_);
  showMachine(document_?.host ?? null);
  map.update(numbers);
  const newest = newestOf(run.key, document_);
  say(byId("maps-step"), newest[0]?.when ?? "");
  pictures.update(newest);
  overview.update(overviewOf(run.key, document_));
}

/** Tell screen readers of alerts that came while the page was open. */
function announce(data) {
  const before = known.get(data.key);
  known.set(data.key, data.num_alerts);
  if (before === undefined || data.num_alerts <= before) return;
  const alert = data.alerts.at(-1);
  const name = store.run(data.key)?.run ?? "a run";
  say(byId("news"), `Alert of ${name}: ${alert.severity}, ${alert.message ?? alert.rule}`);
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the choice of runs, no place on the page
  byId("content").focus();
});

connection.watch(selection.drawn);
