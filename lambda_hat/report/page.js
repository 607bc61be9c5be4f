"use strict";
// Sorts a table by the column whose title is clicked; cells without a key sort last.
for (const table of document.querySelectorAll("table.sortable")) {
  const titles = [...table.querySelectorAll("th")];
  titles.forEach((title, column) => title.querySelector("button").addEventListener("click", () => {
    const up = title.getAttribute("aria-sort") !== "ascending";
    titles.forEach((other) => other.removeAttribute("aria-sort"));
    title.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[column], text = cell.dataset.key || (cell.textContent === "-" ? "" : cell.textContent);
      return text === "" ? null : isNaN(text) ? text : Number(text);
    };
    const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    const body = table.tBodies[0];
    body.append(...[...body.rows].map((row) => [key(row), row]).sort(([a], [b]) =>
      a === null || b === null ? (a === null) - (b === null) : up ? order(a, b) : order(b, a)).map(([, row]) => row));
  }));
}
// Shows what a mark in a figure stands for while the pointer is on it.
const tip = document.getElementById("tip");
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest("[data-tip]");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.dataset.tip;
  const place = mark.getBoundingClientRect(), width = document.documentElement.clientWidth;
  tip.style.left = Math.max(4, Math.min(place.left, width - tip.offsetWidth - 4)) + scrollX + "px";
  tip.style.top = place.top + scrollY - tip.offsetHeight - 6 + "px";
});
