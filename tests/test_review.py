"""The table of verdicts."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorfab import review
from tumorfab.review import Review
from tumorfab.stage import InputError

LINES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40)


@settings(deadline=None)  # files are flushed to disk
@given(st.dictionaries(LINES, st.builds(Review, st.sampled_from(review.VERDICTS), LINES)))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, reviews: dict[str, Review]
) -> None:
    table = review.path(tmp_path_factory.mktemp("results"))
    review.write(table, reviews)
    assert review.read(table) == reviews


def test_the_bytes_of_the_table(tmp_path: Path) -> None:
    reviews = {"b": Review("reject", 'cut off, "flat"'), "a": Review("accept")}
    review.write(tmp_path / "t.csv", reviews)
    assert (tmp_path / "t.csv").read_bytes() == (
        b'sample,verdict,note\na,accept,\nb,reject,"cut off, ""flat"""\n'
    )


def test_no_table_is_no_verdict(tmp_path: Path) -> None:
    assert review.read(tmp_path / "review.csv") == {}


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    table = tmp_path / "review.csv"
    table.write_bytes("\ufeffsample,verdict,note\r\na,reject,Ödem\r\n\r\n".encode())
    assert review.read(table) == {"a": Review("reject", "Ödem")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "first line must be sample,verdict,note"),
        (b"sample;verdict;note\n", "first line must be"),
        (b"sample,verdict,note\na,reject\n", "line 2 has 2 cells, not 3"),
        (b"sample,verdict,note\na,accept,\nb,Reject,\n", "line 3: verdict 'Reject' is neither"),
        (b"sample,verdict,note\na,accept,\na,reject,\n", "line 3: a is there twice"),
        (b"sample,verdict,note\na,accept,\xff\n", "not UTF-8"),
    ],
)
def test_a_table_that_leaves_doubt_is_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    table = tmp_path / "review.csv"
    table.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        review.read(table)
    assert str(caught.value).startswith(f"{table}: ")
    assert "\n" not in str(caught.value)
