// Splats in WebGL2, for every page of the library that shows one (gaussians/page.py puts this into them).
// Gaussians are drawn as screen-space ellipses, back to front, as the rasterizer of the library does: covariance
// projected by the Jacobian of the perspective, 0.3 pixels of blur, cut where alpha falls below 1/255.
const VERTEX = `#version 300 es
precision highp float;
uniform highp sampler2D table;   // three texels per Gaussian: (mean, opacity), (xx, xy, xz, yy), (yz, zz, rgb bits, 0)
uniform mat4 view;               // world to camera, x right, y down, z forward
uniform vec4 lens;               // fx, fy, cx, cy in pixels
uniform float side;              // pixels
uniform float box;               // 0: the Gaussians' colours; else their centres, as a CCM of a box of this side
layout(location = 0) in vec2 corner;
layout(location = 1) in uint index;
out vec2 offset;                 // pixels from the centre
flat out vec3 conic;
flat out vec4 color;
vec4 fetch(int k) { int i = 3 * int(index) + k; return texelFetch(table, ivec2(i & 2047, i >> 11), 0); }
void main() {
  vec4 a = fetch(0), b = fetch(1), c = fetch(2);
  uint bits = floatBitsToUint(c.z);
  color = vec4(bits & 255u, (bits >> 8) & 255u, (bits >> 16) & 255u, a.w) / vec4(255, 255, 255, 1);
  if (box > 0.0) color.rgb = a.xyz / box + 0.5;
  vec3 p = (view * vec4(a.xyz, 1)).xyz;
  gl_Position = vec4(2, 2, 2, 1);
  if (p.z < 0.05 || a.w < 1.0 / 255.0) return;
  mat3 world = mat3(b.x, b.y, b.z, b.y, b.w, c.x, b.z, c.x, c.y);
  mat3 turn = mat3(view), local = turn * world * transpose(turn);
  vec2 f = lens.xy / p.z;
  vec3 ju = vec3(f.x, 0, -f.x * p.x / p.z), jv = vec3(0, f.y, -f.y * p.y / p.z);
  float uu = dot(ju, local * ju) + 0.3, uv = dot(ju, local * jv), vv = dot(jv, local * jv) + 0.3;
  float det = uu * vv - uv * uv;
  if (det <= 0.0) return;
  conic = vec3(vv, -uv, uu) / det;
  offset = corner * min(3.33, sqrt(2.0 * log(255.0 * a.w))) * sqrt(vec2(uu, vv));
  vec2 pixel = f * p.xy + lens.zw + offset;
  gl_Position = vec4(2.0 * pixel.x / side - 1.0, 1.0 - 2.0 * pixel.y / side, 0, 1);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec2 offset;
flat in vec3 conic;
flat in vec4 color;
out vec4 pixel;
void main() {
  float power = 0.5 * (conic.x * offset.x * offset.x + conic.z * offset.y * offset.y) + conic.y * offset.x * offset.y;
  float alpha = min(0.999, color.a * exp(-power));
  if (alpha < 1.0 / 255.0) discard;
  pixel = vec4(color.rgb * alpha, alpha);
}`;
const TEXELS = 2048;  // of a row of the table

/** What SplatView draws. read(i): a Gaussian's 14 numbers: centre, opacity, scales, rotation (wxyz), colours to 255. */
function splatTable(count, read) {
  const rows = Math.max(1, Math.ceil(3 * count / TEXELS)), table = new Float32Array(rows * TEXELS * 4);
  const words = new Uint32Array(table.buffer);
  for (let i = 0; i < count; i++) {
    const [px, py, pz, opacity, s0, s1, s2, qw, qx, qy, qz, red, green, blue] = read(i);
    const length = Math.hypot(qw, qx, qy, qz) || 1, w = qw / length, x = qx / length, y = qy / length, z = qz / length;
    const a = s0 * s0, b = s1 * s1, c = s2 * s2;
    const ax = 1 - 2 * (y * y + z * z), ay = 2 * (x * y + w * z), az = 2 * (x * z - w * y);
    const bx = 2 * (x * y - w * z), by = 1 - 2 * (x * x + z * z), bz = 2 * (y * z + w * x);
    const cx = 2 * (x * z + w * y), cy = 2 * (y * z - w * x), cz = 1 - 2 * (x * x + y * y);
    const o = 12 * i;
    table[o] = px; table[o + 1] = py; table[o + 2] = pz; table[o + 3] = opacity;
    table[o + 4] = a * ax * ax + b * bx * bx + c * cx * cx; table[o + 5] = a * ax * ay + b * bx * by + c * cx * cy;
    table[o + 6] = a * ax * az + b * bx * bz + c * cx * cz; table[o + 7] = a * ay * ay + b * by * by + c * cy * cy;
    table[o + 8] = a * ay * az + b * by * bz + c * cy * cz; table[o + 9] = a * az * az + b * bz * bz + c * cz * cz;
    words[o + 10] = red | green << 8 | blue << 16 | 0x40000000;  // never a denormal
  }
  return {table, rows, count};
}

