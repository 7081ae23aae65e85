// A table whose rows are ordered by the column that its user chooses.

import { Table } from "./parts.js";
import { Component, html } from "./view.js";

const SHOWN = 100;

/** `rows` in an order. `value(row)` of its column is what they are ordered by, by default the
 * row's value of that name. Rows without one come last. */
export function inOrder(rows, columns, { name, isDescending }) {
  const { value = (row) => row[name] } = columns.find((column) => column.name === name) ?? {};
  const sign = isDescending ? -1 : 1;
  return [...rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a == null || b == null) return (a == null) - (b == null);
    return sign * (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
  });
}

/** A `Table` in the order `initial` until its user chooses another. It begins with so many rows as
 * a reader may want, and shows more when asked. */
export class SortedTable extends Component {
  constructor({ initial }) {
    super();
    this.state = { order: initial, shown: SHOWN };
  }

  /** Numbers begin with the largest, texts with the first letter. */
  choose = ({ name, isNumber = false }) => this.setState(({ order }) => {
    const isDescending = order.name === name ? !order.isDescending : isNumber;
    return { order: { name, isDescending }, shown: SHOWN };
  });

  heading = (column) => {
    const { name, isDescending } = this.state.order;
    const mark = name !== column.name ? "" : isDescending ? "↓" : "↑";
    return html`<button type="button" class="sort" onClick=${() => this.choose(column)}>
      ${column.label}<span class="mark" aria-hidden="true">${mark}</span>
    </button>`;
  };

  render({ columns, rows, initial, ...others }, { order: chosen, shown }) {
    const isThere = columns.some(({ name }) => name === chosen.name);
    const order = isThere ? chosen : initial;
    const ordered = inOrder(rows, columns, order);
    const more = () => this.setState({ shown: shown + SHOWN });
    return html`
      <${Table} ...${others} columns=${columns} rows=${ordered.slice(0, shown)} order=${order}
        heading=${this.heading} />
      ${rows.length > shown && html`<p class="row">
        <span class="hint">${shown} of ${rows.length} rows.</span>
        <button type="button" onClick=${more}>Show more</button>
      </p>`}
    `;
  }
}
