"""The built pages in a browser: nothing is cut, nothing is there twice, nothing fails."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HTML = Path(__file__).parents[1] / "docs/_build/html"


def pages():
    """All written pages and the index; of the pages of the API, all made alike, those of the longest names."""
    found = [
        path.relative_to(HTML).with_suffix("").as_posix()
        for path in HTML.rglob("*.html")
        if "_static" not in path.parts and path.stem != "search"
    ]
    api = [page for page in found if page.startswith("generated/")]
    longest = sorted(api, key=lambda page: (-len(page), page))[:5]
    return sorted(
        {*found} - {*api}
        | {*longest, "generated/scssl.model.CellPLM", "generated/scssl.tl.annotate"}
    )


# A frame has the width of a telephone where a window cannot be as narrow.
LOOK = r"""<!doctype html><meta charset="utf-8"><pre id="found"></pre><script>
const seen = element => element.checkVisibility({checkVisibilityCSS: true, checkOpacity: true})
const name = element => `${element.tagName} ${element.className} ${element.textContent.slice(0, 60)}`
async function look(page, width) {
  const frame = document.createElement("iframe")
  frame.width = width; frame.height = 900
  const loaded = new Promise(done => { frame.onload = done })
  frame.src = page
  document.body.append(frame)
  await loaded
  await new Promise(done => setTimeout(done, 300))
  const inside = frame.contentDocument, root = inside.documentElement
  const scrolls = element => {
    for (; element && element !== root; element = element.parentElement)
      if (["auto", "scroll", "hidden"].includes(frame.contentWindow.getComputedStyle(element).overflowX)) return true
    return false
  }
  const wide = [...inside.body.querySelectorAll("*")].filter(
    one => seen(one) && one.getBoundingClientRect().right > width + 1 && !scrolls(one))
  const broken = [...inside.querySelectorAll("img")].filter(one => !one.naturalWidth && seen(one))
  const lines = element => {
    const range = inside.createRange()
    range.selectNodeContents(element)
    return new Set([...range.getClientRects()].map(one => Math.round(one.top))).size
  }
  const words = [...inside.querySelectorAll(".bd-sidebar-primary nav a")].filter(
    one => seen(one) && (one.scrollWidth > one.clientWidth + 1 || !/\s/.test(one.textContent.trim()) && lines(one) > 1))
  // A name in a table stays whole: the table scrolls.
  words.push(...[...inside.querySelectorAll("td code")].filter(
    one => seen(one) && !/\s/.test(one.textContent.trim()) && lines(one) > 1))
  const cut = [...inside.querySelectorAll(".highlight-text pre")].filter(one => one.scrollWidth > one.clientWidth + 1)
  const found = {
    page, width, excess: root.scrollWidth - width, wide: wide.map(name), broken: broken.map(one => one.src),
    cut: cut.map(name), words: words.map(name), searches: [...inside.querySelectorAll(".search-button, .search-button-field, input[type=search]")].filter(seen).length,
  }
  frame.remove()
  return found
}
(async () => {
  const all = []
  for (const page of PAGES) for (const width of [1300, 390]) all.push(await look(page, width))
  document.getElementById("found").textContent = JSON.stringify(all)
})()
</script>"""


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: `apt-get install chromium`")
    if not (HTML / "index.html").exists():
        pytest.skip("the site is not built: `make docs`")
    places = [(HTML / f"{page}.html").as_uri() for page in pages()]
    script = tmp_path_factory.mktemp("site") / "look.html"
    script.write_text(LOOK.replace("PAGES", json.dumps(places)))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += [
        "--window-size=1400,1000",
        "--virtual-time-budget=2000000",
        "--enable-logging=stderr",
    ]
    run = subprocess.run(
        [browser, *options, "--dump-dom", script.as_uri()],
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    found = re.search(r'<pre id="found">(.+?)</pre>', run.stdout, re.S)
    assert found, run.stdout[:2000] + run.stderr[-2000:]
    errors = re.findall(r"ERROR:CONSOLE.*", run.stderr)
    return json.loads(
        found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    ), errors


@pytest.mark.slow
def test_nothing_is_cut_or_broken_or_there_twice(looked):
    found, errors = looked
    assert len(found) == 2 * len(pages())
    wrong = [
        one
        for one in found
        if one["excess"] > 0
        or one["searches"] > 1
        or any(one[what] for what in ("wide", "broken", "cut", "words"))
    ]
    assert not wrong, json.dumps(wrong, indent=1)
    assert not errors
