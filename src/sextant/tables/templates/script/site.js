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
