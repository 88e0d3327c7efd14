//! Datasets on disk: versions, refusals, and nothing half written.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use trunkline::domain::{Error, ErrorKind};
use trunkline::serving::DatasetService;

use super::{Classify, Ner, Pairs, show};

const TRAIN: &[u8] = b"text,label\na,x\nb,y\n";
const DEV: &[u8] = b"text,label\na,x\nc,y\n";

fn service() -> (TempDir, DatasetService) {
    let folder = tempfile::tempdir().expect("a folder");
    let service = DatasetService::open(folder.path().join("datasets")).expect("a store");
    (folder, service)
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, words: &str) {
    let error = result.expect_err("a failure");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error} lacks {words:?}");
}

#[test]
fn what_is_put_is_read_back_also_by_the_next_process() {
    let (folder, service) = service();
    let put = service.put("mail", Classify, "train", TRAIN).expect("accepted");
    assert_eq!((put.rows, put.version, put.report.rows), (2, 1, 2));
    assert!(put.digest.starts_with("sha256:"), "{}", put.digest);
    let dev = service.put("mail", Classify, "dev", DEV).expect("accepted");
    assert_eq!(super::finding(&dev.report.warnings, "leakage").lines, [2]);
    let next = DatasetService::open(folder.path().join("datasets")).expect("the same store");
    let (family, split, digest) = next.read(&"mail:train".parse().expect("a reference")).expect("there");
    assert_eq!((family, show(&split).as_str(), digest), (Classify, "a → x\nb → y", put.digest.clone()));
    let info = next.get("mail").expect("there");
    assert_eq!(info.splits, [dev, put]);
    assert_eq!(next.list().expect("a list"), [info]);
}

#[test]
fn a_split_put_again_is_replaced_and_its_version_counts_up() {
    let (folder, service) = service();
    let first = service.put("mail", Classify, "train", TRAIN).expect("accepted");
    let second = service.put("mail", Classify, "train", b"text,label\nd,x\ne,y\n").expect("accepted");
    assert_eq!(second.version, 2);
    assert_ne!(first.digest, second.digest);
    assert_eq!(files(&folder.path().join("datasets/mail")), ["dataset.json", "train.2.jsonl.zst"]);
    let same =
        service.put("mail", Classify, "train", b"{\"text\":\"d\",\"label\":\"x\"}\n{\"text\":\"e\",\"label\":\"y\"}");
    assert_eq!(same.expect("accepted").digest, second.digest, "the digest is of the rows, not of their format");
}

#[test]
fn refused_data_changes_nothing_and_lists_all_problems() {
    let (folder, service) = service();
    let broken =
        b"{\"tokens\":[\"a\"],\"tags\":[\"Q-X\"]}\n{\"tokens\":1}\n{\"text\":\"ab\",\"entities\":[[0,1,\"X\"]]}\n";
    let error = service.put("mail", Ner, "train", broken).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unprocessable);
    let starts = ["unreadable_row (1; line 2)", "tag_scheme (1; line 1)", "misaligned_span (1; line 3)"];
    for (problem, start) in error.problems().iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }
    assert_eq!(error.problems().len(), starts.len());
    assert_eq!(files(&folder.path().join("datasets")), [""; 0]);
    service.put("mail", Classify, "train", TRAIN).expect("accepted");
    fails(service.put("mail", Classify, "train", b"text,label\n"), ErrorKind::Unprocessable, "empty_split");
    assert_eq!(service.get("mail").expect("there").splits[0].version, 1);
}

#[test]
fn one_dataset_is_of_one_family() {
    let (_folder, service) = service();
    service.put("mail", Classify, "train", TRAIN).expect("accepted");
    fails(service.put("mail", Ner, "dev", b"a B-X\n"), ErrorKind::Conflict, "family \"classify\"");
    fails(service.put("mail", Pairs, "train", b"{\"a\":\"x\",\"b\":\"y\"}"), ErrorKind::Conflict, "family");
}

#[test]
fn what_is_not_there_is_not_found_with_what_is() {
    let (_folder, service) = service();
    fails(service.get("mail"), ErrorKind::NotFound, "there is none");
    service.put("mail", Classify, "train", TRAIN).expect("accepted");
    fails(service.get("male"), ErrorKind::NotFound, "there is mail");
    fails(service.read(&"mail:test".parse().expect("a reference")), ErrorKind::NotFound, "it has train");
    fails(service.delete("../mail"), ErrorKind::NotFound, "no dataset");
    service.delete("mail").expect("there");
    fails(service.get("mail"), ErrorKind::NotFound, "there is none");
    let again = service.put("mail", Ner, "train", b"a B-X\n").expect("a new dataset of another family");
    assert_eq!(again.version, 1);
}

