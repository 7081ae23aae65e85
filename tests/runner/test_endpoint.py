from __future__ import annotations

from pathlib import Path

from reverie.runner.endpoint import Endpoint


def test_the_key_is_in_its_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "api-key"
    file.write_text("sesame\n")
    endpoint = Endpoint("127.0.0.1", 9000, str(file))
    assert endpoint.key() == "sesame"
    assert "sesame" not in repr(endpoint)
    assert Endpoint("/tmp/engine.sock").key() == ""
