//! Names that a caller wants texts compared with (zero-shot), and the sentence they are put in.

use std::collections::HashSet;

use crate::domain::{Error, Result};

/// 1 to 256 different names, each of 1 to 64 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateLabels(Vec<String>);

impl CandidateLabels {
    /// Each is a sequence for the encoder.
    pub const MAX: usize = 256;
    pub const CHARS_MAX: usize = 64;

    pub fn new(names: Vec<String>) -> Result<Self> {
        if names.is_empty() || names.len() > Self::MAX {
            return Err(Error::invalid(format!("{} of them; 1 to {} are wanted", names.len(), Self::MAX)));
        }
        let fits = |name: &String| !name.trim().is_empty() && name.chars().count() <= Self::CHARS_MAX;
        if let Some(at) = names.iter().position(|name| !fits(name)) {
            return Err(Error::invalid(format!("number {at} is not 1 to {} characters", Self::CHARS_MAX)));
        }
        let mut seen = HashSet::new();
        match names.iter().find(|name| !seen.insert(name.as_str())) {
            Some(twice) => Err(Error::invalid(format!("{twice:?} is there twice; different names are wanted"))),
            None => Ok(Self(names)),
        }
    }

    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// A sentence with `{}` where a class's name goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HypothesisTemplate(String);

impl HypothesisTemplate {
    /// A sentence around a name, not a document.
    pub const CHARS_MAX: usize = 256;

    pub fn new(template: String) -> Result<Self> {
        if !template.contains("{}") || template.chars().count() > Self::CHARS_MAX {
            return Err(Error::invalid(format!(
                "{template:?} is not a text of at most {} characters with {{}} where the name goes",
                Self::CHARS_MAX
            )));
        }
        Ok(Self(template))
    }

    pub fn with(&self, name: &str) -> String {
        self.0.replace("{}", name)
    }
}

impl Default for HypothesisTemplate {
    /// The name alone.
    fn default() -> Self {
        Self("{}".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_few_short_and_different() {
        let check = |names: Vec<&str>, wanted: Option<&str>| {
            let made = CandidateLabels::new(names.into_iter().map(str::to_owned).collect());
            match wanted {
                None => assert!(made.is_ok()),
                Some(wanted) => assert!(made.as_ref().is_err_and(|e| e.message().contains(wanted)), "{made:?}"),
            }
        };
        let (long, longest) = ("ж".repeat(65), "ж".repeat(64));
        check(vec!["person", "place", &longest], None);
        check(vec![], Some("0 of them; 1 to 256"));
        check(vec!["x"; 257], Some("257 of them"));
        check(vec!["person", " "], Some("number 1"));
        check(vec![&long], Some("number 0 is not 1 to 64"));
        check(vec!["person", "place", "person"], Some("\"person\" is there twice"));
    }

    #[test]
    fn a_template_says_where_the_name_goes() {
        assert_eq!(HypothesisTemplate::default().with("sport"), "sport");
        assert_eq!(HypothesisTemplate::new("It is about {}.".to_owned()).unwrap().with("sport"), "It is about sport.");
        for bad in ["", "about", &format!("{{}}{}", "x".repeat(255))] {
            assert!(
                HypothesisTemplate::new(bad.to_owned()).unwrap_err().message().contains("where the name goes"),
                "{bad}"
            );
        }
    }
}
