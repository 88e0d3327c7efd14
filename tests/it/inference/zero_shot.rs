//! Names that a request brings: scored as the definition says, encoded once, refused where they mean nothing.

use std::collections::HashMap;

use trunkline::adapter::AdapterBundle;
use trunkline::domain::{
    Activation, CandidateLabels, ClassifyParameters, ErrorKind, HeadForm, HypothesisTemplate, NerParameters, TextInput,
};
use trunkline::model::{Mode, Packed, SegmentAdapters};
use trunkline::serving::{AnalyzeRequest, AnalyzeTarget, Answer, InferenceRequest, Predictions, Task};

use super::world::{Kind, Settings, TEXTS, World, assert_same, drawn_primary, encoder, request, tokenizer};

const NAMES: [&str; 5] = ["person", "place_name", "DayOfWeek", "amount.of-money", "food"];
/// What is encoded of them.
const SAID: [&str; 5] = ["person", "place name", "day of week", "amount of money", "food"];
const THRESHOLD: f32 = 0.52;
/// Those that one window takes: the twin knows no windows.
const SHORT_TEXTS: &[&str] = &[TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[3], TEXTS[4]];
const TOLERANCE: f32 = 1e-4;

fn candidates(names: &[&str]) -> Option<CandidateLabels> {
    Some(CandidateLabels::new(names.iter().map(|&name| name.to_owned()).collect()).unwrap())
}

fn ner(names: &[&str]) -> Task {
    Task::Ner(NerParameters { candidate_labels: candidates(names), ..NerParameters::default() })
}

fn classify(names: &[&str]) -> ClassifyParameters {
    ClassifyParameters { candidate_labels: candidates(names), ..ClassifyParameters::default() }
}

fn by_type() -> AdapterBundle {
    let mut bundle = drawn_primary(HeadForm::Concepts, 11);
    bundle.card = bundle.card.with_concept_threshold(THRESHOLD);
    bundle
}

async fn world() -> World {
    let world = World::new(Settings::default(), &[("labels", Kind::ner(1))]).await;
    for (name, bundle) in [("by-type", by_type()), ("by-class", drawn_primary(HeadForm::Similarity, 12))] {
        world.registry().publish(&name.parse().unwrap(), bundle.to_files(&encoder()).unwrap(), true).await.unwrap();
    }
    world
}

/// The plain twin: one text at a time through the unpacked adapter, the head by its formula.
struct Twin {
    bundle: AdapterBundle,
    head: HashMap<String, Vec<f32>>,
}

