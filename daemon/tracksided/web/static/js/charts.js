// Curves over steps: one chart for each quantity, one line for each drawn run.

import { byId, colour, dashOf, el, fillTable, NUM_COLOURS, say, swatch } from "./dom.js";
import { number, seconds, whole } from "./format.js";

const QUANTITIES = [
  { name: "loss", title: "Loss", format: number, scale: "linear" },
  { name: "norm_before_clip", title: "Gradient norm", format: number, scale: "log", second: "norm_after_clip", secondTitle: "after clipping" },
  { name: "lr", title: "Learning rate", format: number },
  { name: "step_seconds", title: "Step time", format: seconds },
];
const TABLE_ROWS = 20;
const HEIGHT_PX = 218;
const isKnown = Number.isFinite;
const SMOOTHING = 0.05; // of the points, for the moving average

export class Charts {
  constructor() {
    this.charts = QUANTITIES.map((quantity) => new Chart(quantity));
    byId("charts").replaceChildren(...this.charts.map((chart) => chart.figure));
    new ResizeObserver(() => this.charts.forEach((chart) => chart.fit())).observe(byId("charts"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      this.charts.forEach((chart) => chart.rebuild()),
    );
  }

  /** @param runs those that are drawn: {name, place, numbers}. */
  update(runs) {
    this.charts.forEach((chart) => chart.update(runs));
  }
}

class Chart {
  constructor(quantity) {
    this.quantity = quantity;
    this.runs = [];
    this.plot = null;
    this.shape = "";
    this.drawn = "";
    this.isLog = quantity.scale === "log";
    this.isSmooth = false;
    const id = `chart-${quantity.name}`;
    this.readout = el("p", { class: "readout" });
    this.box = el("div", { class: "plot", role: "img", "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-text` });
    this.summary = el("p", { class: "hidden", id: `${id}-text` });
    this.table = el("table");
    this.details = el("details", { ontoggle: () => this.fillTable() },
      el("summary", {}, "As a table", el("span", { class: "hidden" }, `, ${quantity.title}`)),
      el("div", { class: "scroll" }, this.table));
    const toggles = quantity.scale ? [this.toggle("smooth", "isSmooth"), this.toggle("log", "isLog")] : [];
    this.figure = el("figure", { class: "chart", id },
      el("div", { class: "chart-head" }, el("h4", { id: `${id}-title` }, quantity.title), ...toggles),
      this.readout, this.box, this.summary, this.details);
  }

  toggle(text, field) {
    const button = el("button", {
      type: "button",
      class: "toggle",
      "aria-pressed": this[field],
      title: text === "log" ? "Logarithmic scale" : "Moving average",
      onclick: () => {
        this[field] = !this[field];
        button.setAttribute("aria-pressed", this[field]);
        this.rebuild();
      },
    }, text, el("span", { class: "hidden" }, `, ${this.quantity.title}`));
    return button;
  }

  update(runs) {
    this.runs = runs.filter((run) => run.numbers?.length);
    const shape = JSON.stringify(this.runs.map((run) => [run.name, run.place]));
    const drawn = JSON.stringify(this.runs.map((run) => run.numbers.version));
    if (shape === this.shape && drawn === this.drawn) return;
    this.drawn = drawn;
    if (shape !== this.shape || !this.plot) {
      this.shape = shape;
      this.rebuild();
    } else {
      const data = this.plotData();
      const zoom = this.zoom(data[0]);
      this.plot.setData(data, zoom === null);
      if (zoom) this.plot.setScale("x", zoom);
    }
    this.describe();
    this.read(null);
    if (this.details.open) this.fillTable();
  }

  /** Series in the order of the plot: {run, column, colour, dash, width}. */
  lines() {
    const { name, second } = this.quantity;
    const lines = [];
    for (const run of this.runs) {
      const tint = colour(`--run-${run.place % NUM_COLOURS}`);
      const dash = this.runs.length > 1 ? dashOf(run.place) : [];
      const raw = { run, column: run.numbers[name], colour: tint, dash, width: 1.8 };
      if (this.isSmooth) {
        lines.push({ ...raw, colour: `${tint}55`, width: 1, dash: [] });
        lines.push({ ...raw, column: movingAverage(raw.column), width: 2.2 });
      } else {
        lines.push(raw);
      }
      if (second && this.runs.length === 1) {
        lines.push({ run, column: run.numbers[second], colour: colour("--second"), dash: [4, 3], width: 1.4, label: this.quantity.secondTitle });
      }
    }
    return lines;
  }

  plotData() {
    const isDrawn = this.isLog ? (value) => value > 0 : isKnown;
    const columns = this.lines().map((line) => [
      line.run.numbers.step.slice(), // the plot's own: what is drawn tells whether it is zoomed
      line.column.map((value) => (isDrawn(value) ? value : null)),
    ]);
    return columns.length === 1 ? columns[0] : uPlot.join(columns);
  }

  /** What somebody zoomed in to, {min, max}; null where all is shown, or none of the next steps. */
  zoom(next) {
    if (!this.plot) return null;
    const { min, max } = this.plot.scales.x;
    const drawn = this.plot.data[0];
    const isZoomed = min > drawn[0] || max < drawn.at(-1);
    return isZoomed && min <= next.at(-1) && max >= next[0] ? { min, max } : null;
  }

  rebuild() {
    const data = this.runs.length ? this.plotData() : [[]];
    const zoom = this.zoom(data[0]);
    this.plot?.destroy();
    this.plot = null;
    this.box.replaceChildren();
    if (!this.runs.length) {
      this.box.append(el("p", { class: "waiting" }, "No sampled step yet"));
      return;
    }
    const axis = { stroke: colour("--muted"), font: "12px system-ui, sans-serif" };
    const grid = { stroke: colour("--line"), width: 1 };
    const options = {
      width: Math.max(this.box.clientWidth, 100),
      height: HEIGHT_PX,
      legend: { show: false },
      padding: [10, 26, 0, 0],
      cursor: { sync: { key: "steps" }, points: { size: 7 }, y: false, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: this.isLog ? { distr: 3 } : {} },
      axes: [
        { ...axis, grid: { show: false }, ticks: { ...grid, size: 5 }, size: 30, space: 70, values: (_, marks) => marks.map((mark) => (Number.isInteger(mark) ? whole(mark) : "")) },
        { ...axis, grid: { ...grid, filter: (_, marks) => (this.isLog ? decades(marks) : marks) }, ticks: { show: false }, size: 62, values: (_, marks) => axisTexts(marks, this.quantity.format) },
      ],
      series: [{}, ...this.lines().map((line) => ({
        stroke: line.colour, width: line.width, dash: line.dash, points: { show: line.run.numbers.length < 25 ? undefined : false, filter: alone, size: 4 },
      }))],
      hooks: { setCursor: [(plot) => this.read(plot.cursor.idx ?? null)] },
    };
    this.plot = new uPlot(options, data, this.box);
    if (zoom) this.plot.setScale("x", zoom);
  }

  fit() {
    const width = this.box.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT_PX });
  }

