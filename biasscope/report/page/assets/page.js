"use strict";
// What a reader can do with a report's page: look at single heads, follow them to prompts, sort and filter tables.
// Nothing stands on the page only through this script but the maps' panels. Texts of data enter as text, never as HTML.
(() => {
const DATA = JSON.parse(document.getElementById("views").textContent);
const SVG = "http://www.w3.org/2000/svg";
const tip = document.getElementById("tip"), live = document.getElementById("live"), panel = document.getElementById("panel");
const charts = new Map();  // map → its chart on the page
let chosen = null;  // { view, site, from }: what the panel shows, and the element that gets the focus back

// Elements and numbers

function fill(node, attributes, content) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...content.flat().filter((part) => part !== null && part !== undefined));
  return node;
}
const el = (tag, attributes, ...content) => fill(document.createElement(tag), attributes, content);
const svg = (tag, attributes, ...content) => fill(document.createElementNS(SVG, tag), attributes, content);

function number(value) {  // as the tables write it
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0.000";
  const size = Math.abs(value);
  if (size < 1e-4) return value.toExponential(0).replace(/e-(\d)$/, "e-0$1").replaceAll("-", "−");
  const digits = Math.max(0, 2 - Math.floor(Math.log10(size)));
  return value.toFixed(Math.min(digits, 4)).replace("-", "−");
}
function interval([estimate, low, high, , , , , mark]) {
  if (low === null || high === null) return `${number(estimate)}${mark} [–]`;
  const widest = Math.max(Math.abs(low), Math.abs(high)), places = widest < 1 ? 3 : widest < 10 ? 2 : 1;
  const end = (value) => value.toFixed(places).replace("-", "−");
  return `${number(estimate)}${mark} [${end(low)}, ${end(high)}]`;
}
const probability = (p) => (p !== null && p < 1e-4 ? "< 1e−4" : number(p));
function odds(nats, sides) {  // "he 2.3×": which side is likelier, and how many times, as the page's sentences write it
  const times = Math.exp(Math.min(Math.abs(nats), 50)), digits = times < 1.195 ? 2 : times < 9.95 ? 1 : 0;
  return `${sides[nats > 0 ? 0 : 1]} ${times > 1000 ? "more than 1000" : times.toFixed(digits)}×`;
}
const title = (site) => (site[1] === null ? `L${site[0]}.mlp` : `L${site[0]}H${site[1]}`);
function tests([, , , p, family, n, groups]) {
  const known = [["p", p], ["p_family", family]].filter(([, value]) => value !== null).map(([name, value]) => `${name} ${probability(value)}`);
  return [...known, `n ${n}`, `${groups} groups`].join(", ");
}
function lines(view, site, which) {
  const { name, unit } = view.statistics[which], numbers = site[2][which];
  return numbers ? `${title(site)}\n${name} ${interval(numbers)} ${unit}\n${tests(numbers)}` : `${title(site)}\n${name}: not measured`;
}

// The line beside the pointer, and where the keyboard is

