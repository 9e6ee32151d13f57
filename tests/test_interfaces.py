import os

import pytest

from llumi.interfaces import interface_of, speak_from


def test_an_address_has_an_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    speak_from("203.0.113.7")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    speak_from("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_what_an_operator_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    speak_from("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
