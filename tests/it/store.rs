//! The adapter store as its callers see it: versions, activation, numbering, damage, and who may write.

use std::fs;
use std::path::Path;

use trunkline::adapter::{AdapterFiles, AdapterStore};
use trunkline::domain::{AdapterName, Alias, AliasTarget, ErrorKind};

fn name(name: &str) -> AdapterName {
    name.parse().unwrap()
}

fn files(content: u8) -> AdapterFiles {
    AdapterFiles {
        config: vec![content; 40],
        weights: vec![content; 400],
        card: Some(vec![content; 20]),
        concepts: None,
    }
}

fn publish(store: &AdapterStore, adapter: &str, content: u8, activate: bool) -> u32 {
    store.publish(&name(adapter), &files(content), 1_700_000_000, activate).unwrap().version
}

fn active(store: &AdapterStore, adapter: &str) -> Option<u32> {
    store.get(&name(adapter)).unwrap().active
}

fn versions(store: &AdapterStore, adapter: &str) -> Vec<u32> {
    store.get(&name(adapter)).unwrap().versions.iter().map(|entry| entry.version).collect()
}

#[test]
fn versions_count_up_and_keep_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    assert_eq!([1, 2, 3].map(|content| publish(&store, "a", content, true)), [1, 2, 3]);
    for version in [1, 2, 3] {
        assert_eq!(store.read(&name("a"), version).unwrap(), files(version as u8));
    }
    let entry = store.get(&name("a")).unwrap();
    assert_eq!((entry.active, entry.pinned, entry.versions[2].bytes), (Some(3), false, 460));
    assert_eq!(entry.versions[1].digest, files(2).digest());
    assert_eq!(entry.versions[0].created_at, 1_700_000_000);
}

#[test]
fn activation_goes_forward_and_back_and_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    publish(&store, "a", 1, false);
    assert_eq!(active(&store, "a"), None, "staged");
    publish(&store, "a", 2, false);
    for version in [2, 1, 2, 1] {
        store.activate(&name("a"), version).unwrap();
        assert_eq!(active(&store, "a"), Some(version));
    }
    drop(store);
    assert_eq!(active(&AdapterStore::open(folder.path()).unwrap(), "a"), Some(1));
}

#[test]
fn a_number_is_never_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    for content in 1..=3 {
        publish(&store, "a", content, content == 1);
    }
    store.retire(&name("a"), Some(3)).unwrap();
    assert_eq!(publish(&store, "a", 4, false), 4);
    assert_eq!(versions(&store, "a"), [1, 2, 4]);
    store.retire(&name("a"), None).unwrap();
    assert_eq!(store.get(&name("a")).unwrap_err().kind(), ErrorKind::AdapterNotFound);
    assert_eq!(store.list().unwrap(), (vec![], vec![]));
    drop(store);
    let store = AdapterStore::open(folder.path()).unwrap();
    assert_eq!(publish(&store, "a", 5, false), 5, "also after all of it was retired");
    assert_eq!(active(&store, "a"), None);
}

#[test]
fn the_active_version_is_retired_only_with_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    publish(&store, "a", 1, true);
    publish(&store, "a", 2, false);
    assert_eq!(store.retire(&name("a"), Some(1)).unwrap_err().kind(), ErrorKind::Conflict);
    store.retire(&name("a"), Some(2)).unwrap();
    assert_eq!(versions(&store, "a"), [1]);
}

#[test]
fn what_is_not_there_is_not_found_with_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    publish(&store, "a", 1, true);
    publish(&store, "a", 2, true);
    for (result, expected) in [
        (store.read(&name("a"), 7).map(drop), "no version 7 of \"a\"; there are 1, 2"),
        (store.activate(&name("a"), 7), "no version 7 of \"a\"; there are 1, 2"),
        (store.retire(&name("a"), Some(7)), "no version 7 of \"a\"; there are 1, 2"),
        (store.get(&name("b")).map(drop), "no adapter \"b\""),
        (store.read(&name("b"), 1).map(drop), "no adapter \"b\""),
        (store.retire(&name("b"), None), "no adapter \"b\""),
        (store.set_pinned(&name("b"), true), "no adapter \"b\""),
    ] {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::AdapterNotFound, expected));
    }
}

