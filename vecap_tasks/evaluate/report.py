"""Results as tables, for terminals and Markdown."""

from __future__ import annotations

from vecap_tasks.evaluate.results import Comparison, LengthRecall, Results, SetSize, read_results

__all__ = ["format_main", "format_markdown", "format_table", "read_results"]


def format_table(results: Results) -> str:
    """Return one plain-text table per set: arms with mean ± standard deviation over seeds, in percent."""
    return "\n\n".join(_table(results, name) for name in _names(results))


def format_main(results: Results) -> str:
    """Return a plain-text table of the main metrics of all sets, in percent with intervals, and what it shows."""
    main = results.main
    rows = [
        ["arm", *(results.title(key) for key in main)],
        *(
            [arm.arm, *(f"{100 * arm.mean[key]:.1f} ({_interval(*arm.intervals[key])})" for key in main)]
            for arm in results.arms
        ),
        ["chance", *(f"{100 * results.chance[key]:.1f}" for key in main)],
    ]
    share = f"{100 * results.confidence:g} % intervals over images and seeds"
    return "\n".join([*_plain(rows), "", f"Percent, {share}. {_seen(results)}".rstrip()])


def _seen(results: Results) -> str:
    """Return a sentence on where the last arm differs from each other arm; empty if there is only one."""
    arm = results.arms[-1].arm
    parts = []
    for other in results.arms[:-1]:
        # A comparison has the earlier arm first.
        found = [one for one in results.comparisons if (one.arm, one.other) == (other.arm, arm)]
        above = [results.title(one.metric) for one in found if one.metric in results.main and one.high < 0]
        below = [results.title(one.metric) for one in found if one.metric in results.main and one.low > 0]
        words = [f"{verb} {', '.join(titles)}" for verb, titles in (("above in", above), ("below in", below)) if titles]
        parts.append(f"{other.arm}: {' and '.join(words) or 'no difference beyond the intervals'}")
    return f"{arm} against {'; '.join(parts)}." if parts else ""


def _table(results: Results, name: str) -> str:
    return "\n".join([*_plain(_rows(results, name)), "", _caption(results, name)])


def _plain(rows: list[list[str]]) -> list[str]:
    """Return the lines of a plain-text table with a head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in pairs).rstrip()
        for pairs in ([*enumerate(zip(row, widths, strict=True))] for row in rows)
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def format_markdown(results: Results) -> str:
    """Return Markdown tables of the arms, with intervals and comparisons."""
    parts = ["# Arms"]
    for name in _names(results):
        head, *rows = _rows(results, name)
        parts.append(f"## {name or 'Evaluation set'}\n\n{_caption(results, name)}")
        parts.append(_markdown(head, rows))
    main = results.main
    share = f"{100 * results.confidence:g} %"
    parts.append(f"## Intervals\n\nPercent, {share} by bootstrap over images and seeds, {results.rounds:,} rounds.")
    head = ["arm", *(results.title(key) for key in main)]
    parts.append(
        _markdown(head, [[arm.arm, *(_interval(*arm.intervals[key]) for key in main)] for arm in results.arms])
    )
    for name in dict.fromkeys(found.set for found in results.lengths):
        parts.append(f"## T2I R@1 by caption length{f': {name}' if name else ''}\n\n{share} intervals.")
        parts.append(_lengths([found for found in results.lengths if found.set == name]))
    if results.comparisons:
        parts.append(
            "## Differences\n\nPercentage points, paired: both arms on the same drawn images and seeds. "
            f"{share} intervals, p two-sided and not corrected for the number of comparisons."
        )
        pairs = list(dict.fromkeys((found.arm, found.other) for found in results.comparisons))
        by_pair = {(found.arm, found.other, found.metric): found for found in results.comparisons}
        lines = [[f"{a} − {b}", *(_difference(by_pair[a, b, key]) for key in main)] for a, b in pairs]
        parts.append(_markdown(["", *head[1:]], lines))
    return "\n\n".join(parts) + "\n"


def _lengths(found: list[LengthRecall]) -> str:
    """Return a table of one set: a row per range of words, a column per arm."""
    arms = list(dict.fromkeys(one.arm for one in found))
    by_range: dict[tuple[int, int | None], list[LengthRecall]] = {}
    for one in found:
        by_range.setdefault((one.low, one.high), []).append(one)
    rows = [
        [
            f"{low} to {high}" if high else f"from {low}",
            f"{cells[0].captions:,}",
            *(f"{100 * cell.mean:.1f} ({_interval(*cell.interval)})" for cell in cells),
        ]
        for (low, high), cells in by_range.items()
    ]
    return _markdown(["words", "captions", *arms], rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _names(results: Results) -> list[str]:
    return list(dict.fromkeys(size.name for size in results.sets))


def _rows(results: Results, name: str) -> list[list[str]]:
    keys = results.of_set(name)
    rows = [[arm.arm, *(_cell(arm.mean[key], arm.deviation[key]) for key in keys)] for arm in results.arms]
    chance = ["chance", *(f"{100 * results.chance[key]:.1f}" for key in keys)]
    return [["arm", *(results.titles[key] for key in keys)], *rows, chance]


def _cell(mean: float, deviation: float | None) -> str:
    return f"{100 * mean:.1f}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _difference(found: Comparison) -> str:
    bound = "≤ " if found.p < 0.01 else ""
    return f"{100 * found.difference:+.1f} ({_interval(found.low, found.high)}), p {bound}{max(found.p, 0.01):.2f}"


def _caption(results: Results, name: str) -> str:
    seeds = sorted({arm.seeds for arm in results.arms})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = f"mean ± standard deviation over {count} seeds" if seeds[-1] > 1 else "one seed"
    sizes = "; ".join(_size(size) for size in results.sets if size.name == name)
    return f"Percent, {spread}. {sizes[0].upper()}{sizes[1:]}."


def _size(size: SetSize) -> str:
    if size.task == "retrieval":
        return f"retrieval over {size.images:,} images and {size.captions:,} captions"
    if size.task == "choices":
        return f"choices over {size.images:,} images and {size.captions:,} captions in {size.classes:,} groups"
    if size.task == "linear_probe":
        return f"linear probe tested on {size.images:,} images of {size.classes:,} classes"
    return f"zero-shot over {size.images:,} images of {size.classes:,} classes"
