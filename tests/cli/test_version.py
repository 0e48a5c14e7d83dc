import json
import platform
from importlib.metadata import version

import kedge


def test_json_and_table_say_what_is_installed(command):
    code, out, err = command("version", "--format", "json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["kedge"] == kedge.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert found["device"]
    _, out, _ = command("version")
    assert dict(line.split(maxsplit=1) for line in out.splitlines())["timm"] == version("timm")


def test_what_is_missing_is_said(command, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    from kedge.cli import version as module

    def gone(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", gone)
    assert json.loads(command("version", "--format", "json")[1])["onnx"] is None
    assert "onnx" in command("version")[1]
    assert "not installed" in command("version")[1]
