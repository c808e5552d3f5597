"""The report of a run: what is in the page, as text and in a browser."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import NARROW, words

from detbackbones.engine.run_results import read_detections, read_run
from detbackbones.tools.report import main
from detbackbones.tools.train_coco import main as train

NAMES = ["<script>alert(1)</script>", "$x_1$", "a & b", '"quoted"', "日本" + "n" * 100]
SECTIONS = (
    *("Learning curves", "Metrics", "AP by class and size", "Precision and recall", "Error types"),
    *("Confusion matrix", "Score calibration", "Worst images", "Config", "Environment"),
)
PROBE = """<!DOCTYPE html><iframe id="page" src="{page}" width="{width}" height="2000"></iframe><script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const page = frame.contentDocument;
  document.body.dataset.found = JSON.stringify({{
    images: [...page.images].map(image => image.naturalWidth * image.naturalHeight),
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
    cells: [...page.querySelectorAll("td")].map(cell => cell.innerText),
    scripts: page.scripts.length,
    width: page.documentElement.scrollWidth,
    outside: [...page.querySelectorAll("main *")].filter(element => !element.closest(".scroll, figure, pre")
      && element.getBoundingClientRect().right > page.documentElement.clientWidth + 1).map(element => element.tagName),
  }});
}};
</script>"""


def save_pixel(figure, target, **options):
    """Write a red pixel in place of a figure, whose layout takes most of the time."""
    Image.new("RGB", (1, 1), "red").save(target, "png")


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory) -> Path:
    """A short training run on classes with hostile names, evaluated twice, in the folder of its data."""
    folder = tmp_path_factory.mktemp("report")
    for split in ("train", "val"):
        content = json.loads((shapes / f"instances_{split}.json").read_text())
        for category, name in zip(content["categories"], NAMES, strict=True):
            category["name"] = name
        (folder / f"{split}.json").write_text(json.dumps(content))
    data = [f"data_root={folder}", "train.ann_file=train.json", "val.ann_file=val.json"]
    data += [f"{split}.image_dir={shapes / 'images'}" for split in ("train", "val")]
    settings = [*words(NARROW), "max_iters=2", "eval_every=1", "log_every=1", "val_loss=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", save_pixel)
        assert train([*data, *settings, f"work_dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    """The report of the run, with all pictures."""
    folder = without(run, tmp_path_factory.mktemp("page"))
    assert main([str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture
def page_of(monkeypatch):
    """A function that writes a report fast, with a red pixel for every picture, and returns it."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save_pixel)

    def write(folder: Path) -> str:
        assert main([str(folder)]) == 0
        return (folder / "report.html").read_text()

    return write


def without(run: Path, folder: Path, *patterns: str) -> Path:
    """Copy a run without some of its files."""
    return Path(shutil.copytree(run, folder / "copy", ignore=shutil.ignore_patterns(*patterns)))


def notes(page: str) -> str:
    return " ".join(re.findall(r'<p class="note">(.*?)</p>', page, re.DOTALL))


