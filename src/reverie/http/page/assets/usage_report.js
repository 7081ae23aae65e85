// How use is shown: the sums, a chart of the days, tables that are sorted and can be saved.

import { Chart } from "./charts.js";
import { csvOf, saveFile } from "./files.js";
import { Tiles, costs, counted, whole } from "./parts.js";
import { everyDay } from "./periods.js";
import { SortedTable } from "./sorted.js";
import { COUNTS, currenciesOf, summed, summedBy, tokensOf } from "./usage_sums.js";
import { Component, html } from "./view.js";

const DIMENSIONS = {
  key: {
    name: "key",
    label: "Key",
    value: ({ name, key }) => name ?? key,
    cell: ({ name, key }) => html`<span class="name" dir="auto">${name ?? key}</span>`,
  },
  tag: {
    name: "tag",
    label: "Tag",
    cell: ({ tag }) => (tag === null
      ? html`<span class="hint">no tag</span>`
      : html`<span class="name" dir="auto">${tag}</span>`),
  },
  model: {
    name: "model",
    label: "Model",
    cell: ({ model }) => html`<span class="name" dir="auto">${model}</span>`,
  },
  day: { name: "day", label: "Day", cell: ({ day }) => html`<span class="day">${day}</span>` },
};

const count = (name, label, value = (row) => row[name]) => (
  { name, label, isNumber: true, value, cell: (row) => whole(value(row)) }
);
const FIGURES = [
  count("requests", "Requests"),
  count("failed", "Failed", ({ failed, lost }) => failed + lost),
  count("cancelled", "Cancelled"),
  count("prompt_tokens", "Prompt tokens"),
  count("cached_tokens", "Of them cached"),
  count("completion_tokens", "Answer tokens"),
  { name: "cost", label: "Cost", isNumber: true, value: (row) => row.costs[0]?.nano ?? 0,
    cell: (row) => costs(row.costs) },
];

/** The sums at a glance. */
export const Totals = ({ total }) => html`<${Tiles} label="In all" tiles=${[
  ["Requests", whole(total.requests)],
  ["Prompt tokens", whole(total.prompt_tokens)],
  ["Answer tokens", whole(total.completion_tokens)],
  ["Cost", costs(total.costs)],
]} />`;

/** A table of use by some dimensions, which can be saved as CSV. */
export function UsageTable({ title, by, rows, file }) {
  const columns = [...by.map((dimension) => DIMENSIONS[dimension]), ...FIGURES];
  const initial = by[0] === "day"
    ? { name: "day", isDescending: true }
    : { name: "prompt_tokens", isDescending: true };
  const save = () => saveFile(`${file}.csv`, "text/csv", usageCsv(by, rows));
  return html`
    <div class="row part">
      <h3>${title}</h3>
      ${rows.length > 0 && html`<button type="button" onClick=${save}>Save as CSV</button>`}
    </div>
    <${SortedTable} key=${by.join()} caption=${title} columns=${columns} rows=${rows}
      initial=${initial} keyOf=${(row) => by.map((dimension) => row[dimension]).join("\n")}
      empty="Nothing was used on these days. Choose others, or ask the model something." />
  `;
}

/** Exact figures: counts as they are, and a column of amounts for each currency. */
export function usageCsv(by, rows) {
  const currencies = [...new Set(rows.flatMap((row) => row.costs.map((one) => one.currency)))];
  const names = by.flatMap((dimension) => (dimension === "key" ? ["key", "name"] : [dimension]));
  return csvOf([
    ...[...names, ...COUNTS].map((name) => [name, (row) => row[name]]),
    ...currencies.sort().map((currency) => [`cost_${currency || "none"}`, (row) => {
      const cost = row.costs.find((one) => one.currency === currency);
      return cost ? cost.formatted.split(" ")[0] : "0.00";
    }]),
  ], rows);
}

const SHORT = new Intl.NumberFormat("en", { notation: "compact" });
const MONEY = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const short = (number, isAxis) => (isAxis ? SHORT : { format: whole }).format(number);

const COLOURS = ["accent", "number", "string", "keyword"];

/** What a chart can show of each day: `{label, title, series, isWhole, format}`. */
function shownOf(rows) {
  return {
    tokens: {
      label: "Tokens",
      isWhole: true,
      format: short,
      // The prompts' bars stand behind the answers', which begin at the same line.
      series: [
        { name: "tokens", label: "All tokens", colour: "accent", isBars: true },
        { name: "completion_tokens", label: "of them answers", colour: "number", isBars: true },
      ],
    },
    requests: {
      label: "Requests",
      isWhole: true,
      format: short,
      series: [{ name: "requests", label: "Requests", colour: "accent", isBars: true }],
    },
    ...Object.fromEntries(currenciesOf(rows).map((currency, position) => [`cost ${currency}`, {
      label: `Cost in ${currency}`,
      format: (number) => MONEY.format(number),
      series: [{ name: `cost ${currency}`, label: currency, colour: COLOURS[position % 4],
        isBars: true }],
    }])),
  };
}

/** A chart of the days from the first to the last, with its numbers as a table.
 * `rows` have a day each, or several rows of it. */
export class Days extends Component {
  state = { shows: "tokens" };

  render({ rows, since, until }, { shows }) {
    const sums = new Map(summedBy(rows, "day").map((sum) => [sum.day, sum]));
    const days = everyDay(since, until).map((day) => chartRow(day, sums.get(day) ?? summed([])));
    const shown = shownOf(rows);
    const name = Object.hasOwn(shown, shows) ? shows : "tokens";
    const { label, ...how } = shown[name];
    const choose = (event) => this.setState({ shows: event.target.value });
    return html`
      <div class="row part">
        <h3>By day</h3>
        <label class="row">Show
          <select value=${name} onChange=${choose}>
            ${Object.entries(shown).map(([value, one]) => html`<option key=${value} value=${value}
              >${one.label}</option>`)}
          </select></label>
      </div>
      <${Chart} key=${name} title=${`${label} per day`} rows=${days} isDaily ...${how}
        summary=${inWords(days, how.series[0].name, label.toLowerCase(), how.format)} />
      <details>
        <summary>The days as a table</summary>
        <${SortedTable} caption="Use by day" columns=${[DIMENSIONS.day, ...FIGURES]}
          rows=${[...sums.values()]} initial=${{ name: "day", isDescending: true }}
          keyOf=${({ day }) => day} empty="Nothing was used on these days." />
      </details>
    `;
  }
}

function chartRow(day, sum) {
  const money = sum.costs.map(({ currency, nano }) => [`cost ${currency}`, nano / 1e9]);
  const time = Date.parse(day) / 1000;
  return { day, time, ...sum, tokens: tokensOf(sum), ...Object.fromEntries(money) };
}

/** What the chart shows, in a sentence. */
function inWords(days, name, label, format) {
  const used = days.filter((day) => day[name]);
  if (!used.length) return "Nothing was used on these days.";
  const most = used.reduce((found, day) => (day[name] > found[name] ? day : found));
  const total = used.reduce((sum, day) => sum + day[name], 0);
  return `${format(total)} ${label} on ${counted(used.length, "day")}; `
    + `the most on one: ${format(most[name])}, on ${most.day}.`;
}
