//! Requests through the whole line: answered alike however they are asked, refused, expired, given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tower::ServiceExt;
use trunkline::adapter::write_tar;
use trunkline::domain::{
    Activation, CandidateLabels, ClassifyParameters, EmbedParameters, ErrorKind, Family, HeadForm, LongText,
    NerParameters, ProblemType, TextInput,
};
use trunkline::serving::{AnalyzeRequest, AnalyzeTarget, Caller, EmbedRequest, InferenceRequest, Predictions, Task};
use trunkline::telemetry::{ExpiredStage, RejectReason};

use super::world::{Kind, Settings, TEXTS, World, assert_same, classify, encoder, ner, primary, request};

const ONE_WORKER: Settings =
    Settings { threads: 1, batch_tokens_max: 64, queue_tokens_max: 4096, adapter_memory: 1 << 30 };

async fn two_adapters() -> World {
    World::new(Settings::default(), &[("places", Kind::ner(1)), ("topics", Kind::classify(2))]).await
}

fn analyze(adapters: &[&str]) -> AnalyzeRequest {
    let target = |&asked: &&str| AnalyzeTarget { asked: asked.to_owned(), adapter: asked.parse().unwrap() };
    AnalyzeRequest {
        inputs: TEXTS.iter().map(|&text| TextInput::Text(text.to_owned())).collect(),
        targets: adapters.iter().map(target).collect(),
        ner: NerParameters::default(),
        classify: ClassifyParameters::default(),
        deadline: None,
    }
}

#[tokio::test]
async fn analyze_answers_as_single_requests_do_and_a_failing_target_fails_alone() {
    let world = two_adapters().await;
    world.registry().publish(&"topics".parse().unwrap(), Kind::classify(3).files(), false).await.unwrap();
    let asked = ["topics@1", "places", "nobody", "topics@2", "places@7"];
    let answers = world.inference.analyze(analyze(&asked)).await.unwrap();
    assert_eq!(answers.iter().map(|(asked, _)| asked.as_str()).collect::<Vec<_>>(), asked);
    for (asked, answer) in &answers {
        match asked.as_str() {
            "nobody" | "places@7" => {
                assert_eq!(answer.as_ref().unwrap_err().kind(), ErrorKind::AdapterNotFound);
                continue;
            }
            "places" => {
                assert_same(answer.as_ref().unwrap(), &world.inference.infer(ner(asked, &TEXTS)).await.unwrap(), 1e-5)
            }
            _ => assert_same(
                answer.as_ref().unwrap(),
                &world.inference.infer(classify(asked, &TEXTS)).await.unwrap(),
                1e-5,
            ),
        }
    }
    assert!(world.metrics.prefix_tokens_saved.get() > 0);
}

#[tokio::test]
async fn many_inputs_are_answered_as_each_alone() {
    let world = two_adapters().await;
    let together = world.inference.infer(classify("topics", &TEXTS)).await.unwrap();
    let Predictions::Classify(together) = together.predictions else { panic!("classes were asked") };
    for (text, expected) in TEXTS.iter().zip(&together) {
        let alone = world.inference.infer(classify("topics", &[text])).await.unwrap();
        let Predictions::Classify(alone) = alone.predictions else { panic!("classes were asked") };
        let scores = |p: &trunkline::domain::ClassifyPrediction| p.labels.iter().map(|l| l.score).collect::<Vec<_>>();
        let pairs = scores(&alone[0]).into_iter().zip(scores(expected));
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5), "{text:?}");
        let sum: f32 = expected.labels.iter().map(|label| label.score).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{text:?}: {sum}");
    }
}

#[tokio::test]
async fn an_empty_text_has_no_entities_and_a_class() {
    let world = two_adapters().await;
    let Predictions::Ner(entities) = world.inference.infer(ner("places", &[""])).await.unwrap().predictions else {
        panic!("entities were asked")
    };
    assert_eq!((entities[0].entities.len(), entities[0].tokens, entities[0].windows), (0, 2, 1));
    let Predictions::Classify(classes) = world.inference.infer(classify("topics", &[""])).await.unwrap().predictions
    else {
        panic!("classes were asked")
    };
    assert_eq!((classes[0].labels.len(), classes[0].tokens), (3, 2));
}

