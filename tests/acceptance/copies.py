"""Many different adapters of the shipped ones: their weights turned, their labels renamed, another rank if wanted."""

import hashlib
import json
import pathlib
import struct

from server import ROOT

FILES = ("adapter_config.json", "adapter_model.safetensors", "trunkline.json")


def copy(store, name, shipped, at, rank=None):
    """The version folder of `shipped` as adapter `name`, number `at`: as finite as the first, of the same or another rank."""
    source = ROOT / "adapters" / shipped / "versions" / "1"
    files = {file: (source / file).read_bytes() for file in FILES}
    card = json.loads(files["trunkline.json"])
    labels = [label if label == "O" else f"{label}-{at}" for label in card["labels"]]
    files["trunkline.json"] = json.dumps({**card, "labels": labels}).encode()
    files["adapter_model.safetensors"] = turned(files["adapter_model.safetensors"], at, rank)
    if rank:
        config = json.loads(files["adapter_config.json"])
        files["adapter_config.json"] = json.dumps({**config, "r": rank, "lora_alpha": 2 * rank}).encode()
    folder = pathlib.Path(store) / name / "versions" / "1"
    folder.mkdir(parents=True)
    for file, contents in files.items():
        (folder / file).write_bytes(contents)
    (folder / "version.json").write_text(json.dumps({"version": 1, "digest": digest(files), "created_at": 1}))
    (folder.parent.parent / "current").write_text("1\n")


def turned(raw, by, rank):
    """The tensors of a safetensors file, each turned by some numbers, repeated or cut to the rank."""
    (header_bytes,) = struct.unpack("<Q", raw[:8])
    header, start = json.loads(raw[8:8 + header_bytes]), 8 + header_bytes
    entries, body = {}, bytearray()
    for name, entry in header.items():
        if name == "__metadata__":
            entries[name] = entry
            continue
        begin, end = (start + offset for offset in entry["data_offsets"])
        cut = begin + 4 * (by % ((end - begin) // 4))
        numbers, shape = raw[cut:end] + raw[begin:cut], list(entry["shape"])
        if rank and "lora_" in name:
            shape[0 if "lora_A" in name else 1] = rank
            wanted = 4 * shape[0] * shape[1]
            numbers = (numbers * (wanted // len(numbers) + 1))[:wanted]
        entries[name] = {**entry, "shape": shape, "data_offsets": [len(body), len(body) + len(numbers)]}
        body += numbers
    packed = json.dumps(entries).encode()
    packed += b" " * (-len(packed) % 8)
    return struct.pack("<Q", len(packed)) + packed + bytes(body)


def digest(files):
    """Of a version: see adapters/README.md."""
    sha = hashlib.sha256()
    for name in FILES:
        sha.update(name.encode() + b"\0" + struct.pack("<Q", len(files[name])) + files[name])
    return "sha256:" + sha.hexdigest()
