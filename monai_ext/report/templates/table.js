/* The table of cases: sort by a column, filter by words, class and site. */
(() => {
  const table = document.querySelector("table.cases");
  if (!table) { return; }
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const filters = [...document.querySelectorAll("[data-filter]")];
  const count = document.querySelector("[data-count]");

  const key = (row, column, numeric) => {
    const cell = row.cells[column];
    if (!numeric) { return cell.textContent.trim(); }
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const sort = (column) => {
    const head = heads[column];
    const numeric = head.dataset.kind === "number";
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    rows.sort((first, second) => {
      const a = key(first, column, numeric);
      const b = key(second, column, numeric);
      if (a === null || b === null) { return (a === null) - (b === null); }  // undefined stays last either way
      return down ? compare(b, a) : compare(a, b);
    });
    body.append(...rows);
  };
  const filter = () => {
    const wanted = Object.fromEntries(filters.map((field) => [field.dataset.filter, field.value]));
    const words = (wanted.text || "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word))
        && (!wanted.class || row.dataset.class === wanted.class)
        && (!wanted.site || row.dataset.site === wanted.site);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
  filters.forEach((field) => field.addEventListener("input", filter));
})();
