import csv
import io

import pytest

from tfode_adv.rendering.rates import Rate
from tfode_adv.rendering.tables import Compared, Table, latex, markdown, number

TABLE = Table(
    "Error & success",
    ["model", "error", "eps", "seen"],
    [["a_b|<i>", Rate(1, 10), 0.1, None], ["50% #1", Rate(0, 0), 1.0, 7]],
    note="A note.",
)


def test_markdown():
    lines = TABLE.to_markdown().splitlines()
    assert lines[0] == "**Error &amp; success**"
    assert lines[2] == "| model | error | eps | seen |"
    assert lines[3] == "| :--- | ---: | ---: | ---: |"
    assert lines[4] == r"| a\_b\|&lt;i&gt; | 10.0 % (1.8–40.4) | 0.1 | – |"
    assert lines[5] == r"| 50% \#1 | – | 1 | 7 |"
    assert lines[-1] == "A note."


def test_latex():
    text = TABLE.to_latex()
    assert r"\begin{tabular}{lrrr}" in text
    assert r"a\_b|\textless{}i\textgreater{} & 10.0 \% (1.8--40.4) & 0.1 & -- \\" in text
    assert r"\caption{Error \& success}" in text
    assert text.count("&") - text.count(r"\&") == 3 * 3


def test_csv_holds_bare_numbers():
    header, first, second = csv.reader(io.StringIO(TABLE.to_csv()))
    assert header == ["model", "error", "error low", "error high", "eps", "seen"]
    assert first[0] == "a_b|<i>" and float(first[1]) == 0.1 and float(first[2]) == pytest.approx(0.01787, abs=1e-4)
    assert second[1:4] == ["", "", ""] and second[4:] == ["1.0", "7"]


def test_plain_values():
    table = TABLE.as_dict()
    assert table["headers"] == list(TABLE.headers)
    assert table["rows"][0][1] == {"count": 1, "total": 10, "value": 0.1, **_bounds(Rate(1, 10))}


def _bounds(rate):
    low, high = rate.interval
    return {"low": pytest.approx(low), "high": pytest.approx(high)}


def test_a_terminal_sees_aligned_columns():
    lines = TABLE.to_text().splitlines()
    assert lines[1].index("error") > lines[1].index("model") and len({len(line) for line in lines[2:4]}) == 1


@pytest.mark.parametrize(
    ("published", "marked"), [(0.50, False), (0.41, False), (0.60, False), (0.40, False), (0.39, True), (0.61, True)]
)
def test_a_published_figure_outside_the_interval_is_marked(published, marked):
    value = Compared(Rate(50, 100), published)
    assert value.deviates == marked
    assert str(value) == f"0.50 (0.40–0.60) [{published:.2f}]{'*' if marked else ''}"


def test_the_rounding_of_the_published_figure_is_allowed_for():
    # Our interval: 0.4038 to 0.5962, in per cent 40.38 to 59.62.
    ours = Rate(50, 100)
    assert not Compared(ours, 0.4034, decimals=1, percent=True).deviates
    assert Compared(ours, 0.4034, decimals=2, percent=True).deviates
    assert not Compared(ours, 0.60, decimals=2).deviates and Compared(ours, 0.600, decimals=3).deviates


def test_what_was_not_measured_shows_only_the_published_figure():
    assert str(Compared(None, 0.5)) == "– [0.50]" and not Compared(None, 0.5).deviates
    assert str(Compared(Rate(1, 200), None, decimals=1, percent=True)) == "0.5 (0.1–2.8)"
    table = Table("t", ["a"], [[Compared(Rate(1, 2), 0.5)], [Compared(None, 0.25)]])
    assert [row[-1] for row in csv.reader(io.StringIO(table.to_csv()))] == ["a published", "0.5", "0.25"]


def test_short_numbers():
    assert [number(value) for value in (1e-4, 1e-3, 0.031, 0.01, 0.1, 1.0, 10.0, None)] == [
        "1e-4",
        "1e-3",
        "0.031",
        "0.01",
        "0.1",
        "1",
        "10",
        "–",
    ]


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="2 values under 1 headers"):
        Table("t", ["a"], [[1, 2]])


def test_a_name_cannot_break_out_of_its_cell():
    assert "\n" not in markdown("a\n| b |") and markdown("`x`") == r"\`x\`"
    assert latex("1/λ = 6") == r"1/$\lambda$ = 6"
    assert latex("\\input{x}") == r"\textbackslash{}input\{x\}"


def test_csv_cells_are_no_formulas():
    risky = ["=cmd|'/c calc'!A0", "+1", "-1+2", "@SUM(A1)", "\tx"]
    table = Table("t", ["=h", "n"], [[text, -0.5] for text in risky] + [["a=b", 2]])
    rows = list(csv.reader(io.StringIO(table.to_csv())))
    assert rows == [["'=h", "n"], *([f"'{text}", "-0.5"] for text in risky), ["a=b", "2"]]
