"""Looks at the built site in a real browser, as a reader would: on a desk and on a phone.

    python -m tests.site build/site

Every page must fit into the width of the screen (what is wider scrolls by itself), load all of its
pictures and log no error, and the search must find what is there. Needs Chromium and its driver.
"""

import pathlib
import shutil
import sys
from collections.abc import Iterator

WIDTHS = {"a desk": 1280, "a phone": 390}
# Words, and a page that must be among the first that are found.
SEARCHES = {
    "resume": "docs/train.html",
    "mixup": "docs/train.html",
    "create_model": "docs/reference/jaxvid.html",
}
FIRST = 8


def browser():
    """A browser without a window."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def pages(site: pathlib.Path) -> list[pathlib.Path]:
    """The pages that are written for readers; not the listings of source."""
    found = sorted(site.glob("*.html")) + sorted(site.glob("docs/**/*.html"))
    return [page for page in found if page.name != "zoo-interactive.html"]


def problems_of_pages(driver, site: pathlib.Path) -> Iterator[str]:
    """What is wrong with pages, each at both widths."""
    for where, width in WIDTHS.items():
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for page in pages(site):
            driver.get(page.as_uri())
            wide = driver.execute_script("return document.documentElement.scrollWidth")
            if wide > width:
                yield f"{page.relative_to(site)} is {wide} pixels wide on {where} of {width}"
            broken = driver.execute_script(
                "return [...document.images].filter(i => !i.complete || !i.naturalWidth)"
                ".map(i => i.src)"
            )
            yield from (f"{page.relative_to(site)} shows no {image}" for image in broken)
            for entry in driver.get_log("browser"):
                yield f"{page.relative_to(site)} logs {entry['message']}"


def problems_of_search(driver, site: pathlib.Path) -> Iterator[str]:
    """What the search does not find, typed into the field of the front page."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for words, wanted in SEARCHES.items():
        driver.get((site / "index.html").as_uri())
        field = driver.find_element(By.CSS_SELECTOR, "input[name=q]")
        field.send_keys(words)
        field.submit()
        WebDriverWait(driver, 20).until(
            lambda d: "Searching" not in d.find_element(By.ID, "search-results").text
        )
        links = driver.find_elements(By.CSS_SELECTOR, "#search-results li > a")
        found = [link.get_attribute("href").partition("?")[0] for link in links[:FIRST]]
        if not any(href.partition("#")[0].endswith(wanted) for href in found):
            yield f"a search for {words!r} does not find {wanted} but {found}"


def main() -> None:
    site = pathlib.Path(sys.argv[1]).resolve()
    driver = browser()
    try:
        problems = [*problems_of_pages(driver, site), *problems_of_search(driver, site)]
    finally:
        driver.quit()
    if problems:
        sys.exit("\n".join(problems))
    sys.stdout.write(f"{len(pages(site))} pages and {len(SEARCHES)} searches: nothing is wrong\n")


if __name__ == "__main__":
    main()