function show(text, target) {
  tip.textContent = text;
  tip.hidden = false;
  const box = target.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), document.documentElement.clientWidth - own.width - 8);
  const above = box.top - own.height - 8;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(above > 0 ? above : box.bottom + 8) + scrollY}px`;
  tip.style.position = "absolute";
}
const hide = () => { tip.hidden = true; };
function spoken(node, text) {  // an element that says what it is, to eyes and to screen readers
  node.setAttribute("aria-label", text().replaceAll("\n", ", "));
  for (const event of ["pointerenter", "focus"]) node.addEventListener(event, () => show(text(), node));
  for (const event of ["pointerleave", "blur"]) node.addEventListener(event, hide);
}
function rove(nodes, next, open) {  // one of them is reached by Tab, the others by arrows
  nodes.forEach((node, i) => {
    node.setAttribute("tabindex", i ? -1 : 0);
    node.addEventListener("focus", () => nodes.forEach((other) => other.setAttribute("tabindex", other === node ? 0 : -1)));
    node.addEventListener("keydown", (event) => {
      const to = next(node, event.key);
      if (to) { to.focus(); event.preventDefault(); }
      if (open && (event.key === "Enter" || event.key === " ")) { open(node); event.preventDefault(); }
    });
    if (open) node.addEventListener("click", () => open(node));
  });
}
const inLine = (nodes) => (node, key) => ({
  ArrowRight: nodes[nodes.indexOf(node) + 1], ArrowDown: nodes[nodes.indexOf(node) + 1],
  ArrowLeft: nodes[nodes.indexOf(node) - 1], ArrowUp: nodes[nodes.indexOf(node) - 1],
  Home: nodes[0], End: nodes.at(-1),
})[key];

// A map of heads

function chart(figure, key) {
  const view = DATA.maps[key], own = { key, view, which: 0, cells: new Map() };
  const layers = [...new Set(view.sites.map((site) => site[0]))].sort((a, b) => b - a);
  const heads = Math.max(-1, ...view.sites.map((site) => (site[1] === null ? -1 : site[1]))) + 1;
  const mlps = view.sites.some((site) => site[1] === null), columns = heads + (mlps ? 1.4 : 0);
  const width = Math.max(6, Math.min(34, 350 / columns)), height = layers.length > 40 ? 9 : 15, left = 34, top = 4;
  const x = (site) => left + (site[1] === null ? heads + 0.4 : site[1]) * width;
  const picture = svg("svg", { viewBox: `0 0 ${left + columns * width + 4} ${top + layers.length * height + 28}`, role: "grid", "aria-label": `Heads: ${view.title}, ${view.model} on ${view.data}` });
  const skip = Math.ceil(14 / height), every = Math.ceil(18 / width);
  layers.forEach((layer, row) => {
    const line = svg("g", { role: "row" });
    if (row % skip === 0) line.append(svg("text", { x: left - 5, y: top + (row + 0.5) * height + 3.5, "text-anchor": "end", "aria-hidden": true }, layer));
    for (const site of view.sites.filter((site) => site[0] === layer)) {
      const rect = svg("rect", { x: x(site), y: top + row * height, width: width - 1, height: height - 1, rx: 1.5 });
      const ring = svg("circle", { cx: x(site) + (width - 1) / 2, cy: top + row * height + (height - 1) / 2, r: Math.min(width, height) / 4, fill: "none", stroke: "var(--ink)" });
      const cell = svg("g", { role: "gridcell", class: "cell", "data-site": title(site) }, rect, ring);
      spoken(cell, () => lines(view, site, own.which));
      own.cells.set(title(site), Object.assign(cell, { site, row, column: site[1] === null ? heads : site[1], rect, ring }));
      line.append(cell);
    }
    picture.append(line);
  });
  for (let head = 0; head < heads; head += every) picture.append(svg("text", { x: left + (head + 0.5) * width, y: top + layers.length * height + 11, "text-anchor": "middle", "aria-hidden": true }, head));
  if (mlps) picture.append(svg("text", { x: left + (heads + 0.9) * width, y: top + layers.length * height + 11, "text-anchor": "middle", "aria-hidden": true }, "MLP"));
  picture.append(svg("text", { x: left + heads * width / 2, y: top + layers.length * height + 24, "text-anchor": "middle", "aria-hidden": true }, "head"), svg("text", { x: 9, y: top + layers.length * height / 2, "text-anchor": "middle", transform: `rotate(-90 9 ${top + layers.length * height / 2})`, "aria-hidden": true }, "layer"));
  const cells = [...own.cells.values()];
  rove(cells, (cell, key) => step(cells, cell, key), (cell) => select(own, cell.site, cell));
  own.buttons = view.statistics.map(({ name }, i) => el("button", { type: "button", "aria-pressed": false, onclick: () => { paint(own, i); remember(own); live.textContent = `The map shows ${name}`; } }, name));
  own.scale = el("div", { class: "scale" });
  const box = el("div", { class: "map" }, el("h4", null, `Heads of ${view.model} on ${view.data}: ${view.title}`), own.buttons.length > 1 ? el("div", { class: "switch", role: "group", "aria-label": "What the colours show" }, own.buttons) : null, picture, own.scale);
  const still = figure.querySelector("svg");
  still.classList.add("map-still");
  still.after(box);
  charts.set(key, own);
  paint(own, 0);
}
function step(cells, cell, key) {  // the nearest measured cell that way
  const way = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1], End: [0, 1] }[key];
  if (!way) return null;
  const ahead = (other) => (way[0] ? other.column === cell.column && (other.row - cell.row) * way[0] : other.row === cell.row && (other.column - cell.column) * way[1]);
  const reached = cells.filter((other) => ahead(other) > 0).sort((a, b) => ahead(a) - ahead(b));
  return key === "Home" || key === "End" ? reached.at(-1) : reached[0];
}
function paint(own, which) {
  own.which = which;
  const { name, unit } = own.view.statistics[which], signed = which === 0 || name === "shift";
  const beside = Object.values(DATA.maps).filter(({ data }) => data === own.view.data);  // on one scale
  const values = beside.flatMap(({ statistics, sites }) => {
    const same = statistics.findIndex((statistic) => statistic.name === name && statistic.unit === unit);
    return same < 0 ? [] : sites.filter((site) => site[2][same]).map((site) => Math.abs(site[2][same][0] || 0));
  });
  const largest = values.reduce((most, value) => Math.max(most, value), 1e-9);
  for (const cell of own.cells.values()) {
    const numbers = cell.site[2][which], value = numbers ? numbers[0] : null;
    cell.rect.style.fill = value === null ? "var(--line)" : `color-mix(in srgb, var(${!signed ? "--seq" : value > 0 ? "--towards" : "--away"}) ${Math.round(100 * Math.abs(value) / largest)}%, var(--zero))`;
    cell.ring.style.display = numbers && numbers[7].includes("*") ? "" : "none";
    cell.setAttribute("aria-label", lines(own.view, cell.site, which).replaceAll("\n", ", "));
  }
  own.buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === which));
  const ramp = signed ? "linear-gradient(90deg, var(--away), var(--zero), var(--towards))" : "linear-gradient(90deg, var(--zero), var(--seq))";
  const starred = own.view.sites.some((site) => site[2][which] && site[2][which][7].includes("*"));
  own.scale.replaceChildren(signed ? `−${number(largest)}` : "0", el("i", { style: { background: ramp } }), `${number(largest)} ${unit}`, starred ? el("span", null, "○ significant (*)") : "", el("span", null, meaning(own.view, name)), el("span", null, "Click a cell for its prompts."));
}
function meaning(view, name) {
  if (name === "kl") return "kl: how far the next word's distribution moves";
  if (name === "competence") return "competence: rms change of how much sense the model sees";
  if (name === "shift") return `shift: towards ${view.sides[0]} in every ${view.noun} alike`;
  if (name === "slope") return `orange: replaced, ${view.grows}; blue: less`;
  return `orange: replaced, the model leans more towards ${view.sides[0]}; blue: towards ${view.sides[1]}`;
}

// The panel of one head

function select(own, site, from) {
  close(false);
  chosen = { own, site, from };
  own.cells.get(title(site)).setAttribute("aria-selected", true);
  panel.replaceChildren(...content(own, site));
  panel.hidden = false;
  panel.scrollTop = 0;
  const box = own.cells.get(title(site)).getBoundingClientRect();
  panel.classList.toggle("left", box.left > innerWidth - panel.offsetWidth);  // beside the map, not on it
  if (innerWidth <= 900) own.cells.get(title(site)).scrollIntoView({ block: "start" });  // the panel covers what is below
  panel.focus({ preventScroll: true });
  hide();
  remember(own);
}
function close(back = true) {
  if (!chosen) return;
  const { own, site, from } = chosen;
  own.cells.get(title(site)).removeAttribute("aria-selected");
  chosen = null;
  panel.hidden = true;
  if (back) { (from || own.cells.get(title(site))).focus(); remember(null); hide(); }
}
function content({ key, view }, site) {
  const detail = view.details[title(site)];
  const rows = view.statistics.map(({ name, unit }, i) => (site[2][i] ? el("tr", null, el("th", { scope: "row" }, name), el("td", null, `${interval(site[2][i])} ${unit}`, el("div", { class: "soft" }, tests(site[2][i])))) : null));
  const more = [["recovered of the twin's effect", site[3]], ["specificity", site[4]]].filter(([, value]) => value !== null);
  const others = Object.entries(DATA.maps).filter(([other, map]) => other !== key && map.model === view.model && map.data === view.data).map(([, map]) => [map, map.sites.find((each) => title(each) === title(site))]).filter(([, each]) => each && each[2][0]);
  return [
    el("div", { class: "bar" }, el("h2", { id: "panel-title" }, title(site)), el("button", { type: "button", onclick: () => close() }, "Close (Esc)")),
    el("p", { class: "soft" }, `${site[1] === null ? `the MLP of layer ${site[0]}` : `head ${site[1]} of layer ${site[0]}`} of ${view.model} on ${view.data}; ${view.title} (run ${view.run})`),
    el("h3", null, "Its numbers"),
    el("table", null, el("tbody", null, rows)),
    ...more.map(([name, value]) => el("p", null, `${name}: ${number(value)}`)),
    ...others.map(([map, each]) => el("p", { class: "soft" }, `Measured otherwise: ${map.title} (run ${map.run}): ${map.statistics[0].name} ${interval(each[2][0])} ${map.statistics[0].unit}`)),
    ...(detail ? [...groups(view, detail), ...prompts(view, detail)] : [el("p", { class: "soft" }, "Its groups and prompts are not embedded: see the notes at the end of the page.")]),
  ];
}
function groups(view, detail) {
  const at = view.groups.at, every = Object.entries(detail.effects), laid = every.some(([name]) => Object.hasOwn(at, name));
  const shown = laid ? every.filter(([name]) => Object.hasOwn(at, name)) : every;
  shown.sort((a, b) => (laid ? at[a[0]] - at[b[0]] : a[1] - b[1]));
  const xs = shown.map(([name], i) => (laid ? at[name] : i)), ys = shown.map(([, effect]) => effect);
  const [west, east] = [Math.min(...xs), Math.max(...xs)], [south, north] = [Math.min(0, ...ys), Math.max(0, ...ys)];
  const px = (x) => 54 + 368 * (x - west) / (east - west || 1), py = (y) => 12 + 150 * (north - y) / (north - south || 1);
  const dots = shown.map(([name, effect], i) => {
    const dot = svg("circle", { cx: px(xs[i]), cy: py(effect), r: 4, class: effect > 0 ? "dot" : "dot away", role: "img" });
    spoken(dot, () => `${name}\n${laid ? `${view.groups.axis}: ${number(at[name])}\n` : ""}effect ${number(effect)} nats`);
    return dot;
  });
  rove(dots, inLine(dots));
  const label = (x, y, text, anchor) => svg("text", { x, y, "text-anchor": anchor, "aria-hidden": true }, text);
  const ends = [...new Set([south, 0, north])].map((y) => label(42, py(y) + 3, number(y), "end"));
  const names = laid ? [label(54, 182, number(west), "middle"), label(422, 182, number(east), "middle"), label(236, 182, view.groups.axis, "middle")] : [label(236, 182, `each ${view.noun}, by effect`, "middle")];
  return [
    el("h3", null, `Its effect on each ${view.noun}`),
    el("p", { class: "soft" }, `Mean change of target when it is replaced, nats: above the line towards ${view.sides[0]}, below towards ${view.sides[1]}.`),
    svg("svg", { viewBox: "0 0 440 188", role: "group", "aria-label": `Effect per ${view.noun}, ${shown.length} dots` }, svg("line", { x1: 46, x2: 426, y1: py(0), y2: py(0), class: "axis" }), ends, names, dots),
  ];
}
function prompts(view, detail) {
  if (!view.prompts.length) return [el("p", { class: "soft" }, view.unread)];
  const seen = [...detail.up, ...detail.down].some(([, , , weights]) => weights), head = [];
  if (seen) head.push(el("p", { class: "soft" }, "Ground: where it looks from the last token, darker: more. Underlined: the word the prompt is about. Examples of equal text stand once."));
  if (detail.term) head.push(el("p", { class: "soft" }, `Over ${detail.term[2]} prompts ${Math.round(100 * detail.term[0])} % of its attention goes to that word, which is ${Math.round(100 * detail.term[1])} % of the tokens.`));
  if (!seen) head.push(el("p", { class: "soft" }, view.unread || "Where it looks was kept of the first heads only."));
  const way = (name, side) => [el("h3", null, `Replaced, it moves these most towards ${side}`), ...(detail[name].length ? detail[name].map((moved) => prompt(view, moved)) : [el("p", { class: "soft" }, "none")])];
  return [el("h3", null, "Its prompts"), ...head, ...way("up", view.sides[0]), ...way("down", view.sides[1])];
}
function prompt(view, [index, before, after, weights]) {
  const [group, text, stereo, anti, tokens, term, other] = view.prompts[index], largest = Math.max(1, ...(weights || []));
  const said = [`before ${odds(before, view.sides)}, after ${odds(after, view.sides)} (${number(after - before)} nats)`];
  if (weights) said.push(`attention to “${group}” ${(term.reduce((sum, i) => sum + weights[i], 0) / 1000).toFixed(2)}`);
  const words = weights && tokens ? tokens.map((token, i) => el("span", { class: term.includes(i) ? "term" : null, title: (weights[i] / 1000).toFixed(3), style: { background: `color-mix(in srgb, var(--towards) ${Math.round(70 * weights[i] / largest)}%, transparent)` } }, token)) : [text];
  const most = weights && tokens ? tokens.map((token, i) => [weights[i], token]).sort((a, b) => b[0] - a[0]).slice(0, 3).map(([weight, token]) => `${token.trim()} ${(weight / 1000).toFixed(2)}`).join(", ") : "";
  return el("div", { class: "prompt" }, el("div", null, words, el("span", { class: "gap" }, other === null ? ` ___ (${stereo.trim()} / ${anti.trim()})` : ` ${stereo.trim()} against “${other}”`)), el("div", { class: "said" }, said.join("; ")), most ? el("div", { class: "hidden" }, `It looks most at: ${most}`) : null);
}

// Links that hold the selection: #map=8ec08e9f-mean;show=slope;site=L26H2

function remember(own) {
  const parts = own ? [`map=${own.key}`, `show=${own.view.statistics[own.which].name}`, ...(chosen && chosen.own === own ? [`site=${title(chosen.site)}`] : [])] : [];
  history.replaceState(null, "", parts.length ? `#${parts.join(";")}` : location.pathname + location.search);
}
function restore() {
  const asked = Object.fromEntries(decodeURIComponent(location.hash.slice(1)).split(";").map((part) => part.split("=")));
  const own = charts.get(asked.map);
  if (!own) return;
  const which = own.view.statistics.findIndex(({ name }) => name === asked.show);
  if (which >= 0) paint(own, which);
  const cell = own.cells.get(asked.site);
  if (cell) select(own, cell.site, cell);
  (cell || own.scale).scrollIntoView({ block: "center" });
}

