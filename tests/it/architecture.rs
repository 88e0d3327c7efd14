//! The layer table of `src/README.md`, held against the code.

use std::fs;
use std::path::Path;

/// Bottom first. A layer names itself and the layers beside it; `app` may name all.
const LAYERS: [(&str, &str); 11] = [
    ("domain", ""),
    ("telemetry", ""),
    ("disk", "domain"),
    ("text", "domain disk"),
    ("model", "domain disk"),
    ("backbone", "domain disk"),
    ("adapter", "domain disk model"),
    ("engine", "domain telemetry model adapter"),
    ("training", "domain telemetry text model adapter"),
    ("serving", "domain telemetry disk text adapter engine training"),
    ("transport", "domain telemetry serving"),
];

/// An outside crate that shapes the code around it stays with its owners.
const OWNERS: [(&str, &str); 23] = [
    ("axum", "transport"),
    ("hyper", "transport"),
    ("tonic", "transport"),
    ("prost", "transport"),
    ("utoipa", "transport"),
    ("tokenizers", "text"),
    ("candle_core", "model adapter engine training"),
    ("candle_nn", "model training"),
    ("gemm", "model"),
    ("pulp", "model"),
    ("half", "model"),
    ("ureq", "backbone"),
    ("zip", "backbone"),
    ("tar", "adapter"),
    ("csv", "training"),
    ("parquet", "training"),
    ("chardetng", "training"),
    ("encoding_rs", "training"),
    ("hashlink", "engine serving"),
    ("rusqlite", "serving"),
    ("prometheus", "telemetry"),
    ("clap", "app"),
    ("rustix", "app"),
];

const UNSAFE: &str = "src/model/kernels/";
const GENERATED: &str = "src/transport/proto/";

#[test]
fn every_layer_names_only_what_it_may() {
    let mut faults = Vec::new();
    for (layer, below) in LAYERS {
        visit(&Path::new("src").join(layer), &mut |file, code| {
            let mut fault = |what: String| faults.push(format!("{file}: {what}"));
            for (other, _) in LAYERS {
                let known = other == layer || has_word(below, other);
                if !known && mentions(code, &format!("crate::{other}")) {
                    fault(format!("{layer} names {other}"));
                }
            }
            for (outside, owners) in OWNERS {
                if !has_word(owners, layer) && mentions(code, &format!("{outside}::")) {
                    fault(format!("{outside} belongs to {owners}"));
                }
            }
            if code.contains("crate::{") {
                fault("one `use crate::layer::…` for each layer".into());
            }
            if code.contains("allow(unsafe_code)") && !file.starts_with(UNSAFE) {
                fault(format!("unsafe lives in {UNSAFE}"));
            }
            if !code.starts_with("//!") && !file.starts_with(GENERATED) {
                fault("opens without a `//!` line".into());
            }
        });
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn has_word(words: &str, word: &str) -> bool {
    words.split(' ').any(|w| w == word)
}

/// Whether `code` holds `path` as a path, not as a part of a longer name.
fn mentions(code: &str, path: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(path).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + path.len()..]);
        !before.ends_with(|c| joins(c) || c == ':') && (path.ends_with(':') || !after.starts_with(joins))
    })
}

fn visit(folder: &Path, check: &mut impl FnMut(&str, &str)) {
    for entry in fs::read_dir(folder).expect("every layer has a folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            visit(&path, check);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let code = fs::read_to_string(&path).expect("a readable file");
            check(&path.display().to_string(), &code);
        }
    }
}
