//! Backbones come, are switched and go, while requests run: each answer is that of the pair it names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trunkline::domain::{AdapterName, ClassifyParameters, ErrorKind, NerParameters, TextInput};
use trunkline::engine::{Batch, BatchSequence, Engine, EngineConfig, Output, Through, Work};
use trunkline::serving::{
    AnalyzeRequest, AnalyzeTarget, Answer, EmbedAnswer, EmbedRequest, Inference, Registry, VersionState,
};

use super::shelf;
use super::world::{Kind, Settings, TEXTS, World, assert_same, classify, ner};

fn name(name: &str) -> AdapterName {
    name.parse().unwrap()
}

async fn publish(registry: &Registry, adapter: &str, kind: Kind, backbone: &str) {
    registry.publish(&name(adapter), kind.files_for(backbone), true).await.unwrap();
}

async fn answer(inference: &Inference, adapter: &str) -> Answer {
    inference.infer(ner(adapter, &TEXTS)).await.unwrap()
}

async fn embed(inference: &Inference) -> EmbedAnswer {
    let inputs = TEXTS.iter().map(|&text| TextInput::Text(text.to_owned())).collect();
    let request = EmbedRequest { inputs, adapter: None, parameters: Default::default(), deadline: None };
    inference.embed(request).await.unwrap()
}

async fn analyze(inference: &Inference, adapters: &[&str]) -> Vec<Answer> {
    let target = |&asked: &&str| AnalyzeTarget { asked: asked.to_owned(), adapter: asked.parse().unwrap() };
    let request = AnalyzeRequest {
        inputs: TEXTS.iter().map(|&text| TextInput::Text(text.to_owned())).collect(),
        targets: adapters.iter().map(target).collect(),
        ner: NerParameters::default(),
        classify: ClassifyParameters::default(),
        deadline: None,
    };
    inference.analyze(request).await.unwrap().into_iter().map(|(_, answer)| answer.unwrap()).collect()
}

