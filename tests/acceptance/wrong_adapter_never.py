#!/usr/bin/env python3
"""Eight clients send known texts to six adapters while a seventh is uploaded, activated, rolled back and deleted in a loop.

Every answer must carry the version that made it and equal that version's answer computed alone (1e-4); no request may fail.

    tests/acceptance/wrong_adapter_never.py [--seconds 60] [--clients 8]
"""

import argparse
import io
import json
import random
import struct
import sys
import tarfile
import threading
import time

from server import ROOT, Failure, default_binary, serving

FIXTURES = ROOT / "tests" / "fixtures" / "peft"
TEXTS = [
    "Meet Anna Kowalska at the Hilton in Kraków on Friday at 3pm.",
    "my card still hasn't arrived, what should I do?",
    "EU rejects German call to boycott British lamb.",
    "book a table for four at a cheap italian place near the station tonight",
    "🙂 thanks!",
    "",
]
TOLERANCE = 1e-4


def archive(folder, scale):
    """The PEFT folder as .tar, its lora_B weights multiplied by `scale`: another version of the same adapter."""
    raw = (folder / "adapter_model.safetensors").read_bytes()
    (header_bytes,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8:8 + header_bytes]), bytearray(raw[8 + header_bytes:])
    for name, entry in header.items():
        if "lora_B" in name:
            begin, end = entry["data_offsets"]
            numbers = struct.unpack(f"<{(end - begin) // 4}f", body[begin:end])
            body[begin:end] = struct.pack(f"<{(end - begin) // 4}f", *(scale * number for number in numbers))
    files = {"adapter_config.json": (folder / "adapter_config.json").read_bytes(), "adapter_model.safetensors": raw[:8 + header_bytes] + bytes(body)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def upload(server, name, folder, scale, activate=True):
    labels = ",".join(json.loads((folder / "expected.json").read_text())["labels"])
    return server.call("PUT", f"/v1/admin/adapters/{name}?activate={str(activate).lower()}&labels={labels}", archive(folder, scale))


def scores(family, answer):
    """One flat list of (what, score) of an answer."""
    result = answer["results"][0]
    if family == "classify":
        return sorted((label["label"], label["score"]) for label in result["labels"])
    return [(f"{e['start']}-{e['end']} {e['entity']}", e["score"]) for e in result["entities"]]


def same(one, other):
    return len(one) == len(other) and all(a[0] == b[0] and abs(a[1] - b[1]) <= TOLERANCE for a, b in zip(one, other))


def ask(server, connection, family, adapter, text):
    parameters = {"aggregation_strategy": "none"} if family == "ner" else {}
    body = {"inputs": text, "adapter": adapter, "parameters": parameters}
    return server.call("POST", f"/v1/{family}", body, connection=connection)


def references(server, names):
    """Answers of each adapter version alone, before any other load: digest → text → scores."""
    table = {}
    for name, family in names:
        for text in TEXTS:
            answer = ask(server, None, family, name, text)
            table.setdefault(answer["adapter"]["digest"], {})[text] = scores(family, answer)
    return table


def client(server, seed, names, table, end, faults, counts):
    draw, connection = random.Random(seed), server.connect()
    while time.monotonic() < end and len(faults) < 20:
        (name, family), text = draw.choice(names), draw.choice(TEXTS)
        try:
            answer = ask(server, connection, family, name, text)
        except (Failure, OSError) as error:
            faults.append(f"{name}: {error!r}")
            connection = server.connect()
            continue
        wanted = table.get(answer["adapter"]["digest"])
        if wanted is None or answer["adapter"]["name"] != name:
            faults.append(f"{name}: answered by an unknown version {answer['adapter']}")
        elif not same(scores(family, answer), wanted[text]):
            faults.append(f"{name}: {answer['adapter']} answers {text!r} otherwise than alone")
        counts[seed] += 1


def churn(server, folder, end, faults, table, counts):
    """The seventh adapter: uploaded twice, rolled back, promoted, asked, deleted; again and again."""
    family, connection = "ner", server.connect()
    while time.monotonic() < end and len(faults) < 20:
        try:
            first = upload(server, "seventh", folder, 1.0)
            second = upload(server, "seventh", folder, -1.0)
            for version, digest in ((second["version"], second["digest"]), (first["version"], first["digest"])):
                server.call("POST", "/v1/admin/adapters/seventh/activate", {"version": version})
                answer = ask(server, connection, family, "seventh", TEXTS[0])
                if answer["adapter"]["version"] != version or answer["adapter"]["digest"] != digest:
                    faults.append(f"seventh: version {version} activated, {answer['adapter']} answered")
                known = table.setdefault("seventh" + digest, scores(family, answer))
                if not same(scores(family, answer), known):
                    faults.append(f"seventh: {digest} answers otherwise than before")
            server.call("DELETE", "/v1/admin/adapters/seventh")
            counts["loops"] = counts.get("loops", 0) + 1
        except (Failure, OSError) as error:
            faults.append(f"seventh: {error!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    folders = sorted(path for path in FIXTURES.iterdir() if path.is_dir())
    names = [(f"six-{i}", "ner" if folders[i % 4].name.startswith("ner") else "classify") for i in range(6)]
    with serving(arguments.binary or default_binary()) as server:
        for i, (name, _family) in enumerate(names):
            upload(server, name, folders[i % 4], 1.0 if i < 4 else 0.5)
        table, faults, counts = references(server, names), [], dict.fromkeys(range(arguments.clients), 0)
        end = time.monotonic() + arguments.seconds
        threads = [threading.Thread(target=client, args=(server, seed, names, table, end, faults, counts)) for seed in range(arguments.clients)]
        threads.append(threading.Thread(target=churn, args=(server, FIXTURES / "ner-r8-qv", end, faults, table, counts)))
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        asked, loops = sum(counts[seed] for seed in range(arguments.clients)), counts.get("loops", 0)
    print(f"{asked} answers from {len(names)} adapters checked against the version they name, {loops} publish/roll-back/delete loops, {len(faults)} faults")
    for fault in faults[:10]:
        print("fault:", fault)
    sys.exit(1 if faults or not asked or not loops else 0)


if __name__ == "__main__":
    main()
