import pytest

from tumorfab import wishes
from tumorfab.stage import InputError


def table(tmp_path, text):
    path = tmp_path / "wishes.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_becomes_settings_of_one_sample(tmp_path):
    path = table(
        tmp_path,
        "host,number,donor,preset,region,side,count,volume_ml,mass_effect,oedema_ratio,"
        "mni_x,mni_y,mni_z\n"
        "H1,0,A1,hgg,frontal,left,2,12.5,0.3,0,-20,15,30\n"
        "H1,1,,,,,,,,,,,\n"
        "H2, 0 ,,lgg,,,,,,,,,\n",
    )
    assert wishes.read(path) == {
        ("H1", 0): {
            "donor": "A1",
            "preset": "hgg",
            "region": "frontal",
            "side": "left",
            "count": [2, 2],
            "volume_ml": [12.5, 12.5],
            "mass_effect": [0.3, 0.3],
            "oedema_ratio": [0.0, 0.0],
            "site_mni_mm": [-20.0, 15.0, 30.0],
        },
        ("H1", 1): {},
        ("H2", 0): {"preset": "lgg"},
    }


def test_columns_may_be_left_out_and_a_subjects_zeros_stay(tmp_path):
    assert wishes.read(table(tmp_path, "number,host,side\n3,007,right\n")) == {
        ("007", 3): {"side": "right"}
    }
    assert wishes.read(table(tmp_path, "host,number\n")) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host,number,size\nH1,0,3\n", "unknown column size; known are host, number, donor"),
        ("host,side\nH1,left\n", "no column number; known are"),
        ("", "not a readable CSV file"),
        ("host,number\nH1,0,1,2\n1,2,3,4,5,6\n", "not a readable CSV file"),
        ("host,number\nH1,0,5\n", "rows have more cells than there are columns"),
        ("host,number\nH1,first\n", "line 2: host and number are needed"),
        ("host,number\nH1,0\n,1\n", "line 3: host and number are needed"),
        ("host,number\nH1,0\nH1,0\n", "line 3: asks again for sample 0 of H1"),
        ("host,number\nH1,-1\n", "line 2: number is -1; samples count from 0"),
        ("host,number,preset\nH1,0,HGG\n", "line 2: preset is HGG, not one of any, hgg, lgg"),
        ("host,number,region\nH1,0,lobe\n", "line 2: region is lobe, not one of any, frontal"),
        ("host,number,volume_ml\nH1,0,big\n", "line 2: volume_ml is big, not a number"),
        ("host,number,volume_ml\nH1,0,nan\n", "line 2: volume_ml is nan, outside 0.1 to 300"),
        ("host,number,volume_ml\nH1,0,0\n", "line 2: volume_ml is 0, outside 0.1 to 300"),
        ("host,number,count\nH1,0,6\n", "line 2: count is 6, outside 1 to 5"),
        ("host,number,count\nH1,0,1.5\n", "line 2: count is 1.5, not a whole number"),
        ("host,number,mni_x\nH1,0,5\n", "line 2: a site needs mni_x, mni_y and mni_z"),
    ],
)
def test_every_mistake_is_one_line_with_file_and_line(tmp_path, text, expected):
    path = table(tmp_path, text)
    with pytest.raises(InputError) as caught:
        wishes.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


def test_a_missing_or_binary_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.csv: no such file; place.table names it"):
        wishes.read(tmp_path / "none.csv")
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00host")
    with pytest.raises(InputError, match=r"x.csv: not a readable CSV file"):
        wishes.read(path)


def test_samples_that_the_study_does_not_make_are_refused(tmp_path):
    path = str(table(tmp_path, "host,number,preset\nH1,0,hgg\nH2,1,lgg\n"))
    wishes.check(path, ["H1", "H2"], 2)
    wishes.check("", [], 0)
    with pytest.raises(InputError, match=r"wishes.csv: H2 is no host of this study"):
        wishes.check(path, ["H1"], 2)
    with pytest.raises(InputError, match=r"sample 1 of H2 is not made: each host has 1"):
        wishes.check(path, ["H1", "H2"], 1)
