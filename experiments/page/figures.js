// The figures: each makes the description of a chart from the data, for what is switched on.

const shown = () => DATA.settings.filter((s) => !hidden.has(s.method));
const byMethod = (settings) => DATA.methods
  .map((_, method) => [method, settings.filter((s) => s.method === method)])
  .filter(([, list]) => list.length);
const isDense = (method) => hasDense && method === 0;
const chosen = { level: null, layers: "all" };
const atLevel = () => shown().filter((s) => s.level === chosen.level || isDense(s.method));
const kept = (s) => Math.max(1 - s.sparsity, 1e-6);
const named = (s) => (isDense(s.method) || !s.level
  ? DATA.methods[s.method] : `${DATA.methods[s.method]}, ${s.level}`);
const between = ({ mean, sd }) => (sd === null ? {} : { low: mean - sd, high: mean + sd });

function seedsOf(settings) {
  const counts = settings.map((s) => s.test.n).filter((n) => n);
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  if (!counts.length) return "no finished run yet";
  return least === most ? `${most} ${most === 1 ? "run" : "runs"} each` : `${least} to ${most} runs each`;
}

/** Accuracy against sparsity, on a scale of what is kept. */
function sparsityFigure(theme) {
  const known = shown().filter((s) => isNumber(s.test.mean) && isNumber(s.sparsity));
  const series = [];
  let level;
  for (const [method, list] of byMethod(known)) {
    const points = [...list].sort((a, b) => a.sparsity - b.sparsity).map((s) => ({
      x: kept(s), y: s.test.mean, ...between(s.test),
      tip: [named(s), `accuracy ${plusMinus(s.test, percent)}`, `sparsity ${percent(s.sparsity)}`],
    }));
    const style = methodLook(method, theme);
    if (isDense(method)) {
      level = { name: DATA.methods[method], look: style, y: points[0].y, low: points[0].low, high: points[0].high };
    } else {
      series.push({ name: DATA.methods[method], look: style, points, line: true, band: true,
        markers: true });
    }
  }
  const ticks = [...new Set(series.flatMap((s) => s.points.map((p) => +p.x.toPrecision(3))))];
  return {
    title: "Test accuracy against sparsity, by method",
    caption: `Test accuracy against sparsity, on a logarithmic scale of the weights that are kept. Line: mean; band or bar: ±\u00a0s.d. over seeds, ${seedsOf(known)}.${level ? " Dashed: the dense network." : ""}`,
    x: { label: "sparsity", log: true, reverse: true, format: (v) => shortPercent(1 - v), ticks },
    y: { label: "test accuracy", format: shortPercent, ceiling: 1 },
    series, level,
  };
}

/** The points that no other one beats in both: as cheap and more accurate, or cheaper. */
function front(points) {
  const best = [];
  for (const p of [...points].sort((a, b) => a[0] - b[0] || b[1] - a[1])) {
    if (!best.length || p[1] > best.at(-1)[1]) best.push(p);
  }
  return best;
}

/** Accuracy against a cost, with the front. */
function paretoFigure(theme, cost, name, explained) {
  const known = shown().filter((s) => isNumber(s.test.mean) && isNumber(s[cost].mean));
  const path = front(known.map((s) => [s[cost].mean, s.test.mean]));
  const isOn = (s) => path.some(([x, y]) => x === s[cost].mean && y === s.test.mean);
  const series = byMethod(known).map(([method, list]) => ({
    name: DATA.methods[method], look: methodLook(method, theme), markers: true, whiskers: true,
    points: list.map((s) => ({
      x: s[cost].mean, y: s.test.mean, ...between(s.test), faint: !isOn(s),
      tip: [named(s), `accuracy ${plusMinus(s.test, percent)}`, `${short(s[cost].mean)} ${name}`]
        .concat(isOn(s) ? ["on the front"] : []),
    })),
  }));
  return {
    title: `Pareto front of test accuracy and ${name}`,
    caption: `Test accuracy against ${explained}. Dotted: the Pareto front; filled: the settings on it. Bars: ±\u00a0s.d. over seeds.`,
    x: { label: name, log: true, format: short },
    y: { label: "test accuracy", format: shortPercent, ceiling: 1 },
    series, path,
  };
}

