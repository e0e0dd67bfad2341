"use strict";
// Draws the figures of plotly, makes tables fit narrow screens, opens pictures in their full size, and folds all code of a
// page or none.
document.addEventListener("DOMContentLoaded", () => {
  for (const node of document.querySelectorAll(".plotly-figure")) {
    const figure = JSON.parse(node.dataset.figure);
    Plotly.newPlot(node, figure.data, figure.layout, {responsive: true});
  }
  const tables = [...document.querySelectorAll("article table")];
  for (const table of tables) {
    const names = [...table.querySelectorAll("thead th")].map(name => name.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr"))
      [...row.cells].forEach((cell, column) => { cell.dataset.column = names[column] || ""; });
  }
  function fit() {
    for (const table of tables) table.classList.remove("stacked");
    const wide = tables.filter(table => table.scrollWidth > table.parentElement.clientWidth + 1);
    for (const table of wide) table.classList.add("stacked");
  }
  fit();
  addEventListener("resize", fit);
  for (const picture of document.querySelectorAll("article img")) {  // a column is narrower than many of them
    if (picture.closest("a") || picture.src.startsWith("data:")) continue;
    const link = Object.assign(document.createElement("a"), {href: picture.src, className: "whole", title: "full size"});
    picture.replaceWith(link); link.append(picture);
  }
});

function toggleCode() {
  const folds = [...document.querySelectorAll("details.fold")], open = !folds.some(fold => fold.open);
  for (const fold of folds) fold.open = open;
}
