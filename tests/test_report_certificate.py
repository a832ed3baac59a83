"""The report's certificate: from how many initial times it is, and what gave the edge of other evaluations."""

from plotting.report_sections import certificate

LINE = {"name": "sharp: power ratio, T2M", "value": 0.7, "bar": "0.8 to 1.25", "pass": False}
FEW = {"certificate": [LINE], "init_times": ["2024-05-20T00:00"] * 9, "scores": {"T2M": {"1": {"skill": 0.5}}}}
MANY = FEW | {"init_times": ["2024-05-20T00:00"] * 172, "boundary": "edge.zarr"}


def test_few_initial_times_are_said_to_be_few():
    told = str(certificate(FEW, {}))
    assert "0 of 1 lines passed" in told and "From 9 initial times" in told and "judge those from 100 or more" in told
    assert "judge those" not in str(certificate(MANY, {}))


def test_other_evaluations_say_what_gave_the_edge_and_from_how_many_initial_times():
    told = str(certificate(FEW, {"other": MANY, "free": FEW | {"boundary": ""}, "old": FEW}))
    for text in ("edge.zarr", ">172<", ">none<", "not known", "+0.50 to +0.50"):
        assert text in told, text