impl Twin {
    fn new(bundle: AdapterBundle) -> Self {
        let tensors = bundle.head.tensors().into_iter();
        let head = tensors.map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap())).collect();
        Self { bundle, head }
    }

    /// One row a position, special tokens included.
    fn hidden(&self, text: &str) -> Vec<Vec<f32>> {
        let encoding = tokenizer().encode(&TextInput::Text(text.to_owned())).unwrap();
        let window = tokenizer().assemble(&encoding, 0..encoding.ids.len(), None);
        let packed = Packed::new([(window.ids.as_slice(), window.type_ids.as_slice())]);
        let (encoder, tokens) = (encoder(), packed.tokens());
        let adapters = SegmentAdapters(vec![(0..tokens, &self.bundle.lora)]);
        let embedded = encoder.embed(&packed).unwrap();
        let layers = 0..encoder.config().layers;
        encoder.forward(&embedded, &packed.bounds, &adapters, layers, Mode::Eval).unwrap().to_vec2().unwrap()
    }

    fn mean(&self, text: &str) -> Vec<f32> {
        let rows = self.hidden(text);
        (0..rows[0].len()).map(|at| rows.iter().map(|row| row[at]).sum::<f32>() / rows.len() as f32).collect()
    }

    fn projected(&self, x: &[f32], side: &str) -> Vec<f32> {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        let rows = self.head[&format!("{side}.weight")].chunks(x.len());
        rows.zip(&self.head[&format!("{side}.bias")]).map(|(row, bias)| dot(row) + bias).collect()
    }

    fn scale(&self) -> f32 {
        self.head["log_scale"][0].exp()
    }

    /// `name@range:score`, word by word.
    fn entities(&self, text: &str) -> Vec<(String, std::ops::Range<usize>, f32)> {
        let encoding = tokenizer().encode(&TextInput::Text(text.to_owned())).unwrap();
        let concepts: Vec<_> = SAID.iter().map(|said| self.projected(&self.mean(said), "concept")).collect();
        let mut found: Vec<(usize, std::ops::Range<usize>, Vec<f32>)> = Vec::new();
        let mut joins = false;
        for (at, row) in self.hidden(text)[1..].iter().take(encoding.ids.len()).enumerate() {
            let range = encoding.offsets[at].clone();
            if encoding.is_subword[at] {
                if joins {
                    found.last_mut().unwrap().1.end = range.end;
                }
                continue;
            }
            let token = self.projected(row, "token");
            let score = |concept: &Vec<f32>| {
                let logit = self.scale() * cosine(&token, concept) + self.head["offset"][0];
                1.0 / (1.0 + (-logit).exp())
            };
            let scores: Vec<f32> = concepts.iter().map(score).collect();
            let best = (0..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
            let continues = joins && found.last().is_some_and(|(name, ..)| *name == best);
            joins = scores[best] >= THRESHOLD;
            match found.last_mut() {
                Some(span) if joins && continues => {
                    span.1.end = range.end;
                    span.2.push(scores[best]);
                }
                _ if joins => found.push((best, range, vec![scores[best]])),
                _ => {}
            }
        }
        let mean = |scores: Vec<f32>| scores.iter().sum::<f32>() / scores.len() as f32;
        found.into_iter().map(|(name, range, scores)| (NAMES[name].to_owned(), range, mean(scores))).collect()
    }

    /// Of each name, in their order; `said` is what is encoded of them.
    fn similarities(&self, text: &str, said: &[String]) -> Vec<f32> {
        let text = self.mean(text);
        said.iter().map(|said| self.scale() * cosine(&text, &self.mean(said))).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[tokio::test]
async fn entities_of_named_types_are_those_of_the_plain_twin() {
    let world = world().await;
    let twin = Twin::new(by_type());
    let answer = world.inference.infer(request("by-type", ner(&NAMES), SHORT_TEXTS)).await.unwrap();
    let Predictions::Ner(predictions) = answer.predictions else { panic!("entities were asked") };
    let mut count = 0;
    for (text, prediction) in SHORT_TEXTS.iter().zip(&predictions) {
        let expected = twin.entities(text);
        let found: Vec<_> = prediction.entities.iter().map(|e| (e.label.clone(), e.range.clone())).collect();
        assert_eq!(found, expected.iter().map(|e| (e.0.clone(), e.1.clone())).collect::<Vec<_>>(), "{text:?}");
        for (entity, (.., score)) in prediction.entities.iter().zip(&expected) {
            assert!((entity.score - score).abs() < TOLERANCE, "{text:?}: {entity:?}, wanted {score}");
        }
        count += found.len();
    }
    let words: usize = SHORT_TEXTS.iter().map(|text| text.split_whitespace().count()).sum();
    assert!((1..words).contains(&count), "{count} entities in {words} words: the threshold decides nothing");
}

#[tokio::test]
async fn a_long_texts_entities_are_found_in_all_of_its_windows() {
    let world = world().await;
    let long = "Anna met Bob in Krakow on Friday and paid 50 dollars for cold food . ".repeat(8);
    let answer = world.inference.infer(request("by-type", ner(&NAMES), &[&long])).await.unwrap();
    let Predictions::Ner(predictions) = answer.predictions else { panic!("entities were asked") };
    assert!(predictions[0].windows > 2);
    let last = predictions[0].entities.last().unwrap().range.end;
    assert!(last > long.len() * 3 / 4, "nothing after {last} of {}", long.len());
}

#[tokio::test]
async fn classes_by_name_are_scored_as_the_plain_twin_does_with_and_without_a_template() {
    let world = world().await;
    let twin = Twin::new(drawn_primary(HeadForm::Similarity, 12));
    let template = HypothesisTemplate::new("This is about {}.".to_owned()).unwrap();
    for (template, said) in [
        (HypothesisTemplate::default(), SAID.map(str::to_owned)),
        (template, SAID.map(|said| format!("This is about {said}."))),
    ] {
        for activation in [None, Some(Activation::Sigmoid), Some(Activation::None)] {
            let hypothesis_template = template.clone();
            let parameters = ClassifyParameters { activation, hypothesis_template, ..classify(&NAMES) };
            let answer =
                world.inference.infer(request("by-class", Task::Classify(parameters), SHORT_TEXTS)).await.unwrap();
            let Predictions::Classify(predictions) = answer.predictions else { panic!("classes were asked") };
            for (text, prediction) in SHORT_TEXTS.iter().zip(&predictions) {
                let logits = twin.similarities(text, &said);
                let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
                for label in &prediction.labels {
                    let logit = logits[NAMES.iter().position(|name| *name == label.label).unwrap()];
                    let wanted = match activation {
                        None | Some(Activation::Softmax) => logit.exp() / sum,
                        Some(Activation::Sigmoid) => 1.0 / (1.0 + (-logit).exp()),
                        Some(Activation::None) => logit,
                    };
                    assert!((label.score - wanted).abs() < TOLERANCE, "{text:?}: {label:?}, wanted {wanted}");
                }
                assert_eq!(prediction.labels.len(), NAMES.len());
                assert!(prediction.labels.is_sorted_by(|a, b| a.score >= b.score));
            }
        }
    }
}

#[tokio::test]
async fn a_name_is_encoded_once_for_each_version_of_an_adapter() {
    let world = world().await;
    let sequences = || world.metrics.batch_sequences.get_sample_sum() as u64;
    let ask = async |adapter: &str, names: &[&str]| {
        let before = sequences();
        let answer = world.inference.infer(request(adapter, ner(names), &TEXTS[..1])).await.unwrap();
        (answer, sequences() - before)
    };
    let (first, encoded) = ask("by-type", &NAMES[..3]).await;
    assert_eq!(encoded, 3 + 1);
    let (again, encoded) = ask("by-type", &NAMES[..3]).await;
    assert_eq!(encoded, 1);
    assert_same(&again, &first, 1e-6);
    assert_eq!(ask("by-type", &["food", "person", "person "]).await.1, 1 + 1, "a name as it is said");
    let other = drawn_primary(HeadForm::Concepts, 13).to_files(&encoder()).unwrap();
    world.registry().publish(&"by-type".parse().unwrap(), other, true).await.unwrap();
    assert_eq!(ask("by-type", &NAMES[..3]).await.1, 3 + 1);
    assert_eq!(ask("by-type@1", &NAMES[..3]).await.1, 1);
    let metrics = world.metrics.render();
    assert!(!metrics.contains("place_name"), "a caller's name is no series");
}

#[tokio::test]
async fn analyze_compares_with_names_where_it_can_and_fails_alone_where_it_cannot() {
    let world = world().await;
    let ner = NerParameters { candidate_labels: candidates(&NAMES), ..NerParameters::default() };
    let target = |asked: &str| AnalyzeTarget { asked: asked.to_owned(), adapter: asked.parse().unwrap() };
    let request = AnalyzeRequest {
        inputs: TEXTS.iter().map(|&text| TextInput::Text(text.to_owned())).collect(),
        targets: ["labels", "by-type", "by-class"].map(target).to_vec(),
        ner: ner.clone(),
        classify: classify(&NAMES),
        deadline: None,
    };
    let answers: Vec<_> = world.inference.analyze(request).await.unwrap().into_iter().map(|(_, a)| a).collect();
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::Conflict);
    let alone = async |adapter: &str, task: Task| -> Answer {
        let request: InferenceRequest = super::world::request(adapter, task, &TEXTS);
        world.inference.infer(request).await.unwrap()
    };
    assert_same(answers[1].as_ref().unwrap(), &alone("by-type", Task::Ner(ner)).await, 1e-5);
    assert_same(answers[2].as_ref().unwrap(), &alone("by-class", Task::Classify(classify(&NAMES))).await, 1e-5);
}
