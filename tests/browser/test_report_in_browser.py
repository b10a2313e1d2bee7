"""The report in a real browser, read from the disk: sorts, filters, opens cells, compares."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sextant.tables.register import read_register
from sextant.tables.report.contents import Before
from sextant.tables.report.site import write_site
from tests.reporting import ROOT, arena_ledger, filled, leave_files, plane_ledger, report_of

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed, so no page was opened"
    )
    if not CHROMIUM.is_file() or shutil.which(str(CHROMIUM)) is None:
        pytest.skip(f"{CHROMIUM} is not installed, so no page was opened")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> str:
    """The address of a report with curves, a picture, two tiers and another state beside it."""
    folder = tmp_path_factory.mktemp("site")
    now, then = plane_ledger(), plane_ledger()
    del then.records["ot_exact/moons/3"]
    for row in ("ot_exact", "mean_flow"):
        leave_files(folder, f"{row}/moons/0", pictures=row == "ot_exact")
    ledgers = [arena_ledger("small"), arena_ledger("paper"), now]
    before = Before("HEAD~2", {12: [filled(then)]})
    write_site(report_of(ledgers, folder, before), folder / "report")
    return (folder / "report").as_uri()


@pytest.fixture
def visit(chromium, site):
    """Opens a page at a width; at the end no page may have complained."""
    complaints: list[str] = []
    contexts = []

    def at(page: str, width: int = 1280, theme: str = "light"):
        viewport = {"width": width, "height": 844}
        context = chromium.new_context(viewport=viewport, color_scheme=theme)
        contexts.append(context)
        opened = context.new_page()
        opened.set_default_timeout(15_000)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("requestfailed", lambda request: complaints.append(request.url))
        opened.on(
            "console",
            lambda said: (
                complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )
        opened.goto(f"{site}/{page}")
        return opened

    yield at
    for context in contexts:
        context.close()
    assert complaints == []


def names(page, body: int = 0) -> list[str]:
    """The row names of one group of the table, as shown from top to bottom."""
    rows = page.locator("table.grid tbody").nth(body).locator("tr[data-line]:visible th")
    return rows.all_text_contents()


def test_the_front_page_filters_by_tier(visit):
    page = visit("index.html")
    rows = len(read_register(ROOT).entries) + 1  # table 1 is shown at two tiers
    assert page.locator("tr[data-tier]:visible").count() == rows
    page.get_by_label("paper", exact=True).check()
    assert page.locator("tr[data-tier]:visible").count() == 1
    assert page.locator("#shown").text_content() == "1 table has results at tier paper"
    assert page.locator("main > section:visible").count() == 1
    page.get_by_label("all tiers").check()
    assert page.locator("tr[data-tier]:visible").count() == rows
    page.get_by_role("link", name="One-step generation in the plane").click()
    page.wait_for_url("**/table-12.small.html")
    assert page.title() == "Table 12: One-step generation in the plane, tier small · Sextant"


def test_heads_sort_within_each_group_and_back(visit):
    page = visit("tables/table-12.small.html")
    printed = ["Mean Flow *", "exact OT", "second draw †"]
    assert names(page) == printed
    head = page.locator("th[data-index='1']")
    button = head.get_by_role("button")
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(page) == ["second draw †", "exact OT", "Mean Flow *"]
    assert names(page, 1) == ["exact OT", "Mean Flow *"]
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page) == printed
    page.locator("th[data-index='2'] button").click()
    assert head.get_attribute("aria-sort") == "none"
    page.locator("th[data-index='0'] button").click()
    page.locator("th[data-index='0'] button").click()
    page.locator("th[data-index='0'] button").click()
    assert names(page) == printed


def test_missing_numbers_sort_last_in_both_directions(visit):
    page = visit("tables/table-01.small.html")
    button = page.locator("th[data-index='3'] button")
    button.click()
    assert names(page) == ["LUNA", "softmax", "linear"]
    button.click()
    assert names(page) == ["softmax", "LUNA", "linear"]
    page.locator("th[data-index='4'] button").click()
    assert names(page)[0] == "LUNA"


def test_rows_are_filtered_by_words(visit):
    page = visit("tables/table-12.small.html")
    page.get_by_label("Rows with").fill("exact")
    assert names(page) == ["exact OT"]
    assert page.locator("#found").text_content() == "2 of 5 rows"
    page.get_by_label("Rows with").fill("draw")
    assert page.locator("table.grid tbody:visible").count() == 1
    page.get_by_label("Rows with").fill("")
    assert len(names(page)) == 3


def test_a_cell_opens_its_runs_by_mouse(visit):
    page = visit("tables/table-12.small.html")
    page.locator("tr[data-line='ot_exact@1'] button").nth(1).click()
    dialog = page.get_by_role("dialog", name="exact OT: N(0,I) to two moons")
    assert dialog.get_by_role("row").count() == 6
    assert dialog.locator("svg.curve polyline").count() == 1
    assert "seed=4" in dialog.locator("code").last.text_content()
    assert dialog.get_by_text("name: moons").is_hidden()
    dialog.get_by_text("Settings of seeds 0, 1, 2, 3, 4").click()
    assert dialog.get_by_text("name: moons").is_visible()
    dialog.get_by_role("button", name="Copy").click()
    dialog.get_by_role("button", name="Copied").or_(
        dialog.get_by_role("button", name="Selected")
    ).wait_for()
    dialog.get_by_role("link", name="seed 0").click()
    assert page.get_by_role("heading", level=1).text_content().endswith("flow/ot_exact, seed 0")
    assert page.locator("img").evaluate("image => image.naturalWidth") == 1
    page.get_by_role("link", name="Table 12, tier small: exact OT, N(0,I) to two moons").click()
    page.get_by_role("dialog", name="exact OT: N(0,I) to two moons").wait_for()


def test_the_keyboard_reaches_everything(visit):
    page = visit("tables/table-12.small.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    first = page.locator("tr[data-line='mean_flow@1'] button").first
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    focused = "document.activeElement.closest('tr').dataset.line"
    assert page.evaluate(focused) == "ot_exact@1"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("row").first.wait_for()
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert page.evaluate(focused) == "ot_exact@1"
    # an arrow at the edge stays, and crosses the heads of groups
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "ot_exact@1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "mean_flow@2"


def test_two_methods_side_by_side(visit):
    page = visit("tables/table-12.small.html")
    page.get_by_label("Method A").select_option("exact OT (NFE 1)")
    shown = page.locator("#comparison table")
    shown.wait_for()
    page.get_by_label("Method B").select_option("Mean Flow (NFE 1)")
    first = shown.locator("tbody tr").first
    first.get_by_text("+0.3000", exact=True).wait_for()
    assert first.locator("td").first.text_content() == "A is better"
    said = page.get_by_role("status").filter(has_text="against")
    assert said.text_content() == (
        "exact OT (NFE 1) (A) against Mean Flow (NFE 1) (B): "
        "A is better in 2, B is better in 0, open in 0 of 2 columns."
    )
    assert page.locator("[aria-live] table").count() == 0
    page.get_by_role("button", name="Swap").click()
    first.get_by_text("−0.3000", exact=True).wait_for()
    assert "B is better" in first.text_content()
    assert "0.600 ± 0" not in shown.locator("thead").text_content()
    assert page.locator("#comparison svg.curve").count() == 2
    page.get_by_label("Method B").select_option("Mean Flow (NFE 1)")
    first.get_by_text("the same method").wait_for()


def test_two_states_of_the_ledger_side_by_side(visit):
    page = visit("index.html")
    assert "2 cells changed" in page.locator("tr[data-tier='small']").last.text_content()
    page.get_by_role("link", name="Changes").click()
    assert "beside HEAD~2" in page.get_by_role("heading", level=1).text_content()
    row = page.get_by_role("row", name="exact OT (NFE 1) N(0,I) to two moons")
    assert "(4/5)!" in row.text_content()
    assert "(5/5)" in row.text_content()


def test_the_theme_follows_the_system_until_it_is_chosen(visit):
    page = visit("tables/table-12.small.html", theme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    button = page.get_by_role("button", name="Theme: system")
    button.click()
    page.get_by_role("button", name="Theme: light").wait_for()
    light = page.evaluate(paper)
    assert light != dark
    page.reload()
    assert page.evaluate(paper) == light
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(paper) == dark
    assert visit("index.html", theme="light").evaluate(paper) == light


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "address",
    [
        *("index.html", "runs.html", "changes.html", "tables/table-12.small.html"),
        *("tables/table-01.paper.html", "runs/ot_exact-moons-0.html"),
    ],
)
def test_no_page_scrolls_sideways(visit, address, width):
    page = visit(address, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = page.locator(".scroll").first
    if width == 390 and address.startswith("tables"):
        assert wide.evaluate("box => box.scrollWidth > box.clientWidth")
        wide.evaluate("box => { box.scrollLeft = 500 }")
        head = page.locator("table.grid tbody tr[data-line] th").first.bounding_box()
        assert head["x"] == pytest.approx(wide.bounding_box()["x"], abs=2)
        page.locator("button[data-cell]").first.click()
        page.get_by_role("dialog").get_by_role("row").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.get_by_role("dialog").evaluate("box => box.scrollWidth <= box.clientWidth")


def assert_lies_inside(page, found) -> None:
    box = found.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= page.viewport_size["width"]


def test_a_narrow_screen_shows_what_matters_without_scrolling(visit):
    page = visit("index.html", 390)
    row = page.locator("tr[data-tier='small']").first
    for part in ("th a", "svg.meter", ".badge"):
        assert_lies_inside(page, row.locator(part).last)
    boxes = page.locator(".scroll")
    assert boxes.evaluate_all("all => all.every(box => box.scrollWidth <= box.clientWidth)")
    page.get_by_label("paper", exact=True).check()
    assert page.locator("tr[data-tier]:visible").count() == 1

    page = visit("tables/table-01.small.html", 390)
    page.locator("button[data-cell='softmax/pathx']").click()
    dialog = page.get_by_role("dialog")
    assert_lies_inside(page, dialog.get_by_role("link", name="seed 1"))
    assert_lies_inside(page, dialog.get_by_text("failed (oom)"))
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compare").click()
    page.locator("#comparison table").wait_for()
    assert_lies_inside(page, page.locator("#comparison tbody td").first)


def test_links_to_runs_are_large_enough_and_say_which_run(visit):
    page = visit("runs.html")
    links = page.locator("table.runs td a")
    sizes = "all => all.map(link => link.getBoundingClientRect()).map(b => [b.width, b.height])"
    assert min(min(size) for size in links.evaluate_all(sizes)) >= 24
    name = "flow/ot_exact on generation/moons, tier small, seed 3, done"
    assert page.get_by_role("link", name=name, exact=True).count() == 1


def test_runs_are_filtered_by_task_method_and_tier(visit):
    page = visit("runs.html")
    rows = page.locator("table.runs tbody tr:visible")
    every = rows.count()
    box = page.get_by_label("Task, method or tier with")
    box.fill("Moons exact")
    assert rows.locator("th").all_text_contents() == ["flow/ot_exact"]
    assert page.locator("table.runs:visible caption").all_text_contents() == ["generation/moons"]
    assert page.locator("#found").text_content() == f"1 of {every} rows"
    box.fill("lra paper")
    assert set(rows.locator("td:nth-child(2)").all_text_contents()) == {"paper"}
    box.fill("")
    assert rows.count() == every
    assert page.locator("#found").text_content() == ""


def test_heads_are_named_by_their_words_alone(visit):
    page = visit("tables/table-12.small.html")
    for _ in range(2):
        head = page.get_by_role("button", name="N(0,I) to two moons W2 ↓", exact=True)
        assert head.count() == 1
        head.click()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(visit, theme):
    page = visit("tables/table-01.paper.html", theme=theme)
    low = page.evaluate(
        """() => {
          const part = (value) => {
            value /= 255;
            return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
          };
          const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
          const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
          const behind = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const found = numbers(getComputedStyle(at).backgroundColor);
              if (found.length === 3 || found[3] > 0) return found;
            }
            return [255, 255, 255];
          };
          const low = [];
          for (const element of document.querySelectorAll("main *:not(svg, svg *)")) {
            const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!own || !element.checkVisibility()) continue;
            const [a, b] = [numbers(getComputedStyle(element).color), behind(element)].map(light);
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) low.push([element.className, element.textContent, ratio]);
          }
          return low;
        }"""
    )
    assert low == []
