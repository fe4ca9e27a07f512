"""Addresses as users write them."""

from __future__ import annotations

import pytest

from hmoe.startup import addresses
from hmoe.startup.addresses import Address


@pytest.mark.parametrize(
    ("text", "address", "is_loopback"),
    [
        ("localhost:2222", Address("localhost", 2222), True),
        ("LocalHost:1", Address("LocalHost", 1), True),
        ("127.3.0.1:65535", Address("127.3.0.1", 65535), True),
        ("[::1]:2222", Address("::1", 2222), True),
        ("[fe80::7]:2222", Address("fe80::7", 2222), False),
        ("10.0.0.2:80", Address("10.0.0.2", 80), False),
        ("node-3.my_net:2222", Address("node-3.my_net", 2222), False),
        # A name is not looked up, whatever it is called.
        ("127.0.0.1.example.com:2222", Address("127.0.0.1.example.com", 2222), False),
    ],
)
def test_addresses(text: str, address: Address, is_loopback: bool) -> None:
    found = addresses.parse(text)
    assert (found, str(found), found.is_loopback) == (address, text, is_loopback)


NONE = "which is no address; it must be host:port, such as 10.0.0.2:2222 or [::1]:2222"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("localhost", NONE),
        ("localhost:", NONE),
        (":2222", NONE),
        ("::1:2222", NONE),
        ("grpc://a:2222", NONE),
        ("a:22 ", NONE),
        ("a b:22", NONE),
        ("a:-1", NONE),
        ("a:0", "whose port is 0; a port is a number from 1 to 65535"),
        ("a:65536", "whose port is 65536; a port is a number from 1 to 65535"),
        ("[1::2::3]:4", "but 1::2::3 is no IPv6 address, such as [::1]"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        addresses.parse(text)
    assert str(error.value) == message
