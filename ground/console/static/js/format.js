// Numbers as people write them.

const known = (value) => typeof value === "number" && Number.isFinite(value);
const digits = (value) => (Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
const plain = (value, places) => value.toLocaleString("en", { maximumFractionDigits: places, minimumFractionDigits: 0 });

export function scaled(value, unit, steps) {
  if (!known(value)) return "–";
  let [factor, prefix] = [1, ""];
  for (const [size, name] of steps) if (Math.abs(value) >= size) [factor, prefix] = [size, name];
  return `${plain(value / factor, factor === 1 && Number.isInteger(value) ? 0 : digits(value / factor))} ${prefix}${unit}`;
}
export const bytes = (value) => scaled(value, "B", [[1e3, "k"], [1e6, "M"], [1e9, "G"], [1e12, "T"]]);
export const joules = (value) => scaled(value, "J", [[1e3, "k"], [1e6, "M"], [1e9, "G"]]);
export const watts = (value) => (known(value) ? `${value.toFixed(2)} W` : "–");
export const celsius = (value) => (known(value) ? `${value.toFixed(1)} °C` : "–");
export const share = (value) => (known(value) ? (value > 0 && value < 0.001 ? "< 0.1 %" : `${(100 * value).toFixed(1)} %`) : "–");
export const rate = (value) => (known(value) ? value.toFixed(2) : "–");
export const number = (value) => plain(value, 0);
export const count = (value, one, many) => `${plain(value, 0)} ${value === 1 ? one : many || one + "s"}`;

export function area(value) {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  if (value < 1e4) return `${plain(value, 0)} m²`;
  // All digits, so that the figures of a legend stand under each other.
  const fixed = (size) => size.toLocaleString("en", { maximumFractionDigits: digits(size), minimumFractionDigits: digits(size) });
  return value < 1e6 ? `${fixed(value / 1e4)} ha` : `${fixed(value / 1e6)} km²`;
}
export function length(value) {
  return known(value) ? (value < 1000 ? `${plain(value, digits(value))} m` : `${plain(value / 1000, 2)} km`) : "–";
}
export function time(seconds) {
  if (!known(seconds) || Math.abs(seconds) > 8e12) return "no time";
  return new Date(seconds * 1e3).toISOString().slice(0, 16).replace("T", " ") + " UTC";
}
export function stamp(text) {
  const match = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)/.exec(text || "");
  return match ? `${match[1]} ${match[2]} UTC` : "no time";
}
export function span(seconds) {
  if (!known(seconds)) return "–";
  if (seconds > 0 && seconds < 1) return "under 1 s";
  if (seconds < 120) return `${plain(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 7200) return `${plain(seconds / 60, 0)} min`;
  if (seconds < 172800) return `${plain(seconds / 3600, 1)} h`;
  return `${plain(seconds / 86400, 1)} days`;
}
