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
    assert_eq!(read_archive(&tar).unwrap().files, files());
    assert_eq!(read_archive(&gzip(&tar)).unwrap().files, files());
    assert_eq!(write_tar(&read_archive(&tar).unwrap().files).unwrap(), tar);
    let bare = AdapterFiles { card: None, ..files() };
    assert_eq!(read_archive(&write_tar(&bare).unwrap()).unwrap().files, bare);
}

#[test]
fn what_trainers_add_is_skipped_wherever_it_is() {
    for (folder, extra) in [
        ("", ""),
        ("./", ""),
        ("my adapter/", ""),
        ("./a/", ""),
        ("out/checkpoint-500/", ""),
        ("a/", "a/README.md"),
        ("", "tokenizer.json"),
        ("", "added_tokens.json"),
        ("", "merges.txt"),
        ("", "scaler.pt"),
        ("", "rng_state_3.pth"),
        ("", "chat_template.jinja"),
        ("", "adapter_model.bin"),
        ("", "run.sh"),
        ("", "._x"),
        ("", "__MACOSX/._adapter_config.json"),
        ("", "runs/Dec01_host/events.out.tfevents.17"),
        ("", ".cache/huggingface/download/adapter_config.json"),
        ("", "checkpoint-500/adapter_config.json"),
        ("out/", "out/checkpoint-500/adapter_model.safetensors"),
        ("", "checkpoint-500/global_step500/mp_rank_00_model_states.pt"),
    ] {
        let (config, weights) = (format!("{folder}adapter_config.json"), format!("{folder}adapter_model.safetensors"));
        let mut entries = vec![("./", EntryType::Directory, &b""[..])];
        entries.extend((folder.len() > 2).then_some((folder, EntryType::Directory, &b""[..])));
        entries.extend((!extra.is_empty()).then_some((extra, EntryType::Regular, &b"extra"[..])));
        entries.extend([(&*config, EntryType::Regular, &b"{}"[..]), (&*weights, EntryType::Regular, &b"w"[..])]);
        let read = read_archive(&tar_of(entries)).unwrap().files;
        assert_eq!((&*read.config, &*read.weights, read.card), (&b"{}"[..], &b"w"[..], None), "{folder:?} {extra:?}");
    }
}

#[test]
fn the_configuration_of_the_model_comes_with_the_adapter_it_lies_beside() {
    let read = |name: &'static str| {
        let files = [("a/adapter_config.json", &b"{}"[..]), ("a/adapter_model.safetensors", b"w"), (name, b"model")];
        read_archive(&tar(&files)).unwrap().model_config
    };
    assert_eq!(read("a/config.json").as_deref(), Some(&b"model"[..]));
    assert_eq!(read("config.json"), None);
    assert_eq!(read("a/checkpoint-1/config.json"), None);
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
        "../run.sh",
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
fn doubles_and_second_folders_are_refused_by_name() {
    let with = |name: &'static str| {
        tar(&[("a/adapter_config.json", b"{}"), ("a/adapter_model.safetensors", b"w"), (name, b"x")])
    };
    for (name, expected) in [
        ("a/adapter_config.json", "there twice"),
        ("b/adapter_config.json", "\"b/adapter_config.json\" is one of two folders"),
    ] {
        check_refused(&with(name), Kind::Unprocessable, expected);
    }
}

#[test]
fn a_pickle_alone_is_refused_by_name() {
    let archive = tar(&[("adapter_config.json", b"{}"), ("adapter_model.bin", b"x")]);
    check_refused(&archive, Kind::Unprocessable, "adapter_model.bin is a pickle");
    check_refused(&archive, Kind::Unprocessable, "adapter_model.safetensors is missing");
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
    check_refused(&tar(&many), Kind::Unprocessable, "more than 1024 entries");
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
