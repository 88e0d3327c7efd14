//! What adapters are called, and how a caller refers to one.

use std::fmt;
use std::str::FromStr;

use crate::domain::{Error, Family};

/// The longest adapter or alias name, in bytes: it is a folder's name and a metric's label.
const NAME_BYTES_MAX: usize = 128;

/// An adapter's or alias's name: 1 to 128 of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterName(String);

impl AdapterName {
    pub fn as_str(&self) -> &str {
        &self.0
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
    /// At least one; the weights' sum is at least 1.
    pub targets: Vec<AliasTarget>,
    pub shadow: Option<AdapterRef>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasTarget {
    pub adapter: AdapterRef,
    pub weight: u32,
}
