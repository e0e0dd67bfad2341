// The recursion explorer's page: state, controls, columns, point and curves, with the pictures of explorer_scene.js.
const COLORS = ["#0072b2", "#c04e00", "#008060", "#a8508a", "#806000", "#444"], DASHES = ["", "7 3", "2 3", "10 3 2 3"];
const BEHIND = 0.06;  // world units by which a hidden point is deeper than what is seen
const state = {step: steps.length - 1, view: views.length >> 1, all: false, kind: "estimate", design: null,
               pick: null};  // view: the back, which F knows least of; pick: {design, view, column, row} of a pixel

// ---- the page ------------------------------------------------------------------------------------------------------

let queued = false;
function set(changes) {
  Object.assign(state, changes);
  if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; update(); }); }
}
const clamp = (value, end) => Math.max(0, Math.min(end - 1, value));
const goTo = step => set({step: clamp(step, steps.length)});
const angle = view => `${Math.round(10 * views[view].azimuth) / 10}\u00b0`;

function choose(view) {
  const {azimuth, elevation, radius} = views[view];
  set({view, all: false});
  Object.assign(orbit, {azimuth, elevation, radius, turning: false});
}
/** Call `action` on a click. After one by mouse, keys are the page's again; who came by keys stays on the button. */
function onClick(node, action) {
  node.addEventListener("click", event => {
    action();
    if (event.detail) $("explorer").focus({preventScroll: true});
  });
}
function button(group, label, pressed, click, title = "") {
  const node = make("button", {type: "button", textContent: label, title});
  onClick(node, click);
  group.append(node);
  watching.push(() => node.setAttribute("aria-pressed", pressed()));
  return node;
}
const watching = [];  // what to do when the state has changed

function addControls() {
  $("step").max = steps.length - 1;
  $("step").addEventListener("input", () => goTo(Number($("step").value)));
  onClick($("play"), () => play(!playing));
  $("full").hidden = !document.fullscreenEnabled;
  onClick($("full"), fullScreen);
  for (const [kind, [label, webgl]] of Object.entries(KINDS)) {
    if (kind === "truth" && !scene.truth) continue;
    button($("kinds"), label, () => state.kind === kind, () => set({kind})).disabled = webgl && !maps;
  }
  for (const view of views.keys()) {
    button($("views"), `${view}: ${angle(view)}`, () => !state.all && state.view === view, () => choose(view));
  }
  button($("views"), "all", () => state.all, () => set({all: !state.all}), "all views (A)");
  button($("shown"), "all", () => state.design === null, () => set({design: null}), "side by side (0)");
  for (const [i, {name}] of designs.entries()) {
    button($("shown"), name, () => state.design === i, () => set({design: i}), `only this one (${i + 1})`);
  }
  watching.push(() => {
    const {step} = state, {index, sigma} = steps[step];
    const text = `${index + 1} of ${steps.at(-1).index + 1}, \u03c3 = ${sigma.toPrecision(2)}`;
    $("step").value = step; $("step").setAttribute("aria-valuetext", text); $("now").textContent = text;
  });
}

let playing = null;
const still = matchMedia("(prefers-reduced-motion: reduce)");
function play(on) {
  clearInterval(playing); playing = null;
  if (on) {
    if (state.step === steps.length - 1) goTo(0);
    playing = setInterval(() => {
      if (state.step < steps.length - 1) goTo(state.step + 1);
      else if (still.matches) play(false);
      else goTo(0);
    }, still.matches ? 1200 : 350);
  }
  $("play").textContent = on ? "pause" : "play"; $("play").setAttribute("aria-pressed", on);
}

