// Charts over time. Who can't see them has a sentence on each, and a table of the numbers.

import uPlot from "./vendor/uplot.mjs";
import { Component, createRef, html } from "./view.js";

const HEIGHT = 170;
/** 1, 2, 5, 10, 20, … */
const WHOLE_STEPS = Array.from({ length: 36 }, (_, n) => [1, 2, 5][n % 3] * 10 ** Math.floor(n / 3));
const DARK = matchMedia("(prefers-color-scheme: dark)");

/** The library's own styles, once, when charts are first wanted. */
const styles = new Promise((loaded) => {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("vendor/uplot.css", import.meta.url).href;
  link.onload = link.onerror = loaded;
  document.head.append(link);
});

const colour = (name) => () =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
export const timeOfDay = (seconds) => clock.format(new Date(seconds * 1000));

const MINUTE = 60;
const DAY = 86_400;
const DAYS = [1, 2, 7, 14, 28, 56, 91, 182, 364].map((days) => days * DAY);
const calendar = new Intl.DateTimeFormat([], { month: "short", day: "numeric", timeZone: "UTC" });
const dayOf = (seconds) => calendar.format(new Date(seconds * 1000));

/** One chart. `series` are `{name, label, colour, isBars}`: `name` names a figure of the `rows`,
 * `colour` a variable of the style sheet. A row is a minute, or a day (UTC) where `isDaily`, and
 * its `time` is when that begins, in seconds. `format(number)` writes a figure; `isWhole` if there
 * are no halves of it. */
export class Chart extends Component {
  place = createRef();

  async componentDidMount() {
    await styles;
    if (!this.place.current) return; // the view was left meanwhile
    this.plot = new uPlot(this.options(), this.data(), this.place.current);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.place.current);
    DARK.addEventListener("change", this.redraw);
  }

  componentDidUpdate() {
    const data = this.data();
    if (JSON.stringify(data) !== JSON.stringify(this.plot?.data)) this.plot?.setData(data);
  }

  componentWillUnmount() {
    this.observer?.disconnect();
    DARK.removeEventListener("change", this.redraw);
    this.plot?.destroy();
  }

  redraw = () => this.plot.redraw();

  resize() {
    const width = this.place.current.clientWidth;
    if (width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  data() {
    const { rows, series } = this.props;
    const figures = ["time", ...series.map(({ name }) => name)];
    return figures.map((name) => rows.map((row) => row[name]));
  }

  options() {
    const { series, format, isWhole, isDaily } = this.props;
    const half = (isDaily ? DAY : MINUTE) / 2;
    const when = isDaily ? dayOf : timeOfDay;
    const axis = {
      stroke: colour("soft"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: colour("grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      width: this.place.current.clientWidth,
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      cursor: { drag: { x: false, y: false } },
      tzDate: isDaily ? (time) => uPlot.tzDate(new Date(time * 1000), "Etc/UTC") : undefined,
      scales: {
        x: { range: (_, first, last) => [first - half, last + half] },
        y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] },
      },
      axes: [
        {
          ...axis,
          size: 28,
          space: 60,
          incrs: isDaily ? DAYS : undefined,
          values: (_, times) => times.map(when),
        },
        {
          ...axis,
          size: 56,
          space: 36,
          incrs: isWhole ? WHOLE_STEPS : undefined,
          values: (_, figures) => figures.map((figure) => format(figure, true)),
        },
      ],
      series: [
        { label: isDaily ? "Day" : "Time", value: (_, time) => (time == null ? "–" : when(time)) },
        ...series.map((one) => ({
          label: one.label,
          stroke: colour(one.colour),
          fill: one.isBars ? colour(one.colour) : undefined,
          width: one.isBars ? 0 : 2,
          dash: one.isDashed ? [5, 4] : undefined,
          paths: one.isBars ? uPlot.paths.bars({ size: [0.7, isDaily ? 40 : 12] }) : undefined,
          points: { show: !one.isBars, size: 5 },
          value: (_, figure) => (figure == null ? "–" : format(figure)),
        })),
      ],
    };
  }

  render({ title, summary }) {
    return html`<figure class="chart">
      <figcaption><h4>${title}</h4><p class="hint">${summary}</p></figcaption>
      <div ref=${this.place} class="plot" aria-hidden="true"></div>
    </figure>`;
  }
}
