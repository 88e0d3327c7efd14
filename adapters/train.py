#!/usr/bin/env python3
"""Trains the adapters of this folder through the server's own jobs.

    cargo build --release
    adapters/train.py --data DATA_DIR [--only NAME]

Each starts from its family's primary, on the default backbone.
DATA_DIR holds FAMILY/SET/{train,dev,test}.jsonl.gz and an index.json that names each set's licence. Only sets of the classes
`open` and `share-alike` are used; source and licence go into the adapter's CARD.md with the figures of the job's report.
"""

import argparse
import gzip
import json
import pathlib
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "acceptance"))
from server import default_binary, serving  # noqa: E402

# name, family, data sets (their rows are joined), what it is for
RECIPES = [
    ("everyday-entities", "ner", ["btc", "uner_ewt", "tweebank_ner", "wikigold", "redocred_ner"], "people, places and organisations in everyday text"),
    ("assistant-slots", "ner", ["hwu64_slots"], "dates, times, people, places and things in commands to an assistant"),
    ("bank-intents", "classify", ["banking77"], "what a bank's customer wants (77 intents)"),
    ("assistant-intents", "classify", ["clinc150"], "what a user of an assistant wants (150 intents, and out of scope)"),
    ("emotion", "classify", ["goemotions"], "the emotion of a comment (27, and neutral)"),
    ("sms-spam", "classify", ["sms_spam"], "spam or not, in short messages"),
]
# The last two layers, which are the primaries' own: one text through many of these adapters shares the four below. The adapter that
# answers when nobody names one is worth all layers.
HYPERPARAMETERS = {"layers": "last:2"}
OF_ITS_OWN = {"everyday-entities": {"layers": "all", "epochs": 4}}
# People type without capitals: every so many training rows are there once more in lower case. (The default backbone's tokenizer lower-cases
# all text, so on it such a row just counts twice; on a cased one it is another row.)
LOWERED = {"everyday-entities": 5}
ALIASES = {"default-ner": "everyday-entities", "default-classify": "emotion"}
# What people type, and the entities they would expect; none of it is in the data, and nothing was chosen by it.
SENTENCES = {
    "everyday-entities": [
        ("Satya Nadella spoke at Microsoft in Redmond", "PER Satya Nadella, ORG Microsoft, LOC Redmond"),
        ("Lufthansa cancelled my flight from Berlin to New York", "ORG Lufthansa, LOC Berlin, LOC New York"),
        ("Apple opened a new store in Munich yesterday", "ORG Apple, LOC Munich"),
        ("can you call mum and tell her i am late", ""),
        ("Meet Anna Kowalska from Siemens in Kraków on Friday", "PER Anna Kowalska, ORG Siemens, LOC Kraków"),
        ("did you see what elon musk said about tesla again", "PER elon musk, ORG tesla"),
        ("Dear Mr Okafor, your parcel from Amazon is at the post office", "PER Okafor, ORG Amazon"),
        ("We are moving from Leeds to Manchester next month", "LOC Leeds, LOC Manchester"),
        ("Taylor Swift plays Wembley Stadium in London tonight", "PER Taylor Swift, LOC Wembley Stadium, LOC London"),
        ("my card was declined at Tesco twice", "ORG Tesco"),
        ("The United Nations called for a ceasefire in Sudan", "ORG United Nations, LOC Sudan"),
        ("lunch with Priya and Tom at noon?", "PER Priya, PER Tom"),
        ("Where can I park near Heathrow?", "LOC Heathrow"),
        ("Real Madrid beat Bayern Munich 2-1", "ORG Real Madrid, ORG Bayern Munich"),
        ("Please forward the invoice to Dr. Ingrid Larsen", "PER Ingrid Larsen"),
        ("the wifi on the third floor is broken again", ""),
        ("Angela Merkel grew up in East Germany", "PER Angela Merkel, LOC East Germany"),
        ("IBM and Red Hat announced a partnership with the University of Toronto", "ORG IBM, ORG Red Hat, ORG University of Toronto"),
        ("thanks @sarah, see you in paris!", "PER sarah, LOC paris"),
        ("Toyota recalls 200,000 cars in Japan and the United States", "ORG Toyota, LOC Japan, LOC United States"),
    ],
}
LICENCES = {"open", "share-alike"}
# One naming for the types that the joined sets share; types outside it are left out of the joined data.
SHARED_TYPES = {"PER": "PER", "PERSON": "PER", "person": "PER", "LOC": "LOC", "location": "LOC", "ORG": "ORG", "organization": "ORG", "MISC": None, "TIME": None, "NUM": None}