/// `name: adapter, adapter` of each resident backbone, the active one with a star.
fn resident(world: &World) -> Vec<String> {
    let views = world.registry().backbone_views();
    let line = |view: &trunkline::serving::BackboneView| {
        format!("{}{}: {}", view.identity.name, if view.is_active { "*" } else { "" }, view.adapters.join(", "))
    };
    views.iter().map(line).collect()
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// What every pair answers while nothing changes.
struct Expected {
    answers: Vec<Answer>,
    embeddings: Vec<EmbedAnswer>,
}

impl Expected {
    #[track_caller]
    fn check(&self, answer: &Answer) {
        let alone = self.answers.iter().find(|alone| alone.adapter == answer.adapter).expect("a known version");
        assert_eq!(answer.backbone, alone.backbone, "{:?}", answer.adapter);
        assert_same(answer, alone, 1e-5);
    }

    #[track_caller]
    fn check_embedding(&self, answer: &EmbedAnswer) {
        let alone = self.embeddings.iter().find(|alone| alone.backbone == answer.backbone).expect("a known backbone");
        assert!(distance(&answer.embeddings, &alone.embeddings) < 1e-5, "{}", answer.backbone.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_switches_every_answer_is_that_of_the_pair_it_names() {
    let world = World::new(Settings::default(), &[("steady", Kind::ner(3)), ("moving", Kind::ner(1))]).await;
    let registry = world.registry();
    let mut embeddings = vec![embed(&world.inference).await];
    registry.activate_backbone("moved").await.unwrap();
    publish(registry, "moving", Kind::ner(1), "moved").await;
    embeddings.push(embed(&world.inference).await);
    let apart = distance(&embeddings[0].embeddings, &embeddings[1].embeddings);
    assert!(apart > 1e-2, "the backbones answer alike ({apart}): a wrong pair would not show");
    let mut answers = Vec::new();
    for adapter in ["steady@1", "moving@1", "moving@2"] {
        answers.push(answer(&world.inference, adapter).await);
    }
    assert_eq!(
        answers.iter().map(|answer| answer.backbone.name.as_str()).collect::<Vec<_>>(),
        ["tiny", "tiny", "moved"]
    );
    let expected = Arc::new(Expected { answers, embeddings });

    let over = Arc::new(AtomicBool::new(false));
    let client = |what: usize| {
        let (inference, over, expected) = (world.inference.clone(), over.clone(), expected.clone());
        tokio::spawn(async move {
            let mut answered = 0;
            while !over.load(Ordering::SeqCst) || answered == 0 {
                match what {
                    0 => expected.check(&answer(&inference, "moving").await),
                    1 => expected.check_embedding(&embed(&inference).await),
                    _ => {
                        let answers = analyze(&inference, &["moving", "steady", "moving@1", "moving@2"]).await;
                        answers.iter().for_each(|answer| expected.check(answer));
                    }
                }
                answered += 1;
            }
            answered
        })
    };
    let clients = [0, 1, 2, 0].map(client);
    for round in 0..6 {
        let (backbone, version) = if round % 2 == 0 { ("tiny", 1) } else { ("moved", 2) };
        registry.activate_backbone(backbone).await.unwrap();
        assert_eq!(embed(&world.inference).await.backbone.name, backbone);
        registry.activate(&name("moving"), version).await.unwrap();
        assert_eq!(answer(&world.inference, "moving").await.adapter.version, version);
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_backbone_stays_as_long_as_a_version_was_made_for_it() {
    let world = World::new(Settings::default(), &[("a", Kind::ner(1))]).await;
    let registry = world.registry();
    let expected = answer(&world.inference, "a").await;
    assert_eq!(resident(&world), ["tiny*: a@1"]);
    registry.activate_backbone("moved").await.unwrap();
    assert_eq!(resident(&world), ["tiny: a@1", "moved*: "]);
    assert_same(&answer(&world.inference, "a").await, &expected, 1e-5);
    publish(registry, "a", Kind::ner(2), "moved").await;
    assert_eq!(resident(&world), ["tiny: a@1", "moved*: a@2"]);
    assert_eq!(answer(&world.inference, "a").await.backbone.name, "moved");
    let active = registry.retire_backbone("moved").await.unwrap_err();
    assert_eq!(active.kind(), ErrorKind::Conflict, "{active}");
    let series = |series: &str, name: &str| {
        let text = world.metrics.render();
        text.lines().filter(|l| l.starts_with(series) && l.contains(&format!("name=\"{name}\""))).count()
    };
    assert_eq!((series("trunkline_backbone_info", "tiny"), series("trunkline_backbone_bytes", "tiny")), (1, 1));
    registry.retire(&name("a"), Some(1)).await.unwrap();
    assert_eq!(resident(&world), ["moved*: a@2"]);
    assert_eq!((series("trunkline_backbone_info", "tiny"), series("trunkline_backbone_bytes", "tiny")), (0, 0));
    assert_eq!(series("trunkline_backbone_active", "moved"), 1);
    // A switch away from one that nothing was made for leaves nothing behind.
    registry.activate_backbone("other").await.unwrap();
    registry.activate_backbone("moved").await.unwrap();
    assert_eq!(resident(&world), ["moved*: a@2"]);
}

#[tokio::test]
async fn adapters_of_a_backbone_that_is_not_there_are_listed_with_its_fingerprint_and_come_with_it() {
    let world = World::new(Settings::default(), &[("here", Kind::ner(1))]).await;
    let registry = world.registry();
    let stranger = registry.publish(&name("away"), Kind::ner(2).files_for("moved"), true).await.unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Conflict, "{stranger}");
    registry.load_backbone("moved").await.unwrap();
    assert_eq!(embed(&world.inference).await.backbone.name, "tiny", "loading activates nothing");
    publish(registry, "away", Kind::ner(2), "moved").await;
    let expected = answer(&world.inference, "away").await;

    registry.retire_backbone("moved").await.unwrap();
    let check_gone = |world: &World| {
        let view = world.registry().get(&name("away")).unwrap();
        let reason = view.versions[0].reason.clone().unwrap_or_default();
        assert_eq!((view.versions[0].state, view.labels.len()), (VersionState::Failed, 5));
        assert!(reason.contains(shelf::open("moved").fingerprint().as_str()), "{reason}");
    };
    check_gone(&world);
    let refused = world.inference.infer(ner("away", &TEXTS)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert_eq!(registry.load(&name("away"), None).await.unwrap_err().kind(), ErrorKind::Conflict);
    answer(&world.inference, "here").await;

    let world = world.reopen(Settings::default()).await;
    check_gone(&world);
    world.registry().activate_backbone("moved").await.unwrap();
    assert_eq!(world.registry().get(&name("away")).unwrap().versions[0].state, VersionState::Resident);
    assert_same(&answer(&world.inference, "away").await, &expected, 1e-5);
}

#[tokio::test]
async fn after_a_restart_the_same_backbones_serve_the_same_adapters() {
    let world = World::new(Settings::default(), &[("old", Kind::ner(1)), ("both", Kind::ner(4))]).await;
    world.registry().activate_backbone("moved").await.unwrap();
    publish(world.registry(), "new", Kind::ner(2), "moved").await;
    publish(world.registry(), "both", Kind::ner(4), "moved").await;
    let before = analyze(&world.inference, &["old", "new", "both", "both@1"]).await;
    let embedded = embed(&world.inference).await;
    let set = resident(&world);
    let world = world.reopen(Settings::default()).await;
    assert_eq!(resident(&world).len(), set.len());
    let after = analyze(&world.inference, &["old", "new", "both", "both@1"]).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.backbone, after.backbone);
        assert_same(after, before, 1e-5);
    }
    assert_eq!(embed(&world.inference).await.backbone, embedded.backbone);
}

#[tokio::test]
async fn a_backbone_that_cannot_be_had_or_cannot_compute_changes_nothing() {
    let world = World::new(Settings::default(), &[("a", Kind::ner(1))]).await;
    for (asked, kind) in [("nowhere", ErrorKind::NotFound), ("broken", ErrorKind::Unprocessable)] {
        for activate in [true, false] {
            let registry = world.registry();
            let refused = match activate {
                true => registry.activate_backbone(asked).await,
                false => registry.load_backbone(asked).await,
            };
            assert_eq!(refused.unwrap_err().kind(), kind, "{asked}");
        }
        assert_eq!(resident(&world), ["tiny*: a@1"]);
    }
    assert_eq!(world.registry().retire_backbone("moved").await.unwrap_err().kind(), ErrorKind::NotFound);
    let fingerprint = shelf::open("tiny").fingerprint().to_string();
    world.registry().activate_backbone(&fingerprint).await.unwrap();
    answer(&world.inference, "a").await;
}

#[tokio::test]
async fn one_text_through_adapters_of_backbones_with_other_tokens_is_answered_as_by_each_alone() {
    let world = World::new(Settings::default(), &[("words", Kind::ner(1)), ("topics", Kind::classify(2))]).await;
    world.registry().load_backbone("other").await.unwrap();
    publish(world.registry(), "bytes", Kind::ner(5), "other").await;
    let answers = analyze(&world.inference, &["words", "bytes", "topics"]).await;
    assert_same(&answers[0], &answer(&world.inference, "words").await, 1e-5);
    assert_same(&answers[1], &answer(&world.inference, "bytes").await, 1e-5);
    assert_same(&answers[2], &world.inference.infer(classify("topics", &TEXTS)).await.unwrap(), 1e-5);
    assert_eq!(answers[1].backbone.name, "other");
}

#[tokio::test]
async fn a_batch_of_several_backbones_is_a_pass_for_each() {
    let engine = Engine::start(&EngineConfig { threads: 1, prefix_cache_bytes: 0 }).unwrap();
    let works =
        ["tiny", "moved"].map(|name| Work::Embed(Through::Base(shelf::open(name).resident), Default::default()));
    let sequence = |at: usize| BatchSequence {
        ids: (5..8 + at as u32).collect(),
        type_ids: vec![0; 3 + at].into(),
        work: works[at % 2].clone(),
    };
    let sequences: Vec<_> = (0..6).map(sequence).collect();
    let run = async |sequences: Vec<BatchSequence>| engine.run(Batch { sequences }).await.unwrap().outputs;
    let together = run(sequences.clone()).await;
    for (sequence, mixed) in sequences.into_iter().zip(together) {
        let alone = run(vec![sequence]).await.remove(0).unwrap();
        let (Output::Embedding(alone), Output::Embedding(mixed)) = (alone, mixed.unwrap()) else {
            panic!("embeddings were asked")
        };
        assert!(distance(&[alone], &[mixed]) < 1e-5);
    }
}
