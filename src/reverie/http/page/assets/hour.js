// The last hour by minutes, and what can be said of it.

const MINUTES = 60;

/** The hour that ends with the snapshot, oldest first: a row for every minute. The server has none
 * for minutes in which nothing was asked and nobody looked on. Times of day are in seconds. */
export function hourOf({ at, minutes }) {
  const known = new Map(minutes.map((minute) => [Date.parse(minute.at) / 1000, minute]));
  const last = Math.floor(Date.parse(at) / 60_000) * 60;
  return Array.from({ length: MINUTES }, (_, position) => {
    const time = last - 60 * (MINUTES - 1 - position);
    const minute = known.get(time);
    return {
      time,
      requests: minute?.requests ?? 0,
      failed: minute?.failed ?? 0,
      failovers: minute?.failovers ?? 0,
      prompt: minute?.prompt_tokens ?? 0,
      completion: minute?.completion_tokens ?? 0,
      ttftP50: minute?.ttft_p50 ?? null,
      ttftP95: minute?.ttft_p95 ?? null,
      durationP50: minute?.duration_p50 ?? null,
      durationP95: minute?.duration_p95 ?? null,
    };
  });
}

/** The sum of one figure over the hour. */
export const sum = (hour, name) => hour.reduce((total, minute) => total + minute[name], 0);

/** The minute in which a figure was highest; null where there is none. */
export function highest(hour, name) {
  let found = null;
  for (const minute of hour) {
    if (minute[name] && (found === null || minute[name] > found[name])) found = minute;
  }
  return found;
}

/** Requests of the last minute: those of the present one, and of the one before as much of it as
 * isn't over for a minute yet. */
export function requestsPerMinute({ at, minutes }) {
  const now = Date.parse(at);
  const counted = minutes.map((minute) => {
    const age = (now - Date.parse(minute.at)) / 60_000;
    return minute.requests * Math.max(0, Math.min(1, 2 - age));
  });
  return counted.reduce((total, count) => total + count, 0);
}

const WINDOW = 5_000;

/** How fast tokens come, from one snapshot to the next: those of answers that run and that ended.
 */
export class Pace {
  #seen = [];

  /** Tokens per second over the last few snapshots; null until there are two. */
  take(snapshot) {
    const at = Date.parse(snapshot.at);
    if (at !== this.#seen.at(-1)?.at) this.#seen.push({ at, ...tokensOf(snapshot) });
    while (this.#seen.length > 2 && at - this.#seen[1].at >= WINDOW) this.#seen.shift();
    const [first] = this.#seen;
    const last = this.#seen.at(-1);
    if (last.at <= first.at) return null;
    // Minutes that left the hour meanwhile count in neither.
    const ended = (seen) =>
      seen.minutes.reduce((sum, [time, count]) => sum + (time >= last.from ? count : 0), 0);
    const grown = last.running + ended(last) - first.running - ended(first);
    return Math.max(0, (grown * 1000) / (last.at - first.at));
  }
}

function tokensOf({ minutes, requests }) {
  return {
    running: requests.reduce((total, { tokens }) => total + tokens, 0),
    minutes: minutes.map(({ at, completion_tokens }) => [Date.parse(at), completion_tokens]),
    from: minutes.length ? Date.parse(minutes[0].at) : 0,
  };
}
