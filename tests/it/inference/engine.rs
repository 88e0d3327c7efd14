//! Batches: mixed, shared, poisoned.

use std::sync::Arc;

use trunkline::domain::{EmbedParameters, ErrorKind, Family, Pooling, TextInput};
use trunkline::engine::{Batch, BatchSequence, Engine, EngineConfig, Output, ResidentAdapter, Work};

use super::world::{Kind, TEXTS, encoder, resident, through, tokenizer};

fn engine() -> Engine {
    Engine::start(&EngineConfig { threads: 1, prefix_cache_bytes: 0 }).unwrap()
}

fn sequence(text: &str, work: Work) -> BatchSequence {
    let encoding = tokenizer().encode(&TextInput::Text(text.to_owned())).unwrap();
    let window = tokenizer().assemble(&encoding, 0..encoding.ids.len(), None);
    BatchSequence { ids: window.ids.into(), type_ids: window.type_ids.into(), work }
}

/// Families, ranks, layers and label counts of all sorts.
fn adapters() -> Vec<Arc<ResidentAdapter>> {
    let all_layers = Kind { layer: None, rank: 2, ..Kind::ner(3) };
    let wide = Kind { rank: 16, labels: 9, layer: Some(0), ..Kind::ner(4) };
    let binary = Kind { rank: 1, labels: 2, layer: Some(2), ..Kind::classify(5) };
    [Kind::ner(1), Kind::classify(2), all_layers, wide, binary]
        .iter()
        .enumerate()
        .map(|(at, kind)| kind.resident(&format!("a{at}")))
        .collect()
}

fn works(adapters: &[Arc<ResidentAdapter>]) -> Vec<Work> {
    let embed = |adapter, pooling| {
        Work::Embed(
            through(adapter),
            EmbedParameters { pooling, normalize: pooling == Pooling::Mean, ..Default::default() },
        )
    };
    let heads = adapters.iter().cloned().map(Work::Head);
    let embeds =
        [embed(None, Pooling::Mean), embed(None, Pooling::Cls), embed(Some(adapters[0].clone()), Pooling::Mean)];
    heads.chain(embeds).collect()
}

fn numbers(output: &Output) -> &[f32] {
    match output {
        Output::Logits(matrix) => matrix.data(),
        Output::Embedding(vector) => vector,
    }
}

#[track_caller]
fn assert_close(a: &Output, b: &Output) {
    let (a, b) = (numbers(a), numbers(b));
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-5, "off by {worst}");
}

async fn alone(engine: &Engine, sequence: &BatchSequence) -> Output {
    let output = engine.run(Batch { sequences: vec![sequence.clone()] }).await.unwrap();
    output.outputs.into_iter().next().unwrap().unwrap()
}

#[tokio::test]
async fn a_sequence_is_answered_the_same_alone_as_in_any_mix() {
    let engine = engine();
    let works = works(&adapters());
    let all: Vec<BatchSequence> =
        TEXTS.iter().flat_map(|text| works.iter().map(|work| sequence(text, work.clone()))).collect();
    let mut expected = Vec::new();
    for one in &all {
        expected.push(alone(&engine, one).await);
    }
    // Every order that steps through the list; and parts of it, so that other adapters are the lowest.
    for (step, take) in [(1, 48), (7, 48), (5, 11), (13, 6), (11, 3)] {
        let order: Vec<usize> = (0..take).map(|at| at * step % all.len()).collect();
        let batch = Batch { sequences: order.iter().map(|&at| all[at].clone()).collect() };
        let output = engine.run(batch).await.unwrap();
        for (&at, output) in order.iter().zip(&output.outputs) {
            assert_close(output.as_ref().unwrap(), &expected[at]);
        }
    }
}

