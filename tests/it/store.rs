//! The adapter store as its callers see it: versions, activation, numbering, damage, and who may write.

use std::fs;
use std::path::Path;
use std::process::Command;

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
    assert_eq!((&broken[0].name, broken[0].version), (&Some(name("a")), Some(2)));
    assert!(broken[0].to_string().starts_with("a@2: "), "{broken:?}");
    store.retire(&name("a"), Some(2)).unwrap();
    assert_eq!(store.list().unwrap().1, []);
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

#[test]
fn what_is_no_regular_file_fails_alone_and_at_once() {
    let pipe = |path: &Path| {
        fs::remove_file(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let folder_instead = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    };
    let endless = |path: &Path| link("/dev/zero", path);
    let circle = |path: &Path| link(path, path);
    let outside = |path: &Path| link("/etc/passwd", path);
    type Harm<'a> = &'a dyn Fn(&Path);
    let harms: [(&str, Harm); 5] = [
        ("a pipe", &pipe),
        ("a folder", &folder_instead),
        ("a device", &endless),
        ("a link to itself", &circle),
        ("a link out of the store", &outside),
    ];
    for file in ["version.json", "adapter_config.json", "adapter_model.safetensors", "trunkline.json"] {
        for (what, harm) in harms {
            let folder = tempfile::tempdir().unwrap();
            let store = AdapterStore::open(folder.path()).unwrap();
            publish(&store, "a", 1, false);
            publish(&store, "a", 2, true);
            publish(&store, "b", 1, true);
            harm(&folder.path().join("a/versions/1").join(file));
            let (entries, _) = store.list().unwrap();
            assert_eq!(entries.len(), 2, "{file} is {what}");
            assert!(store.read(&name("a"), 1).is_err(), "{file} is {what}");
            assert!(store.describe(&name("a"), 1).is_err(), "{file} is {what}");
            assert_eq!(store.read(&name("a"), 2).unwrap(), files(2), "{file} is {what}");
            let error = store.read(&name("a"), 1).unwrap_err();
            assert!(!error.to_string().contains("root:"), "{error}");
        }
    }
    for file in ["current", "highest", "pinned", "../aliases.json", "../retired.json", "../.lock"] {
        for (what, harm) in harms {
            let folder = tempfile::tempdir().unwrap();
            let store = AdapterStore::open(folder.path()).unwrap();
            publish(&store, "a", 1, true);
            drop(store);
            let path = folder.path().join("a").join(file);
            fs::write(&path, "").unwrap();
            harm(&path);
            let store = AdapterStore::open(folder.path()).unwrap();
            assert_eq!(store.list().unwrap().0.len(), 1, "{file} is {what}");
            assert_eq!(store.read(&name("a"), 1).unwrap(), files(1), "{file} is {what}");
            let _whatever_it_says = (store.aliases(), store.set_pinned(&name("a"), true));
            let _neither_hangs = store.publish(&name("c"), &files(3), 0, true);
        }
    }
}

fn link(to: impl AsRef<Path>, path: &Path) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink(to, path).unwrap();
}

#[test]
fn a_folder_outside_the_store_is_neither_read_nor_written() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    publish(&AdapterStore::open(outside.path()).unwrap(), "a", 1, true);
    let store = AdapterStore::open(folder.path()).unwrap();
    std::os::unix::fs::symlink(outside.path().join("a"), folder.path().join("a")).unwrap();
    let (entries, broken) = store.list().unwrap();
    assert_eq!(entries, []);
    assert!(broken[0].to_string().contains("leads out of the store"), "{broken:?}");
    assert!(store.read(&name("a"), 1).is_err());
    assert!(store.publish(&name("a"), &files(2), 0, true).is_err());
    assert_eq!(versions(&AdapterStore::open(outside.path()).unwrap(), "a"), [1]);
    // Within the store a link is as good as what it leads to: volumes that are swapped whole are made of them.
    fs::create_dir(folder.path().join("..data")).unwrap();
    publish(&store, "b", 1, true);
    fs::rename(folder.path().join("b"), folder.path().join("..data/b")).unwrap();
    std::os::unix::fs::symlink("..data/b", folder.path().join("b")).unwrap();
    assert_eq!(store.read(&name("b"), 1).unwrap(), files(1));
}

