// Numbers and times for people.

export const UNKNOWN = "\u2013";
const NOT_FINITE = "NaN/Inf"; // the history does not tell them apart

/** Four significant digits; exponents only where zeros would hide the number. */
export function number(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (Number.isNaN(value)) return NOT_FINITE;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

export const whole = (value) =>
  value === null || value === undefined ? UNKNOWN : Math.round(value).toLocaleString("en-US");

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  if (value < 1048576) return `${(value / 1024).toFixed(1)} KiB`;
  if (value < 1073741824) return `${(value / 1048576).toFixed(1)} MiB`;
  return `${(value / 1073741824).toFixed(1)} GiB`;
}

export function seconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (Number.isNaN(value)) return NOT_FINITE;
  if (value < 1) return `${Number((value * 1000).toPrecision(3))} ms`;
  return value < 120 ? `${number(value)} s` : `${number(value / 60)} min`;
}

/** "12 s ago", from seconds that have passed. */
export function ago(passed) {
  if (passed < 90) return `${Math.round(passed)} s ago`;
  if (passed < 5400) return `${Math.round(passed / 60)} min ago`;
  if (passed < 129600) return `${Math.round(passed / 3600)} h ago`;
  return `${Math.round(passed / 86400)} days ago`;
}

/** "12 s ago", from a moment in seconds since the epoch, by the clock of this browser. */
export const since = (timestamp) => (timestamp ? ago(Math.max(0, Date.now() / 1000 - timestamp)) : "");

/** "10:13:20 AM", with its date unless that is today's; `now` as `Date.now()` has it. */
export function clock(timestamp, now = Date.now()) {
  const moment = new Date(timestamp * 1000);
  const isToday = moment.toDateString() === new Date(now).toDateString();
  return isToday ? moment.toLocaleTimeString() : moment.toLocaleString();
}

const PARTS = {
  self_attn: "self attention",
  cross_attn: "cross attention",
  self_attn_heads: "self attention, by head",
  cross_attn_heads: "cross attention, by head",
};

/** "decoder_layer0_self_attn_head2.png" to "Decoder layer 0, self attention, head 2". */
export function pictureTitle(name) {
  const stem = name.replace(/\.png$/, "");
  const found = /^(encoder|decoder)_layer(\d+)_(.+?)(?:_head(\d+))?$/.exec(stem);
  const head = found?.[4] ? `, head ${found[4]}` : "";
  const text = found
    ? `${found[1]} layer ${found[2]}, ${PARTS[found[3]] ?? found[3].replaceAll("_", " ")}${head}`
    : stem.replaceAll("_", " ");
  return text[0].toUpperCase() + text.slice(1);
}
