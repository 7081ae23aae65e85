// What the last hour was like: charts, a sentence on each, and all numbers as a table.

import { Chart, timeOfDay } from "./charts.js";
import { highest, sum } from "./hour.js";
import { Table, counted, seconds, whole } from "./parts.js";
import { html } from "./view.js";

const COLUMNS = [
  { name: "time", label: "Minute", cell: ({ time }) => timeOfDay(time) },
  ...[
    ["requests", "Requests", whole],
    ["failed", "Failed", whole],
    ["failovers", "Failovers", whole],
    ["prompt", "Prompt tokens", whole],
    ["completion", "Generated tokens", whole],
    ["ttftP50", "First token, median", seconds],
    ["ttftP95", "First token, 95 %", seconds],
    ["durationP50", "Duration, median", seconds],
    ["durationP95", "Duration, 95 %", seconds],
  ].map(([name, label, format]) => (
    { name, label, isNumber: true, cell: (minute) => format(minute[name]) }
  )),
];

/** The charts of an hour, and its numbers. `snapshot` has the percentiles of the hour. */
export function LastHour({ hour, snapshot }) {
  const some = hour.filter((minute) => minute.requests || minute.completion || minute.prompt);
  return html`
    <div class="charts">
      <${Chart} title="Requests per minute" rows=${hour} format=${short} isWhole
        summary=${requestsInWords(hour)} series=${[
          { name: "requests", label: "Requests", colour: "accent", isBars: true },
          { name: "failed", label: "Failed", colour: "error", isBars: true },
        ]} />
      <${Chart} title="Generated tokens per minute" rows=${hour} format=${short} isWhole
        summary=${tokensInWords(hour)} series=${[
          { name: "completion", label: "Tokens", colour: "accent", isBars: true },
        ]} />
      <${Chart} title="Time to the first token" rows=${hour} format=${lasting}
        summary=${timesInWords(snapshot.time_to_first_token)}
        series=${percentiles("ttft")} />
      <${Chart} title="Duration of a request" rows=${hour} format=${lasting}
        summary=${timesInWords(snapshot.duration)} series=${percentiles("duration")} />
    </div>
    <details>
      <summary>The numbers as a table</summary>
      <${Table} caption="The last hour, by minutes" columns=${COLUMNS} rows=${some.toReversed()}
        keyOf=${({ time }) => time} empty="Nothing was asked in the last hour." />
    </details>
  `;
}

const percentiles = (name) => [
  { name: `${name}P50`, label: "Median", colour: "accent" },
  { name: `${name}P95`, label: "95 %", colour: "number", isDashed: true },
];

const SHORT = new Intl.NumberFormat("en", { notation: "compact" });
const short = (number, isAxis) => (isAxis ? SHORT.format(number) : whole(number));

/** Seconds, which an axis has little room for. */
function lasting(number, isAxis) {
  if (!isAxis) return seconds(number);
  return number < 60 ? `${Number(number.toFixed(2))} s` : `${Number((number / 60).toFixed(1))} min`;
}

function requestsInWords(hour) {
  const requests = sum(hour, "requests");
  if (!requests) return "No request ended in the last hour.";
  const most = highest(hour, "requests");
  const failed = sum(hour, "failed");
  const failures = failed ? `${whole(failed)} of them failed` : "none of them failed";
  return `${counted(requests, "request")} in the last hour, ${failures}; `
    + `the most in a minute: ${whole(most.requests)}, at ${timeOfDay(most.time)}.`;
}

function tokensInWords(hour) {
  const tokens = sum(hour, "completion");
  if (!tokens) return "No token was generated in the last hour.";
  const most = highest(hour, "completion");
  return `${counted(tokens, "token")} in the last hour; the most in a minute: `
    + `${whole(most.completion)}, at ${timeOfDay(most.time)}.`;
}

function timesInWords({ p50, p95 }) {
  if (p50 === null) return "No answer was completed in the last hour.";
  return `Half of the last hour's answers took at most ${seconds(p50)}, `
    + `95 of 100 at most ${seconds(p95)}.`;
}
