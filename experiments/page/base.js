// What all parts of the page share: the data, elements, numbers in words, colours.

const DATA = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set(); // methods that are switched off

/** An element with attributes and children; strings become text, never markup. */
function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** The same for SVG. Numbers are rounded to a hundredth of a pixel. */
function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    node.setAttribute(key, typeof value === "number" ? Math.round(value * 100) / 100 : value);
  }
  node.append(...children);
  return node;
}

const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
const NONE = "–";

function percent(x, digits = 2) {
  return isNumber(x) ? `${(100 * x).toFixed(digits)} %` : NONE;
}

/** A share with no more digits than it needs: 90 %, 97.5 %. */
function shortPercent(x) {
  return `${+(100 * x).toPrecision(4)} %`;
}

/** A count with three or four digits and a unit: 12.3 k. */
function short(x) {
  if (!isNumber(x)) return NONE;
  const units = ["", " k", " M", " G", " T", " P"];
  let i = 0;
  while (Math.abs(x) >= 999.5 && i < units.length - 1) {
    x /= 1000;
    i += 1;
  }
  return `${+x.toPrecision(3)}${units[i]}`;
}

function whole(x) {
  return isNumber(x) ? Math.round(x).toLocaleString("en") : NONE;
}

function plusMinus({ mean, sd, n }, format) {
  const runs = `${n} ${n === 1 ? "run" : "runs"}`;
  return sd === null ? `${format(mean)} (${runs})` : `${format(mean)} ± ${format(sd)} (${runs})`;
}

// The colours that Okabe and Ito chose to be told apart by everyone, grey for the dense network;
// a little lighter on dark paper. Shapes tell the methods apart as well, also beyond seven.
const THEMES = {
  light: {
    paper: "#ffffff", ink: "#24272c", soft: "#646b75", rule: "#e3e5e9", axis: "#9aa1ab",
    colours: ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"], dense: "#56606b",
  },
  dark: {
    paper: "#1b1e23", ink: "#e3e5e8", soft: "#9ba2ac", rule: "#31363d", axis: "#6d7580",
    colours: ["#ee7733", "#4aa5e0", "#2fbf96", "#dd95bf", "#efb73e", "#86cdf5"], dense: "#a3abb6",
  },
};
const darkMode = window.matchMedia("(prefers-color-scheme: dark)");
const currentTheme = () => (darkMode.matches ? THEMES.dark : THEMES.light);

const SHAPES = ["circle", "square", "diamond", "triangle", "cross"];

/** How one of several things is drawn: by its number, or -1 for the dense network. */
function look(index, theme) {
  if (index < 0) return { colour: theme.dense, shape: "circle", dash: "5 4" };
  return {
    colour: theme.colours[index % theme.colours.length],
    shape: SHAPES[index % SHAPES.length],
    dash: index < theme.colours.length ? null : "7 3",
  };
}

const hasDense = DATA.methods[0] === "dense";
const methodLook = (method, theme) => look(hasDense ? method - 1 : method, theme);

/** A marker around a point. */
function marker(shape, x, y, size, attributes) {
  const s = size;
  const path = {
    square: `M${x - s * 0.85} ${y - s * 0.85}h${s * 1.7}v${s * 1.7}h${-s * 1.7}z`,
    diamond: `M${x} ${y - s * 1.25}l${s * 1.25} ${s * 1.25}l${-s * 1.25} ${s * 1.25}l${-s * 1.25} ${-s * 1.25}z`,
    triangle: `M${x} ${y - s * 1.2}l${s * 1.15} ${s * 2}h${-s * 2.3}z`,
    cross: `M${x - s} ${y - s}l${s * 2} ${s * 2}M${x + s} ${y - s}l${-s * 2} ${s * 2}`,
  }[shape];
  if (!path) return svg("circle", { cx: x, cy: y, r: s, ...attributes });
  const rounded = path.replace(/-?\d+\.\d+(e-?\d+)?/g, (n) => Math.round(n * 100) / 100);
  return svg("path", { d: rounded, ...attributes });
}
