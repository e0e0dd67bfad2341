// Runs when the picture in a PaintBox has been loaded, with `this` the picture: what the pointer paints is drawn at
// once, and sent to the kernel, as text in a field of the same box, when the pointer is lifted.
const picture = this, canvas = picture.nextElementSibling, context = canvas.getContext("2d");
const {size, radius, colour, target} = picture.dataset;
canvas.width = canvas.height = size;
let centres = null, last = null;

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top].map(value => value * size / box.width);
}

function dab(event) {  // and on the way from the place before: a quick pointer comes in jumps
  const [x, y] = place(event), [x0, y0] = last ?? [x, y];
  const count = Math.max(1, Math.ceil(2 * Math.hypot(x - x0, y - y0) / radius));
  context.fillStyle = colour;
  for (let i = 1; i <= count; i++) {
    const centre = [x0 + (x - x0) * i / count, y0 + (y - y0) * i / count];
    context.beginPath();
    context.arc(...centre, radius, 0, 2 * Math.PI);
    context.fill();
    centres.push(centre.map(value => value.toFixed(1)).join(","));
  }
  last = [x, y];
}

canvas.onpointerdown = event => {
  centres = [], last = null;
  canvas.setPointerCapture(event.pointerId);
  dab(event);
  event.preventDefault();
};
canvas.onpointermove = event => centres && dab(event);
canvas.onpointerup = canvas.onpointercancel = () => {
  if (!centres) return;
  const field = document.querySelector("." + target + " input");
  field.value = centres.join(" ");
  centres = null;
  for (const name of ["input", "change"]) field.dispatchEvent(new Event(name, {bubbles: true}));
};
