//! The world stops after every single step of every change, and the store is whole when it is opened again.

use super::disk::Fault;
use super::*;

/// More steps than any change takes.
const STEPS_MAX: usize = 40;

fn files(content: u8) -> AdapterFiles {
    AdapterFiles {
        config: vec![content; 40],
        weights: vec![content; 4000],
        card: Some(vec![content; 20]),
        concepts: Some(vec![content; 30]),
    }
}

fn name(name: &str) -> AdapterName {
    name.parse().unwrap()
}

/// A store with versions 1 (active) and 2 of `a`, pinned.
fn furnished(root: &Path) -> AdapterStore {
    let store = AdapterStore::open(root).unwrap();
    store.publish(&name("a"), &files(1), 10, true).unwrap();
    store.publish(&name("a"), &files(2), 20, false).unwrap();
    store.set_pinned(&name("a"), true).unwrap();
    store
}

/// What a reader sees: (adapter, active version, version and first byte of each).
type Seen = Vec<(String, Option<u32>, Vec<(u32, u8)>)>;

fn seen(store: &AdapterStore) -> Seen {
    let (entries, broken) = store.list().unwrap();
    assert_eq!(broken, []);
    let contents = |entry: &AdapterEntry, version: u32| store.read(&entry.name, version).unwrap().config[0];
    let versions = |entry: &AdapterEntry| {
        entry.versions.iter().map(|v| (v.version, contents(entry, v.version))).collect::<Vec<_>>()
    };
    entries.iter().map(|entry| (entry.name.to_string(), entry.active, versions(entry))).collect()
}

fn leftovers(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(UNDER_WAY)).collect()
}

type Change = fn(&AdapterStore) -> Result<()>;

const CHANGES: [(&str, Change); 7] = [
    ("publish and activate", |store| store.publish(&name("a"), &files(3), 30, true).map(drop)),
    ("publish a first version", |store| store.publish(&name("b"), &files(3), 30, true).map(drop)),
    ("stage", |store| store.publish(&name("a"), &files(3), 30, false).map(drop)),
    ("activate", |store| store.activate(&name("a"), 2)),
    ("retire a version", |store| store.retire(&name("a"), Some(2))),
    ("retire an adapter", |store| store.retire(&name("a"), None)),
    ("unpin", |store| store.set_pinned(&name("a"), false)),
];

#[test]
fn a_change_that_is_killed_happens_whole_or_not_at_all() {
    for (what, change) in CHANGES {
        let mut finished = false;
        for steps in 0..STEPS_MAX {
            let folder = tempfile::tempdir().unwrap();
            let store = furnished(folder.path());
            let before = seen(&store);
            *store.disk.fault.lock().unwrap() = Some(Fault::Killed { steps });
            finished = change(&store).is_ok();
            drop(store);
            let reopened = AdapterStore::open(folder.path()).unwrap();
            let after = seen(&reopened);
            let whole = allowed(what, &before);
            assert!(after == before || whole.contains(&after), "{what}, killed after {steps} steps: {after:?}");
            assert!(!finished || after == whole[0], "{what} said it was done: {after:?}");
            assert_eq!(leftovers(folder.path()), Vec::<String>::new(), "{what}, killed after {steps} steps");
            change(&reopened).ok();
            if finished {
                break;
            }
        }
        assert!(finished, "{what} takes more than {STEPS_MAX} steps");
    }
}

/// What may be seen after a change; first of all the change done.
fn allowed(what: &str, before: &Seen) -> Vec<Seen> {
    let a = |active, versions: &[(u32, u8)]| vec![("a".to_owned(), active, versions.to_vec())];
    let (two, three) = ([(1, 1), (2, 2)], [(1, 1), (2, 2), (3, 3)]);
    let with_b = |active| [before.clone(), vec![("b".to_owned(), active, vec![(1, 3)])]].concat();
    match what {
        "publish and activate" => vec![a(Some(3), &three), a(Some(1), &three)],
        "publish a first version" => vec![with_b(Some(1)), with_b(None)],
        "stage" => vec![a(Some(1), &three)],
        "activate" => vec![a(Some(2), &two)],
        "retire a version" => vec![a(Some(1), &[(1, 1)])],
        "retire an adapter" => vec![vec![]],
        _ => vec![before.clone()],
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_behind() {
    for (what, change) in CHANGES {
        for steps in 0..STEPS_MAX {
            let folder = tempfile::tempdir().unwrap();
            let store = furnished(folder.path());
            let before = seen(&store);
            *store.disk.fault.lock().unwrap() = Some(Fault::Full { steps });
            let Err(error) = change(&store) else { break };
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
            assert!(error.message().contains(folder.path().to_str().unwrap()), "{what}: {error}");
            assert_eq!(leftovers(folder.path()), Vec::<String>::new(), "{what}, full after {steps} steps");
            let after = seen(&store);
            assert!(
                after == before || allowed(what, &before).contains(&after),
                "{what}, full after {steps}: {after:?}"
            );
        }
    }
}

#[test]
fn a_number_is_never_given_twice_whenever_retiring_is_killed() {
    for steps in 0..STEPS_MAX {
        let folder = tempfile::tempdir().unwrap();
        let store = furnished(folder.path());
        *store.disk.fault.lock().unwrap() = Some(Fault::Killed { steps });
        let finished = store.retire(&name("a"), None).is_ok();
        drop(store);
        let store = AdapterStore::open(folder.path()).unwrap();
        let published = store.publish(&name("a"), &files(9), 90, false).unwrap();
        assert_eq!(published.version, 3, "killed after {steps} steps");
        if finished {
            assert_eq!(store.get(&name("a")).unwrap().active, None, "an old `current` means nothing");
            return;
        }
    }
}
