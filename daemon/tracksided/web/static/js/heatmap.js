// Entropy of the attention over the steps, one row for each layer.

import { byId, colour, fillTable, say } from "./dom.js";
import { number, whole } from "./format.js";

// Cividis, which looks the same in every kind of colour blindness; Nunez et al. 2018,
// doi:10.1371/journal.pone.0199239. Nine of its colours, evenly spaced.
const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [254, 232, 56],
];
const SHADES = Array.from({ length: 256 }, (_, index) => shade(index / 255));
const LABELS_PX = 118;
const MIN_ROW_PX = 7;
const MAX_ROW_PX = 26;
const MIN_PARTED_ROW_PX = 10; // higher rows have a line between them
const MAX_HEIGHT_PX = 420;
const AXIS_PX = 20;
const HALF_LABEL_PX = 6; // a first label that is higher than its row is not cut

export class EntropyMap {
  constructor() {
    this.canvas = byId("entropy-map");
    this.cells = document.createElement("canvas"); // a pixel for each value, made once for many drawings
    this.details = byId("entropy").querySelector("details");
    this.details.addEventListener("toggle", () => this.fillTable());
    this.numbers = null;
    this.version = null; // of the numbers that are drawn
    this.cursor = null; // [row, column], moved by pointer or arrow keys
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.move(null));
    this.canvas.addEventListener("blur", () => this.move(null));
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(byId("entropy"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  update(numbers) {
    this.numbers = numbers?.entropy.size && numbers.length ? numbers : null;
    byId("entropy").hidden = !this.numbers;
    const version = this.numbers?.version ?? null;
    if (version === this.version) return;
    this.version = version;
    if (!this.numbers) return;
    this.layers = [...this.numbers.entropy.keys()].sort(byStackAndLayer);
    this.rows = this.layers.map((layer) => [layer, ...marksOf(this.numbers.entropy.get(layer))]);
    this.high = this.rows.reduce((high, row) => Math.max(high, row[4] ?? 0), 0);
    this.paint();
    this.describe();
    this.fillTable();
    this.move(this.cursor && [
      Math.min(this.cursor[0], this.layers.length - 1), Math.min(this.cursor[1], this.numbers.length - 1)]);
  }

  /** Draw one pixel for each value; what is unknown stays transparent. */
  paint() {
    const { layers, numbers, cells } = this;
    cells.width = numbers.length;
    cells.height = layers.length;
    const context = cells.getContext("2d");
    const image = context.createImageData(cells.width, cells.height);
    let place = 0;
    for (const layer of layers) {
      for (const value of numbers.entropy.get(layer)) {
        if (value !== null) image.data.set(SHADES[this.high ? Math.max(0, Math.round((255 * value) / this.high)) : 0], place);
        place += 4;
      }
    }
    context.putImageData(image, 0, 0);
  }

  draw() {
    if (!this.numbers) return;
    const { canvas, layers } = this;
    const width = canvas.clientWidth;
    const row = Math.max(MIN_ROW_PX, Math.min(MAX_ROW_PX, Math.floor(MAX_HEIGHT_PX / layers.length)));
    const height = row * layers.length + AXIS_PX;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    this.geometry = { width: Math.max(1, width - LABELS_PX), row };
    this.drawCells(context, width, row);
    this.drawLabels(context, width, row);
    this.drawScale();
    this.drawCursor(context);
  }

  drawCells(context, width, row) {
    const span = width - LABELS_PX;
    const height = row * this.layers.length;
    context.fillStyle = colour("--sunk");
    context.fillRect(LABELS_PX, 0, span, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, LABELS_PX, 0, span, height);
    if (row <= MIN_PARTED_ROW_PX) return;
    for (let bottom = row; bottom <= height; bottom += row) context.fillRect(LABELS_PX, bottom - 1, span, 1);
  }

  drawLabels(context, width, row) {
    context.fillStyle = colour("--muted");
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    const every = Math.max(1, Math.ceil(14 / row));
    this.layers.forEach((layer, index) => {
      if (index % every === 0) context.fillText(layer, 0, Math.max(index * row + row / 2, HALF_LABEL_PX), LABELS_PX - 8);
    });
    const bottom = this.layers.length * row + AXIS_PX / 2 + 2;
    context.fillText(`step ${whole(this.numbers.step[0])}`, LABELS_PX, bottom);
    context.textAlign = "right";
    context.fillText(whole(this.numbers.last("step")), width, bottom);
    context.textAlign = "left";
  }

  drawScale() {
    const canvas = byId("entropy-scale");
    canvas.width = 160;
    canvas.height = 10;
    const context = canvas.getContext("2d");
    for (let x = 0; x < 160; x += 1) {
      context.fillStyle = `rgb(${SHADES[Math.round((255 * x) / 159)].slice(0, 3).join(" ")})`;
      context.fillRect(x, 0, 1, 10);
    }
    say(byId("entropy-low"), "0 (one token)");
    say(byId("entropy-high"), `${number(this.high)} nats (spread out)`);
  }

  drawCursor(context) {
    if (!this.cursor) return;
    const [row, column] = this.cursor;
    const { width, row: height } = this.geometry;
    const step = width / this.numbers.length;
    context.strokeStyle = colour("--text");
    context.lineWidth = 2;
    context.strokeRect(LABELS_PX + column * step - 1, row * height, Math.max(step, 3) + 2, height - 1);
  }

  point(event) {
    if (!this.numbers) return;
    const place = this.canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - place.top) / this.geometry.row);
    const across = (event.clientX - place.left - LABELS_PX) / this.geometry.width;
    const isInside = row >= 0 && row < this.layers.length && across >= 0 && across < 1;
    this.move(isInside ? [row, Math.floor(across * this.numbers.length)] : null);
  }