  /** Show the values at a place of the plot, or the newest ones. */
  read(index) {
    const { format, name, second } = this.quantity;
    const step = index === null || !this.plot ? null : this.plot.data[0][index];
    const parts = this.runs.map((run) => {
      const at = step === null ? run.numbers.length - 1 : nearest(run.numbers.step, step);
      const more = second && this.runs.length === 1 ? ` \u00b7 after clipping ${format(run.numbers[second][at])}` : "";
      return el("span", { title: run.name }, swatch(run.place), el("span", { class: "hidden" }, `${run.name}: `), el("b", {}, format(run.numbers[name][at])), more);
    });
    const newest = this.runs.length === 1 ? `step ${whole(this.runs[0].numbers.last("step"))}` : "newest";
    const where = step === null ? newest : `step ${whole(step)}`;
    this.readout.replaceChildren(...parts, this.runs.length ? where : "");
  }

  describe() {
    const { format, name, title } = this.quantity;
    const texts = this.runs.map((run) => {
      const known = run.numbers[name].filter(isKnown);
      const broken = run.numbers[name].filter(Number.isNaN).length;
      const more = broken ? `, NaN or infinite at ${broken}` : "";
      if (!known.length) return `${run.name}: unknown${more}.`;
      const low = known.reduce((left, right) => Math.min(left, right));
      const high = known.reduce((left, right) => Math.max(left, right));
      return `${run.name}: now ${format(run.numbers[name].findLast((value) => value !== null))}, from ${format(low)} to ${format(high)} over ${known.length} steps${more}.`;
    });
    say(this.summary, `${title}. ${texts.join(" ") || "No sampled step yet."}`);
  }

  fillTable() {
    const rows = this.runs.flatMap((run) => {
      const { numbers } = run;
      const from = Math.max(0, numbers.length - TABLE_ROWS);
      return numbers.step.slice(from).map((step, index) => [
        run.name,
        [whole(step), "number"],
        [this.quantity.format(numbers[this.quantity.name][from + index]), "number"],
      ]).reverse();
    });
    fillTable(this.table, `${this.quantity.title}, newest steps first`,
      ["Run", ["Step", "number"], [this.quantity.title, "number"]], rows);
  }
}

/** Points of a series that no line leads to: without a mark, nobody would see them. */
function alone(plot, series, isMarked) {
  if (isMarked) return null;
  const column = plot.data[series];
  const found = [];
  column.forEach((value, index) => {
    // Between steps of its own a run has no value where another run has one: undefined, no gap.
    if (value === null || value === undefined) return;
    let [before, after] = [index - 1, index + 1];
    while (column[before] === undefined && before >= 0) before -= 1;
    while (column[after] === undefined && after < column.length) after += 1;
    if ((column[before] ?? null) === null && (column[after] ?? null) === null) found.push(index);
  });
  return found;
}

/** Lines at powers of ten only, where there are enough of them. */
function decades(marks) {
  const powers = marks.map((mark) => (mark !== null && Number.isInteger(Math.log10(mark)) ? mark : null));
  return powers.filter((mark) => mark !== null).length > 1 ? powers : marks;
}

/** Texts of an axis: all of one kind, with exponents where the largest is small. */
function axisTexts(marks, format) {
  const largest = Math.max(...marks.map((mark) => Math.abs(mark ?? 0)));
  return marks.map((mark) => {
    if (mark === null) return "";
    if (mark === 0 || largest >= 0.01 || format !== number) return format(mark);
    return mark.toExponential(2).replace(/\.?0*e/, "e");
  });
}

function movingAverage(column) {
  const span = Math.max(2, Math.round(column.length * SMOOTHING));
  const window = [];
  let sum = 0;
  return column.map((value) => {
    if (!isKnown(value)) return null;
    window.push(value);
    sum += value;
    if (window.length > span) sum -= window.shift();
    return sum / window.length;
  });
}

/** Index of the last step that is not beyond this one. */
function nearest(steps, step) {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle - 1;
  }
  return low;
}
