"""The page of a report, and what it does in a browser, which is Chromium without a window.

The part in the browser is left out where there is no Chromium on the PATH, or no driver of it.
"""

import base64
import csv
import io
import json
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from experiments import report
from experiments.errors import UserError
from tests.experiments.conftest import write_run

HOSTILE = "x<script>alert(1)</script><img src=x onerror=alert(2)>\"'\u2028</script>&lt;"
FORMULA = '=HYPERLINK("http://x","a")'
ERROR = f"Traceback\nValueError: {HOSTILE} | last, line\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A sweep of two methods at three sparsities with two seeds, one failed and one unfinished run,
    and hostile text in a value and a key of a configuration, an error and the name of a folder."""
    folder = tmp_path_factory.mktemp("reports") / "a <b>sweep {{data}}"
    for sparsity in (0.8, 0.9, 0.95):
        for seed in (0, 1):
            for name, loss in (("rigl", 0.01), ("static", 0.03)):
                write_run(
                    folder / f"{name}-{sparsity}-{seed}",
                    {"name": name, "sparsity": sparsity},
                    seed,
                    accuracy=0.97 - loss * sparsity + 0.001 * seed,
                )
    write_run(folder / "dense", None, 0, accuracy=0.98)
    write_run(folder / "failed", {"name": "rigl"}, 7, accuracy=None, error=ERROR)
    write_run(folder / "running", {"name": HOSTILE}, 8, accuracy=None, **{HOSTILE: FORMULA})
    write_run(folder / "<i>last", {"name": "static"}, 9, accuracy=float("nan"))
    return folder


@pytest.fixture(scope="module")
def page(folder) -> Path:
    out = folder.parent / "report.html"
    report.write(folder, out)
    return out


def test_the_page_holds_its_data_and_no_markup_of_it(page):
    text = page.read_text()
    assert HOSTILE not in text
    assert text.count("<script") == text.count("</script>") == 2
    data = text.partition('id="data">')[2].partition("</script>")[0]
    code = text.replace(data, "").replace("http-equiv", "")
    assert "http" not in code.replace("http://www.w3.org/2000/svg", "")
    assert json.loads(data)["title"] == "a <b>sweep {{data}}"
    assert not set("<>&\u2028") & set(data)


def test_the_page_is_written_whole_or_not_at_all(page, folder, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        report.write(folder, tmp_path / "absent" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        report.write(folder, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_page_of_a_large_sweep_is_small(tmp_path):
    for seed in range(100):
        write_run(tmp_path / f"{seed}", {"name": "rigl"}, seed, accuracy=0.9, evaluations=300)
    report.write(tmp_path, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 500_000


def test_the_command(folder, tmp_path):
    command = [sys.executable, "-m", "experiments.report"]
    cwd = Path(__file__).parents[2]
    out = tmp_path / "report.html"
    done = subprocess.run(
        [*command, folder, "--out", out], cwd=cwd, capture_output=True, text=True, check=True
    )
    assert f"{out}: 14 finished, 1 failed, 1 unfinished runs" in done.stdout
    assert out.read_text().startswith("<!doctype html>")
    empty = subprocess.run([*command, tmp_path], cwd=cwd, capture_output=True, text=True)
    assert empty.returncode == 1
    assert empty.stderr.startswith(f"error: {tmp_path}: there is no run in it")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"the page is not tested in a browser: no {' and no '.join(missing)} on PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage",
        "no-first-run", "disable-background-networking", "disable-component-update",
        "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
        "window-size=1280,900",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(programs["chromedriver"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")  # the driver is on this machine
        driver = webdriver.Chrome(options, service)
        driver.set_script_timeout(60)
        yield driver
        driver.quit()


@pytest.fixture
def opened(browser, page):
    """The browser with the page as it is from the disk."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())
    _wait(browser, "return document.querySelectorAll('figure svg').length >= 6")
    return browser


def _wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(condition))


def _column(browser, name):
    """The texts of a column of the table, from top to bottom."""
    return browser.execute_script(
        """const heads = [...document.querySelectorAll('#table th')].map(
          th => th.textContent.replace(/[▲▼]/, ''));
        const at = heads.indexOf(arguments[0]);
        return [...document.querySelectorAll('#table tbody tr:not(.error)')].map(
          tr => tr.children[at].textContent);""",
        name,
    )


def _press(browser, name):
    """Presses the button of that text."""
    browser.execute_script(
        """[...document.querySelectorAll('button')].find(
          b => b.textContent.replace(/[▲▼]/, '') === arguments[0]).click()""",
        name,
    )


def _filter(browser, text):
    field = browser.find_element("id", "filter")
    field.clear()
    field.send_keys(text or " ")