  press(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key];
    if (!move || !this.numbers) return;
    event.preventDefault();
    const [row, column] = this.cursor ?? [0, this.numbers.length - 1];
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));
    this.move(this.cursor
      ? [within(row + move[0], this.layers.length), within(column + move[1], this.numbers.length)]
      : [row, column]);
    say(byId("news"), byId("entropy-readout").textContent); // a label that changes is not spoken
  }

  move(cursor) {
    this.cursor = cursor;
    this.draw();
    if (!this.numbers) return;
    if (!cursor) {
      say(byId("entropy-readout"), "");
      this.canvas.setAttribute("aria-label", this.label);
      return;
    }
    const [row, column] = cursor;
    const layer = this.layers[row];
    const value = this.numbers.entropy.get(layer)[column];
    const text = value === null || value === undefined ? "unknown" : `${number(value)} nats`;
    say(byId("entropy-readout"), `${layer}, step ${whole(this.numbers.step[column])}: ${text}`);
    this.canvas.setAttribute("aria-label", byId("entropy-readout").textContent);
  }

  describe() {
    this.label = `Attention entropy of ${this.rows.length} layers over ${this.numbers.length} steps`;
    const known = this.rows.filter((row) => row[2] !== null);
    const lowest = known.length ? known.reduce((low, row) => (row[2] < low[2] ? row : low)) : null;
    say(byId("entropy-summary"), lowest
      ? `Lowest now: ${lowest[0]} with ${number(lowest[2])} nats. A layer that falls to 0 looks at one token only.`
      : "No layer has an entropy yet.");
  }

  fillTable() {
    if (!this.numbers || !this.details.open) return;
    const rows = this.rows.map(([layer, first, now, low]) => [layer, ...[first, now, low].map((value) => [number(value), "number"])]);
    fillTable(byId("entropy-table"), "Attention entropy in nats by layer",
      ["Layer", ["First", "number"], ["Now", "number"], ["Lowest", "number"]], rows);
  }
}

/** First, newest, lowest and highest known value of a column; null where there is none. */
function marksOf(column) {
  let [first, now, low, high] = [null, null, null, null];
  for (const value of column) {
    if (value === null) continue;
    first ??= value;
    now = value;
    if (low === null || value < low) low = value;
    if (high === null || value > high) high = value;
  }
  return [first, now, low, high];
}

function byStackAndLayer(left, right) {
  const [stack, layer, kind] = left.split(" ");
  const [otherStack, otherLayer, otherKind] = right.split(" ");
  return otherStack.localeCompare(stack) || otherKind.localeCompare(kind) || Number(layer) - Number(otherLayer);
}

function shade(part) {
  const place = Math.max(0, Math.min(1, part)) * (CIVIDIS.length - 1);
  const low = Math.floor(place);
  const high = Math.min(low + 1, CIVIDIS.length - 1);
  const mix = CIVIDIS[low].map((value, index) => Math.round(value + (CIVIDIS[high][index] - value) * (place - low)));
  return [...mix, 255]; // red, green, blue, opacity
}
