"use strict";
// Sorting of tables: a heading's button goes through ascending, descending, and the order the page came with.
(() => {
  const numberOf = (text) => {
    const found = text.replace(/\u2212/g, "-").match(/^[<>±]?\s*([+-]?\d[\d,]*(?:\.\d+)?)/);
    return found ? Number(found[1].replace(/,/g, "")) - (text.startsWith("<") ? 1e-9 : 0) : null;
  };
  const empty = (text) => text === "" || text === "-" || text === "n/a" || text.startsWith("missing");
  const compare = (a, b, numeric) => {
    if (numeric) {
      const [x, y] = [numberOf(a), numberOf(b)];
      if (x !== null && y !== null) return x - y;
      if (x !== null || y !== null) return x !== null ? -1 : 1;
    }
    return a.localeCompare(b, "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const first = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" };
        const order = next[head.getAttribute("aria-sort")];
        for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", order);
        const texts = new Map(first.map((row) => [row, row.cells[column].textContent.trim()]));
        const sign = order === "descending" ? -1 : 1;
        const rows = [...first];
        if (order !== "none") {
          rows.sort((p, q) => {
            const [a, b] = [texts.get(p), texts.get(q)];
            if (empty(a) || empty(b)) return empty(a) - empty(b); // what has no value stays below
            return sign * compare(a, b, head.classList.contains("n"));
          });
        }
        body.append(...rows);
      });
    });
  }
})();
// What is to be printed is open while the page is.
(() => {
  const closed = [];
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details.printed:not([open])")) {
      part.open = true;
      closed.push(part);
    }
  });
  window.addEventListener("afterprint", () => {
    while (closed.length) closed.pop().open = false;
  });
})();