/** The bytes of base64 text, inflated if need be. */
async function bytesOf(text, deflated) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  if (!deflated) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** One splat on one canvas. A camera: view (16, column by column), lens [fx, fy, cx, cy] in sides of the picture. */
class SplatView {
  /** null where the browser has no WebGL2. */
  static on(canvas) {
    const gl = canvas.getContext("webgl2", {antialias: false, preserveDrawingBuffer: true});
    return gl && new SplatView(canvas, gl);
  }
  constructor(canvas, gl) {
    Object.assign(this, {canvas, gl, splat: null, starts: new Uint32Array(65537)});
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source); gl.compileShader(shader); gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    }
    gl.linkProgram(program); gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0); gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());  // stays bound: the order of drawing
    gl.enableVertexAttribArray(1); gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_INT, 0, 0); gl.vertexAttribDivisor(1, 1);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.enable(gl.BLEND); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.places = {};
    for (const name of ["view", "lens", "side", "box"]) this.places[name] = gl.getUniformLocation(program, name);
  }
  /** splat: of splatTable. */
  show(splat) {
    if (splat === this.splat) return;
    const {gl} = this;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, TEXELS, splat.rows, 0, gl.RGBA, gl.FLOAT, splat.table);
    Object.assign(this, {splat, depths: new Float32Array(splat.count), bins: new Uint16Array(splat.count),
                         order: new Uint32Array(splat.count)});
  }
  /** box: 0 for colours on white, else for the CCM of a box of this side, on black. */
  draw({view, lens}, box = 0) {
    const {gl, places, canvas: {width: side}} = this;
    gl.uniformMatrix4fv(places.view, false, view);
    gl.uniform4fv(places.lens, lens.map(value => value * side));
    gl.uniform1f(places.side, side); gl.uniform1f(places.box, box);
    this.sort(view[2], view[6], view[10]);
    gl.bufferData(gl.ARRAY_BUFFER, this.order, gl.DYNAMIC_DRAW);
    const ground = box ? 0 : 1;
    gl.viewport(0, 0, side, side); gl.clearColor(ground, ground, ground, 1); gl.clear(gl.COLOR_BUFFER_BIT);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.splat.count);
  }
  sort(x, y, z) {  // counting sort by depth in 65,536 bins, farthest first
    const {depths, bins, order, starts, splat: {table, count}} = this;
    let near = Infinity, far = -Infinity;
    for (let i = 0, o = 0; i < count; i++, o += 12) {
      const depth = depths[i] = x * table[o] + y * table[o + 1] + z * table[o + 2];
      if (depth < near) near = depth;
      if (depth > far) far = depth;
    }
    const scale = 65535 / (far - near || 1);
    starts.fill(0);
    for (let i = 0; i < count; i++) {
      const bin = (far - depths[i]) * scale | 0;
      bins[i] = bin; starts[bin + 1]++;
    }
    for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
    for (let i = 0; i < count; i++) order[starts[bins[i]]++] = i;
  }
}

/** A camera around the origin, turned by pointer and keys or by itself; when it has moved, `draw` is called once. */
class Orbit {
  constructor({radius, fov, azimuth = 0, elevation = 0, turning = false}, draw) {
    Object.assign(this, {radius, fov, azimuth, elevation, turning, draw, queued: false, last: performance.now()});
  }
  camera() {
    const a = this.azimuth * Math.PI / 180, e = this.elevation * Math.PI / 180;
    const out = [Math.sin(a) * Math.cos(e), Math.sin(e), Math.cos(a) * Math.cos(e)];
    const right = [Math.cos(a), 0, -Math.sin(a)], forward = out.map(v => -v);
    const down = [forward[1] * right[2] - forward[2] * right[1], forward[2] * right[0] - forward[0] * right[2],
                  forward[0] * right[1] - forward[1] * right[0]];
    const focal = 0.5 / Math.tan(this.fov * Math.PI / 360);
    return {view: [right[0], down[0], forward[0], 0, right[1], down[1], forward[1], 0,
                   right[2], down[2], forward[2], 0, 0, 0, this.radius, 1], lens: [focal, focal, 0.5, 0.5]};
  }
  request() { if (!this.queued) { this.queued = true; requestAnimationFrame(time => this.frame(time)); } }
  frame(time) {
    this.queued = false;
    if (this.turning) {
      this.azimuth = (this.azimuth + Math.max(0, Math.min(50, time - this.last)) * 0.03) % 360;
      this.last = time; this.request();
    }
    this.draw();
  }
  turn(da, de) {
    this.turning = false; this.azimuth = (this.azimuth + da + 360) % 360;
    this.elevation = Math.max(-89, Math.min(89, this.elevation + de)); this.request();
  }
  zoom(factor) { this.turning = false; this.radius = Math.max(0.7, Math.min(6, this.radius * factor)); this.request(); }
  /** Drag, wheel and keys on a canvas. wheel: false where the bare wheel is the page's own, to scroll. */
  listen(canvas, wheel = true) {
    let grip = null;
    canvas.addEventListener("pointerdown", e => {
      grip = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); canvas.focus();
    });
    canvas.addEventListener("pointerup", () => { grip = null; });
    canvas.addEventListener("pointermove", e => {
      if (!grip) return;
      this.turn(-0.5 * (e.clientX - grip[0]), 0.5 * (e.clientY - grip[1])); grip = [e.clientX, e.clientY];
    });
    canvas.addEventListener("wheel", e => {
      if (!wheel && !e.ctrlKey) return;
      e.preventDefault(); this.zoom(Math.exp(0.001 * e.deltaY));
    }, {passive: false});
    canvas.addEventListener("keydown", e => {
      const action = {
        ArrowLeft: () => this.turn(-5, 0), ArrowRight: () => this.turn(5, 0), ArrowUp: () => this.turn(0, 5),
        ArrowDown: () => this.turn(0, -5), "+": () => this.zoom(0.9), "-": () => this.zoom(1.1),
        " ": () => { this.turning = !this.turning; this.last = performance.now(); this.request(); },
      }[e.key];
      if (action) { e.preventDefault(); e.stopPropagation(); action(); }
    });
  }
}
