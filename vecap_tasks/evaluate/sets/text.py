"""Text files that people write: lines, and tables with a header."""

from __future__ import annotations

import csv
from pathlib import Path

from vecap_tasks.errors import VecapError


def read_text(file: Path) -> str:
    """Return the whole of a UTF-8 file, without a byte order mark. Raises VecapError naming it."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VecapError(f"{file} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise VecapError(f"{file} cannot be read: {error.strerror}; correct its path") from error


def read_lines(file: Path) -> list[str]:
    """Return the lines that are not empty, stripped. Raises VecapError where there are none."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise VecapError(f"{file} is empty; write one a line")
    return lines


def read_columns(
    file: Path, first: str, second: str, *, separator: str = ",", quotes: bool = True
) -> list[tuple[str, str]]:
    """Return two columns of a table by their names, row by row.

    Without *quotes* quotation marks are text, and the last column goes on to the end of the line, separators and all.
    Raises VecapError for columns that the header has not, for a row without one of the two or with a field too many,
    and for a table without rows.
    """
    lines = read_text(file).splitlines(keepends=True)
    if quotes:
        table = list(csv.reader(lines, delimiter=separator))
    else:
        columns = lines[0].count(separator) if lines else 0
        table = [line.rstrip("\r\n").split(separator, columns) for line in lines]
    header = table[0] if table else []
    if first not in header or second not in header:
        raise VecapError(f"{file} has no columns {first} and {second}; its first line must name them")
    places = header.index(first), header.index(second)
    rows = []
    for number, row in enumerate(table[1:], start=2):
        if not row or row == [""]:
            continue
        if len(row) > len(header):
            raise VecapError(
                f"{file}: row {number} has {len(row)} fields, the header {len(header)}; quote what holds the "
                "separator, or set `quotes: false`"
            )
        one, other = (row[place].strip() if place < len(row) else "" for place in places)
        if not one or not other:
            raise VecapError(f"{file}: row {number} has no {first} or no {second}; fill it or take it out")
        rows.append((one, other))
    if not rows:
        raise VecapError(f"{file} has no rows; make the evaluation set again")
    return rows