def rows_of(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def joined(data, family, sets, split):
    rows = []
    for name in sets:
        path = data / family / name / f"{split}.jsonl.gz"
        if path.exists():
            rows += [unified(row) if len(sets) > 1 else row for row in rows_of(path)]
    return rows


def unified(row):
    """Tags in the shared naming; an unknown type is a mistake of the recipe, not of the data."""
    def tag(text):
        if text == "O":
            return text
        prefix, label = text.split("-", 1)
        shared = SHARED_TYPES[label]
        return f"{prefix}-{shared}" if shared else "O"
    return {"tokens": row["tokens"], "tags": [tag(t) for t in row["tags"]]}


def licences(data, family, sets):
    index = json.loads((data / "index.json").read_text())["sets"]
    found = {name: index[f"{family}/{name}"] for name in sets}
    for name, entry in found.items():
        if entry["licence_class"] not in LICENCES:
            sys.exit(f"{name}: licence class {entry['licence_class']} may not be published")
    return found


def job_of(name, family, wanted):
    """A primary brings its rank along."""
    job = {"kind": "fine_tune", "adapter": name, "family": family, "data": wanted, "init_from": f"{family}-primary"}
    return {**job, "hyperparameters": OF_ITS_OWN.get(name, HYPERPARAMETERS)}


def train(server, data, name, family, sets):
    wanted = {}
    for split, part in (("train", "train"), ("dev", "validation"), ("test", "test")):
        rows = joined(data, family, sets, split)
        if part == "train" and name in LOWERED:
            rows += [{**row, "tokens": [token.lower() for token in row["tokens"]]} for row in rows[::LOWERED[name]]]
        if rows:
            body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            server.call("PUT", f"/v1/admin/datasets/{name}?family={family}&split={split}", body)
            wanted[part] = f"{name}:{split}"
    began = time.monotonic()
    job = server.call("POST", "/v1/admin/jobs", job_of(name, family, wanted))
    for event in server.events(job["id"]):
        if (event.get("data") or {}).get("validation"):
            print(f"{name}: step {event['data']['step']} validation {event['data']['validation']}", flush=True)
    job = server.call("GET", f"/v1/admin/jobs/{job['id']}")
    if job["status"] != "succeeded":
        sys.exit(f"{name}: {job['status']}: {job['error']}")
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return job, server.call("GET", f"/v1/admin/jobs/{job['id']}/report")


def figures(part):
    if "ner" in part:
        ner = part["ner"]
        return f"entity F1 {ner['micro']['f1']:.3f} (precision {ner['micro']['precision']:.3f}, recall {ner['micro']['recall']:.3f}, macro F1 {ner['macro_average']['f1']:.3f})"
    figures_ = part["classification"]
    return f"accuracy {figures_['accuracy']:.3f}, macro F1 {figures_['macro_average']['f1']:.3f}"


def sentences(server, name):
    """A table of what the adapter finds in its sentences."""
    asked = SENTENCES.get(name, [])
    if not asked:
        return []
    inputs = [text for text, _ in asked]
    results = server.call("POST", "/v1/ner", {"inputs": inputs, "adapter": name})["results"]
    found = [", ".join(f"{entity['entity_group']} {entity['word']}" for entity in result["entities"]) for result in results]
    right = sum(one == wanted for one, (_, wanted) in zip(found, asked))
    lines = ["", "## Sentences of the kinds people type", "", f"{right} of {len(asked)} as expected.", "", "| text | found | expected, where it differs |", "| --- | --- | --- |"]
    return lines + [f"| {text} | {one or '–'} | {'' if one == wanted else wanted or '–'} |" for one, (text, wanted) in zip(found, asked)]


def card(folder, name, family, purpose, job, report, sources, spoken):
    lines = [f"# {name}", "", f"{'NER' if family == 'ner' else 'Classification'}: {purpose}.", ""]
    lines += [f"- version {job['result']['version']}, `{job['result']['digest']}`"]
    lines += [f"- {part}: {figures(report[part])}, {report[part]['rows']} rows" for part in ("validation", "test") if report.get(part)]
    calibration = report.get("calibration")
    if calibration:
        lines.append(f"- calibrated on the validation rows: expected calibration error {calibration['ece_before']:.3f} before, {calibration['ece_after']:.3f} after")
    lines += [f"- warning: {warning}" for warning in report.get("warnings") or []]
    lines += spoken
    lines += ["", "## Data", ""]
    for source, entry in sources.items():
        lines.append(f"- {source}: {entry['licence']} ({entry['licence_class']}). {entry['citation']}")
    lines += ["", f"Trained by `adapters/train.py --only {name}` from `{family}-primary`; hyper-parameters and seed are in `trunkline.json`.", ""]
    (folder / name / "CARD.md").write_text("\n".join(lines), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--binary", default=None)
    parser.add_argument("--only", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trunkline-train-") as state:
        with serving(arguments.binary or default_binary(), adapters=HERE, state=pathlib.Path(state)) as server:
            for name, family, sets, purpose in RECIPES:
                if arguments.only in (None, name):
                    sources = licences(arguments.data, family, sets)
                    job, report = train(server, arguments.data, name, family, sets)
                    card(HERE, name, family, purpose, job, report, sources, sentences(server, name))
            known = {adapter["name"] for adapter in server.call("GET", "/v1/adapters")["data"]}
            for alias, target in ALIASES.items():
                if target in known:
                    server.call("PUT", f"/v1/admin/aliases/{alias}", {"targets": [{"adapter": target, "weight": 1}]})


if __name__ == "__main__":
    main()
