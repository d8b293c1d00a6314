"""Counting votes on blind sheets: numbers that are known, and files as people hand them in."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from deedsr.metrics import votes
from deedsr.metrics.blind import Key, Sheet

FLEISS = (
    (0, 0, 0, 0, 14),
    (0, 2, 6, 4, 2),
    (0, 0, 3, 5, 6),
    (0, 3, 9, 2, 0),
    (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0),
    (2, 5, 3, 2, 2),
    (6, 5, 2, 1, 0),
    (0, 2, 2, 3, 7),
)
"""A well-known example: how many of 14 judges chose each of 5 categories, for 10 things. Its kappa is 0.210."""


@pytest.fixture
def key(tmp_path):
    """The key of five sheets with three methods."""
    orders = (("x", "y", "z"), ("y", "z", "x"), ("z", "x", "y"), ("x", "z", "y"), ("y", "x", "z"))
    sheets = {f"s{i}": Sheet(f"p{i}", dict(zip("ABC", order, strict=True))) for i, order in enumerate(orders)}
    path = tmp_path / "key.json"
    path.write_text(json.dumps(asdict(Key(0, {name: f"/{name}" for name in "xyz"}, sheets))))
    return path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_intervals_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    for wins, total in ((0, 12), (12, 12), (3, 30), (1, 1), (40, 90)):
        expected = stats.binomtest(wins, total).proportion_ci(method="wilson")
        assert votes.wilson(wins, total) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert votes.wilson(0, 12)[0] == 0
    assert votes.wilson(12, 12)[1] == 1


def test_agreement_is_fleiss():
    judges = [{} for _ in range(14)]
    for thing, row in enumerate(FLEISS):
        choices = [str(category) for category, count in enumerate(row) for _ in range(count)]
        for judge, choice in zip(judges, choices, strict=True):
            judge[str(thing)] = choice
    found = votes.agreement(judges)
    assert found.sheets == 10
    assert found.share == pytest.approx(0.378, abs=5e-4)
    assert found.kappa == pytest.approx(0.210, abs=5e-4)


def test_agreement_where_little_is_known():
    assert votes.agreement([{"a": "x"}, {"b": "x"}]) is None
    alike = votes.agreement([{"a": "x", "b": "x"}, {"a": "x", "b": "x"}])
    assert (alike.share, alike.kappa) == (1, None)
    assert votes.agreement([{"a": "x", "b": "y"}, {"a": "x", "b": "y"}]).kappa == pytest.approx(1)
    assert votes.agreement([{"a": "x", "b": "y"}, {"a": "y", "b": "x"}]).kappa == pytest.approx(-1)


def test_a_sheet_goes_to_what_most_chose():
    judges = [{"a": "x", "b": "x", "c": "tie", "d": "y"}, {"a": "x", "b": "y", "c": "tie"}, {"a": "y", "c": "x"}]
    assert votes.majority(judges) == {"a": "x", "b": "tie", "c": "tie", "d": "y"}


def test_letters_are_counted_for_who_stood_behind_them(tmp_path, key):
    file = write(tmp_path / "v.csv", "sheet,choice\ns0,A\ns1,C\ns2,C\ns3,tie\ns4,B\n")
    found = votes.count_votes([file], key)
    assert found.votes == {str(file): {"s0": "x", "s1": "x", "s2": "y", "s3": "tie", "s4": "x"}}
    (judged,) = found.preferences.values()
    numbers = {(one.first, one.second): (one.wins, one.losses, one.ties, one.share) for one in judged}
    assert numbers == {("x", "y"): (3, 1, 1, 0.75), ("x", "z"): (3, 0, 1, 1.0), ("y", "z"): (1, 0, 1, 1.0)}
    assert found.agreement is None
    assert "all, by sheet" not in found.to_markdown()
    assert "says nothing about two others" in found.to_markdown()


def test_nothing_but_ties_is_no_share(tmp_path, key):
    found = votes.count_votes([write(tmp_path / "v.csv", "sheet,choice\ns0,tie\n")], key)
    assert "| x : y | 0 : 0 | 1 | – |" in found.to_markdown()
    assert json.loads(found.to_json())["preferences"][str(tmp_path / "v.csv")][0]["share"] is None


@pytest.mark.parametrize(
    "text",
    [
        "sheet,choice\ns0,A\ns3,tie\ns4,\n",
        "\ufeffsheet;choice\r\ns0;A\r\ns3;tie\r\ns4;\r\n;\r\n",
        "sheet\tremark\tchoice\ns3\tall, alike\tTie\ns0\t\t a \n",
        'choice,sheet,remark\nA,s0,"a line\n"\nTIE,s3\n\n',
    ],
    ids=["as written", "semicolons", "tabs and remarks", "quotes"],
)
def test_files_as_spreadsheets_write_them(tmp_path, key, text):
    file = write(tmp_path / "v.csv", text)
    assert votes.count_votes([file], key).votes == {str(file): {"s0": "x", "s3": "tie"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sheet,choice\ns0,A\ns9,B\n", r"v\.csv, line 3: .*key\.json has no sheet 's9'; name the key of this study"),
        ("sheet,choice\n,B\n", r"v\.csv, line 2: .*key\.json has no sheet ''"),
        ("sheet,choice\ns0,A\ns0,B\n", r"v\.csv, line 3: s0 comes twice"),
        ("sheet,choice\ns0,D\n", r"v\.csv, line 2: the choice is 'D'; write A, B, C or tie"),
        ("sheet,vote\ns0,A\n", r"v\.csv: has no columns `sheet` and `choice`"),
        ("", r"v\.csv: has no columns"),
        ("sheet,choice\ns0,\n", r"v\.csv: no choice is filled in; write A, B, C or tie"),
    ],
)
def test_wrong_votes_are_named(tmp_path, key, text, message):
    with pytest.raises(ValueError, match=message):
        votes.count_votes([write(tmp_path / "v.csv", text)], key)


def test_wrong_files_are_named(tmp_path, key):
    file = write(tmp_path / "v.csv", "sheet,choice\ns0,A\n")
    with pytest.raises(ValueError, match=r"v\.csv: is named twice"):
        votes.count_votes([file, file], key)
    for text in ("sheet,choice", "[]", '{"seed": 0}', '{"seed": 0, "methods": {}, "sheets": {"a": {}}}'):
        with pytest.raises(ValueError, match=r"k\.json: is no key of blind sheets"):
            votes.count_votes([file], write(tmp_path / "k.json", text))
    (tmp_path / "v.csv").write_bytes(b"sheet,choice\ns0,\xff\n")
    with pytest.raises(ValueError, match=r"v\.csv: is no text in UTF-8"):
        votes.count_votes([file], key)
