#!/usr/bin/env python3
"""Honest callers beside somebody who takes all he can get: one attack after the other against a fresh server each.

Of each attack: what honest callers of another adapter (and, where it says so, of the same one) saw, the server's memory at its peak, and
`/readyz`. An honest caller sends a short text ten times a second on a connection of its own and must never be refused or wait long:
its 99th percentile may be three times what it is alone, and one full pass, or the bound that the attack names.

    tests/acceptance/nobody_starves.py [--binary target/release/trunkline] [--only long_texts,streams] [--seconds 8] [--short]

`--short` is a second of each, with fewer connections and without the bound on latencies, which a shared machine cannot hold: what
`tests/run` does. Needs grpcio, protobuf and h2 for the attacks over HTTP/2
(tests/python/requirements.txt); load goes to loopback alone and ends by itself.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time

from server import ROOT, default_binary, serving

MEMORY_MIB_MAX = 400
HONEST_EVERY_SECONDS = 0.1
#: An honest caller's own time-out.
HONEST_SECONDS_MAX = 5
#: Of connections that only want to be in the way.
CROWD_P99_SECONDS = 0.3


class Honest:
    """Callers of an adapter, each with a connection of its own, and what became of their requests."""

    def __init__(self, server, asks=("/v1/classify", "sms-spam"), callers=2):
        self.server, (self.route, self.adapter) = server, asks
        self.statuses, self.seconds = collections.Counter(), []
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.call, daemon=True) for _ in range(callers)]

    def call(self):
        connection = None
        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                if connection is None:
                    connection = self.server.connect(timeout=HONEST_SECONDS_MAX)
                body = json.dumps({"inputs": "where is my new card", "adapter": self.adapter})
                connection.request("POST", self.route, body, {"content-type": "application/json"})
                response = connection.getresponse()
                response.read()
                status = response.status
            except OSError as error:
                status, connection = type(error).__name__, None
            with self.lock:
                self.statuses[status] += 1
                self.seconds.append(time.monotonic() - began)
            self.stopped.wait(HONEST_EVERY_SECONDS)
        if connection is not None:
            connection.close()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join(HONEST_SECONDS_MAX + 1)

    def percentile(self, share):
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def all_answered(self):
        return set(self.statuses) == {200}


def memory_peak_mib(server):
    for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


@contextlib.contextmanager
def many(count, work):
    """`count` threads that repeat `work(at)` until the block ends; what it returns or raises is counted."""
    stopped, seen = threading.Event(), collections.Counter()

    def repeat(at):
        while not stopped.is_set():
            try:
                seen[work(at)] += 1
            except OSError as error:
                seen[type(error).__name__] += 1
                stopped.wait(0.05)

    threads = [threading.Thread(target=repeat, args=(at,), daemon=True) for at in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stopped.set()
        for thread in threads:
            thread.join(1)


def post(server, path, body, timeout=60):
    connection = server.connect(timeout=timeout)
    try:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, payload, {"content-type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


# --- who takes more than a share -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def long_texts(server, scale):
    """Callers whose every text fills hundreds of windows."""
    text = "hello " * 30_000
    with many(3, lambda _: post(server, "/v1/ner", {"inputs": text})) as seen:
        yield seen


@contextlib.contextmanager
def long_texts_to_the_same(server, scale):
    """Two such callers of the very adapter that the honest ones ask."""
    text = "hello " * 12_000
    with many(2, lambda _: post(server, "/v1/ner", {"inputs": text})) as seen:
        yield seen


#: Attacks on an adapter's own callers, and what those ask.
SAME_ADAPTER = {"long_texts_to_the_same": ("/v1/ner", "everyday-entities")}


@contextlib.contextmanager
def many_callers(server, scale):
    """Ten times as many callers of one adapter as the server has room for."""
    text = "please move the meeting with Anna to Friday at three and tell everybody about the new room on the second floor"
    with many(64, lambda _: post(server, "/v1/ner", {"inputs": text})) as seen:
        yield seen


@contextlib.contextmanager
def many_inputs(server, scale):
    """Requests of as many inputs as one may have."""
    body = {"inputs": ["the quick brown fox jumps over the lazy dog again and again"] * 512, "adapter": "emotion"}
    with many(4, lambda _: post(server, "/v1/classify", body)) as seen:
        yield seen


@contextlib.contextmanager
def slow_words(server, scale):
    """Two megabytes of words that take longest to tokenize, of which 126 tokens are read."""
    body = json.dumps({"inputs": ("q" * 99 + " ") * 20_000}).encode()
    with many(2, lambda _: post(server, "/v1/classify", body)) as seen:
        yield seen


@contextlib.contextmanager
def slow_words_in_windows(server, scale):
    """The same, read whole."""
    body = json.dumps({"inputs": ("q" * 99 + " ") * 1_000}).encode()
    with many(2, lambda _: post(server, "/v1/ner", body)) as seen:
        yield seen


@contextlib.contextmanager
def large_strides(server, scale):
    """One window a token, asked of many adapters at once."""
    one = {"inputs": "a " * (2040 * 512), "parameters": {"stride": 125}}
    names = ["everyday-entities", "everyday-entities@1", "assistant-slots", "assistant-slots@1", "default-ner"]
    all_of_them = {"inputs": "a " * (2040 * 512), "adapters": names, "parameters": {"ner": {"stride": 125}}}
    short = {"inputs": "a " * 600, "parameters": {"stride": 125}}
    bodies = [("/v1/ner", one), ("/v1/analyze", all_of_them), ("/v1/ner", short)]
    with many(3, lambda at: post(server, *bodies[at])) as seen:
        yield seen


def field(number, value):
    """A length-delimited field of a protobuf message."""
    length, encoded = len(value), b""
    while length >= 128:
        encoded, length = encoded + bytes([length % 128 + 128]), length // 128
    return bytes([number << 3 | 2]) + encoded + bytes([length]) + value


def ner_stream_message(text):
    """A `NerStreamRequest` of one text (proto/trunkline/v1/inference.proto)."""
    inputs = field(1, field(1, text.encode()))
    return field(1, b"1") + field(2, inputs)


def streamed(server, streams, text):
    import grpc

    stopped = threading.Event()
    seen = collections.Counter()
    message = ner_stream_message(text)

    def run():
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)])

        def write():
            while not stopped.is_set():
                yield message

        with contextlib.suppress(grpc.RpcError):
            for _ in channel.stream_stream("/trunkline.v1.Inference/NerStream")(write()):
                seen["answers"] += 1
                if stopped.is_set():
                    break
        channel.close()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(streams)]
    for thread in threads:
        thread.start()

    def stop():
        stopped.set()
        for thread in threads:
            thread.join(5)

    return seen, stop


@contextlib.contextmanager
def streams(server, scale):
    """Streams that send as fast as they are read."""
    seen, stop = streamed(server, 2, "Anna Kowalska met John Smith in Kraków " * 5)
    try:
        yield seen
    finally:
        stop()


@contextlib.contextmanager
def unread_streams(server, scale):
    """Streams that send and do not read: HTTP/2 windows that never open, pings answered."""
    body = ner_stream_message("Anna Kowalska met John Smith in Kraków " * 5)
    with ClosedWindow(server) as peer:
        for _ in range(8):
            peer.open("/trunkline.v1.Inference/NerStream", "application/grpc", (b"\0" + len(body).to_bytes(4, "big") + body) * 8, end=False)
        yield collections.Counter(streams=8)


@contextlib.contextmanager
def large_stream_messages(server, scale):
    """Streams of messages of two megabytes each."""
    seen, stop = streamed(server, 12, "a " * 970_000)
    try:
        yield seen
    finally:
        stop()


# --- who is in the way ------------------------------------------------------------------------------------------------------------


class ClosedWindow:
    """An HTTP/2 peer that answers pings and never lets a byte of an answer through."""

    def __init__(self, server):
        import h2.connection
        import h2.settings

        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.h2 = h2.connection.H2Connection()
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        self.socket.sendall(self.h2.data_to_send())
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.answer_pings, daemon=True)
        self.thread.start()
        self.stream = 1

    def open(self, path, content_type, body, end=True):
        with self.lock:
            headers = [(":method", "POST"), (":scheme", "http"), (":authority", "127.0.0.1"), (":path", path), ("content-type", content_type), ("te", "trailers")]
            self.h2.send_headers(self.stream, headers)
            for at in range(0, len(body), 16_000):
                self.h2.send_data(self.stream, body[at:at + 16_000])
            if end:
                self.h2.end_stream(self.stream)
            with contextlib.suppress(OSError):
                self.socket.sendall(self.h2.data_to_send())
            self.stream += 2

    def answer_pings(self):
        self.socket.settimeout(0.2)
        while not self.stopped.is_set():
            try:
                data = self.socket.recv(65_536)
                if not data:
                    return
                with self.lock:
                    self.h2.receive_data(data)
                    self.socket.sendall(self.h2.data_to_send())
            except TimeoutError:
                continue
            except Exception:  # noqa: BLE001: the server ended the connection, in whatever way: that is what it should do
                return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join(2)
        self.socket.close()


@contextlib.contextmanager
def unread_answers(server, scale):
    """Answers of some megabytes, each on a stream that does not take it."""
    body = json.dumps({"inputs": ["x"] * 500}).encode()
    with ClosedWindow(server) as peer:
        for _ in range(int(100 * scale) + 10):
            if len(body) > peer.h2.outbound_flow_control_window:
                break
            peer.open("/v1/embed", "application/json", body)
            time.sleep(0.02)
        yield collections.Counter(requests=peer.stream // 2)


def crowd(server, count, first, again=None):
    """`count` connections opened within about a second; `first` is sent on each, and `again` once a second."""
    sockets, stopped = [], threading.Event()

    def open_all():
        for _ in range(count):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            try:
                one.settimeout(5)
                one.connect(("127.0.0.1", server.port))
                one.setblocking(False)
                if first:
                    one.send(first)
            except OSError:
                pass
            sockets.append(one)
        while again and not stopped.wait(1):
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.send(again)

    opening = threading.Thread(target=open_all, daemon=True)
    opening.start()

    def close():
        stopped.set()
        opening.join(10)
        for one in sockets:
            one.close()

    return close


def crowd_of(name, first, again=None, note=""):
    @contextlib.contextmanager
    def attack(server, scale):
        close = crowd(server, max(50, int(3000 * scale)), first, again)
        try:
            yield collections.Counter(connections=int(3000 * scale))
        finally:
            close()

    attack.__name__ = name
    attack.__doc__ = note
    return attack


HEAD = b"POST /v1/ner HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
CROWDS = [
    crowd_of("idle_connections", b"", note="Connections that say nothing."),
    crowd_of("dripped_headers", b"POST /v1/ner HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ", b"a", "A byte of a header a second."),
    crowd_of("dripped_bodies", HEAD, b" ", "A byte of a body a second."),
    crowd_of("unread_pages", b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 30, note="Thirty answers asked for, none read."),
    crowd_of("half_open_http2", PREFACE + SETTINGS, note="HTTP/2's preface and settings, then silence."),
]


@contextlib.contextmanager
def unfinished_bodies(server, scale):
    """Bodies of two megabytes whose last bytes never come."""
    body = HEAD.replace(b"1000000", b"2097152") + b'"inputs": "' + b"a" * (2_097_152 - 1000)
    sockets = []

    def send(_):
        one = socket.create_connection(("127.0.0.1", server.port), timeout=2)
        sockets.append(one)
        try:
            one.sendall(body)
            return "sent"
        except TimeoutError:
            return "held back"

    with many(8, lambda at: send(at) if len(sockets) < 600 * scale else time.sleep(0.2) or "waits") as seen:
        yield seen
    for one in sockets:
        one.close()


SHARES = [long_texts, long_texts_to_the_same, many_callers, many_inputs, slow_words, slow_words_in_windows, large_strides, streams, unread_streams, large_stream_messages]
IN_THE_WAY = [unread_answers, unfinished_bodies, *CROWDS]


def one_pass_seconds(server):
    """A text of 512 tokens, on an idle server: the fastest of five."""
    body = {"inputs": "a " * 510}
    took = []
    for _ in range(5):
        began = time.monotonic()
        post(server, "/v1/embed", body)
        took.append(time.monotonic() - began)
    return min(took)


def check(attack, binary, adapters, seconds, scale, is_timed):
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        store = pathlib.Path(folder) / "adapters"
        shutil.copytree(adapters, store)
        with serving(binary, adapters=store) as server:
            post(server, "/v1/ner", {"inputs": "warm"})
            one_pass = one_pass_seconds(server)
            asks = SAME_ADAPTER.get(attack.__name__, ("/v1/classify", "sms-spam"))
            with Honest(server, asks) as alone:
                time.sleep(min(seconds, 4))
            with attack(server, scale) as seen:
                time.sleep(min(1, seconds / 4))
                with Honest(server, asks) as honest:
                    time.sleep(seconds)
                ready = readiness(server)
                said = dict(seen)
            peak = memory_peak_mib(server)
    bound = CROWD_P99_SECONDS if attack in IN_THE_WAY else 3 * alone.percentile(0.99) + one_pass
    problems = []
    if not honest.all_answered():
        problems.append("refused or failed")
    if is_timed and honest.percentile(0.99) > bound:
        problems.append("slow")
    if peak > MEMORY_MIB_MAX:
        problems.append("memory")
    if ready != 200:
        problems.append("not ready")
    print(
        f"{attack.__name__:22} honest {dict(honest.statuses)} p50 {1e3 * honest.percentile(0.5):.0f} p99 {1e3 * honest.percentile(0.99):.0f} ms"
        f" (alone {1e3 * alone.percentile(0.5):.0f}, {1e3 * alone.percentile(0.99):.0f}; bound {1e3 * bound:.0f}); peak {peak} MiB;"
        f" ready {ready}; the others {said}: {', '.join(problems) or 'ok'}",
        flush=True,
    )
    return not problems


def readiness(server):
    try:
        server.call("GET", "/readyz")
        return 200
    except Exception as error:  # noqa: BLE001: whatever it is, it is not 200
        return repr(error)[:60]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=None)
    parser.add_argument("--adapters", type=pathlib.Path, default=ROOT / "adapters")
    parser.add_argument("--only", default="", help="names of attacks, with commas")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = set(filter(None, arguments.only.split(",")))
    attacks = [attack for attack in [*SHARES, *IN_THE_WAY] if not wanted or attack.__name__ in wanted]
    if not attacks:
        sys.exit(f"no attack is called so; there are {', '.join(attack.__name__ for attack in [*SHARES, *IN_THE_WAY])}")
    seconds, scale = (1.5, 0.1) if arguments.short else (arguments.seconds, 1)
    binary = arguments.binary or default_binary()
    held = [check(attack, binary, arguments.adapters, seconds, scale, not arguments.short) for attack in attacks]
    print(f"{sum(held)} of {len(held)} held")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
