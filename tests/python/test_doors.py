"""Who gets in, and what a failure looks like, to clients of other makes: an HTTP/2 library, and grpcio with its own bounds on headers."""

import io
import json
import socket
import tarfile

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from conftest import FIXTURES
from google.rpc import error_details_pb2, status_pb2

SECONDS_MAX = 30


def over_http2(port, authority, extra=(), method="GET", path="/v1/admin/jobs"):
    """The status of one request, whose name is `:authority` and nothing else."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS_MAX) as stream:
        # Otherwise the library refuses to send what is to be refused.
        client = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
        client.initiate_connection()
        names = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
        client.send_headers(1, [*names, *extra], end_stream=True)
        stream.sendall(client.data_to_send())
        while data := stream.recv(65536):
            for event in client.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    return int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.StreamReset):
                    return "reset"
    return "closed"


@pytest.mark.parametrize(
    ("authority", "extra", "status"),
    [
        ("127.0.0.1:{port}", [], 200),
        ("localhost:{port}", [], 200),
        ("[::1]:{port}", [], 200),
        ("127.0.0.1:{port}", [("host", "127.0.0.1:{port}")], 200),
        ("evil.example", [], 403),
        ("127.0.0.1.nip.io", [], 403),
        ("127.0.0.1:{port}", [("x-forwarded-for", "203.0.113.9")], 403),
        ("127.0.0.1:{port}", [("via", "2 proxy")], 403),
        ("127.0.0.1:{port}", [("host", "evil.example")], 403),
        ("127.0.0.1:{port}", [("origin", "null")], 403),
        ("127.0.0.1:{port}", [("sec-fetch-site", "cross-site")], 403),
    ],
)
def test_without_a_key_the_name_in_authority_is_one_of_this_machine(server, authority, extra, status):
    extra = [(name, value.format(port=server.port)) for name, value in extra]
    assert over_http2(server.port, authority.format(port=server.port), extra) == status


def test_what_http2_itself_forbids_does_not_get_in(server):
    for authority in ("evil@127.0.0.1", "127.0.0.1, evil.example", ""):
        assert over_http2(server.port, authority) in (400, 403, "reset"), authority
    twice = [("host", "127.0.0.1"), ("host", "evil.example")]
    assert over_http2(server.port, "127.0.0.1", twice) in (400, 403, "reset")


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.mark.parametrize("method", ["Inference/Ner", "Inference/NerStream", "Admin/PutAlias"])
@pytest.mark.parametrize("message", [b"\x0a\xff", b"\x0a\x04\x0a\x02\xff\xfe", b"\xff" * 50])
def test_bytes_that_are_no_message_are_an_invalid_argument(channel, method, message):
    path = f"/trunkline.v1.{method}"
    with pytest.raises(grpc.RpcError) as failure:
        if "Stream" in method:
            list(channel.stream_stream(path)(iter([message]), timeout=SECONDS_MAX))
        else:
            channel.unary_unary(path)(message, timeout=SECONDS_MAX)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT, failure.value.details()


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


def archive(config):
    """An adapter whose configuration is this."""
    folder, out = FIXTURES / "cls-r8-qv", io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in [("adapter_config.json", json.dumps(config, ensure_ascii=False).encode()), ("adapter_model.safetensors", (folder / "adapter_model.safetensors").read_bytes())]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("count", [1, 8, 300, 2000])
@pytest.mark.parametrize("unit", ["k", "é", "語"])
def test_a_status_with_many_problems_can_be_read(channel, count, unit):
    config = json.loads((FIXTURES / "cls-r8-qv" / "adapter_config.json").read_text())
    config |= {f"{unit * 100}{at}": at for at in range(count)}
    with pytest.raises(grpc.RpcError) as failure:
        channel.unary_unary("/trunkline.v1.Admin/PublishAdapter")(field(1, b"x") + field(2, archive(config)), timeout=SECONDS_MAX)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT, failure.value.details()
    details = dict(failure.value.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    problems = next(d for d in status.details if d.Is(error_details_pb2.BadRequest.DESCRIPTOR))
    request = error_details_pb2.BadRequest()
    problems.Unpack(request)
    lines = [violation.description for violation in request.field_violations]
    assert lines and all(len(line.encode()) <= 300 for line in lines)
    if len(lines) < count:
        assert lines[-1] == f"… and {count - len(lines) + 1} more"
    assert len(failure.value.details().encode()) <= 1000
