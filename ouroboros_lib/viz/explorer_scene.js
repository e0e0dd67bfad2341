// What the recursion explorer has stored (recursion_page.py, packing.py), and the pictures that it makes of it.
const $ = id => document.getElementById(id);
function notify(text) { $("notice").textContent = text; $("notice").hidden = false; }
function giveUp(error) {
  notify(`This page cannot be shown: make it anew, or open it in another browser. (${error})`);
  throw error;
}
function parsedScene() {
  try { return JSON.parse($("scene").textContent); } catch (error) { return giveUp(error); }
}
const scene = parsedScene();
const {designs, steps, views, size} = scene;
const GAIN = 4;  // of differences: black from 1 / GAIN mean absolute error on
const KINDS = {  // name: [label, needs WebGL2]; first maps, then what the estimate is compared with
  estimate: ["estimate", false], noisy: ["noisy input", false], render: ["3D render", true], ccm: ["CCM", true],
  truth: ["\u2212 truth", false], own: ["\u2212 its own 3D", true], before: ["\u2212 step before", false],
};

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const plane = (side = size) => make("canvas", {width: side, height: side});
async function loaded(text) {
  const image = new Image();
  image.src = "data:image/webp;base64," + text;
  await image.decode();
  return image;
}

// ---- what is stored ------------------------------------------------------------------------------------------------

/** The splats of all steps, as packing.py stores them: a function of the step, for SplatView. */
function splatsOf({count, low, unit}, planes) {
  const total = planes.length / 2, levels = new Int16Array(total), perColumn = steps.length * count, tables = [];
  for (let p = 0; p < total; p++) {
    const folded = planes[p] | planes[total + p] << 8, change = folded & 1 ? -(folded + 1 >> 1) : folded >> 1;
    const place = p % perColumn;
    levels[p] = change + (place >= count ? levels[p - count] : place ? levels[p - 1] : 0);
  }
  const read = step => i => low.map((least, column) => {
    const value = least + unit[column] * levels[column * perColumn + step * count + i];
    if (column >= 4 && column < 7) return Math.exp(value);  // scales
    return column > 10 ? Math.max(0, Math.min(255, Math.round(255 * value))) : value;  // colours
  });
  return step => tables[step] ??= splatTable(count, read(step));
}

/** What a splat shows at a place (u, v) of a picture: as the shader blends it, front to back, but exactly. */
function seenAt({table, count}, {view: m, lens}, u, v) {
  const hits = [], [fx, fy, cx, cy] = lens.map(value => value * size);
  for (let o = 0; o < 12 * count; o += 12) {
    const [a, b, c] = [table[o], table[o + 1], table[o + 2]];
    const z = m[2] * a + m[6] * b + m[10] * c + m[14];
    const x = (m[0] * a + m[4] * b + m[8] * c + m[12]) / z, y = (m[1] * a + m[5] * b + m[9] * c + m[13]) / z;
    const du = u * size - fx * x - cx, dv = v * size - fy * y - cy;
    if (z < 0.05 || du * du + dv * dv > size * size / 16) continue;
    // the Jacobian's rows, turned to the world
    const ju = [0, 4, 8].map(k => fx / z * (m[k] - x * m[k + 2]));
    const jv = [0, 4, 8].map(k => fy / z * (m[k + 1] - y * m[k + 2]));
    const [xx, xy, xz, yy, yz, zz] = table.subarray(o + 4, o + 10);
    const cov = ([px, py, pz], [qx, qy, qz]) =>
      px * (xx * qx + xy * qy + xz * qz) + py * (xy * qx + yy * qy + yz * qz) + pz * (xz * qx + yz * qy + zz * qz);
    const uu = cov(ju, ju) + 0.3, uv = cov(ju, jv), vv = cov(jv, jv) + 0.3;
    const power = 0.5 * (vv * du * du - 2 * uv * du * dv + uu * dv * dv) / (uu * vv - uv * uv);
    const alpha = Math.min(0.999, table[o + 3] * Math.exp(-power));
    if (alpha >= 1 / 255) hits.push({z, alpha, o});
  }
  hits.sort((a, b) => a.z - b.z);
  const point = [0, 0, 0], color = [0, 0, 0], words = new Uint32Array(table.buffer);
  let through = 1, depth = 0;
  for (const {z, alpha, o} of hits) {
    const weight = through * alpha, bits = words[o + 10];
    depth += weight * z; through -= weight;
    for (let k = 0; k < 3; k++) { point[k] += weight * table[o + k]; color[k] += weight * (bits >> 8 * k & 255); }
  }
  const alpha = 1 - through;
  return {alpha, depth: depth / alpha, point: point.map(value => value / alpha),
          color: color.map(value => value + 255 * through)};
}

/** A world point's place in the picture of a camera, in sides, and its depth. */
function project({view: m, lens: [fx, fy, cx, cy]}, [x, y, z]) {
  const [a, b, depth] = [0, 1, 2].map(k => m[k] * x + m[4 + k] * y + m[8 + k] * z + m[12 + k]);
  return {u: fx * a / depth + cx, v: fy * b / depth + cy, depth};
}

// ---- pictures ------------------------------------------------------------------------------------------------------

const maps = SplatView.on(plane());  // draws the renders; null without WebGL2
const scratch = plane().getContext("2d", {willReadFrequently: true});

/** Draw a stored or a rendered map into a 2D context. */
function drawMap(context, design, step, view, kind) {
  if (kind === "render" || kind === "ccm") {
    maps.show(design.splat(step)); maps.draw(views[view], kind === "ccm" ? scene.box : 0);
    context.drawImage(maps.canvas, 0, 0);
  } else {
    const strip = kind === "truth" ? scene.truth : design[kind][step], side = strip.height;
    context.drawImage(strip, view * side, 0, side, side, 0, 0, size, size);
  }
}
function pixels(...which) { drawMap(scratch, ...which); return scratch.getImageData(0, 0, size, size); }

/** Show a map of a view, or how the estimate differs from another one. */
function paint(canvas, design, step, view, kind) {
  const context = canvas.getContext("2d");
  const other = {truth: [step, "truth"], own: [step, "render"], before: [step - 1, "estimate"]}[kind];
  if (!other) return drawMap(context, design, step, view, kind);
  context.fillStyle = "#fff"; context.fillRect(0, 0, size, size);
  if (other[0] < 0) return;
  const difference = pixels(design, step, view, "estimate"), {data} = difference;
  const {data: compared} = pixels(design, other[0], view, other[1]);
  for (let i = 0; i < data.length; i += 4) {
    const red = Math.abs(data[i] - compared[i]), green = Math.abs(data[i + 1] - compared[i + 1]);
    const blue = Math.abs(data[i + 2] - compared[i + 2]);
    data[i] = data[i + 1] = data[i + 2] = 255 - GAIN * (red + green + blue) / 3;
  }
  context.putImageData(difference, 0, 0);
}
