// Texts, tiles and tables of the open run.

import { byId, el, fillTable, say, swatch } from "./dom.js";
import { ago, bytes, clock, number, seconds, UNKNOWN, whole } from "./format.js";
import { stateOf, stepOf } from "./runs.js";

/** Show the open run. */
export function showDetails(run, numbers, document_) {
  say(byId("detail-title"), run.run);
  const cut = numbers?.isCut ? " \u00b7 the beginning of its long history.jsonl is left out" : "";
  say(byId("detail-path"), `${stateOf(run)} \u00b7 ${run.directory}${cut}`);
  const problem = run.problem ?? document_?.problem ?? goneOf(run, numbers);
  byId("detail-problem").hidden = !problem;
  say(byId("detail-problem"), problem);
  showTiles(run, numbers, document_);
  showRanks(run, document_?.host?.processes ?? []);
  showAverages(document_?.averages ?? [], run.checkpoints.flatMap(notesOf));
}

/** What is to be said of a run whose steps were on disk and are there no more; empty of others. */
function goneOf(run, numbers) {
  if (!numbers || numbers.length || !run.committed_step) return "";
  return `Its history.jsonl is not in ${run.directory} any more: somebody moved or removed it. What comes next is written there anew.`;
}

const TILE_HELP = {
  Convergence: "How well the training goes, from 0 to 1; docs/stages.md has the formula",
  Dropped: "Samples that the trainer could not publish, because shared memory was full or for another cause",
  "Cut short": "Steps that lost pictures or statistics, because the daemon was overloaded or an analysis failed",
};

function showTiles(run, numbers, document_) {
  const dropped = run.ranks.flatMap((rank) => Object.values(rank.drops)).reduce((sum, count) => sum + count, 0);
  const alive = run.ranks.filter((rank) => rank.alive).length;
  const last = (name) => numbers?.last(name) ?? null;
  const score = document_?.monitoring?.convergence_score ?? null;
  const tiles = [
    [run.waiting ? `Step (${run.waiting} wait)` : "Step", whole(stepOf(run)), false],
    ["Loss", number(last("loss")), false],
    ["Gradient norm", number(last("norm_before_clip")), false],
    ["Step time", seconds(last("step_seconds")), false],
    ["Ranks alive", run.over ? UNKNOWN : `${alive} of ${run.ranks.length}`, !run.over && alive < run.ranks.length],
    ["Dropped", whole(dropped), dropped > 0],
    ["Cut short", whole(run.shed + run.failed), run.failed > 0],
    ...(score === null ? [] : [["Convergence", score.toFixed(2), false]]),
  ];
  const drawn = JSON.stringify(tiles);
  const list = byId("tiles");
  if (list.dataset.drawn === drawn) return;
  list.dataset.drawn = drawn;
  list.replaceChildren(...tiles.map(([name, value, isBad]) =>
    el("div", { class: "tile", "data-bad": isBad, title: TILE_HELP[name] ?? null }, el("dt", {}, name), el("dd", {}, value))));
}

/** Show the alerts of all drawn runs, the newest first. @param runs {name, place, document, active}. */
export function showAlerts(runs) {
  const alerts = runs
    .flatMap(({ name, place, document, active }) =>
      (document?.alerts ?? []).map((alert) => ({ ...alert, name, place, isActive: active.includes(alert.id) })))
    .sort((left, right) => (right.timestamp ?? 0) - (left.timestamp ?? 0));
  const count = runs.reduce((sum, { document }) => sum + (document?.num_alerts ?? 0), 0);
  byId("alerts").hidden = !alerts.length;
  say(byId("alerts-title"), count > alerts.length ? `Alerts (newest ${alerts.length} of ${count})` : `Alerts (${count})`);
  const list = byId("alert-list");
  const drawn = JSON.stringify(alerts);
  if (list.dataset.drawn === drawn) return;
  list.dataset.drawn = drawn;
  list.replaceChildren(...alerts.map((alert) => makeAlert(alert, runs.length > 1)));
}

function makeAlert(alert, hasName) {
  const where = [
    alert.isActive ? "still so" : null,
    hasName ? alert.name : null,
    alert.step === null || alert.step === undefined ? null : `step ${whole(alert.step)}`,
    alert.rank === null || alert.rank === undefined ? null : `rank ${alert.rank}`,
    alert.timestamp ? `${clock(alert.timestamp)}` : null,
  ].filter(Boolean).join(" \u00b7 ");
  const mark = alert.severity === "critical" ? "\u25cf" : "\u25b2";
  return el("li", { "data-severity": alert.severity },
    el("p", {}, el("strong", {}, `${mark} ${alert.severity}: ${String(alert.rule).replaceAll("_", " ")}`), ` ${alert.message ?? ""}`),
    alert.advice ? el("p", {}, alert.advice) : null,
    el("p", { class: "facts" }, hasName ? swatch(alert.place) : null, where));
}

