// Which days are asked for. Days are the server's: they begin at midnight UTC.

import { html } from "./view.js";

const PRESETS = [
  ["today", "Today"],
  ["week", "Last 7 days"],
  ["month", "This month"],
  ["last month", "Last month"],
  ["days", "Other days…"],
];

export const THIS_MONTH = { preset: "month", since: "", until: "" };

const DAY_MS = 86_400_000;
const MOST_DAYS = 3660;
const written = (time) => new Date(time).toISOString().slice(0, 10);

/** The first and the last day, as 2026-11-01. */
export function daysOf({ preset, since, until }, now = Date.now()) {
  const today = written(now);
  const date = new Date(now);
  const month = (offset, day) =>
    written(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + offset, day));
  switch (preset) {
    case "today": return { since: today, until: today };
    case "week": return { since: written(now - 6 * DAY_MS), until: today };
    case "last month": return { since: month(-1, 1), until: month(0, 0) };
    case "days": return { since: since || until || today, until: until || today };
    default: return { since: month(0, 1), until: today };
  }
}

/** Every day from the first to the last, at most so many as a chart can show. */
export function everyDay(since, until) {
  const last = Date.parse(until);
  const first = Math.max(Date.parse(since), last - (MOST_DAYS - 1) * DAY_MS);
  const count = Math.max(0, Math.round((last - first) / DAY_MS) + 1);
  return Array.from({ length: count }, (_, position) => written(first + position * DAY_MS));
}

/** Asks for a period: `{preset, since, until}`. */
export function PeriodField({ period, onChange }) {
  const take = (event) => onChange({ ...period, [event.target.name]: event.target.value });
  const choose = (event) => {
    const preset = event.target.value;
    onChange(preset === "days" ? { preset, ...daysOf(period) } : { ...period, preset });
  };
  return html`
    <label>Days (UTC)
      <select value=${period.preset} onChange=${choose}>
        ${PRESETS.map(([value, label]) => html`
          <option key=${value} value=${value}>${label}</option>`)}
      </select></label>
    ${period.preset === "days" && html`
      <label>From <input type="date" name="since" value=${period.since} onChange=${take} /></label>
      <label>To <input type="date" name="until" value=${period.until} onChange=${take} /></label>
    `}
  `;
}
