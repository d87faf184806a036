// The table of runs: sorted, filtered, and saved as it is shown.

const COLUMNS = [
  { key: "method", of: (run) => DATA.methods[run.method] },
  { key: "state", of: (run) => run.state },
  { key: "test", of: (run) => run.test, format: percent },
  { key: "validation", of: (run) => run.validation, format: percent },
  { key: "sparsity", of: (run) => run.sparsity, format: percent },
  { key: "kept", of: (run) => run.kept, format: whole },
  { key: "FLOPs", of: (run) => run.flops, format: short },
  { key: "bytes", of: (run) => run.bytes, format: short },
  { key: "step", of: (run) => run.step, format: whole },
  { key: "seconds", of: (run) => run.seconds, format: (x) => (isNumber(x) ? x.toFixed(1) : NONE) },
  ...DATA.differing.map((key) => ({ key, of: (run) => run.config[key] ?? null })),
  { key: "run", of: (run) => run.name },
];
for (const column of COLUMNS) {
  const values = DATA.runs.map(column.of).filter((value) => value !== null);
  column.numeric = values.length > 0 && values.every(isNumber);
  column.format ??= (x) => (x === null ? NONE : String(x));
}
const view = { sort: null, descending: false, filter: "", state: "", open: new Set() };

/** Numbers before words, in their order; what is missing stands last, whichever way. */
function compare(a, b, descending) {
  if (a === null || b === null) return (a === null) - (b === null);
  const sign = descending ? -1 : 1;
  if (isNumber(a) && isNumber(b)) return sign * (a - b);
  if (isNumber(a) !== isNumber(b)) return sign * (isNumber(a) ? -1 : 1);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

/** A test of runs, for one term of the filter. */
function test(term) {
  const [, key, sign, wanted] = /^(.+?)([=<>])(.*)$/s.exec(term) ?? [];
  const column = COLUMNS.find((c) => c.key.toLowerCase() === key?.toLowerCase());
  if (!column) {
    const word = term.toLowerCase();
    return (run) => COLUMNS.some((c) => String(c.of(run) ?? "").toLowerCase().includes(word));
  }
  const number = wanted.trim() === "" ? NaN : Number(wanted);
  return (run) => {
    const value = column.of(run);
    if (sign === "=") {
      return isNumber(value) ? value === number
        : String(value ?? "").toLowerCase() === wanted.toLowerCase();
    }
    return isNumber(value) && (sign === "<" ? value < number : value > number);
  };
}

/** The runs that the filter lets through, in the order of the table. */
function visibleRuns() {
  const tests = view.filter.split(/\s+/).filter(Boolean).map(test);
  const runs = DATA.runs.filter(
    (run) => (!view.state || run.state === view.state) && tests.every((passes) => passes(run)));
  const column = COLUMNS.find((c) => c.key === view.sort);
  if (column) runs.sort((a, b) => compare(column.of(a), column.of(b), view.descending));
  return runs;
}

const errorOf = (run) => run.error?.trimEnd().split("\n").at(-1) ?? "";

/** What is shown as CSV, with all digits (RFC 4180). Words that a spreadsheet would take for a
 * formula are made plain by an apostrophe. */
function csv() {
  const quoted = (value) => {
    if (isNumber(value)) return String(value);
    let text = String(value ?? "");
    if (/^\s*[=+\-@]|^[\t\r\n]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [COLUMNS.map((c) => c.key).concat("error")];
  for (const run of visibleRuns()) lines.push(COLUMNS.map((c) => c.of(run)).concat(errorOf(run)));
  return lines.map((cells) => `${cells.map(quoted).join(",")}\r\n`).join("");
}

/** What is shown as a table in Markdown, with the digits that are shown. */
function markdown() {
  const plain = (text) => text.replace(/[\\`*_{}[\]<>()#|~&!]/g, "\\$&").replace(/\s+/g, " ");
  const row = (cells) => `| ${cells.join(" | ")} |\n`;
  const cells = (run) => COLUMNS.map((c) => plain(c.format(c.of(run)))).concat(plain(errorOf(run)));
  return row(COLUMNS.map((c) => plain(c.key)).concat("error"))
    + row(COLUMNS.map((c) => (c.numeric ? "--:" : ":--")).concat(":--"))
    + visibleRuns().map((run) => row(cells(run))).join("");
}

function swatch(method) {
  const theme = currentTheme();
  const { colour, shape } = methodLook(method, theme);
  return svg("svg", { width: 12, height: 12, "aria-hidden": "true" },
    marker(shape, 6, 6, 4, { fill: colour, stroke: colour, "stroke-width": shape === "cross" ? 2 : 1 }));
}

function stateCell(run) {
  const word = { finished: "finished", failed: "failed", started: "unfinished" }[run.state];
  if (!run.error) return element("td", { class: `state ${run.state}` }, word);
  const open = view.open.has(run);
  const button = element("button", { type: "button", "aria-expanded": open, onclick: () => {
    if (open) view.open.delete(run);
    else view.open.add(run);
    drawTable();
    document.querySelector(`[data-run="${DATA.runs.indexOf(run)}"] button`)?.focus();
  } }, word);
  return element("td", { class: `state ${run.state}` }, button);
}

function headerCell(column) {
  const sorted = view.sort === column.key;
  const direction = !sorted ? "none" : view.descending ? "descending" : "ascending";
  const arrow = element("span", { class: "arrow", "aria-hidden": "true" },
    sorted ? (view.descending ? "▼" : "▲") : "");
  const button = element("button", { type: "button", onclick: () => {
    view.descending = sorted && !view.descending;
    view.sort = column.key;
    drawTable();
    const index = COLUMNS.indexOf(column);
    document.querySelectorAll("#table thead button")[index].focus();
  } }, column.key, arrow);
  return element("th", { scope: "col", "aria-sort": direction, class: column.numeric ? "number" : "" }, button);
}

function drawTable() {
  const runs = visibleRuns();
  const body = element("tbody");
  for (const run of runs) {
    const row = element("tr", { "data-run": DATA.runs.indexOf(run) });
    for (const column of COLUMNS) {
      const text = column.format(column.of(run));
      if (column.key === "state") row.append(stateCell(run));
      else if (column.key === "method") row.append(element("td", { class: "method" }, swatch(run.method), text));
      else row.append(element("td", { class: column.numeric ? "number" : column.key === "run" ? "run" : "" }, text));
    }
    body.append(row);
    if (run.error && view.open.has(run)) {
      body.append(element("tr", { class: "error" },
        element("td", { colspan: COLUMNS.length }, element("pre", {}, run.error))));
    }
  }
  const head = element("thead", {}, element("tr", {}, ...COLUMNS.map(headerCell)));
  document.getElementById("table").replaceChildren(head, body);
  document.getElementById("shown").textContent = runs.length === DATA.runs.length
    ? `${runs.length} ${runs.length === 1 ? "run" : "runs"}` : `${runs.length} of ${DATA.runs.length} runs`;
}
