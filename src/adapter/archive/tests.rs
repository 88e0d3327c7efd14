//! What an upload may and may not hold.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::domain::ErrorKind as Kind;

fn files() -> AdapterFiles {
    AdapterFiles {
        config: b"{}".to_vec(),
        weights: vec![7; 3000],
        card: Some(b"{\"card\": 1}".to_vec()),
        concepts: None,
    }
}

/// An archive of plain files; names go in as they are, however bad.
fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    tar_of(entries.iter().map(|&(name, contents)| (name, EntryType::Regular, contents)))
}

fn tar_of<'a>(entries: impl IntoIterator<Item = (&'a str, EntryType, &'a [u8])>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, contents) in entries {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        builder.append(&header, contents).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn check_refused(archive: &[u8], kind: Kind, expected: &str) {
    let error = read_archive(archive).expect_err(expected);
    assert!(error.kind() == kind && error.to_string().contains(expected), "wanted {expected:?}, got {error}");
}

#[test]
fn what_is_written_is_read_and_written_the_same() {
    let tar = write_tar(&files()).unwrap();
    assert_eq!(read_archive(&tar).unwrap(), files());
    assert_eq!(read_archive(&gzip(&tar)).unwrap(), files());
    assert_eq!(write_tar(&read_archive(&tar).unwrap()).unwrap(), tar);
    let bare = AdapterFiles { card: None, ..files() };
    assert_eq!(read_archive(&write_tar(&bare).unwrap()).unwrap(), bare);
}

#[test]
fn one_folder_and_the_files_that_trainers_add_are_fine() {
    for (folder, extra) in [
        ("", ""),
        ("./", ""),
        ("my adapter/", ""),
        ("./a/", ""),
        ("a/", "a/README.md"),
        ("", "tokenizer.json"),
        ("", "._x"),
    ] {
        let (config, weights) = (format!("{folder}adapter_config.json"), format!("{folder}adapter_model.safetensors"));
        let mut entries = vec![("./", EntryType::Directory, &b""[..])];
        entries.extend((folder.len() > 2).then_some((folder, EntryType::Directory, &b""[..])));
        entries.extend((!extra.is_empty()).then_some((extra, EntryType::Regular, &b"extra"[..])));
        entries.extend([(&*config, EntryType::Regular, &b"{}"[..]), (&*weights, EntryType::Regular, &b"w"[..])]);
        let read = read_archive(&tar_of(entries)).unwrap();
        assert_eq!((&*read.config, &*read.weights, read.card), (&b"{}"[..], &b"w"[..], None), "{folder:?} {extra:?}");
    }
}

#[test]
fn a_path_that_leaves_the_folder_is_refused() {
    for path in [
        "../adapter_config.json",
        "a/../../adapter_config.json",
        "a/../adapter_config.json",
        "/adapter_config.json",
        "/etc/passwd",
        "a\\..\\adapter_config.json",
        "a/b/adapter_config.json",
    ] {
        check_refused(
            &tar(&[(path, b"{}"), ("adapter_model.safetensors", b"w")]),
            Kind::Unprocessable,
            "archive entry",
        );
    }
}

#[test]
fn only_plain_files_are_taken() {
    for kind in
        [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse]
    {
        let archive =
            tar_of([("adapter_config.json", kind, &b""[..]), ("adapter_model.safetensors", EntryType::Regular, b"w")]);
        assert_eq!(read_archive(&archive).unwrap_err().kind(), Kind::Unprocessable, "{kind:?}");
    }
}

#[test]
fn pickles_strangers_doubles_and_second_folders_are_refused_by_name() {
    let with =
        |name: &'static str| tar(&[("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"w"), (name, b"x")]);
    for (name, expected) in [
        ("adapter_model.bin", "safetensors only"),
        ("weights.pth", "pickle"),
        ("run.sh", "none of the files"),
        ("adapter_config.json", "there twice"),
        ("other/adapter_config.json", "one of two folders"),
    ] {
        check_refused(&with(name), Kind::Unprocessable, expected);
    }
}

#[test]
fn what_is_missing_is_named() {
    check_refused(&tar(&[("adapter_config.json", b"{}")]), Kind::Unprocessable, "adapter_model.safetensors is missing");
    check_refused(&tar(&[]), Kind::Unprocessable, "adapter_config.json is missing");
    check_refused(b"", Kind::Unprocessable, "is missing");
}

#[test]
fn what_is_no_archive_or_a_damaged_one_is_refused() {
    let whole = gzip(&write_tar(&files()).unwrap());
    check_refused(&[b'x'; 2000], Kind::Unprocessable, "not a readable");
    check_refused(&write_tar(&files()).unwrap()[..2000], Kind::Unprocessable, "");
    check_refused(&whole[..whole.len() / 2], Kind::Unprocessable, "not a readable");
    let mut wrong_checksum = whole.clone();
    let at = whole.len() - 6;
    wrong_checksum[at] ^= 1;
    check_refused(&wrong_checksum, Kind::Unprocessable, "not a readable");
}

#[test]
fn a_bomb_ends_at_the_limit_and_not_in_memory() {
    let zeros = vec![0; 64 << 20];
    let one_file = gzip(&tar(&[("adapter_model.safetensors", &zeros)]));
    assert!(one_file.len() < zeros.len() / 100, "it is a bomb: {} bytes", one_file.len());
    check_refused(&one_file, Kind::PayloadTooLarge, "unpacks to more");
    check_refused(&gzip(&tar(&[("README.md", &zeros)])), Kind::PayloadTooLarge, "unpacks to more");
    check_refused(&gzip(&zeros), Kind::PayloadTooLarge, "unpacks to more");
    let many: Vec<(&str, &[u8])> = vec![("README.md", b""); ENTRIES_MAX + 1];
    check_refused(&tar(&many), Kind::Unprocessable, "more than 64 entries");
}

#[test]
fn a_size_that_lies_is_noticed() {
    let mut archive = tar(&[("adapter_model.safetensors", b"w")]);
    let mut header = Header::from_byte_slice(&archive[..512]).clone();
    header.set_size(1 << 40);
    header.set_cksum();
    archive[..512].copy_from_slice(header.as_bytes());
    check_refused(&archive, Kind::Unprocessable, "cut short");
}