/** A column: pictures of a run, or of the truth, with the chosen point in each. */
function addColumn(name, color, design, i) {
  const pictures = make("div", {className: "pictures"});
  const column = make("section", {className: design ? "design run" : "design"}, make("h2", {textContent: name}), pictures);
  column.firstChild.style.borderColor = color;
  const cells = [...views.keys()].map(view => {
    const canvas = plane(), marker = make("div", {className: "marker", hidden: true});
    const cell = make("div", {className: "picture"}, canvas, marker);
    cell.dataset.label = `${view}: ${angle(view)}`;
    canvas.setAttribute("role", "img");
    if (design) {
      canvas.tabIndex = 0;
      canvas.addEventListener("click", event => {
        const box = canvas.getBoundingClientRect();
        pick(i, view, (event.clientX - box.left) / box.width * size, (event.clientY - box.top) / box.height * size);
      });
      canvas.addEventListener("keydown", event => { if (event.key === "Enter") pick(i, view, size / 2, size / 2); });
    }
    pictures.append(cell);
    return {cell, canvas, marker};
  });
  $("designs").append(column);
  watching.push(() => {
    column.hidden = design ? state.design !== null && state.design !== i : state.all;
    if (column.hidden) return;
    for (const [view, {cell, canvas}] of cells.entries()) {
      cell.hidden = !state.all && view !== state.view;
      if (cell.hidden) continue;
      const shown = design ? `, ${KINDS[state.kind][0]}, step ${steps[state.step].index + 1}` : "";
      canvas.setAttribute("aria-label", `${name}, view ${view}${shown}`);
      if (design) paint(canvas, design, state.step, view, state.kind);
      else drawMap(canvas.getContext("2d"), null, 0, view, "truth");
    }
  });
  return {column, cells};
}

function addFigures(column, {figures}) {
  const line = column.appendChild(make("p", {className: "figures"}));
  const decibels = (values, view) => `${values[view].toFixed(1)} dB`;
  watching.push(() => {
    const {step, view} = state, {psnr, agreement} = figures;
    line.textContent = (psnr ? `view ${view}: ${decibels(psnr[step], view)} to the truth, ` : `view ${view}: `)
      + `${decibels(agreement[step], view)} to its own 3D`;
  });
}

// ---- splats, turned together ---------------------------------------------------------------------------------------

