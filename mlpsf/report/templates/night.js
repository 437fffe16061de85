"use strict";
(() => {
  const table = document.getElementById("night");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.value;

  table.tHead.addEventListener("click", (event) => {
    const heading = event.target.closest("th[aria-sort]");
    if (!heading) return;
    const column = headings.indexOf(heading);
    const falling = heading.getAttribute("aria-sort") === "ascending";
    for (const other of headings) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const numbers = column > 0;
    rows.sort((a, b) => {
      const [p, q] = [key(a, column), key(b, column)];
      if (p === q) return 0;
      if (p === "" || q === "") return p === "" ? 1 : -1; // unknown ones last, either way
      const order = numbers ? p - q : p.localeCompare(q, undefined, { numeric: true });
      return falling ? -order : order;
    });
    body.append(...rows);
  });

  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("shown").textContent = wanted ? `${shown} of ${rows.length}` : "";
  });
})();
