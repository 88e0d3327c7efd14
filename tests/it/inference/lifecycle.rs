//! Adapters come, change, go and are loaded again, while requests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trunkline::domain::{AdapterName, AdapterRef, Alias, AliasTarget, ErrorKind, TextInput};
use trunkline::serving::{Answer, Caller, Inference, InferenceRequest, Predictions, Task, VersionState};

use super::world::{Kind, Settings, TEXTS, World, assert_same, classify, encoder, ner};

fn name(name: &str) -> AdapterName {
    name.parse().unwrap()
}

fn alias(targets: &[(&str, u32)], shadow: Option<&str>) -> Alias {
    let target = |&(adapter, weight): &(&str, u32)| AliasTarget { adapter: adapter.parse().unwrap(), weight };
    Alias { targets: targets.iter().map(target).collect(), shadow: shadow.map(|shadow| shadow.parse().unwrap()) }
}

async fn answer(inference: &Inference, adapter: &str) -> Answer {
    inference.infer(ner(adapter, &TEXTS)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_changes_every_answer_is_that_of_the_version_it_names() {
    let kinds = [Kind::ner(1), Kind::ner(2)];
    let world =
        World::new(Settings::default(), &[("steady", Kind::ner(3)), ("moving", kinds[0]), ("moving", kinds[1])]).await;
    let mut expected = Vec::new();
    for adapter in ["steady@1", "moving@1", "moving@2"] {
        expected.push(answer(&world.inference, adapter).await);
    }
    let expected = Arc::new(expected);
    let over = Arc::new(AtomicBool::new(false));
    let client = |adapter: &'static str| {
        let (inference, over, expected) = (world.inference.clone(), over.clone(), expected.clone());
        tokio::spawn(async move {
            let mut answered = 0;
            while !over.load(Ordering::SeqCst) || answered == 0 {
                let answer = answer(&inference, adapter).await;
                let alone = expected.iter().find(|alone| alone.adapter == answer.adapter).expect("a known version");
                assert_same(&answer, alone, 1e-5);
                answered += 1;
            }
            answered
        })
    };
    let clients = ["steady", "moving", "steady", "moving"].map(client);
    let registry = world.registry();
    for round in 0..6 {
        registry.activate(&name("moving"), 1 + round % 2).await.unwrap();
        registry.publish(&name("passing"), Kind::classify(9).files(), true).await.unwrap();
        world.inference.infer(classify("passing", &TEXTS)).await.unwrap();
        registry.retire(&name("passing"), None).await.unwrap();
        let gone = world.inference.infer(classify("passing", &TEXTS)).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::AdapterNotFound);
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn publication_activation_and_retirement_go_by_versions() {
    let world = World::new(Settings::default(), &[("a", Kind::ner(1))]).await;
    let registry = world.registry();
    let staged = registry.publish(&name("a"), Kind::ner(2).files(), false).await.unwrap();
    assert_eq!((staged.version, staged.active), (2, false));
    assert_eq!(answer(&world.inference, "a").await.adapter.version, 1);
    registry.activate(&name("a"), 2).await.unwrap();
    let active = answer(&world.inference, "a").await.adapter;
    assert_eq!((active.version, active.digest), (2, staged.digest));
    assert_eq!(registry.retire(&name("a"), Some(2)).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(registry.activate(&name("a"), 3).await.unwrap_err().kind(), ErrorKind::AdapterNotFound);
    registry.retire(&name("a"), Some(1)).await.unwrap();
    let view = registry.get(&name("a")).unwrap();
    assert_eq!(view.versions.iter().map(|v| (v.version, v.state)).collect::<Vec<_>>(), [(2, VersionState::Resident)]);
    assert_eq!((view.rank, view.layers, view.labels.len()), (Some(4), vec![2], 5));
    let other_family = registry.publish(&name("a"), Kind::classify(2).files(), true).await.unwrap_err();
    assert_eq!(other_family.kind(), ErrorKind::Conflict);
    registry.retire(&name("a"), None).await.unwrap();
    assert!(registry.list().is_empty());
    assert!(!world.metrics.render().contains("adapter=\"a\""), "{}", world.metrics.render());
}

#[tokio::test]
async fn an_adapter_that_cannot_run_is_never_visible() {
    let world = World::new(Settings::default(), &[("good", Kind::ner(1))]).await;
    let expected = answer(&world.inference, "good").await;
    // Finite in the file, infinite as soon as it runs.
    let huge = Kind::ner(2).bundle_with(|_| 1e30).to_files(&encoder()).unwrap();
    let mut broken = Kind::ner(2).files();
    broken.weights.truncate(100);
    for files in [huge, broken] {
        let refused = world.registry().publish(&name("good"), files.clone(), true).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unprocessable, "{refused}");
        assert!(world.registry().publish(&name("bad"), files, true).await.is_err());
    }
    assert_eq!(world.registry().list().len(), 1);
    assert_eq!(world.registry().get(&name("good")).unwrap().versions.len(), 1);
    assert_same(&answer(&world.inference, "good").await, &expected, 1e-5);
}

#[tokio::test]
async fn adapters_beyond_the_memory_are_evicted_and_loaded_again() {
    let bytes = Kind::ner(1).resident("a").bytes;
    let settings = Settings { adapter_memory: bytes * 5 / 2, ..Settings::default() };
    let world = World::new(settings, &[("a", Kind::ner(1)), ("b", Kind::ner(2)), ("c", Kind::ner(3))]).await;
    let mut expected = Vec::new();
    for adapter in ["a", "b", "c"] {
        expected.push(answer(&world.inference, adapter).await);
    }
    let evicted = world.metrics.adapter_evictions.get();
    for _ in 0..3 {
        for expected in &expected {
            assert_same(&answer(&world.inference, expected.adapter.name.as_str()).await, expected, 1e-5);
        }
    }
    assert_eq!(world.metrics.adapter_evictions.get(), evicted + 9);
    assert_eq!(world.metrics.adapter_bytes.get(), i64::try_from(2 * bytes).unwrap());
    assert_eq!(world.metrics.adapters_resident.get(), 2);
    let registry = world.registry();
    registry.set_pinned(&name("a"), true).await.unwrap();
    for adapter in ["b", "c", "b"] {
        answer(&world.inference, adapter).await;
        assert_eq!(registry.get(&name("a")).unwrap().versions[0].state, VersionState::Resident);
    }
    registry.set_pinned(&name("b"), true).await.unwrap();
    let full = world.inference.infer(ner("c", &TEXTS)).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Unavailable, "{full}");
    registry.set_pinned(&name("b"), false).await.unwrap();
    answer(&world.inference, "c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_adapter_is_loaded_once_however_many_ask() {
    let world = World::new(Settings::default(), &[("a", Kind::ner(1))]).await;
    world.registry().unload(&name("a"), None).await.unwrap();
    let loads = world.metrics.adapter_loads.with_label_values(&["a", "ok"]);
    let before = loads.get();
    let asking: Vec<_> = (0..16)
        .map(|_| {
            let inference = world.inference.clone();
            tokio::spawn(async move { answer(&inference, "a").await })
        })
        .collect();
    for asking in asking {
        asking.await.unwrap();
    }
    assert_eq!(loads.get(), before + 1);
}

#[tokio::test]
async fn a_new_service_over_the_same_store_answers_the_same_and_lists_what_fails() {
    let adapters = [("a", Kind::ner(1)), ("b", Kind::ner(2)), ("c", Kind::classify(3))];
    let world = World::new(Settings::default(), &adapters).await;
    world.registry().set_alias(&name("default-ner"), alias(&[("a", 1)], None)).await.unwrap();
    let expected = answer(&world.inference, "a").await;
    let weights = walk(world.registry().store().root())
        .into_iter()
        .find(|path| path.ends_with("adapter_model.safetensors") && path.components().any(|c| c.as_os_str() == "b"))
        .unwrap();
    std::fs::write(weights, b"damaged").unwrap();
    let world = world.reopen(Settings::default()).await;
    assert_same(&answer(&world.inference, "default-ner").await, &expected, 1e-5);
    let view = world.registry().get(&name("b")).unwrap();
    assert_eq!(view.versions[0].state, VersionState::Failed);
    assert!(view.versions[0].reason.is_some());
    let failed = world.inference.infer(ner("b", &TEXTS)).await.unwrap_err();
    assert!(failed.message().contains("b@1"), "{failed}");
    world.inference.infer(classify("c", &TEXTS)).await.unwrap();
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn without_a_name_the_default_alias_answers_or_the_familys_only_adapter() {
    let adapters = [("a", Kind::ner(1)), ("b", Kind::ner(2)), ("c", Kind::classify(3))];
    let world = World::new(Settings::default(), &adapters).await;
    let ask = |request: InferenceRequest| world.inference.infer(InferenceRequest { adapter: None, ..request });
    assert_eq!(ask(classify("c", &["x"])).await.unwrap().adapter.name, name("c"));
    let unclear = ask(ner("a", &["x"])).await.unwrap_err();
    assert_eq!(unclear.kind(), ErrorKind::AdapterNotFound);
    assert!(unclear.message().contains("a, b") && unclear.message().contains("default-ner"), "{unclear}");
    world.registry().set_alias(&name("default-ner"), alias(&[("b", 1)], None)).await.unwrap();
    assert_eq!(ask(ner("a", &["x"])).await.unwrap().adapter.name, name("b"));
}

#[tokio::test]
async fn an_alias_splits_by_weight_and_shows_its_shadow_the_same_requests() {
    let adapters = [("a", Kind::classify(1)), ("a", Kind::classify(2)), ("a", Kind::classify(3)), ("n", Kind::ner(4))];
    let world = World::new(Settings::default(), &adapters).await;
    let registry = world.registry();
    registry.set_alias(&name("split"), alias(&[("a@1", 3), ("a@2", 1)], None)).await.unwrap();
    let mut versions = [0; 4];
    for _ in 0..40 {
        versions[world.inference.infer(classify("split", &["x"])).await.unwrap().adapter.version as usize] += 1;
    }
    let [0, first, second, 0] = versions else { panic!("a version that is no target answered: {versions:?}") };
    assert!((29..=31).contains(&first) && first + second == 40, "{versions:?} for 3 to 1");

    registry.set_alias(&name("watched"), alias(&[("a@1", 1)], Some("a@3"))).await.unwrap();
    let counted = || {
        let label = |at: usize| format!("class-{at}");
        (0..3).map(|at| world.metrics.predictions.with_label_values(&["a", &label(at)]).get()).sum::<u64>()
    };
    let before = counted();
    assert_eq!(world.inference.infer(classify("watched", &["x"])).await.unwrap().adapter.version, 1);
    world.until("the shadow's answer", |_| counted() == before + 2).await;

    let table = [
        ("a", alias(&[("n", 1)], None), ErrorKind::Conflict),
        ("x", alias(&[("nobody", 1)], None), ErrorKind::AdapterNotFound),
        ("x", alias(&[("split", 1)], None), ErrorKind::Conflict),
        ("x", alias(&[("a@1", 0)], None), ErrorKind::InvalidRequest),
        ("x", alias(&[("a", 1), ("n", 1)], None), ErrorKind::Conflict),
        ("default-ner", alias(&[("a", 1)], None), ErrorKind::Conflict),
        ("x", alias(&[("a", 1)], Some("a@9")), ErrorKind::AdapterNotFound),
    ];
    for (at, value, kind) in table {
        assert_eq!(registry.set_alias(&name(at), value.clone()).await.unwrap_err().kind(), kind, "{at} {value:?}");
    }
    assert_eq!(registry.retire(&name("a"), Some(1)).await.unwrap_err().kind(), ErrorKind::Conflict);
    let reference = AdapterRef { name: name("split"), version: Some(1) };
    let request = InferenceRequest { adapter: Some(reference), ..classify("a", &["x"]) };
    assert_eq!(world.inference.infer(request).await.unwrap_err().kind(), ErrorKind::AdapterNotFound);
    registry.remove_alias(&name("split")).await.unwrap();
    assert!(registry.remove_alias(&name("split")).await.is_err());
    assert_eq!(registry.aliases().unwrap().len(), 1);
}

#[tokio::test]
async fn a_pair_is_classified_and_refused_for_entities() {
    let world = World::new(Settings::default(), &[("c", Kind::classify(1)), ("n", Kind::ner(2))]).await;
    let pair = TextInput::Pair { text: TEXTS[0].to_owned(), text_pair: TEXTS[1].to_owned() };
    let ask = |adapter: &str, task| {
        let adapter = Some(adapter.parse().unwrap());
        let inputs = vec![pair.clone()];
        world.inference.infer(InferenceRequest { task, adapter, inputs, deadline: None, caller: Caller::single() })
    };
    let answer = ask("c", Task::Classify(Default::default())).await.unwrap();
    assert!(matches!(&answer.predictions, Predictions::Classify(p) if p[0].labels.len() == 3));
    let refused = ask("n", Task::Ner(Default::default())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidRequest);
}