const turnable = [];
const orbit = new Orbit({fov: scene.fov, ...views[state.view]}, () => {
  for (const {canvas, view, design} of turnable) {
    if (!canvas.clientWidth) continue;
    view.show(design.splat(state.step)); view.draw(orbit.camera());
    const {azimuth, elevation, radius} = orbit;
    Object.assign(canvas.dataset, {azimuth, elevation, radius});  // for tests
  }
});
function addSplat(column, design) {
  const canvas = make("canvas", {className: "splat", width: 256, height: 256, tabIndex: 0});
  const view = SplatView.on(canvas);
  if (!view) return;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${design.name}: splat of this step; drag or arrow keys turn it`);
  column.append(canvas);
  turnable.push({canvas, view, design});
  orbit.listen(canvas, false);
  new ResizeObserver(() => {
    const side = Math.min(640, Math.round(canvas.clientWidth * devicePixelRatio));
    if (side && side !== canvas.width) { canvas.width = canvas.height = side; orbit.request(); }
  }).observe(canvas);
}

// ---- a point in all views ------------------------------------------------------------------------------------------

const columns = [];
function pick(design, view, x, y) {
  set({pick: {design, view, column: clamp(Math.floor(x), size), row: clamp(Math.floor(y), size)}});
}

function addSwatches() {
  const rows = designs.map(({name}) => name).concat(scene.truth ? ["truth"] : []);
  const cells = rows.map(() => [...views.keys()].map(() => make("div", {className: "swatch"})));
  const numbers = views.map((_, view) => make("th", {textContent: view}));
  const head = make("tr", {}, make("th", {textContent: "view"}), ...numbers);
  $("swatches").append(make("thead", {}, head), make("tbody", {}, ...rows.map((name, r) =>
    make("tr", {}, make("th", {textContent: name}), ...cells[r].map(cell => make("td", {}, cell))))));
  watching.push(() => showPoint(cells));
}

function showPoint(cells) {
  const {pick: chosen, step} = state, place = $("place");
  for (const {cells: pictures} of columns) for (const {marker} of pictures) marker.hidden = true;
  $("swatches").hidden = true;
  if (!chosen) {
    place.textContent = "Click a pixel: where its point of the surface lies in all views and designs.";
    return;
  }
  const {design, view, column, row} = chosen;
  const {alpha, point} = seenAt(designs[design].splat(step), views[view], (column + 0.5) / size, (row + 0.5) / size);
  const where = `${designs[design].name}, view ${view}, pixel (${column}, ${row})`;
  if (alpha < 0.5) { place.textContent = `${where}: no surface there in this step.`; return; }
  const numbers = point.map(value => value.toFixed(3)).join(", ");
  place.textContent = `${where}: the point (${numbers}), as G places it in this step. `
    + "Colours: F's estimate, and right of it the 3D; dotted where something is in front.";
  $("swatches").hidden = false;
  for (const [v, camera] of views.entries()) {
    const {u, v: w, depth} = project(camera, point), inside = u >= 0 && u < 1 && w >= 0 && w < 1 && depth > 0;
    for (const [r, {cells: pictures}] of columns.entries()) {
      const {marker} = pictures[v], own = designs[r], cell = cells[r][v];
      marker.hidden = !inside; cell.hidden = !inside;
      if (!inside) continue;
      marker.style.left = `${100 * u}%`; marker.style.top = `${100 * w}%`;
      drawMap(scratch, own, step, v, own ? "estimate" : "truth");
      const [red, green, blue] = scratch.getImageData(Math.floor(u * size), Math.floor(w * size), 1, 1).data;
      const flat = `rgb(${red}, ${green}, ${blue})`, seen = own && seenAt(own.splat(step), camera, u, w);
      const behind = Boolean(seen) && seen.alpha > 0.5 && depth > seen.depth + BEHIND;
      const solid = seen ? `rgb(${seen.color.map(Math.round)})` : flat;
      cell.style.background = `linear-gradient(90deg, ${flat} 50%, ${solid} 50%)`;
      cell.title = `${own ? own.name : "truth"}, view ${v}: ${flat}`
        + (seen ? `, 3D ${solid}` : "") + (behind ? ", hidden" : "");
      cell.setAttribute("role", "img"); cell.setAttribute("aria-label", cell.title);
      for (const node of [marker, cell]) node.classList.toggle("behind", behind);
    }
  }
}

// ---- curves --------------------------------------------------------------------------------------------------------

const mean = values => values.reduce((a, b) => a + b) / values.length;
/** Captions, and means over views: to the truth of those that F was not given, if there are any; self-consistency of
 *  all, as everywhere (rows.py), since view 0 too is rendered from the one splat. */
const CURVES = {
  psnr: [`PSNR to the truth, ${["view 0", "view 1"][views.length - 1] ?? "views 1 and on"}`,
         values => mean(values.length > 1 ? values.slice(1) : values)],
  agreement: [`Self-consistency, ${views.length > 1 ? "all views" : "view 0"}`, mean],
};

function addCurve(quantity) {
  const [caption, over] = CURVES[quantity], lines = designs.map(({figures}) => figures[quantity].map(over));
  const [width, height, left, right, top, bottom] = [520, 170, 34, 10, 8, 22];
  const low = Math.floor(Math.min(...lines.flat())), high = Math.max(low + 1, Math.ceil(Math.max(...lines.flat())));
  const x = step => left + (width - left - right) * step / Math.max(1, steps.length - 1);
  const y = value => top + (height - top - bottom) * (high - value) / (high - low);
  const chart = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": caption});
  const tick = Math.max(1, Math.ceil((high - low) / 4));
  for (let value = low; value <= high; value += tick) {
    chart.append(svg("line", {x1: left, x2: width - right, y1: y(value), y2: y(value), stroke: "#e4e4e4"}),
                 svg("text", {x: left - 4, y: y(value) + 4, "text-anchor": "end"}, String(value)));
  }
  for (let step = 0; step < steps.length; step += Math.max(1, Math.ceil(steps.length / 9))) {
    chart.append(svg("text", {x: x(step), y: height - 8, "text-anchor": "middle"}, String(steps[step].index + 1)));
  }
  const cursor = chart.appendChild(svg("line", {class: "cursor", y1: top, y2: height - bottom, stroke: "#222"}));
  const dots = lines.map((values, i) => {
    const stroke = COLORS[i % COLORS.length];
    const points = values.map((value, step) => `${x(step)},${y(value)}`).join(" ");
    chart.append(svg("polyline", {points, fill: "none", stroke, "stroke-width": 2,
                                  "stroke-dasharray": DASHES[i % DASHES.length]}));
    return chart.appendChild(svg("circle", {r: 4, fill: stroke}));
  });
  const legend = make("figcaption");
  $("curves").append(make("figure", {}, legend, chart));
  const scrub = event => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = chart.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * width;
    goTo(Math.round((at - left) / (width - left - right) * (steps.length - 1)));
  };
  chart.addEventListener("pointerdown", scrub); chart.addEventListener("pointermove", scrub);
  watching.push(() => {
    const {step} = state;
    cursor.setAttribute("x1", x(step)); cursor.setAttribute("x2", x(step));
    legend.replaceChildren(`${caption}: `, ...designs.flatMap(({name}, i) => {
      const text = make("b", {textContent: `${name} ${lines[i][step].toFixed(1)}`});
      text.style.color = COLORS[i % COLORS.length];
      return i ? [", ", text] : [text];
    }), " dB");
    dots.forEach((dot, i) => { dot.setAttribute("cx", x(step)); dot.setAttribute("cy", y(lines[i][step])); });
  });
}

// ---- keys ----------------------------------------------------------------------------------------------------------

function movePoint(dx, dy) {
  if (state.pick) pick(state.pick.design, state.pick.view, state.pick.column + dx, state.pick.row + dy);
}
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.();
}
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const {key} = event, letter = key.toLowerCase(), arrow = ARROWS[key], turn = views.length;
  if (arrow && event.shiftKey) movePoint(...arrow);
  else if (arrow && arrow[0]) goTo(state.step + arrow[0]);
  else if (arrow) choose((state.view + arrow[1] + turn) % turn);
  else if (key === " " && !event.target.closest("button, summary")) play(!playing);
  else if (key === "0") set({design: null});
  else if (key >= "1" && key <= String(Math.min(9, designs.length))) set({design: Number(key) - 1});
  else if (letter === "a") set({all: !state.all});
  else if (letter === "f") fullScreen();
  else if (key === "Escape") set({pick: null});
  else return;
  event.preventDefault();
});

// ---- start ---------------------------------------------------------------------------------------------------------

function layOut() {
  const narrow = innerWidth < 600, visible = columns.filter(({column}) => !column.hidden).length;
  const across = state.all ? (visible === 1 && !narrow ? 4 : 2) : 1;
  const most = narrow && state.all ? 1 : Math.max(1, Math.floor(innerWidth / (170 * across)));  // side by side
  const beside = state.design !== null && !state.all && innerWidth >= 800 && Boolean(maps);  // its splat has room there
  const {style} = document.documentElement, {classList} = document.body;
  style.setProperty("--columns", beside ? visible + 1 : Math.min(visible, most)); style.setProperty("--across", across);
  classList.toggle("all", state.all); classList.toggle("beside", beside);
}
function update() {
  for (const changed of watching) changed();
  layOut(); orbit.request();
  const {step, view, kind, design, all} = state;
  Object.assign(document.body.dataset, {step, view, kind, design: design ?? "all", all});  // for tests
}
/** Make the splats of all steps while there is nothing else to do: who moves through them then need not wait. */
function prepare(step = 0) {
  const idle = window.requestIdleCallback ?? (action => setTimeout(action, 50));
  idle(() => {
    for (const design of designs) design.splat(step);
    if (step + 1 < steps.length) prepare(step + 1);
  });
}
async function start() {
  if (!maps) {
    notify("This browser has no WebGL2: splats, 3D renders and CCMs cannot be drawn. "
      + "Estimates, points and curves can.");
  }
  await Promise.all(designs.map(async design => {
    design.splat = splatsOf(design.splats, await bytesOf(design.splats.data, true));
    for (const kind of ["noisy", "estimate"]) design[kind] = await Promise.all(design[kind].map(loaded));
  }));
  if (scene.truth) scene.truth = await loaded(scene.truth);
  addControls();
  for (const [i, design] of designs.entries()) {
    const {column, cells} = addColumn(design.name, COLORS[i % COLORS.length], design, i);
    addFigures(column, design); addSplat(column, design);
    columns.push({column, cells});
  }
  if (scene.truth) columns.push(addColumn("truth", "#888", null));
  if (scene.truth) addCurve("psnr");
  addCurve("agreement");
  addSwatches();
  addEventListener("resize", () => set({}));
  if (window.frameElement) {  // a notebook's frame grows with the page; another origin's keeps its height, and scrolls
    const grow = () => { frameElement.style.height = `${document.body.offsetHeight + 4}px`; };
    new ResizeObserver(grow).observe(document.body);
  }
  update(); prepare();
}
start().catch(giveUp);