#[test]
fn a_name_that_something_else_has_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    fs::write(folder.path().join("LICENSE"), "").unwrap();
    fs::create_dir(folder.path().join("notes")).unwrap();
    publish(&store, "Emotion", 1, true);
    let plain = Alias { targets: vec![AliasTarget { adapter: "Emotion".parse().unwrap(), weight: 1 }], shadow: None };
    store.set_alias(&name("Split"), Some(&plain)).unwrap();
    for (adapter, why) in [
        ("LICENSE", "is a file"),
        ("license", "in case alone"),
        ("emotion", "in case alone"),
        ("EMOTION", "in case alone"),
        ("Split", "is an alias"),
        ("split", "is an alias"),
    ] {
        let error = store.publish(&name(adapter), &files(1), 0, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{adapter}: {error}");
        assert!(error.message().contains(why), "{adapter}: {error}");
    }
    for alias in ["Emotion", "emotion"] {
        assert_eq!(store.set_alias(&name(alias), Some(&plain)).unwrap_err().kind(), ErrorKind::Conflict, "{alias}");
    }
    assert_eq!(publish(&store, "notes", 1, true), 1, "an empty folder is free");
    assert_eq!(publish(&store, "Emotion", 2, true), 2);
}

#[test]
fn aliases_that_were_written_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    let long = "a".repeat(128);
    publish(&store, &long, 1, true);
    let target = AliasTarget { adapter: format!("{long}@4294967295").parse().unwrap(), weight: u32::MAX };
    let alias = |targets: usize| Alias { targets: vec![target.clone(); targets], shadow: Some(target.adapter.clone()) };
    let many = store.set_alias(&name("many"), Some(&alias(33))).unwrap_err();
    assert!(many.kind() == ErrorKind::Unprocessable && many.message().contains("33 are given"), "{many}");
    let entry = format!(r#"{{"adapter":"{long}@4294967295","weight":4294967295}}"#);
    let of_file = |at: usize| format!(r#""{at:0126}-x":{{"targets":[{}]}}"#, vec![entry.clone(); 32].join(","));
    let there = (4 << 20) / of_file(0).len() - 3;
    let json = format!("{{{}}}", (0..there).map(of_file).collect::<Vec<_>>().join(","));
    fs::write(folder.path().join("aliases.json"), json).unwrap();
    let full = (there..there + 20).find_map(|at| {
        let alias_name = name(&format!("{at:0126}-x"));
        store.set_alias(&alias_name, Some(&alias(32))).err().map(|error| (at, error))
    });
    let (count, error) = full.expect("the bound is reached");
    assert!(error.kind() == ErrorKind::Conflict && error.message().contains("remove some first"), "{count}: {error}");
    drop(store);
    let store = AdapterStore::open(folder.path()).unwrap();
    assert_eq!(store.aliases().unwrap().len(), count);
    store.set_alias(&name(&format!("{:0126}-x", 0)), None).unwrap();
    store.set_alias(&name("another"), Some(&alias(32))).unwrap();
    assert_eq!(publish(&store, "still-open", 1, true), 1);
}

#[test]
fn aliases_are_at_most_a_thousand() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    let plain = Alias { targets: vec![AliasTarget { adapter: "a".parse().unwrap(), weight: 1 }], shadow: None };
    let entries: Vec<String> =
        (0..1000).map(|at| format!(r#""alias-{at}": {{"targets": [{{"adapter": "a", "weight": 1}}]}}"#)).collect();
    fs::write(folder.path().join("aliases.json"), format!("{{{}}}", entries.join(","))).unwrap();
    store.set_alias(&name("alias-7"), Some(&plain)).unwrap();
    assert_eq!(store.set_alias(&name("one-more"), Some(&plain)).unwrap_err().kind(), ErrorKind::Conflict);
    store.set_alias(&name("alias-7"), None).unwrap();
    store.set_alias(&name("one-more"), Some(&plain)).unwrap();
}

#[test]
fn a_retired_adapter_leaves_no_folder_and_its_numbers_are_not_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let names = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let store = AdapterStore::open(folder.path()).unwrap();
    for at in 0..20 {
        let adapter = format!("a{at}");
        publish(&store, &adapter, 1, true);
        publish(&store, &adapter, 2, true);
        store.retire(&name(&adapter), None).unwrap();
    }
    assert_eq!(names(), [".lock", "retired.json"]);
    assert_eq!(publish(&store, "a7", 1, true), 3);
    store.retire(&name("a7"), None).unwrap();
    drop(store);
    // As earlier versions left it.
    fs::create_dir(folder.path().join("old")).unwrap();
    fs::write(folder.path().join("old/highest"), "9\n").unwrap();
    fs::create_dir_all(folder.path().join("begun/versions")).unwrap();
    fs::create_dir_all(folder.path().join("kept/versions/notes")).unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    assert_eq!(names(), [".lock", "kept", "retired.json"]);
    for (adapter, version) in [("a7", 4), ("a8", 3), ("old", 10), ("new", 1)] {
        assert_eq!(publish(&store, adapter, 1, true), version, "{adapter}");
    }
}

#[test]
fn the_numbers_of_ten_thousand_retired_adapters_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let entries: Vec<String> = (0..10_000).map(|at| format!(r#"["old-{at}", 5]"#)).collect();
    fs::write(folder.path().join("retired.json"), format!("[{}]", entries.join(","))).unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    publish(&store, "new", 1, true);
    store.retire(&name("new"), None).unwrap();
    for (adapter, version) in [("old-0", 1), ("old-1", 6), ("new", 2)] {
        assert_eq!(publish(&store, adapter, 1, true), version, "{adapter}");
    }
}

/// (what, damage, what a check says, what a repair did)
type Broken = (&'static str, fn(&Path), &'static str, &'static str);

const DAMAGES: [Broken; 9] = [
    (
        "no JSON in aliases.json",
        |root| fs::write(root.join("aliases.json"), "{").unwrap(),
        "aliases.json: ",
        "0 aliases could",
    ),
    (
        "one bad alias",
        |root| {
            let good = r#"{"targets": [{"adapter": "a", "weight": 1}]}"#;
            fs::write(root.join("aliases.json"), format!(r#"{{"good": {good}, "bad": {{"targets": 3}}}}"#)).unwrap();
        },
        "aliases.json: ",
        "1 aliases could",
    ),
    (
        "a folder called aliases.json",
        |root| fs::create_dir_all(root.join("aliases.json/versions/1")).unwrap(),
        "it is a folder",
        "aliases.json.damaged-1",
    ),
    (
        "no list in retired.json",
        |root| fs::write(root.join("retired.json"), "{}").unwrap(),
        "retired.json: ",
        "had before",
    ),
    (
        "an active version without its file",
        |root| fs::remove_file(root.join("a/versions/2/version.json")).unwrap(),
        "version.json: is missing",
        "versions/2.damaged-1",
    ),
    (
        "changed weights",
        |root| fs::write(root.join("a/versions/1/adapter_model.safetensors"), [9; 400]).unwrap(),
        "a@1 is damaged on disk",
        "versions/1.damaged-1",
    ),
    (
        "no number in current",
        |root| fs::write(root.join("a/current"), "two").unwrap(),
        "holds no version number",
        "it says 2 now",
    ),
    (
        "no number in highest",
        |root| fs::write(root.join("a/highest"), "").unwrap(),
        "holds no version number",
        "it says 2 now",
    ),
    (
        "all versions",
        |root| {
            for version in ["1", "2"] {
                fs::write(root.join("a/versions").join(version).join("version.json"), "{}").unwrap();
            }
        },
        "missing field",
        "versions/1.damaged-1",
    ),
];

#[test]
fn what_is_damaged_is_found_and_repaired_and_never_lost() {
    for (what, damage, said, done) in DAMAGES {
        let folder = tempfile::tempdir().unwrap();
        let store = AdapterStore::open(folder.path()).unwrap();
        publish(&store, "a", 1, true);
        publish(&store, "a", 2, true);
        publish(&store, "b", 1, true);
        assert_eq!(store.check(false).unwrap(), [], "{what}");
        drop(store);
        damage(folder.path());
        let store = AdapterStore::open(folder.path()).unwrap();
        assert_eq!(store.read(&name("b"), 1).unwrap(), files(1), "{what}: the others are served");
        let found = store.check(false).unwrap();
        assert!(
            found.iter().any(|one| format!("{}: {}", one.path.display(), one.why).contains(said)),
            "{what}: {found:?}"
        );
        assert!(found.iter().all(|one| one.repaired.is_none()), "{what}: {found:?}");
        let repaired = store.check(true).unwrap();
        let told: Vec<String> = repaired.iter().filter_map(|one| one.repaired.clone()).collect();
        assert!(told.iter().any(|one| one.contains(done)), "{what}: {told:?}");
        assert_eq!(store.check(false).unwrap(), [], "{what}");
        assert_eq!(store.list().unwrap().1, [], "{what}");
        assert!(store.aliases().is_ok(), "{what}");
        assert_eq!(publish(&store, "a", 3, true), 3, "{what}: what was moved aside keeps its number");
        assert!(walk(folder.path()).iter().any(|path| path.contains(".damaged-1")), "{what}: it is kept");
    }
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(walk(&path));
        }
    }
    found
}

#[test]
fn a_store_that_cannot_be_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    publish(&AdapterStore::open(folder.path()).unwrap(), "a", 1, true);
    fs::remove_file(folder.path().join(".lock")).unwrap();
    fs::create_dir(folder.path().join(".lock")).unwrap();
    let store = AdapterStore::open(folder.path()).unwrap();
    assert_eq!(store.read(&name("a"), 1).unwrap(), files(1));
    for error in [store.publish(&name("a"), &files(2), 0, true).unwrap_err(), store.check(true).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("can only be read here"), "{error}");
    }
    let nowhere = folder.path().join("a/current/adapters");
    let store = AdapterStore::open(&nowhere).unwrap();
    assert_eq!(store.publish(&name("a"), &files(2), 0, true).unwrap_err().kind(), ErrorKind::Unavailable);
}
