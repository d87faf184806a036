// Puts the page together, and answers to what its reader does.

const byId = (id) => document.getElementById(id);
const drawn = new Map(); // figure -> {holder, caption, targets}

function describe(figure, theme) {
  const spec = figure.describe(theme);
  const empty = !spec.series.some((s) => s.points.length) && !spec.level;
  return { ...spec, empty };
}

function draw(figure) {
  const place = drawn.get(figure);
  const theme = currentTheme();
  const spec = describe(figure, theme);
  const width = Math.max(260, Math.floor(place.holder.clientWidth));
  place.caption.textContent = spec.caption;
  place.saves.hidden = spec.empty;
  place.tip.hidden = true;
  if (spec.empty) {
    place.targets = [];
    place.holder.replaceChildren(element("p", { class: "empty" }, "Nothing to show yet."), place.tip);
    return;
  }
  const { root, targets } = chart(spec, width, theme, false);
  place.targets = targets;
  place.holder.replaceChildren(root, place.tip);
}

const drawAll = () => FIGURES.forEach(draw);

/** A figure as it is saved: light, of a fixed width, with a key of the methods. */
function savedSvg(figure) {
  const width = figure.wide ? 880 : 620;
  const { root } = chart(describe(figure, THEMES.light), width, THEMES.light, true);
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(root)}`;
}

/** The same as PNG with three pixels for one, in a canvas. */
async function savedPng(figure) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(savedSvg(figure))}`;
  await image.decode();
  const canvas = element("canvas", { width: image.width * 3, height: image.height * 3 });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function save(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** Shows what the point nearest to the pointer stands for. */
function point(figure, event) {
  const { holder, tip, targets } = drawn.get(figure);
  const box = holder.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const distance = (t) => Math.hypot(t.x - x, t.y - y);
  const nearest = targets.reduce((a, b) => (a && distance(a) <= distance(b) ? a : b), null);
  tip.hidden = !nearest || distance(nearest) > 36;
  if (tip.hidden) return;
  const [heading, ...lines] = nearest.lines;
  tip.replaceChildren(element("strong", {}, heading), ...lines.map((text) => element("span", {}, text)));
  tip.style.borderColor = nearest.colour;
  const wide = tip.offsetWidth;
  tip.style.left = `${Math.max(0, Math.min(nearest.x + 12, box.width - wide))}px`;
  tip.style.top = `${nearest.y + 14}px`;
}

function layerChoice(figure) {
  const select = element("select", { "aria-label": "Densities of", onchange: () => {
    chosen.layers = select.value === "all" ? "all" : Number(select.value);
    draw(figure);
  } }, element("option", { value: "all" }, "all methods, at the end"));
  DATA.methods.forEach((name, i) => {
    if (!isDense(i)) select.append(element("option", { value: i }, `${name}, over training`));
  });
  return select;
}

function addFigure(figure, number) {
  const tip = element("div", { class: "tip", hidden: "" });
  const holder = element("div", { class: "chart" });
  const caption = element("span");
  const saves = element("span", { class: "saves" },
    element("button", { type: "button", "aria-label": `Save figure ${number} as SVG`,
      onclick: () => save(`${figure.id}.svg`, savedSvg(figure), "image/svg+xml") }, "SVG"),
    element("button", { type: "button", "aria-label": `Save figure ${number} as PNG`,
      onclick: async () => save(`${figure.id}.png`, await savedPng(figure), "image/png") }, "PNG"));
  const text = element("p", { class: "caption" },
    element("strong", {}, `Figure ${number}. `), caption);
  const node = element("figure", { id: `figure-${figure.id}`, class: figure.wide ? "wide" : "" });
  if (figure.choose) node.append(layerChoice(figure));
  node.append(holder, element("figcaption", {}, text, saves));
  drawn.set(figure, { holder, caption, saves, tip, targets: [] });
  holder.addEventListener("pointermove", (event) => point(figure, event));
  holder.addEventListener("pointerleave", () => { tip.hidden = true; });
  byId(figure.place).querySelector(".figures").append(node);
  let width = 0;
  new ResizeObserver(() => {
    if (holder.clientWidth === width) return;
    width = holder.clientWidth;
    draw(figure);
  }).observe(holder);
}

function drawLegend() {
  byId("legend").replaceChildren(...DATA.methods.map((name, method) => element("button", {
    type: "button", "aria-pressed": !hidden.has(method), onclick: () => {
      if (hidden.has(method)) hidden.delete(method);
      else hidden.add(method);
      drawLegend();
      byId("legend").children[method].focus();
      drawAll();
    },
  }, swatch(method), name)));
}

function drawHead() {
  const { finished, failed, started } = DATA.states;
  document.title = `${DATA.title} – report`;
  byId("title").textContent = DATA.title;
  const total = DATA.runs.length;
  const parts = [[finished, "finished"], [failed, "failed"], [started, "unfinished"]]
    .filter(([n]) => n).map(([n, word]) => `${n} ${word}`);
  const keys = DATA.differing.flatMap((key, i) => {
    const last = i === DATA.differing.length - 1;
    return [i === 0 ? "" : last ? " and " : ", ", element("code", {}, key)];
  });
  byId("lead").replaceChildren(
    `${total} ${total === 1 ? "run" : "runs"}: ${parts.join(", ")}.`,
    ...(keys.length ? [" They differ in ", ...keys, "."] : []));
  byId("shared").hidden = !DATA.shared.length;
  byId("shared").querySelector("dl").replaceChildren(...DATA.shared.map(([key, value]) => element(
    "div", {}, element("dt", {}, key), element("dd", {}, value === null ? "none" : String(value)))));
}

function drawControls() {
  const counts = new Map();
  for (const s of DATA.settings) if (s.level) counts.set(s.level, (counts.get(s.level) ?? 0) + 1);
  const most = Math.max(0, ...counts.values());
  chosen.level = DATA.levels.filter((name) => counts.get(name) === most).at(-1) ?? null;
  byId("level-label").hidden = DATA.levels.length < 1;
  byId("level").replaceChildren(...DATA.levels.map((name) => element("option", { value: name }, name)));
  byId("level").value = chosen.level;
  byId("level").addEventListener("change", (event) => {
    chosen.level = event.target.value;
    drawAll();
  });
  byId("state").replaceChildren(element("option", { value: "" }, "all"),
    ...[["finished", "finished"], ["failed", "failed"], ["started", "unfinished"]]
      .map(([value, name]) => element("option", { value }, name)));
  byId("state").addEventListener("change", (event) => { view.state = event.target.value; drawTable(); });
  byId("filter").addEventListener("input", (event) => { view.filter = event.target.value; drawTable(); });
  byId("csv").addEventListener("click", () => save("runs.csv", csv(), "text/csv"));
  byId("markdown").addEventListener("click", () => save("runs.md", markdown(), "text/markdown"));
}

drawHead();
drawControls();
drawLegend();
drawTable();
FIGURES.forEach((figure, i) => addFigure(figure, i + 1));
darkMode.addEventListener("change", () => { drawLegend(); drawTable(); drawAll(); });

// What the buttons save, for scripts.
window.report = {
  csv,
  markdown,
  svg: (id) => savedSvg(FIGURES.find((figure) => figure.id === id)),
  png: (id) => savedPng(FIGURES.find((figure) => figure.id === id)),
};
