//! Training data: every format, everything the doctor finds, and the store.

mod bounds;
mod cases;
mod formats;
mod readings;
mod refusals;
mod store;

use trunkline::training::dataset::{DatasetFamily, DoctorReport, Example, Finding, Split, read};

use DatasetFamily::{Classify, Ner, Pairs};

/// What training reads at most in these tests, in words.
const MAX_LENGTH: usize = 8;

fn examine(family: DatasetFamily, bytes: &[u8]) -> (DoctorReport, Option<Split>) {
    read(family, bytes, &[], MAX_LENGTH).expect("bytes that can be unpacked")
}

/// The split of data that must be accepted.
fn accepted(family: DatasetFamily, bytes: &[u8]) -> Split {
    let (report, split) = examine(family, bytes);
    split.unwrap_or_else(|| panic!("{:?}", report.errors))
}

fn finding<'a>(findings: &'a [Finding], code: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.code == code).unwrap_or_else(|| panic!("no {code} in {findings:?}"))
}

/// `Meet/O Anna/B-PER`, one row a line; `text → label|label`; `a ~ b → label score`.
fn show(split: &Split) -> String {
    let row = |example: &Example| match example {
        Example::Ner { words, tags } => {
            let pairs = words.iter().zip(tags).map(|(word, tag)| format!("{word}/{tag}"));
            pairs.collect::<Vec<_>>().join(" ")
        }
        Example::Classify { text, text_pair, labels } => {
            let pair = text_pair.as_ref().map(|pair| format!(" + {pair}")).unwrap_or_default();
            format!("{text}{pair} → {}", labels.join("|"))
        }
        Example::Pair { a, b, label, score } => {
            let score = score.map(|score| score.to_string()).unwrap_or_default();
            format!("{a} ~ {b} → {} {score}", label.as_deref().unwrap_or_default())
        }
    };
    split.examples.iter().map(row).collect::<Vec<_>>().join("\n")
}