#[test]
fn names_are_of_the_alphabet_of_adapter_names() {
    let (_folder, service) = service();
    for name in ["", ".", "..", "../x", "a/b", "a b", ".tmp-x", "-a", "ä", "a\0", &"a".repeat(129)] {
        fails(service.put(name, Classify, "train", TRAIN), ErrorKind::InvalidRequest, "dataset name");
        fails(service.put("mail", Classify, name, TRAIN), ErrorKind::InvalidRequest, "split name");
    }
    service.put("A.b_c-1", Classify, "1.x", TRAIN).expect("allowed");
}

#[test]
fn splits_of_one_dataset_are_bounded() {
    let (_folder, service) = service();
    for split in 0..16 {
        service.put("mail", Pairs, &format!("s{split}"), b"{\"a\":\"x\",\"b\":\"y\"}").expect("accepted");
    }
    fails(service.put("mail", Pairs, "s16", b"{\"a\":\"x\",\"b\":\"y\"}"), ErrorKind::Conflict, "16 splits");
    service.put("mail", Pairs, "s3", b"{\"a\":\"x\",\"b\":\"y\"}").expect("a split that is there may be replaced");
}

#[test]
fn what_an_interrupted_upload_left_is_swept_and_damage_is_noticed() {
    let (folder, service) = service();
    service.put("mail", Classify, "train", TRAIN).expect("accepted");
    service.put("news", Classify, "train", TRAIN).expect("accepted");
    let root = folder.path().join("datasets");
    fs::create_dir(root.join(".tmp-abc")).expect("a folder");
    fs::write(root.join(".tmp-abc/train.1.jsonl.zst"), b"half").expect("a file");
    fs::write(root.join("mail/.tmp-def"), b"half").expect("a file");
    fs::write(root.join("mail/train.2.jsonl.zst"), b"half").expect("a file");
    let service = DatasetService::open(root.clone()).expect("the same store");
    assert_eq!(files(&root), ["mail", "news"]);
    assert_eq!(files(&root.join("mail")), ["dataset.json", "train.1.jsonl.zst"]);
    fs::write(root.join("mail/train.1.jsonl.zst"), b"{\"text\":\"a\",\"label\":\"z\"}\n").expect("a file");
    fails(service.read(&"mail:train".parse().expect("a reference")), ErrorKind::Unavailable, "damaged");
    fs::write(root.join("mail/dataset.json"), b"{").expect("a file");
    fails(service.get("mail"), ErrorKind::Unavailable, "damaged");
    let listed: Vec<_> = service.list().expect("a list").into_iter().map(|dataset| dataset.name).collect();
    assert_eq!(listed, ["news"]);
    service.delete("mail").expect("a damaged dataset can be deleted");
}

/// Mounting needs root; elsewhere only the mapping of the error is tested, beside `storage_error`.
#[test]
fn a_full_disk_refuses_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mount = |arguments: &[&str]| {
        Command::new(arguments[0]).args(&arguments[1..]).arg(folder.path()).output().is_ok_and(|o| o.status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]) {
        eprintln!("skipped: a tmpfs cannot be mounted here");
        return;
    }
    let tested = std::panic::catch_unwind(|| {
        let service = DatasetService::open(folder.path().join("datasets")).expect("a store");
        service.put("mail", Classify, "train", TRAIN).expect("room for two rows");
        let mut seed = 1u64;
        let mut word = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{seed:x}")
        };
        let rows: String =
            (0..20_000).map(|n| format!("{} {},{}\n", word(), word(), if n % 2 == 0 { "x" } else { "y" })).collect();
        let large = format!("text,label\n{rows}");
        for (name, split) in [("mail", "train"), ("mail", "dev"), ("news", "train")] {
            let refused = service.put(name, Classify, split, large.as_bytes());
            fails(refused, ErrorKind::Unavailable, "no space left");
        }
        assert_eq!(files(&folder.path().join("datasets")), ["mail"]);
        assert_eq!(files(&folder.path().join("datasets/mail")), ["dataset.json", "train.1.jsonl.zst"]);
        assert_eq!(service.get("mail").expect("untouched").splits.len(), 1);
    });
    assert!(mount(&["umount"]), "unmounted");
    tested.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}
