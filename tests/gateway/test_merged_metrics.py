"""The metrics of several processes, told as those of one."""

from __future__ import annotations

from reverie.gateway.merged_metrics import merged

ONE = b"""# HELP reverie_requests_total Requests, by how they ended.
# TYPE reverie_requests_total counter
reverie_requests_total{model="m",outcome="ok"} 3.0
# HELP reverie_request_duration_seconds From arrival to end.
# TYPE reverie_request_duration_seconds histogram
reverie_request_duration_seconds_bucket{le="1.0",model="m"} 2.0
reverie_request_duration_seconds_bucket{le="+Inf",model="m"} 3.0
reverie_request_duration_seconds_count{model="m"} 3.0
reverie_request_duration_seconds_sum{model="m"} 4.5
# HELP reverie_slots Requests that a backend runs at once.
# TYPE reverie_slots gauge
reverie_slots{backend="b",model="m"} 8.0
# HELP reverie_in_flight Requests on a backend.
# TYPE reverie_in_flight gauge
reverie_in_flight{backend="b",model="m"} 2.0
# HELP reverie_backend_ready 1 if a backend takes requests.
# TYPE reverie_backend_ready gauge
reverie_backend_ready{backend="b",model="m"} 1.0
# HELP reverie_backend_seconds_per_token From one token to the next.
# TYPE reverie_backend_seconds_per_token gauge
reverie_backend_seconds_per_token{backend="b",model="m"} 0.1
"""
OTHER = (
    ONE.replace(b"ready{", b"ready {")
    .replace(b'ready {backend="b",model="m"} 1.0', b'ready{backend="b",model="m"} 0.0')
    .replace(b'token{backend="b",model="m"} 0.1', b'token{backend="b",model="m"} 0.3')
    .replace(b'outcome="ok"', b'outcome="failed"')
)


def samples(text: bytes) -> dict[str, float]:
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_counters_and_histograms_are_added_up_and_gauges_by_what_they_mean() -> None:
    found = samples(merged([ONE, OTHER]))
    assert found['reverie_requests_total{model="m",outcome="ok"}'] == 3
    assert found['reverie_requests_total{model="m",outcome="failed"}'] == 3
    of_model = 'model="m"}'
    assert found['reverie_request_duration_seconds_bucket{le="1.0",' + of_model] == 4
    assert found["reverie_request_duration_seconds_count{" + of_model] == 6
    assert found["reverie_request_duration_seconds_sum{" + of_model] == 9
    of_backend = '{backend="b",model="m"}'
    assert found["reverie_slots" + of_backend] == 8
    assert found["reverie_in_flight" + of_backend] == 4
    assert found["reverie_backend_ready" + of_backend] == 0
    assert found["reverie_backend_seconds_per_token" + of_backend] == 0.2


def test_one_process_tells_its_own_to_the_letter() -> None:
    assert merged([ONE]) == ONE
