"""Rows of cells in the lines of a table; a cell in quotes, as spreadsheets write it, may have several lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

TAB = "\t"
DELIMITERS = (TAB, ",", ";")
MAX_LINES = 50
"""Lines of a quoted cell between tabs at most, where quotes may also be those of the text."""
Lines = Sequence[tuple[str, str]]
"""Origin and text of each line."""
Row = tuple[str, list[str] | ValueError]
"""Origin of the line in which a row begins, and its cells, or what is wrong with it."""


def rows_of(lines: Lines, delimiter: str, *, num_columns: int = 0) -> Iterator[Row]:
    """The rows of a table.

    A quoted cell may hold delimiters, line ends, and quotes, which are then doubled. Between tabs a quote may also be
    the text's own: it begins a cell of several lines only if one of these lines alone would lack columns.

    Args:
      num_columns: of a full row between tabs; 0: not known.
    """
    return _tab_rows(lines, num_columns) if delimiter == TAB else _comma_rows(lines, delimiter)


def _comma_rows(lines: Lines, delimiter: str) -> Iterator[Row]:
    first = 0
    while first < len(lines):
        following = (f"{lines[place][1]}\n" for place in range(first, len(lines)))
        reader = csv.reader(following, delimiter=delimiter, strict=True)
        try:
            yield lines[first][0], [cell.strip() for cell in next(reader)]
            first += reader.line_num
        except csv.Error as error:
            last = lines[first + reader.line_num - 1][0] if reader.line_num > 1 else ""
            yield lines[first][0], _unclosed(str(error), last)
            first += 1


def _unclosed(reason: str, last: str) -> ValueError:
    """What is wrong with a row whose quotes do not end, up to the origin of a last line; empty: within its line."""
    where = f", and does not end well up to {last}" if last else ""
    return ValueError(f'a cell in quotes begins{where} ({reason}): end it, or write quotes in it twice, as ""')


def _tab_rows(lines: Lines, num_columns: int) -> Iterator[Row]:
    first = 0
    while first < len(lines):
        origin, line = lines[first]
        cells, number = _parts(line), 1
        if any(map(_is_open, cells)) and first + 1 < len(lines):
            joined, number = _joined(lines, first, num_columns)
            if not number and len(_parts(lines[first + 1][1])) < 2:
                yield origin, _unclosed("no line ends it", "")
                first += 1
                continue
            cells, number = joined or cells, number or 1
        yield origin, [_unquoted(cell.strip()) for cell in cells]
        first += number


def _joined(lines: Lines, first: int, num_columns: int) -> tuple[list[str], int]:
    """The cells of a row of several lines, and their number; none and 0 if its quotes are the text's own."""
    most, text = max(num_columns, 2), lines[first][1]
    is_full = len(_parts(text)) >= most
    for place in range(first + 1, min(first + MAX_LINES, len(lines))):
        text = f"{text}\n{lines[place][1]}"
        is_full = is_full and len(_parts(lines[place][1])) >= most
        if is_full:
            break
        if text.count('"') % 2 == 0 and not any(map(_is_open, cells := _parts(text))):
            return cells, place - first + 1
    return [], 0


def _parts(line: str) -> list[str]:
    """The cells between tabs; a spreadsheet puts one that has tabs itself in quotes."""
    cells, rest = [], line.split(TAB)
    while rest:
        ends = range(1, len(rest) + 1) if rest[0].lstrip().startswith('"') else ()
        number = next((end for end in ends if _is_quoted(TAB.join(rest[:end]).strip())), 1)
        cells.append(TAB.join(rest[:number]))
        rest = rest[number:]
    return cells


def _is_open(cell: str) -> bool:
    """Whether a cell begins with a quote that it does not end."""
    return cell.lstrip().startswith('"') and cell.count('"') % 2 == 1


def _is_quoted(cell: str) -> bool:
    """Whether a spreadsheet put quotes around a cell."""
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _unquoted(cell: str) -> str:
    """A cell without the quotes that a spreadsheet put around it; quotes of the text itself stay."""
    return cell[1:-1].replace('""', '"') if _is_quoted(cell) else cell