def test_it_opens_from_the_disk_without_an_error_or_a_request(opened, page):
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
        if event["params"]["documentURL"].startswith("file:")
    ]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert opened.title == "a <b>sweep {{data}} – report"
    assert "16 runs: 14 finished, 1 failed, 1 unfinished." in opened.find_element("id", "lead").text


def test_its_policy_forbids_foreign_scripts_and_requests(opened):
    blocked = opened.execute_async_script(
        """const done = arguments[0], seen = [];
        document.addEventListener('securitypolicyviolation', e => seen.push(e.effectiveDirective));
        const script = document.createElement('script');
        script.textContent = 'window.intruded = true';
        document.body.append(script);
        fetch('http://127.0.0.1:9/').catch(() => setTimeout(
          () => done([seen, window.intruded === undefined]), 50));"""
    )
    assert sorted(blocked[0]) == ["connect-src", "script-src-elem"]
    assert blocked[1]


def test_hostile_strings_are_text(opened):
    assert opened.execute_script("return document.querySelectorAll('script').length") == 2
    assert opened.execute_script("return document.querySelectorAll('img, b, i').length") == 0
    assert HOSTILE in _column(opened, "rule.name")
    assert FORMULA in opened.execute_script("return document.getElementById('table').textContent")
    assert "<i>last" in _column(opened, "run")
    legend = opened.execute_script("return document.getElementById('legend').textContent")
    assert HOSTILE in legend


def test_the_error_of_a_failed_run_unfolds(opened):
    state = "return document.querySelector('td.failed button').getAttribute('aria-expanded')"
    assert opened.execute_script(state) == "false"
    _press(opened, "failed")
    assert opened.execute_script(state) == "true"
    assert opened.execute_script("return document.querySelector('pre').textContent") == ERROR
    _press(opened, "failed")
    assert opened.execute_script("return document.querySelector('pre')") is None


def test_columns_sort_both_ways_and_leave_what_is_missing_last(opened):
    def order():
        return opened.execute_script(
            """return [...document.querySelectorAll('#table th')].map(
              th => th.getAttribute('aria-sort')).filter(x => x !== 'none')"""
        )

    assert order() == []
    _press(opened, "test")
    rising = _column(opened, "test")
    assert rising[-3:] == ["–"] * 3
    numbers = [float(text.split()[0]) for text in rising[:-3]]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 5
    assert order() == ["ascending"]
    _press(opened, "test")
    assert order() == ["descending"]
    assert _column(opened, "test")[:13] == [f"{x:.2f} %" for x in sorted(numbers, reverse=True)]
    assert _column(opened, "test")[-3:] == ["–"] * 3
    _press(opened, "run")
    assert _column(opened, "run")[0] == "<i>last"


def test_rows_are_filtered_by_words_and_by_columns(opened):
    _filter(opened, "rigl rule.sparsity=0.9")
    assert sorted(_column(opened, "run")) == ["failed", "rigl-0.9-0", "rigl-0.9-1"]
    assert opened.find_element("id", "shown").text == "3 of 16 runs"
    _filter(opened, "test>0.965 seed<1")
    assert _column(opened, "run") == ["dense"]
    _filter(opened, "nothing-has-this")
    assert _column(opened, "run") == []
    _filter(opened, "")
    assert len(_column(opened, "run")) == 16
    opened.execute_script(
        """const select = document.getElementById('state');
        select.value = 'started'; select.dispatchEvent(new Event('change'));"""
    )
    assert _column(opened, "run") == ["running"]


def test_the_table_is_saved_as_it_is_shown(opened):
    _press(opened, "test")
    _press(opened, "test")
    text = opened.execute_script("return report.csv()")
    heads, *rows = csv.reader(io.StringIO(text, newline=""))
    assert [row[heads.index("run")] for row in rows] == _column(opened, "run")
    best = dict(zip(heads, rows[0], strict=True))
    assert (best["run"], best["test"], best["error"]) == ("dense", "0.98", "")
    by_run = {row[heads.index("run")]: dict(zip(heads, row, strict=True)) for row in rows}
    assert by_run["failed"]["error"] == ERROR.rstrip("\n").rpartition("\n")[2]
    assert by_run["running"][HOSTILE] == "'" + FORMULA
    assert by_run["running"]["rule.name"] == HOSTILE
    assert by_run["<i>last"]["test"] == ""

    _filter(opened, "rigl test<0.97")
    _press(opened, "sparsity")
    lines = opened.execute_script("return report.markdown()").splitlines()
    assert len(lines) == 2 + len(_column(opened, "run")) == 8
    assert len({line.count(" | ") for line in lines}) == 1
    assert lines[1].startswith("| :-- | :-- | --: |")
    assert lines[2].split(" | ")[4] == "80.00 %"
    assert lines[7].split(" | ")[4] == "95.00 %"
    _filter(opened, "state=failed")
    (line,) = opened.execute_script("return report.markdown()").splitlines()[2:]
    assert r"\<script\>alert\(1\)" in line
    assert r"\| last, line" in line


