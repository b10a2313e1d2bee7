// Searches of rows by words, and the choice of a tier.
function asked(input) {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  return (text) => words.every((word) => text.toLowerCase().includes(word));
}

function rowFilter(input, table) {
  const said = document.getElementById("found");
  const apply = () => {
    const wanted = asked(input);
    let shown = 0;
    const rows = [...table.querySelectorAll("tbody tr:not(.group)")];
    for (const row of rows) {
      row.hidden = !wanted(row.cells[0].textContent);
      shown += !row.hidden;
    }
    for (const body of table.tBodies) {
      body.hidden = ![...body.rows].some((row) => !row.hidden && !row.matches(".group"));
    }
    said.textContent = shown < rows.length ? `${shown} of ${rows.length} rows` : "";
  };
  input.addEventListener("input", apply);
  apply();
}

function runsFilter(input) {
  const said = document.getElementById("found");
  const tables = [...document.querySelectorAll("table.runs")];
  const apply = () => {
    const wanted = asked(input);
    let [shown, all] = [0, 0];
    for (const table of tables) {
      const rows = [...table.tBodies[0].rows];
      for (const row of rows) {
        const names = [row.cells[0], row.cells[1]].map((cell) => cell.textContent);
        row.hidden = !wanted([table.caption.textContent, ...names].join(" "));
        shown += !row.hidden;
      }
      all += rows.length;
      table.closest(".scroll").hidden = rows.every((row) => row.hidden);
    }
    said.textContent = shown < all ? `${shown} of ${all} rows` : "";
  };
  input.addEventListener("input", apply);
  apply();
}

function tierFilter(choices) {
  const said = document.getElementById("shown");
  const apply = () => {
    const tier = choices.querySelector("input:checked").value;
    let shown = 0;
    for (const row of document.querySelectorAll("tr[data-tier]")) {
      row.hidden = tier !== "all" && row.dataset.tier !== tier;
      shown += !row.hidden;
    }
    for (const section of document.querySelectorAll("main > section")) {
      section.hidden = !section.querySelector("tr[data-tier]:not([hidden])");
    }
    said.textContent = tier === "all" ? "" : `${shown} ${shown === 1 ? "table has" : "tables have"} results at tier ${tier}`;
  };
  choices.addEventListener("change", apply);
  apply();
}
