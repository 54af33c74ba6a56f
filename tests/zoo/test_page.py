"""The documents of the zoo: that they are fresh, and that the page works in a real browser."""

import functools
import json
import pathlib
import re
import shutil
from collections.abc import Iterator

import pytest

from jaxvid import zoo
from jaxvid.zoo import page

DOCS = pathlib.Path(__file__).parents[2] / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]
DESKTOP, PHONE = (1280, 1000), (390, 844)


@pytest.mark.parametrize("name", page.DOCUMENTS)
def test_the_documents_are_fresh(name):
    fresh = (DOCS / name).read_text("utf-8") == page.DOCUMENTS[name]()
    # Not the whole pages, which nobody could read in a report.
    assert fresh, f"docs/{name} is stale: run `python -m tests.generate`"


def test_the_command_writes_all(tmp_path, capsys):
    page.main([f"--out={tmp_path / 'new'}"])
    said = capsys.readouterr().out
    for name, content in page.DOCUMENTS.items():
        assert (tmp_path / "new" / name).read_text("utf-8") == content()
        assert f"wrote {tmp_path / 'new' / name}" in said


def test_every_row_stands_in_the_table_of_its_dataset():
    text = (DOCS / "zoo.md").read_text("utf-8")
    tables = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", text, re.M))
    titles = page.titles()
    assert set(tables) == set(titles.values())
    for name in zoo.list_models():
        line = [
            row for row in tables[titles[zoo.get_row(name).dataset]].splitlines() if name in row
        ]
        assert sum(row.startswith(f"| `{name}` |") for row in line) == 1


