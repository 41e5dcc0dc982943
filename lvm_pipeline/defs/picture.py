"""Draw the lineage for the README from the definitions.

python -m lvm_pipeline.defs.picture docs/lineage.svg
"""

import sys
from pathlib import Path
from typing import Any

import dagster as dg

from lvm_pipeline.words import counted

INK, PAPER, EDGE = "#1f2937", "#ffffff", "#6b7280"
COLOURS = {"data": "#dbeafe", "models": "#fef3c7", "results": "#dcfce7"}
WHAT_IT_IS = {
    "cpe_entry": "Postgres",
    "concepts": "Parquet",
    "sequences": "Parquet",
    "trained_model": "weights, MLflow run",
    "evaluation_report": "JSON + HTML",
    "leaderboard": "HTML",
    "ensemble": "weights, MLflow run",
    "champion": "registry alias",
}
BESIDE_IT = ("plan", "text")  # groups that branch off the line


def lineage_of(definitions: dg.Definitions) -> list[tuple[str, str, bool, int]]:
    """Return name, group, whether partitioned, and number of checks of every asset on the line, upstream first.

    The trials of the plan and the text decoder branch off it and are left out.
    """
    graph = definitions.resolve_asset_graph()
    num_checks: dict[str, int] = {}
    for check in graph.asset_check_keys:
        name = check.asset_key.to_user_string()
        num_checks[name] = num_checks.get(name, 0) + 1
    rows = []
    for key in graph.toposorted_asset_keys:
        node, name = graph.get(key), key.to_user_string()
        if node.group_name in BESIDE_IT:
            continue
        rows.append((name, node.group_name or "", node.is_partitioned, num_checks.get(name, 0)))
    return rows


def draw(rows: list[tuple[str, str, bool, int]], path: Path) -> None:
    """Draw the assets in a row with an arrow from each to the next, and write an SVG whose text stays text."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lineage", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    width = 2.15
    figure, axes = plt.subplots(figsize=(width * len(rows), 1.9))
    for index, row in enumerate(rows):
        _draw_asset(axes, index * width, row)
        if index:
            start, end = ((index - 1) * width + 1.72, 0.5), (index * width - 0.02, 0.5)
            axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": EDGE, "lw": 1.6})
    axes.set_xlim(-0.1, width * len(rows) - 0.3)
    axes.set_ylim(-0.15, 1.1)
    axes.axis("off")
    figure.patch.set_facecolor(PAPER)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None}, facecolor=PAPER)
    plt.close(figure)


def _draw_asset(axes: Any, left: float, row: tuple[str, str, bool, int]) -> None:
    from matplotlib.patches import FancyBboxPatch

    name, group, is_partitioned, num_checks = row
    colour = COLOURS.get(group, PAPER)
    style = "round,pad=0.02,rounding_size=0.12"
    shadows = (0.07, 0.0) if is_partitioned else (0.0,)
    for shift in shadows:
        axes.add_patch(
            FancyBboxPatch((left + shift, 0.08 + shift), 1.66, 0.8, boxstyle=style, fc=colour, ec=INK, lw=1.1)
        )
    middle = left + 0.83
    axes.text(middle, 0.70, name, ha="center", va="center", fontsize=9.8, weight="bold", color=INK)
    axes.text(middle, 0.50, WHAT_IT_IS.get(name, ""), ha="center", va="center", fontsize=8.5, color=INK)
    notes = [counted(num_checks, "check")] if num_checks else []
    notes += ["one per architecture"] if is_partitioned else []
    axes.text(middle, 0.24, "\n".join(notes), ha="center", va="center", fontsize=7.5, color=EDGE)


def main() -> None:
    from lvm_pipeline.definitions import defs

    draw(lineage_of(defs()), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
