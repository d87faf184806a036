// Charts as SVG elements that need no style sheet, so that a saved one looks like the shown one.

const FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif";

/** Round numbers in a range, about `count` of them. */
function ticksOf(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.75);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
    ticks.push(+(i * step).toPrecision(12));
  }
  return ticks;
}

/** 1, 2, 5, 10 ... in a range; powers of ten alone if those are enough; round numbers if few. */
function logTicksOf(low, high, count) {
  const all = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const m of [1, 2, 5]) all.push(+`${m}e${power}`);
  }
  const inside = all.filter((x) => x >= low * 0.999 && x <= high * 1.001);
  if (inside.length < 3) return ticksOf(low, high, count).filter((x) => x > 0);
  const tens = inside.filter((x) => Number.isInteger(+Math.log10(x).toFixed(9)));
  return inside.length > 2 * count && tens.length > 1 ? tens : inside;
}

/** A scale from values to pixels, with its ticks. */
function scaleOf({ values, log = false, reverse = false, start, ceiling, ticks }, from, to, count) {
  const known = values.filter((v) => isNumber(v) && (!log || v > 0));
  let low = known.reduce((a, b) => Math.min(a, b), known[0] ?? 1);
  let high = known.reduce((a, b) => Math.max(a, b), known[0] ?? 10);
  const forward = log ? Math.log : (x) => x;
  let [a, b] = [forward(low), forward(high)];
  const pad = a === b ? (log ? 0.5 : Math.abs(a) * 0.05 || 0.05) : (b - a) * 0.06;
  a = start ?? a - pad;
  b = ceiling !== undefined && !log && high + pad > ceiling ? Math.max(ceiling, high) : b + pad;
  if (reverse) [from, to] = [to, from];
  const at = (value) => from + ((forward(value) - a) / (b - a)) * (to - from);
  [low, high] = log ? [Math.exp(a), Math.exp(b)] : [a, b];
  ticks ??= log ? logTicksOf(low, high, count) : ticksOf(low, high, count);
  return { at, ticks, low, high };
}

/** Text in a chart. */
function label(text, x, y, theme, attributes = {}) {
  return svg("text", { x, y, fill: theme.soft, "font-size": 12, ...attributes }, text);
}

/** Cuts a text to a width in pixels, in its middle: both ends of a path tell. */
function fitted(text, width, size = 12) {
  const most = Math.max(6, Math.floor(width / (size * 0.56)));
  if (text.length <= most) return text;
  const half = Math.floor((most - 1) / 2);
  return `${text.slice(0, half)}…${text.slice(text.length - half)}`;
}

/** The key of a chart, in rows of a width; returns its height. */
function drawKey(group, items, width, theme) {
  let [x, y] = [0, 12];
  for (const { name, colour, shape, dash } of items) {
    const text = fitted(name, width - 40);
    const wide = 26 + text.length * 6.8 + 16;
    if (x && x + wide > width) [x, y] = [0, y + 18];
    const line = { x1: x, x2: x + 20, y1: y - 4, y2: y - 4, stroke: colour, "stroke-width": 2 };
    group.append(svg("line", dash ? { ...line, "stroke-dasharray": dash } : line));
    if (shape) group.append(marker(shape, x + 10, y - 4, 3.6, { fill: colour, stroke: colour }));
    group.append(label(text, x + 26, y, theme, { fill: theme.ink }));
    x += wide;
  }
  return items.length ? y + 14 : 0;
}

/**
 * Draws a chart.
 *
 * spec: `title` for those who cannot see it; `x` and `y`, each with a `label`, a `format` of its
 * ticks and what `scaleOf` takes but for the values; `series` with `name`, `look`, `points`
 * ({x, y, low, high, tip}), and on wish `line`, `band`, `markers`, `whiskers`, `thin` (points of
 * single runs), `faint`; `level` ({y, low, high, look}) for a line across; `path` for the steps of
 * a front; `rows`, names of a categorical y axis, with series of points in `row`s; `key`.
 *
 * Returns the SVG element and the points that a pointer can find.
 */
