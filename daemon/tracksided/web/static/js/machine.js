// The machine as the daemon's monitors saw it when the newest step was taken.

import { byId, el, fillTable, say } from "./dom.js";
import { bytes, number, since, UNKNOWN } from "./format.js";

const PRESSURES = ["none", "some", "high", "critical"];
const isKnown = (value) => value !== null && value !== undefined;

/** @param host the reading, null where there is none. */
export function showMachine(host) {
  byId("machine").hidden = !host;
  const drawn = JSON.stringify(host ?? null);
  if (!host || byId("machine").dataset.drawn === drawn) return;
  byId("machine").dataset.drawn = drawn;
  say(byId("machine-time"), since(host.timestamp));
  byId("machine-facts").replaceChildren(...facts(host).map(([name, value, share]) => el("div", {},
    el("dt", {}, name),
    el("dd", {}, isKnown(share) ? meter(name, share) : null, value))));
  const gpus = host.gpus ?? [];
  byId("gpu-table").hidden = !gpus.length;
  if (gpus.length) showGpus(gpus);
}

/** [name, text, share of the whole or null] of all that is known. */
function facts(host) {
  const found = [];
  if (isKnown(host.cpu_percent)) found.push(["CPU", percent(host.cpu_percent), host.cpu_percent / 100]);
  if (isKnown(host.memory_percent)) found.push(["Memory", percent(host.memory_percent), host.memory_percent / 100]);
  if (isKnown(host.cgroup_memory_limit_bytes)) {
    const used = host.cgroup_memory_bytes ?? 0;
    found.push(["Memory limit", `${bytes(used)} of ${bytes(host.cgroup_memory_limit_bytes)}`, used / host.cgroup_memory_limit_bytes]);
  }
  if (isKnown(host.memory_pressure_level)) {
    found.push(["Memory pressure", PRESSURES[host.memory_pressure_level] ?? UNKNOWN, null]);
  }
  for (const disk of host.disks ?? []) {
    const used = disk.total_bytes ? 1 - disk.free_bytes / disk.total_bytes : null;
    found.push([disk.path, `${bytes(disk.free_bytes)} free`, used]);
  }
  return found;
}

function showGpus(gpus) {
  fillTable(byId("gpu-table"), "GPUs", ["GPU", "Name", ["Busy", "number"], ["Memory", "number"], ["Temperature", "number"], ["Power", "number"], "Held back by"],
    gpus.map((gpu) => [
      String(gpu.index),
      gpu.name ?? UNKNOWN,
      [isKnown(gpu.utilization_percent) ? percent(gpu.utilization_percent) : UNKNOWN, "number"],
      [isKnown(gpu.memory_used_bytes) ? `${bytes(gpu.memory_used_bytes)} of ${isKnown(gpu.memory_total_bytes) ? bytes(gpu.memory_total_bytes) : UNKNOWN}` : UNKNOWN, "number"],
      [isKnown(gpu.temperature_c) ? `${number(gpu.temperature_c)} \u00b0C` : UNKNOWN, "number"],
      [isKnown(gpu.power_w) ? `${Math.round(gpu.power_w)} W` : UNKNOWN, "number"],
      (gpu.throttle_reasons ?? []).join(", ").replaceAll("_", " ") || "nothing",
    ]));
}

function meter(name, share) {
  return el("meter", { min: 0, max: 1, high: 0.9, optimum: 0, value: Math.min(1, share), "aria-label": name });
}

const percent = (value) => `${number(Math.round(value * 10) / 10)} %`;