def browse(page: Path, width: int = 1200) -> dict:
    """Load a page in Chromium; return what a script sees in it, and the errors of the console."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    probe = page.with_name("probe.html")
    probe.write_text(PROBE.format(page=page.name, width=width))
    flags = ["--headless", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=10000"]
    flags += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={page.with_name('profile')}"]
    flags += ["--enable-logging=stderr", f"--screenshot={page.with_name('screenshot.png')}"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [browser, *flags, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(next(value for name, value in attributes(done.stdout) if name == "data-found"))
    return found | {"console": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


def attributes(page: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.extend(attrs)  # type: ignore[method-assign]
    parser.feed(page)
    return found


def test_a_finished_run_has_every_section(run, page):
    text = page.read_text()
    assert re.findall("<h2>(.*?)</h2>", text) == list(SECTIONS)
    assert notes(text) == ""
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"<b>{100 * metrics['segm/AP50']:.1f}</b>" in text
    environment = json.loads((run / "environment.json").read_text())
    assert f"<td>{environment['versions']['torch']}</td>" in text
    assert "max_iters = 2" in text
    assert 10_000 < len(text) < 5_000_000


def test_nothing_comes_from_outside(page):
    links = [value for name, value in attributes(page.read_text()) if name in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert len(links) > 10


def test_in_a_browser(page):
    found = browse(page)
    assert found["console"] == [] and found["requests"] == [] and found["scripts"] == 0
    assert len(found["images"]) > 4 and min(found["images"]) > 10_000
    assert set(NAMES) <= {cell.strip() for cell in found["cells"]}
    assert browse(page, width=400)["outside"] == []


def test_the_browser_reports_what_is_wrong(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<main><img src='http://127.0.0.1:9/missing.png'><p style='width: 3000px'>a</p></main><script>fail()</script>"
    )
    found = browse(page)
    assert found["images"] == [0] and len(found["console"]) == 1
    assert len(found["requests"]) == 1 and found["scripts"] == 1 and found["outside"] == ["P"]


def test_an_evaluation_has_a_report(run, page_of, tmp_path):
    assert train(["eval_only=true", f"checkpoint={run / 'last.pt'}", f"work_dir={tmp_path / 'copy'}"]) == 0
    page = page_of(tmp_path / "copy")
    assert "lacks the log of a training" in notes(page)
    assert "Computed" not in page and 'title="python"' in page and "no config.py" not in notes(page)
    assert page.count("<img") >= 3 + 1


def test_an_interrupted_run_is_computed_from_its_predictions(run, page_of, tmp_path):
    names = ("metrics.json", "details.json", "per_class.csv")
    page = page_of(without(run, tmp_path, *names))
    assert "not finished: its log ends at iteration 2 of 2" in notes(page)
    assert "Computed for this report" in page
    complete = page_of(without(run, tmp_path / "complete"))
    classes = [text.partition('id="ap-by')[2].partition('id="score')[0] for text in (page, complete)]
    tables = [re.findall("<table.*?</table>", text, re.DOTALL) for text in classes]
    assert tables[0] == tables[1] and len(tables[0]) == 4


def test_without_data_the_pictures_are_left_out(run, page_of, tmp_path):
    folder = without(run, tmp_path)
    text = (folder / "config.py").read_text()
    (folder / "config.py").write_text(text.replace(str(run.parent), str(tmp_path / "gone")))
    page = page_of(folder)
    assert "Pictures are missing" in notes(page) and "does not exist" in notes(page)
    assert "Precision and recall" in page and page.count("<img") == 4


@pytest.mark.parametrize("missing", ["config.py", "log.jsonl", "environment.json", "predictions.json"])
def test_a_missing_file_costs_its_section_alone(run, page_of, tmp_path, missing):
    page = page_of(without(run, tmp_path, missing))
    assert notes(page)
    assert re.findall("<h2>(.*?)</h2>", page) == list(SECTIONS)


@pytest.mark.parametrize(
    "name,content",
    [
        *(("metrics.json", "[1]"), ("details.json", '{"bbox": 1}'), ("environment.json", "\x00")),
        *(("predictions.json", "{}"), ("config.py", "model =")),
    ],
)
def test_a_damaged_file_does_not_end_the_report(run, page_of, tmp_path, name, content):
    folder = without(run, tmp_path)
    (folder / name).write_text(content)
    assert re.findall("<h2>(.*?)</h2>", page_of(folder)) == list(SECTIONS)


def test_a_log_of_one_line(run, page_of, tmp_path):
    folder = without(run, tmp_path, "metrics.json", "details.json", "predictions*", "environment.json")
    lines = (folder / "log.jsonl").read_text().splitlines()
    (folder / "log.jsonl").write_text(lines[0] + "\n")
    page = page_of(folder)
    assert "no evaluation yet" in notes(page) and "not finished" in notes(page)
    assert page.count("<img") == 1


def test_saved_detections_have_the_metrics_of_the_run(run):
    results = read_run(run)
    assert read_detections(results)[0].compute() == pytest.approx(results.metrics)


def test_wrong_input(run, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "none")], "not a folder"),
        ([str(tmp_path)], "expected a run"),
        ([str(run), "out=report.pdf"], "HTML"),
        ([str(run), "ouput=a.html"], "did you mean out"),
        ([str(run), str(run)], "expected one run"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