/** A quantity over the steps at the chosen sparsity. */
function stepsFigure(theme, key, about) {
  const known = atLevel().filter((s) => s[key]);
  const series = known.map((s) => {
    const { mean, sd, runs } = s[key];
    return {
      name: DATA.methods[s.method], look: methodLook(s.method, theme), line: true, band: runs.length > 1,
      thin: runs.length > 1 ? runs.map((run) => run.map((y, i) => ({ x: s.steps[i], y }))) : [],
      points: s.steps.map((x, i) => ({
        x, y: mean[i], ...(isNumber(sd[i]) ? { low: mean[i] - sd[i], high: mean[i] + sd[i] } : {}),
        tip: [named(s), `${about.name} ${plusMinus({ mean: mean[i], sd: sd[i], n: runs.filter((r) => isNumber(r[i])).length }, percent)}`, `step ${whole(x)}`],
      })),
    };
  });
  return {
    title: `${about.title} over training${chosen.level ? `, at a sparsity of ${chosen.level}` : ""}`,
    caption: `${about.caption} Bold: mean, band: ±\u00a0s.d., thin: single runs.`,
    x: { label: "step", format: short, start: 0 },
    y: { label: about.name, format: shortPercent, ...about.scale },
    series,
  };
}

/** Densities of the layers: of all methods at the end, or of one over the steps. */
function layersFigure(theme) {
  const known = atLevel().filter((s) => s.layers.length && !isDense(s.method));
  const single = known.find((s) => s.method === chosen.layers);
  if (single) {
    const series = single.layers.map(([name, values], i) => ({
      name, look: look(i, theme), line: true, band: false,
      points: single.steps.map((x, j) => {
        const y = values.length === 1 ? values[0] : values[j];
        return { x, y, tip: [name, `density ${percent(y)}`, `step ${whole(x)}`] };
      }),
    }));
    return {
      title: `Density of each layer over training, ${named(single)}`,
      caption: `Kept share of each layer's weights over training by ${named(single)}, mean over seeds.`,
      x: { label: "step", format: short, start: 0 },
      y: { label: "density", format: shortPercent, log: true }, key: true,
      series,
    };
  }
  const rows = [...new Set(known.flatMap((s) => s.layers.map(([name]) => name)))];
  const series = known.map((s, i) => ({
    name: DATA.methods[s.method], look: methodLook(s.method, theme), markers: true,
    points: s.layers.map(([name, values]) => ({
      // Side by side where they would cover one another.
      x: values.at(-1), from: values[0], y: rows.indexOf(name) + ((i + 0.5) / known.length - 0.5) * 0.62,
      tip: [named(s), name, `density ${percent(values.at(-1))}`]
        .concat(values.length > 1 ? [`from ${percent(values[0])}`] : []),
    })),
  }));
  return {
    title: "Density of each layer at the end, by method",
    caption: `Kept share of each layer's weights at the end, mean over seeds. A line leads from the first evaluation to there.`,
    x: { label: "density", format: shortPercent, log: true },
    y: {}, rows, series,
  };
}

const FIGURES = [
  { id: "sparsity", place: "results", wide: true, describe: sparsityFigure },
  { id: "flops", place: "results", describe: (theme) => paretoFigure(
    theme, "flops", "FLOPs", "the FLOPs of a forward pass of one example") },
  { id: "bytes", place: "results", describe: (theme) => paretoFigure(
    theme, "bytes", "bytes", "the bytes of the parameters") },
  { id: "curves", place: "training", describe: (theme) => stepsFigure(theme, "accuracy", {
    name: "validation accuracy", title: "Validation accuracy", scale: { ceiling: 1 },
    caption: "Validation accuracy over training.",
  }) },
  { id: "churn", place: "training", describe: (theme) => stepsFigure(theme, "churn", {
    name: "mask churn", title: "Mask churn", scale: { start: 0 },
    caption: "Mask churn: of the connections kept at this evaluation or at the one before, the share kept at only one of them.",
  }) },
  { id: "explored", place: "training", needs: "explored", describe: (theme) => stepsFigure(theme, "explored", {
    name: "explored share", title: "Explored share", scale: { start: 0 },
    caption: "Explored share R_s: of all connections, those that have been kept at any time so far.",
  }) },
  { id: "layers", place: "training", wide: true, describe: layersFigure, choose: true },
].filter((figure) => !figure.needs || DATA.settings.some((s) => s[figure.needs]));
