"use strict";
// Draws the figures of plotly, and folds all code of a page or none.
document.addEventListener("DOMContentLoaded", () => {
  for (const node of document.querySelectorAll(".plotly-figure")) {
    const figure = JSON.parse(node.dataset.figure);
    Plotly.newPlot(node, figure.data, figure.layout, {responsive: true});
  }
});

function toggleCode() {
  const folds = [...document.querySelectorAll("details.fold")], open = !folds.some(fold => fold.open);
  for (const fold of folds) fold.open = open;
}