#[tokio::test]
async fn a_long_text_is_read_in_windows_cut_or_refused() {
    let world = two_adapters().await;
    let long = "Anna met Bob in Krakow and went on to Paris by train . ".repeat(20);
    let ask = async |adapter: &str, long_text| {
        let task = match adapter {
            "places" => Task::Ner(NerParameters { long_text, stride: 8, ..NerParameters::default() }),
            _ => Task::Classify(ClassifyParameters { long_text, ..ClassifyParameters::default() }),
        };
        world.inference.infer(request(adapter, task, &[&long])).await
    };
    for adapter in ["places", "topics"] {
        let shape = |answer: Predictions| match answer {
            Predictions::Ner(p) => (p[0].windows, p[0].truncated, p[0].tokens),
            Predictions::Classify(p) => (p[0].windows, p[0].truncated, p[0].tokens),
        };
        let windows = shape(ask(adapter, LongText::Window).await.unwrap().predictions);
        assert!(windows.0 > 5 && !windows.1, "{windows:?}");
        assert_eq!(shape(ask(adapter, LongText::Truncate).await.unwrap().predictions), (1, true, 32));
        assert_eq!(ask(adapter, LongText::Error).await.unwrap_err().kind(), ErrorKind::Unprocessable);
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_the_reason() {
    let world = two_adapters().await;
    let names = CandidateLabels::new(vec!["person".to_owned()]).unwrap();
    let concepts = Task::Ner(NerParameters { candidate_labels: Some(names), ..NerParameters::default() });
    let table = [
        (ner("topics", &["a"]), ErrorKind::Conflict, "family classify"),
        (classify("places", &["a"]), ErrorKind::Conflict, "family ner"),
        (request("places", concepts, &["a"]), ErrorKind::Conflict, "named concepts"),
        (ner("place", &["a"]), ErrorKind::AdapterNotFound, "places"),
        (ner("places@9", &["a"]), ErrorKind::AdapterNotFound, "it has 1"),
        (ner("places", &[]), ErrorKind::InvalidRequest, "at least one"),
    ];
    for (request, kind, reason) in table {
        let error = world.inference.infer(request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn an_adapter_that_compares_with_names_is_published_and_asks_for_them() {
    let world = two_adapters().await;
    for (form, name) in [(HeadForm::Concepts, "by-type"), (HeadForm::Similarity, "by-class")] {
        let bundle = primary(form);
        let files = bundle.to_files(&encoder()).unwrap();
        let archive = write_tar(&files).unwrap();
        let registry = world.inference.registry();
        let name = name.parse().unwrap();
        registry.publish_archive(&name, archive.clone(), None, None, true).await.unwrap();
        assert_eq!(registry.download(&name, None).await.unwrap(), archive);
        let task = match bundle.family() {
            Family::Ner => Task::Ner(NerParameters::default()),
            Family::Classify => Task::Classify(ClassifyParameters::default()),
        };
        let error = world.inference.infer(request(name.as_str(), task, &["a"])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.message().contains("needs candidate_labels"), "{error}");
    }
}

#[tokio::test]
async fn scores_follow_the_problem_type_and_what_the_caller_chooses() {
    let multi = Kind { problem: ProblemType::MultiLabel, ..Kind::classify(2) };
    let world = World::new(Settings::default(), &[("single", Kind::classify(2)), ("multi", multi)]).await;
    let ask = async |adapter: &str, activation| {
        let task = Task::Classify(ClassifyParameters { activation, ..ClassifyParameters::default() });
        match world.inference.infer(request(adapter, task, &[TEXTS[1]])).await.unwrap().predictions {
            Predictions::Classify(mut predictions) => predictions.remove(0).labels,
            Predictions::Ner(_) => panic!("classes were asked"),
        }
    };
    let raw = ask("single", Some(Activation::None)).await;
    let sigmoids: Vec<f32> = raw.iter().map(|label| 1.0 / (1.0 + (-label.score).exp())).collect();
    for (label, expected) in ask("multi", None).await.iter().zip(&sigmoids) {
        assert!((label.score - expected).abs() < 1e-5, "{label:?} {expected}");
    }
    assert_eq!(ask("multi", Some(Activation::Softmax)).await, ask("single", None).await);
}

#[tokio::test]
async fn embeddings_are_the_bases_or_an_adapters() {
    let world = two_adapters().await;
    let ask = async |adapter: Option<&str>| {
        let inputs = TEXTS.iter().map(|&text| TextInput::Text(text.to_owned())).collect();
        let adapter = adapter.map(|name| name.parse().unwrap());
        let parameters = EmbedParameters::default();
        world.inference.embed(EmbedRequest { inputs, adapter, parameters, deadline: None }).await.unwrap()
    };
    let (base, adapted) = (ask(None).await, ask(Some("places")).await);
    assert_eq!(base.embeddings.len(), TEXTS.len());
    assert!(base.tokens >= adapted.tokens, "adapters read no more than they were trained with");
    assert_ne!(base.embeddings[0], adapted.embeddings[0]);
    assert_eq!((base.adapter, adapted.adapter.unwrap().name.as_str()), (None, "places"));
}

#[tokio::test]
async fn the_service_is_the_same_path() {
    let world = two_adapters().await;
    let direct = world.inference.infer(ner("places", &TEXTS)).await.unwrap();
    let called = world.inference.clone().oneshot(ner("places", &TEXTS)).await.unwrap();
    assert_same(&direct, &called, 1e-5);
    world.inference.probe(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_request_given_up_leaves_the_queue_and_is_never_computed() {
    let world = World::new(ONE_WORKER, &[("places", Kind::ner(1))]).await;
    let queued = world.metrics.queue_tokens.with_label_values(&["places"]);
    let busy = world.engine.slot().await.unwrap();
    let inference = world.inference.clone();
    let asking = tokio::spawn(async move { inference.infer(ner("places", &TEXTS)).await });
    world.until("the request's tokens", |_| queued.get() > 0).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    assert_eq!(world.metrics.expired.get(ExpiredStage::Queue), 1);
    let batches = world.metrics.batch_sequences.get_sample_count();
    drop(busy);
    assert!(world.inference.drained(Instant::now() + Duration::from_secs(20)).await);
    assert_eq!(queued.get(), 0);
    assert_eq!(world.metrics.batch_sequences.get_sample_count(), batches);
}

#[tokio::test]
async fn a_deadline_is_kept_before_the_queue_and_in_it() {
    let world = World::new(ONE_WORKER, &[("places", Kind::ner(1))]).await;
    let ask = |deadline| {
        let request = InferenceRequest { deadline: Some(deadline), ..ner("places", &["a"]) };
        world.inference.infer(request)
    };
    let expired = || [ExpiredStage::Admission, ExpiredStage::Queue].map(|stage| world.metrics.expired.get(stage));
    assert_eq!(ask(Instant::now()).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(expired(), [1, 0]);
    let busy = world.engine.slot().await.unwrap();
    let error = ask(Instant::now() + Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    assert_eq!(expired(), [1, 1]);
    drop(busy);
    ask(Instant::now() + Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_full_share_refuses_at_once_lets_streams_wait_and_leaves_other_adapters_alone() {
    let settings = Settings { queue_tokens_max: 96, ..ONE_WORKER };
    let world = World::new(settings, &[("places", Kind::ner(1)), ("topics", Kind::classify(2))]).await;
    world.inference.infer(ner("places", &["a word to measure the speed with"])).await.unwrap();
    let text = "one two three four five six seven eight nine ten";
    let queued = |name: &str| world.metrics.queue_tokens.with_label_values(&[name]).get();
    let busy = world.engine.slot().await.unwrap();
    let spawn = |caller| {
        let inference = world.inference.clone();
        let request = InferenceRequest { caller, ..ner("places", &[text]) };
        tokio::spawn(async move { inference.infer(request).await })
    };
    let mut admitted = vec![spawn(Caller::single())];
    world.until("the first request's tokens", |_| queued("places") > 0).await;
    let each = queued("places");
    let refused = loop {
        let request = spawn(Caller::single());
        let count = admitted.len() as i64 + 1;
        world.until("its tokens or its refusal", |_| queued("places") == count * each || request.is_finished()).await;
        if request.is_finished() {
            break request.await.unwrap().unwrap_err();
        }
        admitted.push(request);
    };
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(refused.retry_after().is_some_and(|after| after > Duration::ZERO));
    assert_eq!(world.metrics.rejected.get(RejectReason::QueueFull), 1);
    assert!(queued("places") <= 64, "two thirds are a lone adapter's share");
    let waiting = spawn(Caller::stream());
    let (inference, other) = (world.inference.clone(), classify("topics", &[text; 20]));
    let other = tokio::spawn(async move { inference.infer(other).await });
    world.until("the other adapter's tokens", |_| queued("topics") > 0).await;
    drop(busy);
    for request in admitted.into_iter().chain([waiting, other]) {
        request.await.unwrap().unwrap();
    }
    assert!(world.inference.drained(Instant::now() + Duration::from_secs(20)).await);
    world.inference.infer(ner("places", &[text; 40])).await.expect("an idle server takes more than its queue's length");
}

#[tokio::test]
async fn a_long_request_lets_short_ones_of_its_own_adapter_pass() {
    let settings = Settings { queue_tokens_max: 256, batch_tokens_max: 32, ..ONE_WORKER };
    let world = World::new(settings, &[("places", Kind::ner(1))]).await;
    let long = "one two three four five ".repeat(2000);
    let inference = world.inference.clone();
    let long = tokio::spawn(async move { inference.infer(ner("places", &[&long])).await });
    world.until("the long request's first pass", |metrics| metrics.batch_tokens.get_sample_count() > 0).await;
    for _ in 0..20 {
        let before = world.metrics.batch_tokens.get_sample_count();
        world.inference.infer(ner("places", &["short"])).await.unwrap();
        let passes = world.metrics.batch_tokens.get_sample_count() - before;
        assert!(passes <= 16, "{passes} passes until a short text was answered");
    }
    assert!(!long.is_finished(), "the long one was to be under way all the time");
    long.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_request_asks_is_counted_before_it_is_built() {
    let world = World::new(ONE_WORKER, &[("places", Kind::ner(1))]).await;
    let long = "a ".repeat(1_000_000);
    let windows = |stride| {
        let parameters = NerParameters { stride, ..NerParameters::default() };
        request("places", Task::Ner(parameters), &[&"a ".repeat(20_000)])
    };
    let cases = [ner("places", &[&long]), windows(25), ner("places", &[&long[..100_000], &long[..100_000]])];
    for asked in cases {
        let started = Instant::now();
        let error = world.inference.infer(asked).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "{error}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
    let cut = ClassifyParameters { long_text: LongText::Truncate, ..Default::default() };
    let world = World::new(ONE_WORKER, &[("topics", Kind::classify(1))]).await;
    let started = Instant::now();
    world.inference.infer(request("topics", Task::Classify(cut), &[&long])).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(500), "only what is read is tokenized: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_hot_adapter_does_not_hold_up_a_cold_one() {
    const HOT: i64 = 100;
    let world = World::new(ONE_WORKER, &[("hot", Kind::ner(1)), ("cold", Kind::classify(2))]).await;
    let queued = |name: &str| world.metrics.queue_tokens.with_label_values(&[name]).get();
    let Predictions::Ner(measured) = world.inference.infer(ner("hot", &[TEXTS[0]])).await.unwrap().predictions else {
        panic!("entities were asked")
    };
    let all = HOT * i64::try_from(measured[0].tokens).unwrap();
    let busy = world.engine.slot().await.unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let ask_hot = |_| {
        let (inference, done) = (world.inference.clone(), done.clone());
        tokio::spawn(async move {
            inference.infer(ner("hot", &[TEXTS[0]])).await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        })
    };
    let hot: Vec<_> = (0..HOT).map(ask_hot).collect();
    world.until("all hot requests", |_| queued("hot") == all).await;
    let (inference, seen) = (world.inference.clone(), done.clone());
    let cold = tokio::spawn(async move {
        inference.infer(classify("cold", &[TEXTS[0]])).await.unwrap();
        seen.load(Ordering::SeqCst)
    });
    world.until("the cold request", |_| queued("cold") > 0).await;
    drop(busy);
    let ahead = cold.await.unwrap();
    for request in hot {
        request.await.unwrap();
    }
    assert!(ahead <= 40, "{ahead} of {HOT} hot requests went before the cold one");
}
