"""WGS84 to and from the local frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.transforms.geodesy import Datum

datums = st.builds(
    Datum,
    st.floats(-85, 85),
    st.floats(-180, 180),
    st.floats(-100, 4000),
    st.floats(-np.pi, np.pi),
)


@given(datums, st.lists(st.tuples(*[st.floats(-5e3, 5e3)] * 3), min_size=1, max_size=5))
def test_positions_round_trip_within_a_tenth_of_a_millimetre(datum: Datum, points: list):
    recovered = datum.map_from_geodetic(*datum.geodetic_from_map(points))
    np.testing.assert_allclose(recovered, points, atol=1e-4)


@given(datums)
def test_the_datum_is_the_origin(datum: Datum):
    place = (datum.latitude, datum.longitude, datum.altitude)
    np.testing.assert_allclose(datum.map_from_geodetic(*place), np.zeros((1, 3)), atol=1e-6)


def test_axes_are_east_north_up_with_the_lengths_of_wgs84():
    """At 45° N a degree is 78 847 m east and 111 132 m north (Snyder 1987, table 8)."""
    datum = Datum(45.0, 7.0, 200.0)
    east, north = datum.map_from_geodetic([45.0, 45.001], [7.001, 7.0], [200.0, 200.0])
    np.testing.assert_allclose(east, [78.85, 0, 0], atol=0.02)
    np.testing.assert_allclose(north, [0, 111.13, 0], atol=0.02)
    (up,) = datum.map_from_geodetic(45.0, 7.0, 203.0)
    np.testing.assert_allclose(up, [0, 0, 3], atol=1e-6)


def test_yaw_turns_the_map_counter_clockwise_from_east():
    datum = Datum(45.0, 7.0, 0.0, yaw=np.pi / 2)  # the map's x axis points north
    (north,) = datum.map_from_geodetic(45.001, 7.0, 0.0)
    np.testing.assert_allclose(north, [111.13, 0, 0], atol=0.02)


@pytest.mark.parametrize("place", [(91, 0, 0), (0, 181, 0), (np.nan, 0, 0), (0, 0, np.inf)])
def test_what_is_no_place_is_refused(place: tuple):
    with pytest.raises(ValueError, match="not a place"):
        Datum(*place)
