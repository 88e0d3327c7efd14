//! What a caller means by a backbone's name. Touches the disk only to see whether a folder is there.

use std::path::{Path, PathBuf};

use crate::backbone::KnownBackbone;
use crate::domain::{Error, Result};

/// The longest part of a hub name, in bytes; the hub's own limit is 96.
const PART_BYTES_MAX: usize = 96;

/// What a caller says who means the backbone that comes with the repository.
pub(super) const DEFAULT: &str = "default";

/// A name, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A folder in Hugging Face layout, used where it is.
    Folder(PathBuf),
    /// `org/model` on the hub.
    Repository(String),
}

/// Where a name is looked for.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) known: &'a KnownBackbone,
    /// Backbones made here, one folder each.
    pub(super) local: Option<&'a Path>,
    /// The folder of the default backbone, which is named after it.
    pub(super) bundled: Option<&'a Path>,
}

impl Wanted {
    /// The known backbone's names come first, then names in the folder `local`, then the bundled backbone's own name, then folders
    /// that exist, then hub names.
    pub(super) fn parse(name: &str, places: Places<'_>) -> Result<Self> {
        let Places { known, local, bundled } = places;
        if let Some(bundled) = bundled.filter(|_| name == DEFAULT) {
            return bundled_folder(bundled, known);
        }
        if known.is_called(name) {
            return Ok(Self::Repository(known.repository.clone()));
        }
        let made_here = local.filter(|_| is_local_name(name)).map(|local| local.join(name));
        if let Some(folder) = made_here.filter(|folder| folder.is_dir()) {
            return Ok(Self::Folder(folder));
        }
        if let Some(bundled) = bundled.filter(|bundled| bundled.ends_with(name)) {
            return bundled_folder(bundled, known);
        }
        if Path::new(name).is_dir() {
            return Ok(Self::Folder(PathBuf::from(name)));
        }
        if is_repository(name) {
            return Ok(Self::Repository(name.to_owned()));
        }
        Err(Error::invalid(format!(
            "backbone {name:?} is neither \"{DEFAULT}\", an existing folder, nor a hub name as in \"{}\"",
            known.repository
        )))
    }
}

fn bundled_folder(folder: &Path, known: &KnownBackbone) -> Result<Wanted> {
    if folder.is_dir() {
        return Ok(Wanted::Folder(folder.to_owned()));
    }
    Err(Error::not_found(format!(
        "the default backbone is kept in {}, which is not here: start the program in the repository, or name another backbone, as in \"{}\"",
        folder.display(),
        known.repository
    )))
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
        Wanted::parse(name, Places { known: &KnownBackbone::default(), local: None, bundled: None })
    }

    #[test]
    fn the_plain_backbone_has_two_names() {
        let minilm = Wanted::Repository("sentence-transformers/all-MiniLM-L6-v2".to_owned());
        for name in ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"] {
            assert_eq!(parse(name).unwrap(), minilm, "{name}");
        }
    }

    #[test]
    fn the_default_is_what_comes_along_under_its_own_name_too() {
        let known = KnownBackbone::default();
        let parse = |name, bundled: &'static str| {
            Wanted::parse(name, Places { known: &known, local: None, bundled: Some(Path::new(bundled)) })
        };
        for name in [DEFAULT, "backbone"] {
            assert_eq!(parse(name, "src/backbone").unwrap(), Wanted::Folder("src/backbone".into()), "{name}");
        }
        let error = parse(DEFAULT, "no/such").unwrap_err();
        assert!(error.message().contains("no/such, which is not here"), "{error}");
    }

    #[test]
    fn a_folder_that_exists_is_used_in_place() {
        assert_eq!(parse("src/backbone").unwrap(), Wanted::Folder("src/backbone".into()));
    }

    #[test]
    fn a_name_of_what_was_made_here_comes_before_folders_and_never_leaves_its_place() {
        let (known, bundled) = (KnownBackbone::default(), Path::new("tests/backbone"));
        let parse =
            |name| Wanted::parse(name, Places { known: &known, local: Some(Path::new("src")), bundled: Some(bundled) });
        assert_eq!(parse("backbone").unwrap(), Wanted::Folder("src/backbone".into()));
        assert!(matches!(parse("all-MiniLM-L6-v2").unwrap(), Wanted::Repository(_)));
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
