// What the server has sent: the overview, and of each watched run its columns and its document.

const MAX_POINTS = 4000; // as the server keeps them
const SERIES = ["step", "timestamp", "loss", "lr", "norm_before_clip", "norm_after_clip", "step_seconds"];

let newestVersion = 0;

/** The numbers of one run over its steps. Unknown is null; NaN is what was NaN or infinite. */
export class RunNumbers {
  constructor(columns, isCut) {
    this.isCut = isCut;
    this.version = newestVersion += 1; // another one after each change, of all runs
    this.entropy = new Map(Object.entries(columns.entropy));
    for (const name of SERIES) this[name] = columns[name].map(parsed);
  }

  get length() {
    return this.step.length;
  }

  last(name) {
    return this.length ? this[name][this.length - 1] : null;
  }

  /** Add steps. One that is not above the last means that training went back. */
  add(rows) {
    this.version = newestVersion += 1;
    for (const row of rows) {
      let keep = this.length;
      while (keep && this.step[keep - 1] >= row.step) keep -= 1;
      for (const column of this.columns()) column.length = keep;
      for (const layer of Object.keys(row.entropy)) {
        if (!this.entropy.has(layer)) this.entropy.set(layer, new Array(keep).fill(null));
      }
      for (const name of SERIES) this[name].push(parsed(row[name]));
      for (const [layer, column] of this.entropy) column.push(row.entropy[layer] ?? null);
    }
    if (this.length > MAX_POINTS) this.thinOut();
  }

  columns() {
    return [...SERIES.map((name) => this[name]), ...this.entropy.values()];
  }

  thinOut() {
    const first = (this.length - 1) % 2;
    const half = (column) => column.filter((_, index) => index % 2 === first);
    for (const name of SERIES) this[name] = half(this[name]);
    for (const [layer, column] of this.entropy) this.entropy.set(layer, half(column));
  }
}

/** JSON has no NaN: the server sends a text in its place. */
const parsed = (value) => (typeof value === "string" ? NaN : value);

export class Store {
  constructor() {
    this.overview = null;
    this.numbers = new Map(); // key of a run to RunNumbers
    this.documents = new Map(); // key of a run to alerts, averages, pictures
  }

  run(key) {
    return this.overview?.runs.find((run) => run.key === key) ?? null;
  }

  apply(name, data) {
    if (name === "overview") this.take(data);
    else if (name === "history") this.numbers.set(data.key, new RunNumbers(data.columns, data.cut));
    else if (name === "rows") this.numbers.get(data.key)?.add(data.rows);
    else if (name === "run") this.documents.set(data.key, data);
  }

  take(overview) {
    this.overview = overview;
    const listed = new Set(overview.runs.map((run) => run.key));
    for (const kept of [this.numbers, this.documents]) {
      for (const key of kept.keys()) if (!listed.has(key)) kept.delete(key);
    }
  }
}
