//! The texts by which an adapter's answers are compared between precisions.

use crate::domain::{Result, TextInput};
use crate::engine::Sample;
use crate::serving::Backbone;
use crate::text::Tokenizer;

/// Names, numbers, questions and other scripts: what adapters look for. Together some two hundred tokens, milliseconds of work.
const TEXTS: [&str; 6] = [
    "Meet Anna Kowalska and Dr. José García of Siemens in Kraków on 3 March 2021.",
    "My card was charged twice (EUR 49.99) and nobody answers; I want a refund now!",
    "what's the weather like in Oslo tomorrow morning",
    "Angela Merkel besuchte gestern die Europäische Zentralbank in Frankfurt am Main.",
    "東京の天気は? Привет из Москвы. مرحبا",
    "ok",
];

/// As `backbone` reads them; none where there is nothing to compare, since f32 serves.
pub(super) fn samples(backbone: &Backbone) -> Result<Vec<Sample>> {
    if backbone.resident.encoder().precision() == "f32" {
        return Ok(Vec::new());
    }
    TEXTS.iter().map(|text| sample(&backbone.tokenizer, text, backbone.max_length())).collect()
}

fn sample(tokenizer: &Tokenizer, text: &str, max_length: usize) -> Result<Sample> {
    let encoding = tokenizer.encode(&TextInput::Text(text.to_owned()))?;
    let room = max_length.saturating_sub(tokenizer.special_tokens(false));
    let window = tokenizer.assemble(&encoding, 0..encoding.ids.len().min(room), None);
    Ok((window.ids.into(), window.type_ids.into()))
}
