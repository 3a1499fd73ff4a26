"""Writes offline.html beside this file: the page in which DVC draws plots, with Vega inside.

DVC's own page loads Vega from the network. Vega here is that of the package vl-convert-python in
requirements.lock; `make plots-page` runs this after an update.
"""

from pathlib import Path

import vl_convert

PAGE = Path(__file__).with_name("offline.html")
VEGA_LITE = "5.20"  # DVC's templates are written for 5
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
{refresh_tag}
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Plots</title>
<link rel="icon" href="data:,">
<style>
body { margin: 1rem; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
body > div { max-width: 100%; overflow-x: auto; }
img { max-width: 100%; }
table { border-spacing: 15px; }
/* A table that dvc.yaml's plots describe is drawn there; DVC draws it again without knowing how. */
[id^="plots_"][id$="_csv"] { display: none; }
</style>
<!-- Vega, Vega-Lite, Vega-Embed: University of Washington Interactive Data Lab, BSD-3-Clause -->
<script>
"""
TAIL = """
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def page() -> str:
    """The page; DVC puts its plots where `plot_divs` stands in braces."""
    return HEAD + vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE) + TAIL


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