#[tokio::test]
async fn adapters_change_the_answer_and_heads_have_their_shape() {
    let engine = engine();
    let one = |work| sequence(TEXTS[0], work);
    let tokens = one(Work::Embed(through(None), EmbedParameters::default())).ids.len();
    let (ner, classify) = (Kind::ner(1).resident("n"), Kind::classify(2).resident("c"));
    let logits = |output| match output {
        Output::Logits(matrix) => (matrix.rows(), matrix.columns()),
        Output::Embedding(_) => panic!("logits were asked"),
    };
    assert_eq!(logits(alone(&engine, &one(Work::Head(ner.clone()))).await), (tokens, 5));
    assert_eq!(logits(alone(&engine, &one(Work::Head(classify))).await), (1, 3));
    let base = alone(&engine, &one(Work::Embed(through(None), EmbedParameters::default()))).await;
    let adapted = alone(&engine, &one(Work::Embed(through(Some(ner)), EmbedParameters::default()))).await;
    let moved = numbers(&base).iter().zip(numbers(&adapted)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(moved > 1e-3, "the adapter moved nothing: {moved}");
    let norm: f32 = numbers(&base).iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
}

#[tokio::test]
async fn equal_texts_share_the_layers_that_no_adapter_of_theirs_changes() {
    let engine = engine();
    let layers = |layer| Kind { layer, ..Kind::ner(1) };
    let from = |layer, name| Work::Head(layers(layer).resident(name));
    let (top, middle, bottom) = (from(Some(2), "top"), from(Some(1), "middle"), from(None, "bottom"));
    let base = Work::Embed(through(None), EmbedParameters::default());
    let tokens = sequence(TEXTS[0], base.clone()).ids.len();
    let check = async |works: &[&Work], texts: [&str; 2], expected: usize| {
        let sequences = works.iter().zip(texts.iter().cycle()).map(|(&work, text)| sequence(text, work.clone()));
        let output = engine.run(Batch { sequences: sequences.collect() }).await.unwrap();
        assert_eq!(output.prefix_tokens_saved, expected);
    };
    let same = [TEXTS[0]; 2];
    check(&[&top], same, 0).await;
    check(&[&top, &middle], same, tokens).await;
    check(&[&top, &middle, &base, &base], same, 3 * tokens).await;
    check(&[&top, &top], same, tokens).await;
    check(&[&top, &bottom], same, 0).await;
    check(&[&top, &middle, &bottom], same, tokens).await;
    check(&[&top, &middle], [TEXTS[0], TEXTS[1]], 0).await;
}

#[tokio::test]
async fn a_poisonous_adapter_or_sequence_fails_alone() {
    let engine = engine();
    let healthy = adapters();
    let poison = resident("poison", Kind::ner(9).bundle_with(|_| f32::NAN));
    let mut sequences: Vec<BatchSequence> =
        healthy.iter().map(|adapter| sequence(TEXTS[0], Work::Head(adapter.clone()))).collect();
    let guilty = [1, 4];
    sequences.insert(guilty[0], sequence(TEXTS[0], Work::Head(poison)));
    // A token that no vocabulary has.
    let unknown = BatchSequence { ids: [u32::MAX; 3].into(), type_ids: [0; 3].into(), work: sequences[0].work.clone() };
    sequences.insert(guilty[1], unknown);
    let output = engine.run(Batch { sequences: sequences.clone() }).await.unwrap();
    for (at, answer) in output.outputs.iter().enumerate() {
        match answer {
            Ok(output) => assert_close(output, &alone(&engine, &sequences[at]).await),
            Err(error) => assert!(guilty.contains(&at), "{at}: {error}"),
        }
        assert_eq!(answer.is_err(), guilty.contains(&at), "sequence {at}");
    }
    let poisoned = output.outputs[guilty[0]].as_ref().unwrap_err();
    assert_eq!(poisoned.kind(), ErrorKind::Unprocessable);
    assert!(poisoned.message().contains("poison@1"), "{poisoned}");
    assert!(output.outputs[guilty[1]].as_ref().unwrap_err().message().contains("a0@1"));
    assert!(!engine.is_lost());
    assert_eq!(healthy[1].identity.family, Family::Classify);
}

#[tokio::test]
async fn a_text_whose_prefix_was_kept_has_the_very_same_answer() {
    let plain = engine();
    let keeping = Engine::start(&EngineConfig { threads: 1, prefix_cache_bytes: 1 << 20 }).unwrap();
    let works = works(&adapters());
    let all: Vec<BatchSequence> =
        TEXTS.iter().flat_map(|text| works.iter().map(|work| sequence(text, work.clone()))).collect();
    let mut saved = 0;
    // The second round finds what the first kept; larger batches mix texts that are kept with others.
    for (round, size) in [1, 1, 7, 48].into_iter().enumerate() {
        for batch in all.chunks(size) {
            let batch = Batch { sequences: batch.to_vec() };
            let wanted = plain.run(batch.clone()).await.unwrap();
            let got = keeping.run(batch).await.unwrap();
            for (got, wanted) in got.outputs.iter().zip(&wanted.outputs) {
                assert_eq!(got.as_ref().unwrap(), wanted.as_ref().unwrap(), "round {round}");
            }
            saved += got.prefix_tokens_saved - wanted.prefix_tokens_saved;
        }
    }
    assert!(saved > 0, "nothing was kept");
}

#[tokio::test]
async fn adapters_that_fork_at_one_layer_share_what_one_of_them_kept() {
    let keeping = |bytes| Engine::start(&EngineConfig { threads: 1, prefix_cache_bytes: bytes }).unwrap();
    let at = |layer, name| Work::Head(Kind { layer, ..Kind::ner(1) }.resident(name));
    let (one, other, deeper, whole) = (at(Some(2), "a"), at(Some(2), "b"), at(Some(1), "c"), at(None, "d"));
    let tokens = sequence(TEXTS[0], one.clone()).ids.len();
    let saved = async |engine: &Engine, text, work: &Work| {
        let output = engine.run(Batch { sequences: vec![sequence(text, work.clone())] }).await.unwrap();
        output.prefix_tokens_saved
    };
    let engine = keeping(1 << 20);
    let cases = [
        (TEXTS[0], &one, 0),
        (TEXTS[0], &other, tokens),
        (TEXTS[0], &deeper, 0),
        (TEXTS[0], &deeper, tokens),
        (TEXTS[0], &whole, 0),
        (TEXTS[0], &whole, 0),
        (TEXTS[1], &one, 0),
    ];
    for (at, (text, work, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(saved(&engine, text, work).await, wanted, "case {at}");
    }
    // Room for one text: the next one takes its place.
    let width = encoder().config().hidden_size;
    let engine = keeping(tokens * width * size_of::<f32>() + 256);
    for (at, (text, wanted)) in
        [(TEXTS[0], 0), (TEXTS[0], tokens), (TEXTS[3], 0), (TEXTS[0], 0)].into_iter().enumerate()
    {
        assert_eq!(saved(&engine, text, &one).await, wanted, "case {at} of a small cache");
    }
}
