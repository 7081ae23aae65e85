// Parts that several views are made of: tables, questions, numbers as people read them.

import { Component, createRef, html } from "./view.js";

const WHOLE = new Intl.NumberFormat("en");

/** A whole number with its thousands parted; "–" where there is none. */
export const whole = (number) => (number == null ? "–" : WHOLE.format(number));

/** "1 request", "2 requests". */
export const counted = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Seconds as people say them: "0.42 s", "3 min 5 s", "2 h 10 min". */
export function span(seconds) {
  if (seconds == null) return "–";
  if (seconds < 10) return `${Number.isInteger(seconds) ? seconds : seconds.toFixed(2)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return parts(minutes, "min", Math.floor(seconds % 60), "s");
  return parts(Math.floor(minutes / 60), "h", minutes % 60, "min");
}

const parts = (large, largeUnit, small, smallUnit) =>
  `${large} ${largeUnit}${small ? ` ${small} ${smallUnit}` : ""}`;

/** Seconds of something short that is compared: "0.42 s", "12.3 s". */
export const seconds = (number) =>
  number >= 60 ? span(number)
    : number == null ? "–" : `${number.toFixed(number < 10 ? 2 : 1)} s`;

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Bytes as people say them, in powers of 1000. */
export function bytes(count) {
  if (count == null) return "–";
  let unit = 0;
  for (; count >= 1000 && unit < UNITS.length - 1; unit += 1) count /= 1000;
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${UNITS[unit]}`;
}

/** A moment that the server wrote, on the clock of whoever looks on. */
export function moment(written) {
  if (!written) return "–";
  const then = new Date(written);
  const isToday = then.toDateString() === new Date().toDateString();
  return isToday ? then.toLocaleTimeString() : then.toLocaleString();
}

/** What things cost, in each currency: "0.18 USD + 2.00 EUR"; "–" for nothing. */
export const costs = (list) => list.map(({ formatted }) => formatted).join(" + ") || "–";

/** A table that scrolls in itself where it is wider than the screen.
 *
 * `columns` are `{name, label, isNumber, isWide, cell}`: `cell(row)` gives what stands there, by
 * default the row's value of that name. A wide one holds words, and keeps room for them.
 * `keyOf(row)` names a row. `empty` is said where there are none. `heading(column)` draws a
 * column's heading, by default its label; `order` is what the rows are ordered by, if they are:
 * `{name, isDescending}`. */
export function Table({ caption, columns, rows, keyOf, empty, heading, order }) {
  if (!rows.length) return html`<p class="hint">${empty}</p>`;
  return html`<div class="scrolls" role="region" aria-label=${caption} tabindex="0">
    <table class="list">
      <caption class="off-screen">${caption}</caption>
      <thead><tr>
        ${columns.map((column) => html`<th key=${column.name} scope="col"
          class=${classOf(column)} aria-sort=${sortOf(column, order)}
          >${heading ? heading(column) : column.label}</th>`)}
      </tr></thead>
      <tbody>
        ${rows.map((row) => html`<tr key=${keyOf(row)}>
          ${columns.map((column) => html`<td key=${column.name} class=${classOf(column)}>
            ${column.cell ? column.cell(row) : row[column.name]}</td>`)}
        </tr>`)}
      </tbody>
    </table>
  </div>`;
}

const classOf = ({ isNumber, isWide }) => (isNumber ? "number" : isWide ? "wide" : "");

function sortOf({ name }, order) {
  if (order?.name !== name) return undefined;
  return order.isDescending ? "descending" : "ascending";
}

/** The most important numbers at a glance: `tiles` are pairs of a name and a text. */
export const Tiles = ({ label, tiles }) => html`<dl class="tiles" aria-label=${label}>
  ${tiles.map(([name, text]) => html`<div key=${name}><dt>${name}</dt><dd>${text}</dd></div>`)}
</dl>`;

/** How much of something is in use, drawn and in words: by default in whole numbers. */
export const Meter = ({ label, value, most, text = `${whole(value)} of ${whole(most)}` }) => html`
  <span class="meter">
    <meter aria-label=${label} min="0" max=${most || 1} value=${Math.min(value, most)}></meter>
    <span>${text}</span>
  </span>
`;

/** A dialog that the browser keeps focus in. `children(close)` draws what is in it; `onClose` is
 * told when it was closed. */
export class Dialog extends Component {
  dialog = createRef();

  componentDidMount() {
    this.dialog.current.showModal();
  }

  /** Closed, it gives the focus back to where it was; just taken away, it doesn't. */
  componentWillUnmount() {
    this.dialog.current.close();
  }

  close = () => this.dialog.current?.close();

  render({ title, children, onClose }) {
    return html`<dialog ref=${this.dialog} aria-labelledby="dialog-title" onClose=${onClose}>
      <h3 id="dialog-title">${title}</h3>
      ${children(this.close)}
    </dialog>`;
  }
}

/** A question before something that can't be undone. */
export const Question = ({ title, children, action, onYes, onNo }) => html`
  <${Dialog} title=${title} onClose=${onNo}>
    ${(close) => html`
      ${children}
      <div class="row">
        <button type="button" class="main" onClick=${onYes}>${action}</button>
        <button type="button" onClick=${close}>Cancel</button>
      </div>
    `}
  <//>
`;