// The dots of a scatter that stands on the page

function dots(figure, key) {
  const { points, x, unit, sides } = DATA.dots[key], marks = [...figure.querySelectorAll('[id$="PathCollection_1"] use')];
  if (marks.length !== points.length) return;
  const order = marks.map((mark, i) => [mark, points[i]]).sort((a, b) => a[1][1] - b[1][1]);
  for (const [mark, [group, at, target, n, low, high]] of order) {
    mark.setAttribute("role", "img");
    mark.classList.add("dot");
    spoken(mark, () => `${group}\n${x}: ${number(at)} ${unit}\ntarget ${interval([target, low, high, , , , , ""])} nats: ${odds(target, sides)}\nn ${n}`);
  }
  rove(order.map(([mark]) => mark), inLine(order.map(([mark]) => mark)));
  figure.querySelector("svg").setAttribute("role", "group");
}

// Tables: sorted by a click on a column's name, filtered by words

const value = (text) => {
  const read = text.replaceAll("−", "-").match(/^[<\s]*([-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?)/i);
  return read ? Number(read[1].replaceAll(",", "")) : null;
};
function sortable(table) {
  const body = table.tBodies[0], names = [...table.tHead.rows[0].cells], first = [...body.rows];
  if (first.length < 2) return;
  names.forEach((name, column) => {
    const links = name.querySelector("a");  // a term's link stays a link, and the arrows beside it sort
    name.append(el("button", { type: "button", "aria-label": links ? `Sort by ${name.textContent}` : null, onclick: () => sort(column) }, ...(links ? [] : name.childNodes)));
  });
  function sort(column) {
    const down = names[column].getAttribute("aria-sort") !== "descending";
    const keyed = first.map((row) => [row, row.cells[column].textContent.trim()]).map(([row, text]) => [row, text, value(text)]);
    const numeric = keyed.filter(([, , n]) => n !== null).length > keyed.length / 2;
    const rank = (a, b) => (numeric ? a[2] - b[2] : a[1].localeCompare(b[1])) * (down ? -1 : 1);
    const there = (entry) => (numeric ? entry[2] !== null : true);  // what has no number stands last
    keyed.sort((a, b) => there(b) - there(a) || rank(a, b));
    body.append(...keyed.map(([row]) => row));
    names.forEach((name) => name.removeAttribute("aria-sort"));
    names[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    live.textContent = `Sorted by ${names[column].textContent}, ${down ? "largest" : "smallest"} first`;
  }
  if (first.length < 8) return;
  const count = el("span", { "aria-live": "polite" }, `${first.length} rows`);
  const filter = el("input", { type: "search", placeholder: "filter rows", "aria-label": "Filter the table's rows", oninput: () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of first) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    count.textContent = `${first.filter((row) => !row.hidden).length} of ${first.length} rows`;
  } });
  table.before(el("div", { class: "tools" }, filter, count));
}
function linked(table) {  // the names of sites open the panel of the run that the caption names
  const run = table.caption && table.caption.textContent.match(/\(run ([0-9a-f]{8})\)/);
  const own = run && [...charts.values()].find(({ view }) => view.run === run[1]);
  for (const row of own ? table.tBodies[0].rows : []) {
    const cell = row.cells[0], site = own.cells.get(cell.textContent.trim());
    if (site) cell.replaceChildren(el("button", { type: "button", class: "link", onclick: (event) => select(own, site.site, event.target) }, cell.textContent));
  }
}
function sideways(box) {
  const note = el("p", { class: "sideways" }, "This table scrolls sideways →");
  box.before(note);
  const look = () => { note.hidden = box.scrollWidth <= box.clientWidth + 1; };
  new ResizeObserver(look).observe(box);
  look();
}

document.documentElement.classList.add("scripts");
for (const figure of document.querySelectorAll("figure[data-view]")) {
  const key = figure.dataset.view;
  if (Object.hasOwn(DATA.maps, key) && !charts.has(key)) chart(figure, key);
  else if (Object.hasOwn(DATA.dots, key)) dots(figure, key);
}
document.querySelectorAll("main table").forEach((table) => { sortable(table); linked(table); });
document.querySelectorAll("main .scroll").forEach(sideways);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!tip.hidden) hide();
  close();
});
addEventListener("hashchange", restore);
restore();
})();
