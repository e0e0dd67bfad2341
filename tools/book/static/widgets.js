"use strict";
// Draws the widgets that a notebook saved and keeps their links alive, without a kernel and without a network.
// It knows the few kinds that `ouroboros_lib.viz` uses; notebooks.py puts a note in the place of any other.
document.addEventListener("DOMContentLoaded", () => {
  const read = node => JSON.parse(node.textContent);
  const stateNode = document.querySelector('script[type="application/vnd.jupyter.widget-state+json"]');
  if (!stateNode) return;
  const records = read(stateNode).state, models = {};
  const BOXES = {BoxModel: "row", HBoxModel: "row", VBoxModel: "column", StackModel: "stack"};
  const id = reference => reference.slice("IPY_MODEL_".length);

  for (const [key, record] of Object.entries(records)) {
    const model = models[key] = {kind: record.model_name, values: {...record.state}, listeners: []};
    for (const {path, encoding, data} of record.buffers || []) if (encoding === "base64") model.values[path[0]] = data;
  }
  function set(model, name, value) {
    if (model.values[name] === value) return;
    model.values[name] = value;
    for (const [wanted, action] of model.listeners) if (wanted === name) action(value);
  }
  function on(model, name, action) { model.listeners.push([name, action]); action(model.values[name]); }
  for (const link of Object.values(models).filter(model => /^(Directional)?LinkModel$/.test(model.kind))) {
    const [[source, from], [target, to]] = [link.values.source, link.values.target];
    const a = models[id(source)], b = models[id(target)];
    on(a, from, value => set(b, to, value));
    if (link.kind === "LinkModel") on(b, to, value => set(a, from, value));
  }

  function element(tag, parent, className = "", text = "") {
    const node = document.createElement(tag);
    node.className = className; node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }
  function range(model, name, min, max, step, label) {  // a browser's own slider; arrow keys move it by one step
    const row = element("label", null, "static-control");
    element("span", row, "static-label", model.values.description || "");
    const input = element("input", row), readout = element("span", row, "static-readout");
    Object.assign(input, {type: "range", min, max, step});
    input.addEventListener("input", () => set(model, name, Number(input.value)));
    on(model, name, value => { input.value = value; readout.textContent = label(value); });
    return row;
  }
  function choice(model) {  // one button per option
    const row = element("div", null, "static-control");
    element("span", row, "static-label", model.values.description || "");
    const buttons = model.values._options_labels.map((text, index) => {
      const button = element("button", row, "", text);
      button.addEventListener("click", () => set(model, "index", index));
      return button;
    });
    on(model, "index", chosen => buttons.forEach((button, index) => button.setAttribute("aria-pressed", index === chosen)));
    return row;
  }
  function box(model) {
    const node = element("div", null, "static-" + BOXES[model.kind]);
    const children = (model.values.children || []).map(child => node.appendChild(draw(models[id(child)])));
    if (model.kind === "StackModel")
      on(model, "selected_index", chosen => children.forEach((child, index) => { child.hidden = index !== chosen; }));
    return node;
  }
  let words = "";  // for who does not see the pictures
  function draw(model) {
    const v = model.values, number = (name, other) => v[name] ?? other;
    let node;
    switch (model.kind) {
      case "ImageModel":
        node = element("img");
        node.src = `data:image/${v.format || "png"};base64,${v.value}`; node.alt = words;
        break;
      case "HTMLModel": node = element("div"); node.innerHTML = v.value; break;
      case "LabelModel": node = element("div", null, "", v.value); break;
      case "IntSliderModel":
        node = range(model, "value", number("min", 0), number("max", 100), number("step", 1), String); break;
      case "FloatSliderModel":
        node = range(model, "value", number("min", 0), number("max", 10), number("step", 0.1), x => Number(x).toPrecision(3));
        break;
      case "SelectionSliderModel":
        node = range(model, "index", 0, v._options_labels.length - 1, 1, index => v._options_labels[index]); break;
      case "ToggleButtonsModel": case "DropdownModel": node = choice(model); break;
      default: node = box(model);
    }
    const layout = models[id(v.layout || "")];
    if (layout && layout.values.width && !node.matches(".static-control")) { node.style.width = layout.values.width; node.style.maxWidth = "100%"; }
    return node;
  }
  for (const view of document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')) {
    const root = element("div", null, "static-widgets");
    const {model_id, alt} = read(view);
    words = alt;
    root.append(draw(models[model_id]));
    view.after(root);
  }
});
