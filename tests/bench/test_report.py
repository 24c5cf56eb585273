"""The figures in benchmarks/README.md are those of benchmarks/results, as the command makes them."""

import report


def test_the_tables_are_what_the_results_make():
    readme = report.README.read_text(encoding="utf-8")
    assert report.text() in readme


def test_every_plot_that_is_shown_exists_and_no_other():
    shown = {line.partition("](results/")[2][:-1] for line in report.text().splitlines() if line[:2] == "!["}
    assert shown == {path.name for path in report.RESULTS.glob("*.svg")}


def test_the_plots_are_what_the_results_make():
    for name, chart in report.plots().items():
        assert (report.RESULTS / f"{name}.svg").read_text(encoding="utf-8") == chart
