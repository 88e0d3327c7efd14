//! What a caller means by a backbone's name. Touches the disk only to see whether a folder is there.

use std::path::{Path, PathBuf};

use crate::backbone::KnownBackbone;
use crate::domain::{Error, Result};

/// The longest part of a hub name, in bytes; the hub's own limit is 96.
const PART_BYTES_MAX: usize = 96;

/// A name, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A folder in Hugging Face layout, used where it is.
    Folder(PathBuf),
    /// `org/model` on the hub.
    Repository(String),
}

impl Wanted {
    /// The known backbone's names come first, then names in the folder `local`, then folders that exist, then hub names.
    pub(super) fn parse(name: &str, known: &KnownBackbone, local: Option<&Path>) -> Result<Self> {
        if known.is_called(name) {
            return Ok(Self::Repository(known.repository.clone()));
        }
        let made_here = local.filter(|_| is_local_name(name)).map(|local| local.join(name));
        if let Some(folder) = made_here.filter(|folder| folder.is_dir()) {
            return Ok(Self::Folder(folder));
        }
        if Path::new(name).is_dir() {
            return Ok(Self::Folder(PathBuf::from(name)));
        }
        if is_repository(name) {
            return Ok(Self::Repository(name.to_owned()));
        }
        Err(Error::invalid(format!(
            "backbone {name:?} is neither \"{}\", an existing folder, nor a hub name as in \"org/model\"",
            known.aliases.first().unwrap_or(&known.repository)
        )))
    }
}

/// One part of a hub name: safe as a folder's name.
pub(super) fn is_local_name(name: &str) -> bool {
    is_part(name)
}

fn is_part(part: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=PART_BYTES_MAX).contains(&part.len()) && part.bytes().all(allowed) && !part.starts_with('.')
}

/// Two parts of `a-z A-Z 0-9 . _ -`, so that the name is safe in a URL. The hub allows no `--`, which stands for `/` in our folders.
fn is_repository(name: &str) -> bool {
    !name.contains("--") && name.split_once('/').is_some_and(|(org, model)| is_part(org) && is_part(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<Wanted> {
        Wanted::parse(name, &KnownBackbone::default(), None)
    }

    #[test]
    fn the_default_has_three_names() {
        let minilm = Wanted::Repository("sentence-transformers/all-MiniLM-L6-v2".to_owned());
        for name in ["default", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"] {
            assert_eq!(parse(name).unwrap(), minilm, "{name}");
        }
    }

    #[test]
    fn a_folder_that_exists_is_used_in_place() {
        assert_eq!(parse("src/backbone").unwrap(), Wanted::Folder("src/backbone".into()));
    }

    #[test]
    fn a_name_of_what_was_made_here_comes_before_folders_and_never_leaves_its_place() {
        let local = Path::new("src");
        let parse = |name| Wanted::parse(name, &KnownBackbone::default(), Some(local));
        assert_eq!(parse("backbone").unwrap(), Wanted::Folder("src/backbone".into()));
        assert!(matches!(parse("default").unwrap(), Wanted::Repository(_)));
        assert!(parse("..").is_ok_and(|wanted| wanted == Wanted::Folder("..".into())));
        assert!(parse("no-such-name").is_err());
    }

    #[test]
    fn a_name_that_could_leave_the_cache_is_refused() {
        for name in ["", "model", "../x", "a/../b", "a/b/c", "a--b/c", "a/.git", "a/b?c", "/no/such/folder", "a/"] {
            let error = parse(name).expect_err(name);
            assert!(error.message().contains("neither"), "{error}");
        }
        assert!(parse("BAAI/bge-small-en-v1.5").is_ok());
    }
}
