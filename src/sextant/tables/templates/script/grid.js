// A table beside the paper's: sorting, moving by arrows, opening a cell.
function sorting(table) {
  const bodies = [...table.tBodies].map((body) => ({
    body,
    head: [...body.rows].filter((row) => row.matches(".group")),
    rows: [...body.rows].filter((row) => !row.matches(".group")),
  }));
  const heads = [...table.querySelectorAll("th[aria-sort]")];
  // better numbers first, then the other way round, then as printed
  const order = (head) =>
    head.dataset.better === "higher" ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const turns = order(head);
      const next = turns[(turns.indexOf(head.getAttribute("aria-sort")) + 1) % turns.length];
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      for (const { body, head: fixed, rows } of bodies) {
        body.replaceChildren(...fixed, ...(next === "none" ? rows : sorted(rows, +head.dataset.index, next)));
      }
    });
  }
}

function sorted(rows, index, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  return [...rows].sort((left, right) => {
    const [a, b] = [left.cells[index], right.cells[index]];
    if (index === 0) return sign * a.textContent.localeCompare(b.textContent);
    if (a.dataset.v === undefined || b.dataset.v === undefined) {
      return (a.dataset.v === undefined) - (b.dataset.v === undefined);
    }
    return sign * (a.dataset.v - b.dataset.v);
  });
}

function arrows(table) {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  table.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    const cell = event.target.closest("td");
    if (!move || !cell) return;
    event.preventDefault();
    const rows = [...table.querySelectorAll("tbody tr:not(.group):not([hidden])")];
    let [row, column] = [rows.indexOf(cell.parentElement), cell.cellIndex];
    for (;;) {
      row += move[0];
      column += move[1];
      const next = rows[row]?.cells[column];
      if (!next) return;
      const button = next.querySelector("button");
      if (button) {
        button.focus();
        return;
      }
    }
  });
}

function cells(dialog) {
  const body = document.getElementById("cell-body");
  const name = document.getElementById("cell-name");
  const open = async (key, heading) => {
    const [row, column] = key.split("/");
    name.textContent = heading;
    body.replaceChildren(sextant.element("p", "Loading"));
    if (!dialog.open) dialog.showModal();
    try {
      const views = await sextant.load(row);
      body.innerHTML = views[column];
      copying(body);
    } catch (error) {
      body.replaceChildren(sextant.element("p", error.message));
    }
    dialog.scrollTop = 0;
  };
  const titled = (button) => {
    const cell = button.closest("td");
    const table = cell.closest("table");
    const head = table.querySelector(`th[data-index="${cell.cellIndex}"] button`);
    const unseen = head.querySelector(".unseen");
    const column = unseen ? unseen.textContent.replace(" of ", "") : head.firstChild.textContent.trim();
    return `${cell.parentElement.cells[0].textContent}: ${column}`;
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button[data-cell]");
    if (button) open(button.dataset.cell, titled(button));
    if (event.target === dialog) dialog.close();
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  const asked = () => {
    const key = decodeURIComponent(location.hash.slice(1));
    const button = key.includes("/") && document.querySelector(`button[data-cell="${CSS.escape(key)}"]`);
    if (button) {
      button.focus();
      open(key, titled(button));
    }
  };
  window.addEventListener("hashchange", asked);
  asked();
}
