"""The files of a diagnosis, byte for byte as Arrow and pandas, which wrote them before, would write them."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from rft_diagnose.results import numbers_csv, shortest, write_inputs


def test_inputs_are_written_as_by_arrow(tmp_path):
    rng = np.random.default_rng(0)
    size = 5_000
    floats = rng.standard_normal(size) * 10.0 ** rng.integers(-20, 22, size)
    floats[::7] = np.nan
    texts = np.array(['a "b",\nc', "", "é", None] * (size // 4), dtype=object)
    columns = {
        'odd "name": x': texts,
        "label": np.array(["live", "dead_low"] * (size // 2)),
        "n": rng.integers(-5, 1_000, size),
        "mean": floats,
        "whole": np.round(floats),
        "edges": np.resize([0.0, 1.0, 1e-6, 9.9e-7, 1e-4, 1e10, 9999999999.5, 5e-324, 1.7e308], size),
    }
    write_inputs(columns, tmp_path / "inputs.csv")
    expected = io.BytesIO()
    pa.csv.write_csv(pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False), expected)
    assert (tmp_path / "inputs.csv").read_bytes() == expected.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["inputs.csv"]  # nothing temporary


def test_numbers_are_written_with_the_fewest_digits_that_read_back():
    values = np.random.default_rng(1).standard_normal(1_000).tolist()
    values += [1e22, 1e-7, -2.5e-6, 123456789.0]
    assert [float(shortest(value)) for value in values] == values
    assert shortest(1e-7) == "1e-7" and shortest(-2.5e-6) == "-0.0000025" and shortest(float("nan")) == ""


def test_numbers_of_pictures_are_written_as_by_pandas():
    columns = {
        "mean": np.array([0.1, 1e-9, np.nan, 3.0]),
        "count": np.array([1, 2, 3, 4]),
        "change": np.array(["woke_up", "", 'a,"b"', "x\ny"], dtype=object),
    }
    assert numbers_csv(columns) == pd.DataFrame(columns).to_csv(index=False)