SVG = "{http://www.w3.org/2000/svg}"


def test_figures_are_saved_as_svg_and_png(opened):
    for name in ("sparsity", "flops", "bytes", "curves", "churn", "explored", "layers"):
        root = ET.fromstring(opened.execute_script(f"return report.svg('{name}')").encode())
        assert root.tag == f"{SVG}svg"
        texts = [text.text for text in root.iter(f"{SVG}text")]
        assert "rigl" in texts  # in the key
        width, height = (int(float(root.get(key))) for key in ("width", "height"))
        address = opened.execute_async_script(
            """const done = arguments[0], reader = new FileReader();
            reader.onload = () => done(reader.result);
            report.png('"""
            + name
            + """').then(blob => reader.readAsDataURL(blob))"""
        )
        png = base64.b64decode(address.removeprefix("data:image/png;base64,"), validate=True)
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", png[16:24]) == (3 * width, 3 * height)
    assert opened.get_log("browser") == []


def _points(root, colour):
    """The centres of the markers of a colour that are circles."""
    circles = [c for c in root.iter(f"{SVG}circle") if c.get("fill") == colour]
    return [(float(c.get("cx")), float(c.get("cy"))) for c in circles]


def test_the_figure_shows_the_means(opened):
    """Circles of the first method: one for its key and one for each of three sparsities."""
    root = ET.fromstring(opened.execute_script("return report.svg('sparsity')").encode())
    _, *points = _points(root, "#d55e00")
    assert len(points) == 3
    means = [0.97 - 0.01 * sparsity + 0.0005 for sparsity in (0.8, 0.9, 0.95)]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2
    assert (y1 - y0) / (y2 - y0) == pytest.approx(
        (means[1] - means[0]) / (means[2] - means[0]), abs=0.01
    )


def test_the_legend_switches_methods_off(opened):
    def names():
        root = ET.fromstring(opened.execute_script("return report.svg('sparsity')").encode())
        return [text.text for text in root.iter(f"{SVG}text")]

    assert {"rigl", "static", "dense"} < set(names())
    marks = "return document.querySelectorAll('#figure-sparsity svg path, circle').length"
    before = opened.execute_script(marks)
    _press(opened, "static")
    assert "static" not in names()
    assert opened.execute_script(marks) < before
    pressed = [
        button.get_attribute("aria-pressed")
        for button in opened.find_elements("css selector", "#legend button")
        if button.text == "static"
    ]
    assert pressed == ["false"]

    # Without the others the front leads over what is left.
    front = """return document.querySelector('#figure-flops [stroke-dasharray="2 3"]')
      .getAttribute('d')"""
    before = opened.execute_script(front)
    _press(opened, "rigl")
    assert opened.execute_script(front) != before
    _press(opened, "rigl")
    assert opened.execute_script(front) == before
    _press(opened, "static")
    assert {"rigl", "static"} < set(names())


def test_a_pointer_finds_what_a_mark_stands_for(opened):
    text = opened.execute_script(
        """const holder = document.querySelector('#figure-sparsity .chart');
        holder.scrollIntoView();
        const mark = holder.querySelector('circle').getBoundingClientRect();
        holder.dispatchEvent(new PointerEvent('pointermove', {
          clientX: mark.x + mark.width / 2 + 2, clientY: mark.y + mark.height / 2}));
        return holder.querySelector('.tip:not([hidden])').innerText"""
    )
    assert "rigl, 80 %" in text
    assert "accuracy 96.25 % ± 0.07 % (2 runs)" in text


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    opened.refresh()
    _wait(opened, "return document.querySelectorAll('figure svg').length >= 6")
    sizes = opened.execute_script(
        """return [document.documentElement.scrollWidth, innerWidth,
          ...[...document.querySelectorAll('figure .chart > svg')].map(
            svg => svg.getBoundingClientRect().right)]"""
    )
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert max(sizes) <= width


def test_pages_without_a_finished_run_open(browser, tmp_path):
    write_run(tmp_path / "failed", {"name": "rigl"}, 0, accuracy=None, error="Traceback\nno")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text('{"rule": null}')
    report.write(tmp_path, tmp_path / "report.html")
    browser.get_log("browser")
    browser.get((tmp_path / "report.html").as_uri())
    _wait(browser, "return document.querySelectorAll('figure .empty').length >= 3")
    assert browser.get_log("browser") == []
    assert sorted(_column(browser, "state")) == ["failed", "unfinished"]