function chart(spec, width, theme, withKey) {
  const root = svg("svg", {
    xmlns: "http://www.w3.org/2000/svg", width, role: "img", "aria-label": spec.title,
    "font-family": FONT,
  });
  root.append(svg("title", {}, spec.title));
  const key = svg("g");
  const keyed = withKey || spec.key;
  const keyHeight = keyed ? drawKey(key, spec.series.concat(spec.level ?? []).map(
    (s) => ({ name: s.name, ...s.look, shape: s.markers ? s.look.shape : null })), width - 8, theme) : 0;
  const longest = Math.max(0, ...(spec.rows ?? []).map((row) => row.length));
  const step = 16 + 6 * (spec.rows ? spec.series.length : 0); // from one row to the next
  const left = spec.rows ? Math.min(width * 0.38, 14 + longest * 6.9) : 52;
  const top = keyHeight + (spec.rows ? 4 : 28);
  const tall = spec.rows ? spec.rows.length * step + 8 : Math.min(340, Math.max(215, width * 0.52));
  const [right, bottom, height] = [width - 14, top + tall, top + tall + 40];
  root.setAttribute("height", height);
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.append(svg("rect", { width, height, fill: theme.paper }), key);
  key.setAttribute("transform", "translate(4 2)");

  const points = spec.series.flatMap((s) => s.points.concat((s.thin ?? []).flat()));
  const levels = spec.level ? [spec.level.y, spec.level.low, spec.level.high] : [];
  const x = scaleOf({ ...spec.x, values: points.flatMap((p) => [p.x, p.from]) }, left + 4, right - 4,
    Math.max(3, width / 90));
  const y = spec.rows
    ? { at: (row) => top + 4 + (row + 0.5) * step, ticks: spec.rows.map((_, i) => i) }
    : scaleOf({ ...spec.y, values: points.flatMap((p) => [p.y, p.low, p.high]).concat(levels) },
        bottom, top + 4, 5);

  for (const tick of y.ticks) {
    const at = y.at(tick);
    if (!spec.rows && (at < top - 1 || at > bottom + 1)) continue;
    root.append(svg("line", { x1: left, x2: right, y1: at, y2: at, stroke: theme.rule }));
    const name = spec.rows ? fitted(spec.rows[tick], left - 12) : spec.y.format(tick);
    root.append(label(name, left - 8, at + 4, theme, { "text-anchor": "end" }));
  }
  root.append(svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, stroke: theme.axis }));
  let free = -Infinity;
  const byPlace = [...x.ticks].sort((a, b) => x.at(a) - x.at(b));
  for (const tick of byPlace) {
    const [at, text] = [x.at(tick), spec.x.format(tick)];
    if (at < left - 1 || at > right + 1) continue;
    root.append(svg("line", { x1: at, x2: at, y1: bottom, y2: bottom + 4, stroke: theme.axis }));
    const half = text.length * 3.4;
    if (at - half < free) continue; // it would touch the one before
    free = at + half + 6;
    root.append(label(text, Math.min(at, width - half - 2), bottom + 17, theme, { "text-anchor": "middle" }));
  }
  if (!spec.rows) root.append(label(spec.y.label, 4, keyHeight + 14, theme, { fill: theme.ink }));
  root.append(label(spec.x.label, right, bottom + 34, theme, { fill: theme.ink, "text-anchor": "end" }));

  if (spec.level) {
    const { y: mean, low, high, look: { colour } } = spec.level;
    if (isNumber(low)) {
      root.append(svg("rect", { x: left, width: right - left, y: y.at(high),
        height: Math.max(0, y.at(low) - y.at(high)), fill: colour, opacity: 0.12 }));
    }
    root.append(svg("line", { x1: left, x2: right, y1: y.at(mean), y2: y.at(mean), stroke: colour,
      "stroke-width": 1.6, "stroke-dasharray": "5 4" }));
  }
  if (spec.path?.length) {
    const steps = spec.path.map(([px, py], i) =>
      i ? `H${x.at(px).toFixed(1)}V${y.at(py).toFixed(1)}` : `M${x.at(px).toFixed(1)} ${y.at(py).toFixed(1)}`);
    root.append(svg("path", { d: `${steps.join("")}H${right}`, fill: "none", stroke: theme.axis,
      "stroke-width": 1.4, "stroke-dasharray": "2 3" }));
  }
  const targets = [];
  for (const s of spec.series) drawSeries(root, s, x, y, theme, targets);
  return { root, targets };
}

/** The pieces of a line where both its coordinates are known. */
function line(points, x, y) {
  let d = "";
  let pen = "M";
  for (const p of points) {
    if (!isNumber(p.x) || !isNumber(p.y)) {
      pen = "M";
      continue;
    }
    d += `${pen}${x.at(p.x).toFixed(1)} ${y.at(p.y).toFixed(1)}`;
    pen = "L";
  }
  return d;
}

/** The stretches of a line along which a deviation is known. */
function stretches(points) {
  const parts = [[]];
  for (const p of points) {
    if (isNumber(p.y) && isNumber(p.low)) parts.at(-1).push(p);
    else if (parts.at(-1).length) parts.push([]);
  }
  return parts.filter((part) => part.length);
}

function drawSeries(root, series, x, y, theme, targets) {
  const { colour, shape, dash } = series.look;
  const stroke = { fill: "none", stroke: colour, "stroke-linejoin": "round" };
  for (const run of series.thin ?? []) {
    root.append(svg("path", { d: line(run, x, y), ...stroke, "stroke-width": 0.8, opacity: 0.35 }));
  }
  const alone = new Set(); // points with a deviation of their own that no band shows
  for (const part of series.band ? stretches(series.points) : []) {
    if (part.length === 1) {
      alone.add(part[0]);
      continue;
    }
    const upper = part.map((p) => `${x.at(p.x).toFixed(1)} ${y.at(p.high).toFixed(1)}`);
    const lower = part.map((p) => `${x.at(p.x).toFixed(1)} ${y.at(p.low).toFixed(1)}`).reverse();
    root.append(svg("path", { d: `M${upper.concat(lower).join("L")}Z`, fill: colour, opacity: 0.16 }));
  }
  if (series.line) {
    const path = { d: line(series.points, x, y), ...stroke, "stroke-width": 2 };
    root.append(svg("path", dash ? { ...path, "stroke-dasharray": dash } : path));
  }
  for (const p of series.points) {
    if (!isNumber(p.x) || !isNumber(p.y)) continue;
    const [cx, cy] = [x.at(p.x), y.at(p.y)];
    const whisker = { stroke: colour, "stroke-width": 1.4, opacity: p.faint ? 0.5 : 1 };
    if ((series.whiskers || alone.has(p)) && isNumber(p.low)) {
      root.append(svg("line", { x1: cx, x2: cx, y1: y.at(p.low), y2: y.at(p.high), ...whisker }));
    }
    if (isNumber(p.from)) {
      root.append(svg("line", { x1: x.at(p.from), x2: cx, y1: cy, y2: cy, ...whisker, opacity: 0.45 }));
    }
    if (series.markers) {
      root.append(marker(shape, cx, cy, 4, {
        fill: p.faint ? theme.paper : colour, stroke: colour, "stroke-width": shape === "cross" ? 2 : 1.4,
        opacity: p.faint ? 0.75 : 1,
      }));
    }
    if (p.tip) targets.push({ x: cx, y: cy, lines: p.tip, colour });
  }
}