def test_the_page_asks_for_nothing_from_the_network():
    text = page.page()
    assert not re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=|<link[^>]*href=\"(?!data:)", text)
    assert not re.findall(r"@import|url\(|\bfetch\(|XMLHttpRequest|import\(", text)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    """A headless Chromium with a profile of its own."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium and chromedriver on this machine: docs/zoo.html is not driven")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def visit(browser):
    """Opens the page in a window of some size, light or dark; at the end no error was logged."""

    def go(fragment: str = "", size: tuple[int, int] = DESKTOP, scheme: str = "light"):
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        browser.get("about:blank")
        browser.get((DOCS / "zoo.html").as_uri() + fragment)
        return browser

    yield go
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def names(driver) -> list[str]:
    """Those of the rows in the table, from top to bottom."""
    return driver.execute_script(
        "return [...document.querySelectorAll('tr.row')].map((row) => row.dataset.name)"
    )


def drawn(driver) -> set[str]:
    return set(
        driver.execute_script(
            "return [...document.querySelectorAll('#chart .point')].map((at) => at.dataset.name)"
        )
    )


def choose(driver, field: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(driver.find_element("id", field)).select_by_value(value)


def write(driver, text: str) -> None:
    """Puts a text into its filter at once, as pasting does."""
    driver.execute_script(
        "const field = document.getElementById('text'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('input', { bubbles: true }))",
        text,
    )


@functools.cache
def every_row() -> tuple[dict, ...]:
    return tuple(zoo.summary(name) for name in zoo.list_models())


def those(condition) -> set[str]:
    return {row["name"] for row in every_row() if condition(row)}


def with_accuracy(found: set[str]) -> set[str]:
    return found & those(lambda row: (row["top1"], row["map"]) != (None, None))


def test_filters_hold_for_the_table_and_the_chart(visit):
    driver = visit()
    expected = those(lambda row: row["dataset"] == "kinetics400")
    assert set(names(driver)) == expected and drawn(driver) == with_accuracy(expected)

    choose(driver, "dataset", "")
    assert sorted(names(driver)) == zoo.list_models()
    assert f"All {len(zoo.list_models())} rows" in driver.find_element("id", "count").text
    headings = driver.find_elements("css selector", "tr.group")
    assert [heading.text for heading in headings] == list(page.titles().values())

    choose(driver, "modality", "flow")
    expected = those(lambda row: row["modality"] == "flow")
    assert set(names(driver)) == expected == drawn(driver)

    choose(driver, "modality", "")
    driver.find_element("id", "weights").click()
    expected = those(lambda row: row["weights"] != "none")
    assert set(names(driver)) == expected and drawn(driver) == with_accuracy(expected)

    choose(driver, "family", "TSM")
    expected = those(lambda row: row["family"] == "TSM")
    assert set(names(driver)) == expected == drawn(driver)

    write(driver, "mobile k400")
    expected = those(lambda row: "tsm_mobile" in row["name"])
    assert set(names(driver)) == expected == drawn(driver)

    write(driver, "nothing")
    assert names(driver) == [] and "No row" in driver.find_element("id", "chart").text
    driver.find_element("css selector", "button[type=reset]").click()
    assert set(names(driver)) == those(lambda row: row["dataset"] == "kinetics400")


def test_headings_sort_both_ways(visit):
    driver = visit()
    known = {row["name"]: row for row in every_row()}
    for key, field, falls_first in (
        ("accuracy", "top1", True),
        ("gflops", "gflops", False),
        ("params", "params", False),
    ):
        for falls in (falls_first, not falls_first):
            button = driver.find_element("css selector", f"#heads button[data-key={key}]")
            button.click()
            values = [known[name][field] for name in names(driver)]
            given = [value for value in values if value is not None]
            assert given == sorted(given, reverse=falls), (key, falls)
            assert values[: len(given)] == given
            heading = driver.find_element("css selector", "#heads [aria-sort]")
            assert heading.get_attribute("aria-sort") == ("descending" if falls else "ascending")
    driver.find_element("css selector", "#heads button[data-key=name]").click()
    order = names(driver)
    assert order.index("tsm_r50_1x1x8_k400") < order.index("tsm_r50_1x1x16_k400")
    driver.find_element("css selector", "#heads button[data-key=name]").click()
    assert names(driver) == order[::-1]


def test_a_point_tells_its_row_and_opens_it(visit):
    from selenium.webdriver import ActionChains

    driver = visit()
    name = "uniformerv2_l14_336_u32_k400"
    point = driver.find_element("css selector", f"#chart [data-name={name}]")
    ActionChains(driver).move_to_element(point).perform()
    tip = driver.find_element("id", "tip")
    assert tip.is_displayed() and name in tip.text and "89.5%" in tip.text
    assert "6267.81 GFLOPs × 6" in tip.text
    ActionChains(driver).click(point).perform()
    detail = driver.find_element("css selector", "tr.detail")
    for line in zoo.commands(name):
        assert line.strip() in detail.text
    assert zoo.get_row(name).source in detail.text and zoo.get_row(name).note in detail.text
    assert f"row={name}" in driver.current_url
    assert driver.switch_to.active_element.text == name


def test_points_fall_on_a_log_axis(visit):
    """Equal ratios of cost are equal distances, and accuracy rises upwards."""
    driver = visit("#family=X3D")
    places = driver.execute_script(
        "return [...document.querySelectorAll('#chart .point')].map((at) => "
        "[at.dataset.name, at.transform.baseVal[0].matrix.e, at.transform.baseVal[0].matrix.f])"
    )
    known = {row["name"]: row for row in every_row()}
    (a, ax, ay), (b, bx, by), *_ = sorted(places, key=lambda place: place[1])
    c, cx, _ = max(places, key=lambda place: place[1])
    from math import log

    cost = {name: log(known[name]["gflops"]) for name in (a, b, c)}
    assert (bx - ax) / (cx - ax) == pytest.approx((cost[b] - cost[a]) / (cost[c] - cost[a]))
    assert (ay > by) == (known[a]["top1"] < known[b]["top1"])


def test_the_keyboard_is_enough(visit):
    from selenium.webdriver import Keys

    driver = visit("#dataset=ucf101")
    chart = driver.find_element("id", "chart")
    chart.send_keys(Keys.ARROW_RIGHT)
    said = driver.find_element("id", "said").get_attribute("textContent")
    first = min(
        (row for row in every_row() if row["dataset"] == "ucf101"), key=lambda row: row["gflops"]
    )
    assert said.startswith(first["name"])
    chart.send_keys(Keys.ENTER)
    opened = driver.switch_to.active_element
    assert opened.text == first["name"] and opened.get_attribute("aria-expanded") == "true"
    opened.send_keys(Keys.ENTER)
    assert driver.find_elements("css selector", "tr.detail") == []


def test_what_is_chosen_can_be_linked(visit):
    driver = visit("#dataset=sthv2&family=TSM&sort=-params&row=tsm_r101_1x1x8_sthv2")
    assert names(driver)[0] == "tsm_r101_1x1x8_sthv2"
    assert set(names(driver)) == those(
        lambda row: (row["dataset"], row["family"]) == ("sthv2", "TSM")
    )
    assert "tsm_r101_1x1x8_sthv2" in driver.find_element("css selector", "tr.detail").text
    driver = visit("#dataset=nonsense&sort=nonsense&row=nonsense")
    assert set(names(driver)) == those(lambda row: row["dataset"] == "kinetics400")


@pytest.mark.parametrize("fragment", ["", "#dataset=&row=tsm_r50_1x1x8_k400"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_is_no_wider_than_the_screen(visit, size, fragment):
    driver = visit(fragment, size)
    width = driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    box = driver.find_element("css selector", ".scroll")
    assert int(box.get_property("scrollWidth")) <= int(box.get_property("clientWidth"))
    head = driver.find_element("css selector", "#heads th:last-child")
    assert head.is_displayed() == (size == DESKTOP)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_points_stand_out_from_what_is_behind(visit, scheme):
    """Contrasts of WCAG 2.2: 4.5 for text, 3 for what is drawn."""
    driver = visit("#row=tsm_r50_1x1x8_k400", scheme=scheme)
    colours = driver.execute_script(
        """
        const style = getComputedStyle(document.documentElement), found = {};
        const probe = document.body.appendChild(document.createElement("i"));
        for (const name of ["page", "panel", "ink", "soft", "accent", "chosen", "hover",
                            ...Array.from({ length: 8 }, (_, n) => `c${n}`)]) {
          probe.style.color = style.getPropertyValue(`--${name}`);
          found[name] = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
        }
        return found;
        """
    )

    def luminance(name: str) -> float:
        linear = [
            (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for c in (value / 255 for value in colours[name])
        ]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert (luminance("page") > 0.5) == (scheme == "light")
    for text in ("ink", "soft", "accent"):
        for behind in ("page", "panel"):
            assert contrast(text, behind) >= 4.5, (text, behind)
    for behind in ("chosen", "hover"):
        assert contrast("ink", behind) >= 4.5 and contrast("accent", behind) >= 4.5, behind
    for number in range(8):
        assert contrast(f"c{number}", "panel") >= 3, number


def test_the_rows_of_the_page_are_the_zoo():
    held = re.search(r'id="data">(.*?)</script>', page.page(), re.S)
    rows = json.loads(held[1])["rows"]
    assert sorted(row["name"] for row in rows) == zoo.list_models()
    assert all("".join(row["commands"]).strip() for row in rows)
