//! How many tokens of a text a backbone was trained to embed, where that is less than it can read: what sentence-transformers keeps
//! beside the model, and what is known of backbones that were fetched without it.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::backbone::derived::PROVENANCE;
use crate::backbone::files::TOKENIZER_CONFIG;
use crate::disk;
use crate::domain::{Digest, Error, Result};

/// What sentence-transformers calls its file, by the class it was written for.
const FILES: [&str; 6] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_electra_config.json",
];

/// Files of settings have a few kilobytes; a tokenizer's, with its added tokens, some hundred.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// sentence-transformers/all-MiniLM-L6-v2, whose Python package leaves the file out.
const KNOWN: [(&str, usize); 1] = [("sha256:843a1ab71ebc52c11094cfbef57c4a45525e2aa0a7bcda0cdaaef97bf2dd9b2f", 256)];

#[derive(Deserialize)]
struct Sentence {
    max_seq_length: Option<usize>,
}

/// Tokens of one text that the backbone in `folder` embeds, special ones included; None where nobody says.
///
/// The folder's own word comes first, then what is known of the backbone or of the one it was derived from, then its tokenizer's.
pub fn embedded_tokens_max(folder: &Path, fingerprint: &Digest) -> Result<Option<usize>> {
    for name in FILES {
        let Some(json) = read(folder, name)? else { continue };
        let wrong = |e| Error::unprocessable(format!("{}: {e}", folder.join(name).display())).with_source(e);
        let file: Sentence = serde_json::from_slice(&json).map_err(wrong)?;
        if let Some(tokens) = file.max_seq_length.filter(|&tokens| tokens > 0) {
            return Ok(Some(tokens));
        }
    }
    let parent = value(folder, PROVENANCE)?["parent"].as_str().map(str::to_owned);
    let is_it = |known: &str| known == fingerprint.as_str() || parent.as_deref() == Some(known);
    if let Some((_, tokens)) = KNOWN.into_iter().find(|(known, _)| is_it(known)) {
        return Ok(Some(tokens));
    }
    // A tokenizer without a limit says 1e30, which is no count of tokens.
    let tokens = value(folder, TOKENIZER_CONFIG)?["model_max_length"].as_u64();
    Ok(tokens.and_then(|tokens| usize::try_from(tokens).ok()).filter(|&tokens| tokens > 0))
}

fn read(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    disk::read_if_there(&path, FILE_BYTES_MAX).map_err(|e| disk::failed(&path, e))
}

/// What is not JSON says nothing of tokens, and is somebody else's to read.
fn value(folder: &Path, name: &str) -> Result<Value> {
    Ok(read(folder, name)?.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_folder_speaks_first_then_what_is_known_then_the_tokenizer() {
        let parent = format!(r#"{{"parent": "{}"}}"#, KNOWN[0].0);
        let other = Digest::from_sha256(&[7; 32]);
        let minilm: Digest = KNOWN[0].0.parse().unwrap();
        let own = ("sentence_bert_config.json", r#"{"max_seq_length": 384, "do_lower_case": false}"#);
        let unset = ("sentence_roberta_config.json", r#"{"max_seq_length": null}"#);
        let tokenizer = (TOKENIZER_CONFIG, r#"{"model_max_length": 512}"#);
        let endless = (TOKENIZER_CONFIG, r#"{"model_max_length": 1000000000000000019884624838656}"#);
        let derived = (PROVENANCE, parent.as_str());
        for (files, fingerprint, wanted) in [
            (&[][..], &other, None),
            (&[own, tokenizer, derived], &minilm, Some(384)),
            (&[tokenizer], &minilm, Some(256)),
            (&[tokenizer, derived], &other, Some(256)),
            (&[tokenizer, unset], &other, Some(512)),
            (&[endless], &other, None),
            (&[(TOKENIZER_CONFIG, "[")], &other, None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            files.iter().for_each(|(name, json)| fs::write(folder.path().join(name), json).unwrap());
            assert_eq!(embedded_tokens_max(folder.path(), fingerprint).unwrap(), wanted, "{files:?}");
        }
    }

    #[test]
    fn a_file_that_says_no_number_is_refused_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILES[0]), r#"{"max_seq_length": "long"}"#).unwrap();
        let error = embedded_tokens_max(folder.path(), &Digest::from_sha256(&[7; 32])).unwrap_err();
        assert!(error.message().contains("sentence_bert_config.json: "), "{error}");
    }
}
