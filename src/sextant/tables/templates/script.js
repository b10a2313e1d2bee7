"use strict";
// Views and pairs arrive by script files, because a page read from a disk may not fetch data.
const sextant = (() => {
  const received = new Map();
  const waiting = new Map();

  function receive(key, value) {
    received.set(key, value);
  }

  function load(key) {
    if (received.has(key)) return Promise.resolve(received.get(key));
    if (!waiting.has(key)) {
      waiting.set(key, new Promise((done, failed) => {
        const script = document.createElement("script");
        script.src = `${document.querySelector("[data-scripts]").dataset.scripts}/${key}.js`;
        script.onload = () => done(received.get(key));
        script.onerror = () => {
          waiting.delete(key);
          failed(new Error(`${script.src} is missing; build the report again`));
        };
        document.head.append(script);
      }));
    }
    return waiting.get(key);
  }

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  return { receive, load, element };
})();

const THEMES = ["system", "light", "dark"];

function remembered() {
  try {
    return localStorage.getItem("sextant-theme") ?? "system";
  } catch {
    return "system";
  }
}

function paint(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

paint(remembered());

function themes() {
  const button = document.getElementById("theme");
  let theme = remembered();
  const show = () => {
    button.textContent = `Theme: ${theme}`;
    paint(theme);
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem("sextant-theme", theme);
    } catch {
      // a browser that keeps nothing still changes this page
    }
    show();
  });
  show();
}

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

function comparing(form) {
  const place = document.getElementById("comparison");
  const said = document.getElementById("compared");
  const [first, second] = [form.elements.first, form.elements.second];
  const signed = (value, digits) => (value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "−");
  const compare = async () => {
    let content;
    try {
      content = await sextant.load("pairs");
    } catch (error) {
      said.textContent = error.message;
      place.replaceChildren();
      return;
    }
    const [a, b] = [+first.value, +second.value];
    const flipped = a > b;
    const pair = content.pairs[flipped ? `${b},${a}` : `${a},${b}`];
    const names = [first, second].map((choice) => choice.selectedOptions[0].textContent);
    const table = sextant.element("table", undefined, { class: "plain" });
    const caption = sextant.element("caption", "A against B", { class: "unseen" });
    const about = sextant.element("p", "Differences are paired by seed and turned so that above zero means A is better; the bounds are one-sided 95 % each.", { class: "about" });
    const head = sextant.element("tr");
    for (const text of ["Column", "So", "A is better by", "95 % bounds", "Seeds", `A: ${names[0]}`, `B: ${names[1]}`]) {
      head.append(sextant.element("th", text, { scope: "col", class: ["Column", "So"].includes(text) ? "" : "n" }));
    }
    const verdicts = { "1": "A is better", "-1": "B is better", "0": "open" };
    const counts = new Map(["1", "-1", "0"].map((sign) => [verdicts[sign], 0]));
    const rows = content.columns.map(([label, note, digits], k) => {
      const row = sextant.element("tr");
      row.append(sextant.element("th", `${label} ${note.replaceAll(" ", "\u00a0")}`, { scope: "row" }));
      const texts = [];
      let verdict = a === b ? "the same method" : "fewer than two seeds in common";
      const entry = a === b ? 0 : pair?.[k];
      if (entry) {
        const [mean, lower, upper, n, word] = entry;
        const sign = flipped ? -1 : 1;
        const bounds = flipped ? [-upper, -lower] : [lower, upper];
        texts.push(signed(sign * mean, digits), bounds.map((bound) => signed(bound, digits)).join(" to "), n);
        verdict = verdicts[sign * word];
        counts.set(verdict, counts.get(verdict) + 1);
      } else {
        texts.push("–", "–", "–");
      }
      row.append(sextant.element("td", verdict));
      texts.push(content.cells[a][k], content.cells[b][k]);
      for (const text of texts) row.append(sextant.element("td", text, { class: "n" }));
      return row;
    });
    const header = sextant.element("thead");
    header.append(head);
    const body = sextant.element("tbody");
    body.append(...rows);
    table.append(caption, header, body);
    const box = sextant.element("div", undefined, { class: "scroll", role: "region", "aria-label": "Comparison", tabindex: "0" });
    box.append(table);
    const told = [...counts].map(([verdict, count]) => `${verdict} in ${count}`).join(", ");
    said.textContent = `${names[0]} (A) against ${names[1]} (B): ${a === b ? "the same method" : `${told} of ${rows.length} columns`}.`;
    place.replaceChildren(about, box, ...beside([first, second]));
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    compare();
  });
  form.addEventListener("change", compare);
  document.getElementById("swap").addEventListener("click", () => {
    [first.value, second.value] = [second.value, first.value];
    compare();
  });
}

// The curves of both methods next to each other, by task and metric.
function beside(choices) {
  const rows = choices.map((choice) => choice.selectedOptions[0].dataset.row);
  const found = new Map();
  for (const row of new Set(rows)) {
    for (const chart of document.querySelectorAll(`details > .multiples > [data-row="${CSS.escape(row)}"]`)) {
      const what = chart.dataset.what;
      found.set(what, [...(found.get(what) ?? []), chart.cloneNode(true)]);
    }
  }
  return [...found].flatMap(([what, charts]) => {
    const box = sextant.element("div", undefined, { class: "multiples" });
    box.append(...charts);
    return [sextant.element("h3", what), box];
  });
}

function copying(place) {
  for (const button of place.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
    });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  const find = (id, action) => {
    const found = document.getElementById(id);
    if (found) action(found);
  };
  themes();
  for (const table of document.querySelectorAll("table.sortable")) {
    sorting(table);
    arrows(table);
    find("rows", (input) => rowFilter(input, table));
  }
  find("runs", runsFilter);
  find("tiers", tierFilter);
  find("cell", cells);
  find("pair", comparing);
  copying(document);
});
