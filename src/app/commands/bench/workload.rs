//! What the next request asks: an adapter by popularity, texts in a seeded order. A pure function of the seed.

use hyper::body::Bytes;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::domain::AdapterRef;

use super::popularity::Zipf;
use super::texts::Text;

/// Bodies of requests, without end.
pub(super) struct Workload {
    /// Of each adapter: a body up to its first input.
    openings: Vec<String>,
    popularity: Zipf,
    /// As JSON; shuffled anew after each pass, so that equal texts are as far apart as they can be: a server may compute equal
    /// texts of one batch once, which would flatter it.
    texts: Vec<String>,
    next_text: usize,
    inputs_per_request: usize,
    draw: ChaCha8Rng,
}

impl Workload {
    /// `adapters` (the most popular first) and `texts` hold at least one each.
    pub(super) fn new(
        adapters: &[AdapterRef],
        zipf: f64,
        texts: &[Text],
        inputs_per_request: usize,
        seed: u64,
    ) -> Self {
        let opening = |adapter: &AdapterRef| format!("{{\"adapter\":\"{adapter}\",\"inputs\":[");
        let text = |text: &Text| serde_json::to_string(text).expect("strings are JSON");
        Self {
            openings: adapters.iter().map(opening).collect(),
            popularity: Zipf::new(adapters.len(), zipf),
            next_text: texts.len(),
            texts: texts.iter().map(text).collect(),
            inputs_per_request,
            draw: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    pub(super) fn next_body(&mut self) -> Bytes {
        let adapter = self.popularity.pick(self.draw.random());
        let mut body = self.openings[adapter].clone();
        for at in 0..self.inputs_per_request {
            if at > 0 {
                body.push(',');
            }
            body.push_str(self.next_text());
        }
        body.push_str("]}");
        body.into()
    }

    fn next_text(&mut self) -> &str {
        if self.next_text == self.texts.len() {
            self.texts.shuffle(&mut self.draw);
            self.next_text = 0;
        }
        self.next_text += 1;
        &self.texts[self.next_text - 1]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::Value;

    use super::*;

    fn workload(seed: u64) -> Workload {
        let texts: Vec<Text> = ["\"quoted\"", "é\n", "c"].map(|text| Text::Whole(text.to_owned())).into();
        let adapters = ["a", "b@2"].map(|name| name.parse().unwrap());
        Workload::new(&adapters, 0.0, &texts, 2, seed)
    }

    fn bodies(seed: u64) -> Vec<Value> {
        let mut workload = workload(seed);
        (0..300).map(|_| serde_json::from_slice(&workload.next_body()).unwrap()).collect()
    }

    #[test]
    fn the_bodies_are_a_function_of_the_seed() {
        assert_eq!(bodies(1), bodies(1));
        assert_ne!(bodies(1), bodies(2));
    }

    #[test]
    fn every_text_comes_equally_often_and_every_adapter_comes() {
        let (mut texts, mut adapters) = (HashMap::new(), HashMap::new());
        for body in bodies(1) {
            *adapters.entry(body["adapter"].to_string()).or_insert(0) += 1;
            let inputs = body["inputs"].as_array().unwrap();
            assert_eq!(inputs.len(), 2);
            inputs.iter().for_each(|input| *texts.entry(input.as_str().unwrap().to_owned()).or_insert(0) += 1);
        }
        assert_eq!(texts, HashMap::from([("\"quoted\"".into(), 200), ("é\n".into(), 200), ("c".into(), 200)]));
        assert_eq!(adapters.len(), 2);
        assert!(adapters.values().all(|&count| count > 100), "{adapters:?}");
    }
}