#[test]
fn damage_on_disk_is_noticed_and_named() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("a changed byte", |version| fs::write(version.join("adapter_model.safetensors"), [9; 400]).unwrap()),
        ("a shorter file", |version| fs::write(version.join("adapter_config.json"), [1; 39]).unwrap()),
        ("a missing card", |version| fs::remove_file(version.join("trunkline.json")).unwrap()),
        ("another version's digest", |version| {
            let json = fs::read_to_string(version.join("version.json")).unwrap();
            fs::write(
                version.join("version.json"),
                json.replace(files(1).digest().as_str(), files(2).digest().as_str()),
            )
            .unwrap();
        }),
    ];
    for (what, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let store = AdapterStore::open(folder.path()).unwrap();
        publish(&store, "a", 1, true);
        damage(&folder.path().join("a/versions/1"));
        let error = store.read(&name("a"), 1).unwrap_err();
        assert!(error.message().contains("a@1 is damaged"), "{what}: {error}");
    }
}

#[test]
fn a_broken_version_does_not_hide_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    publish(&store, "a", 1, true);
    publish(&store, "a", 2, false);
    publish(&store, "b", 1, true);
    fs::write(folder.path().join("a/versions/2/version.json"), "{").unwrap();
    let (entries, broken) = store.list().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(broken.len(), 1);
    assert!(broken[0].starts_with("a@2: "), "{broken:?}");
    store.retire(&name("a"), Some(2)).unwrap();
    assert_eq!(store.list().unwrap().1, Vec::<String>::new());
}

#[test]
fn what_else_lies_in_the_folder_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("README.md"), "about adapters").unwrap();
    fs::write(folder.path().join("stray"), "").unwrap();
    fs::create_dir_all(folder.path().join("notes/2024")).unwrap();
    fs::create_dir_all(folder.path().join(".git/versions")).unwrap();
    fs::create_dir_all(folder.path().join("empty/versions")).unwrap();
    fs::create_dir_all(folder.path().join(".tmp-version/half")).unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    assert_eq!(store.list().unwrap(), (vec![], vec![]));
    assert!(!folder.path().join(".tmp-version").exists(), "an interrupted publication is swept");
    assert!(folder.path().join("README.md").exists());
}

#[test]
fn a_second_process_reads_but_does_not_write() {
    let folder = tempfile::tempdir().unwrap();
    let writer = AdapterStore::open(folder.path()).unwrap();
    publish(&writer, "a", 1, true);
    fs::create_dir(folder.path().join(".tmp-version")).unwrap();
    let reader = AdapterStore::open(folder.path()).unwrap();
    assert!(folder.path().join(".tmp-version").exists(), "what the writer has under way is not swept");
    assert_eq!(reader.read(&name("a"), 1).unwrap(), files(1));
    for result in [
        reader.publish(&name("a"), &files(2), 0, true).map(drop),
        reader.activate(&name("a"), 1),
        reader.retire(&name("a"), None),
        reader.set_pinned(&name("a"), true),
        reader.set_alias(&name("b"), None),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains("can only be read here"), "{error}");
    }
    drop(writer);
    assert_eq!(publish(&AdapterStore::open(folder.path()).unwrap(), "a", 2, true), 2);
}

#[test]
fn aliases_are_kept_sorted_and_never_share_a_name_with_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    publish(&store, "a", 1, true);
    let target = |adapter: &str, weight| AliasTarget { adapter: adapter.parse().unwrap(), weight };
    let split = Alias { targets: vec![target("a@1", 90), target("a", 10)], shadow: Some("a@1".parse().unwrap()) };
    let plain = Alias { targets: vec![target("a", 1)], shadow: None };
    store.set_alias(&name("split"), Some(&split)).unwrap();
    store.set_alias(&name("default-ner"), Some(&plain)).unwrap();
    drop(store);
    let store = AdapterStore::open(folder.path()).unwrap();
    assert_eq!(store.aliases().unwrap(), [(name("default-ner"), plain.clone()), (name("split"), split)]);
    assert_eq!(store.set_alias(&name("a"), Some(&plain)).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.publish(&name("split"), &files(1), 0, true).unwrap_err().kind(), ErrorKind::Conflict);
    store.set_alias(&name("split"), None).unwrap();
    assert_eq!(store.set_alias(&name("split"), None).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(publish(&store, "split", 1, true), 1);
}

#[test]
fn pins_outlive_the_process_and_end_with_the_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    publish(&store, "a", 1, true);
    store.set_pinned(&name("a"), true).unwrap();
    drop(store);
    let store = AdapterStore::open(folder.path()).unwrap();
    assert!(store.get(&name("a")).unwrap().pinned);
    store.retire(&name("a"), None).unwrap();
    publish(&store, "a", 1, true);
    assert!(!store.get(&name("a")).unwrap().pinned);
}