function showRanks(run, processes) {
  const rows = run.ranks.map((rank) => {
    const drops = Object.entries(rank.drops).map(([cause, count]) => `${cause.replaceAll("_", " ")} ${count}`).join(", ");
    const process = processes.find((entry) => entry.rank === rank.rank);
    const memory = process?.rss_bytes ? bytes(process.rss_bytes) : UNKNOWN;
    const state = run.over ? UNKNOWN : rank.alive ? ["\u2713 alive", "good"] : ["\u2717 gone", "bad"];
    return [
      String(rank.rank), state, String(rank.pid), [memory, "number"], [whole(rank.last_step), "number"], [bytes(rank.lag_bytes), "number"],
      drops ? [drops, "bad"] : "none", rank.damaged ? [whole(rank.damaged), "bad"] : "none", rank.problem ?? "",
    ];
  });
  refill("rank-table", "Ranks of this run on this machine",
    ["Rank", "Trainer", "Process", ["Memory", "number"], ["Last step", "number"], ["Not yet on disk", "number"], "Drops", "Damaged", "Problem"], rows);
}

/** What is to be said of a directory of checkpoints that is not averaged, or not all of it. */
function notesOf({ directory, missing, kept, refused }) {
  const notes = refused.map(([name, reason]) => `${name} is not averaged: ${reason}`);
  if (kept) notes.push(`${directory}: ${kept} checkpoints kept, ${kept + missing} are needed; let the training keep more, or set a lower min_checkpoints.`);
  else if (missing) notes.push(`${directory} waits for ${missing} more like the newest; if that one does not belong there, move it away.`);
  return notes;
}

function showAverages(averages, notes) {
  byId("averages").hidden = !averages.length && !notes.length;
  const list = byId("average-notes");
  if (list.dataset.drawn !== JSON.stringify(notes)) {
    list.dataset.drawn = JSON.stringify(notes);
    list.replaceChildren(...notes.map((note) => el("li", {}, note)));
  }
  byId("average-table").hidden = !averages.length;
  const rows = [...averages].reverse().map((average) => [
    average.error ? ["\u2717 failed", "bad"] : ["\u2713 published", "good"],
    String(average.output ?? UNKNOWN),
    [whole(average.step), "number"],
    [String(average.sources?.length ?? 0), "number"],
    [seconds(average.seconds), "number"],
    average.error ?? (average.sources ?? []).join(", "),
  ]);
  refill("average-table", "Averaged checkpoints, the newest first",
    ["Result", "File", ["Step", "number"], ["Sources", "number"], ["Took", "number"], "Of"], rows);
}

function refill(id, caption, head, rows) {
  const table = byId(id);
  const drawn = JSON.stringify(rows);
  if (table.dataset.drawn === drawn) return;
  table.dataset.drawn = drawn;
  fillTable(table, caption, head, rows);
}

/** Say in the header and above the page how the daemon is. */
export function showDaemon(overview, connection) {
  const daemon = overview?.daemon;
  const state = connection !== "live" ? connection : daemon?.state === "serving" ? "live" : "silent";
  const names = { live: "Live", silent: "Daemon silent", lost: "Not connected", refused: "Refused", connecting: "Connecting" };
  const pill = byId("connection");
  pill.dataset.state = state;
  say(pill, names[state]);
  say(byId("host"), daemon?.host ?? "");
  document.title = `${state === "live" ? "" : `(${names[state].toLowerCase()}) `}trackside${daemon ? ` on ${daemon.host}` : ""}`;
  const banner = byId("banner");
  const text = {
    live: "",
    connecting: "",
    silent: daemon?.silent_seconds
      ? `The daemon (pid ${daemon.pid}) gave its last sign of life ${ago(daemon.silent_seconds)}: it is stopped or starved. The training goes on. \`trackside doctor\` names the mend.`
      : "The daemon has written no status: it is starting, or has ended.",
    lost: "The daemon does not answer: it has ended, or the tunnel to it is closed. The training goes on, and what it publishes waits in shared memory. Start a daemon with `trackside daemon`; this page comes back by itself.",
    refused: "The server sends this page nothing: too many pages are open at once, or a proxy before it finds no daemon. Close pages that nobody reads; this one tries again by itself.",
  }[state];
  banner.hidden = !text;
  say(banner, text);
  say(byId("footer"), daemon?.version ? `trackside ${daemon.version} \u00b7 daemon pid ${daemon.pid} \u00b7 ${daemon.workers} workers${daemon.worker_deaths ? `, ${daemon.worker_deaths} died` : ""}${daemon.refused.length ? ` \u00b7 ${daemon.refused.length} segments refused` : ""}` : "");
}
