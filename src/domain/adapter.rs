//! What adapters are called, and how a caller refers to one.

use std::fmt;
use std::str::FromStr;

use crate::domain::{Error, Family};

/// The longest adapter or alias name, in bytes: it is a folder's name and a metric's label.
const NAME_BYTES_MAX: usize = 128;

/// The ends of names that are files beside adapters, in a store or in the repository it is kept in (`aliases.json`, `README.md`, what a
/// repair moved aside): a folder of that name would be taken for the file.
const FILE_ENDINGS: [&str; 12] =
    [".json", ".jsonl", ".lock", ".md", ".py", ".safetensors", ".sqlite", ".tar", ".tmp", ".toml", ".txt", ".yaml"];

/// What marks a damaged file that was moved aside.
const ASIDE: &str = ".damaged-";

/// An adapter's or alias's name: 1 to 128 of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit, and not the name of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterName(String);

impl AdapterName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the two are one folder on a file system that does not tell `A` from `a`.
    pub fn is_same_folder(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl fmt::Display for AdapterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AdapterName {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let opens = s.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !opens || s.len() > NAME_BYTES_MAX || !s.bytes().all(allowed) {
            return Err(Error::invalid(format!(
                "adapter name {s:?} is not 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_' and '-' beginning with a letter or digit"
            )));
        }
        let lower = s.to_ascii_lowercase();
        if FILE_ENDINGS.iter().any(|ending| lower.ends_with(ending)) || lower.contains(ASIDE) {
            return Err(Error::invalid(format!(
                "adapter name {s:?} is the name of a file, which may lie beside adapters; one without an ending such as \".json\" is wanted"
            )));
        }
        Ok(Self(s.to_owned()))
    }
}

/// `name`, `name@3` or an alias, as a caller writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AdapterRef {
    pub name: AdapterName,
    /// None: the active version, or whatever the alias says.
    pub version: Option<u32>,
}

impl fmt::Display for AdapterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => self.name.fmt(f),
        }
    }
}

impl FromStr for AdapterRef {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let Some((name, version)) = s.split_once('@') else {
            return Ok(Self { name: s.parse()?, version: None });
        };
        let is_number = version.starts_with(|first: char| matches!(first, '1'..='9'));
        let version = version.parse().ok().filter(|_| is_number).ok_or_else(|| {
            Error::invalid(format!("adapter reference {s:?}: after '@' a version number from 1 is wanted"))
        })?;
        Ok(Self { name: name.parse()?, version: Some(version) })
    }
}

/// `sha256:` and 64 hexadecimal digits: the content digest of an adapter version, or a backbone's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digest(String);

impl Digest {
    /// From the 32 bytes of a SHA-256.
    pub fn from_sha256(bytes: &[u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        bytes.iter().for_each(|b| write!(text, "{b:02x}").expect("writing to a String cannot fail"));
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let hex = s.strip_prefix("sha256:").unwrap_or_default();
        let is_lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != 64 || !hex.bytes().all(is_lower_hex) {
            return Err(Error::invalid(format!(
                "digest {s:?} is not \"sha256:\" and 64 lower-case hexadecimal digits"
            )));
        }
        Ok(Self(s.to_owned()))
    }
}

/// Exactly which adapter version answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterIdentity {
    pub name: AdapterName,
    pub version: u32,
    pub digest: Digest,
    pub family: Family,
}

/// A second name for adapters: a weighted split, and a version that sees the same traffic without answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// At least one, at most [`Alias::TARGETS_MAX`]; the weights' sum is at least 1.
    pub targets: Vec<AliasTarget>,
    pub shadow: Option<AdapterRef>,
}

impl Alias {
    /// A split into more parts is no experiment any more, and every request walks the list.
    pub const TARGETS_MAX: usize = 32;

    /// `invalid_request` without a target that answers, `unprocessable` with too many.
    pub fn check(&self) -> Result<(), Error> {
        if self.targets.iter().all(|target| target.weight == 0) {
            return Err(Error::invalid("targets: at least one with a weight from 1 is wanted"));
        }
        if self.targets.len() > Self::TARGETS_MAX {
            let (got, max) = (self.targets.len(), Self::TARGETS_MAX);
            return Err(Error::unprocessable(format!("targets: {got} are given; an alias has at most {max}")));
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasTarget {
    pub adapter: AdapterRef,
    pub weight: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_folder_and_never_a_file_beside_it() {
        let check = |name: &str, is_good: bool| assert_eq!(name.parse::<AdapterName>().is_ok(), is_good, "{name:?}");
        for name in ["a", "emotion", "A.b-c_d", "v1.2", "json", "aliases", "readme", "9", "a.json.b", "damaged-1"] {
            check(name, true);
        }
        for name in [
            "",
            ".hidden",
            "-a",
            "_a",
            "..",
            "a/b",
            "a b",
            "é",
            "aliases.json",
            "ALIASES.JSON",
            "retired.json",
            "README.md",
            "train.py",
            "a.lock",
            "jobs.sqlite",
            "x.tmp",
            "aliases.json.damaged-1",
            "a.damaged-12",
        ] {
            check(name, false);
        }
        check(&"a".repeat(128), true);
        check(&"a".repeat(129), false);
    }

    #[test]
    fn an_alias_has_a_target_that_answers_and_not_too_many() {
        let alias = |weights: &[u32]| {
            let target = |&weight: &u32| AliasTarget { adapter: "a".parse().unwrap(), weight };
            Alias { targets: weights.iter().map(target).collect(), shadow: None }
        };
        for (weights, code) in [
            (&[][..], "invalid_request"),
            (&[0, 0], "invalid_request"),
            (&[0, 1], "ok"),
            (&[1; Alias::TARGETS_MAX], "ok"),
            (&[1; Alias::TARGETS_MAX + 1], "unprocessable"),
        ] {
            let got = alias(weights).check().map_or_else(|error| error.kind().code(), |()| "ok");
            assert_eq!(got, code, "{weights:?}");
        }
    }
}
