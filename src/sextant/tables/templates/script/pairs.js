// Two methods of a table side by side.
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
