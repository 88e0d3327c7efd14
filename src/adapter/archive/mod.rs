//! PEFT folders as `.tar` and `.tar.gz`: read with every path and size checked before a byte is kept, written reproducibly.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Builder, Entry, EntryType, Header};

use crate::adapter::files::{
    CARD_NAME, CONCEPTS_NAME, CONFIG_NAME, FILE_NAMES, FILES_BYTES_MAX, MODEL_CONFIG_NAME, WEIGHTS_NAME,
};
use crate::adapter::{AdapterFiles, Upload};
use crate::domain::{Error, Problems, Result};

/// PEFT writes three files; a trainer's output folder with its checkpoints, caches and logs has a few hundred.
const ENTRIES_MAX: usize = 1024;

/// All that may come out of an archive, headers and skipped files included: a bomb ends here, whatever it claims of itself.
const UNPACKED_BYTES_MAX: u64 = FILES_BYTES_MAX as u64 + (1 << 20);

/// Unpacked bytes for each packed one; weights hardly shrink (2 at best), JSON by 20, a bomb by 1000. Small archives may do as they like.
const RATIO_MAX: u64 = 100;
const RATIO_FREE_BYTES: u64 = 1 << 20;

/// A path in bytes; ours have about 60.
const PATH_BYTES_MAX: usize = 1024;

/// The weights as PEFT once wrote them; never opened.
const PICKLE_NAME: &str = "adapter_model.bin";

/// A folder that macOS adds to archives.
const MACOS_FOLDER: &str = "__MACOSX";

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reads an upload: of the folder nearest to the archive's root that holds an adapter, the files that an adapter has, and `config.json`.
/// Whatever else a trainer put there is skipped unread. A path escape, a link, or a file that is there twice is `unprocessable`; a
/// decompression bomb, or what is larger than any adapter, `payload_too_large`.
pub fn read_archive(bytes: &[u8]) -> Result<Upload> {
    let ratio_limit = RATIO_FREE_BYTES.max(bytes.len() as u64 * RATIO_MAX);
    let limit = UNPACKED_BYTES_MAX.min(ratio_limit);
    if bytes.starts_with(&GZIP_MAGIC) {
        read_tar(Limited { inner: MultiGzDecoder::new(bytes), left: limit })
    } else {
        read_tar(Limited { inner: bytes, left: UNPACKED_BYTES_MAX })
    }
}

/// The folder as `.tar`: the same files give the same bytes.
pub fn write_tar(files: &AdapterFiles) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::with_capacity(files.bytes() + (ENTRIES_MAX << 9)));
    files.entries().try_for_each(|(name, contents)| append(&mut builder, name, contents))?;
    Ok(builder.into_inner()?)
}

/// Names and contents, as a form has them, as one `.tar`: [`read_archive`] then checks it like any other.
pub fn archive_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (name, contents) in files {
        append(&mut builder, name, contents).map_err(|_| refused(name, "a name that no archive takes"))?;
    }
    Ok(builder.into_inner()?)
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, contents: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    Ok(builder.append_data(&mut header, name, contents)?)
}

fn read_tar(input: impl Read) -> Result<Upload> {
    let mut archive = Archive::new(input);
    let mut found = Found::default();
    for (index, entry) in archive.entries().map_err(unreadable)?.enumerate() {
        if index >= ENTRIES_MAX {
            return Err(Error::unprocessable(format!("the archive has more than {ENTRIES_MAX} entries")));
        }
        found.add(&mut entry.map_err(unreadable)?)?;
    }
    // To the end, where the checksum of the compressed stream is.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unreadable)?;
    found.finish()
}

/// What an archive held so far: by folder (its parts), by name.
#[derive(Default)]
struct Found {
    folders: BTreeMap<Vec<String>, BTreeMap<String, Vec<u8>>>,
    pickles: Vec<String>,
}

impl Found {
    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(()); // a comment for the whole archive, as git writes it
        }
        let path = plain_path(&entry.path_bytes())?;
        match kind {
            EntryType::Directory => Ok(()),
            EntryType::Regular | EntryType::Continuous => self.add_file(&path, entry),
            other => Err(refused(&path.join("/"), &format!("not a plain file but {other:?}"))),
        }
    }

    fn add_file(&mut self, path: &[String], entry: &mut Entry<'_, impl Read>) -> Result<()> {
        let Some((name, folder)) = path.split_last() else { return Ok(()) };
        if folder.iter().any(|part| part.starts_with('.') || part == MACOS_FOLDER) {
            return Ok(());
        }
        if name == PICKLE_NAME {
            self.pickles.push(path.join("/"));
        }
        if !FILE_NAMES.contains(&&**name) && name != MODEL_CONFIG_NAME {
            return Ok(());
        }
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).map_err(unreadable)?;
        if contents.len() as u64 != entry.size() {
            return Err(refused(&path.join("/"), "cut short"));
        }
        match self.folders.entry(folder.to_vec()).or_default().insert(name.clone(), contents) {
            None => Ok(()),
            Some(_) => Err(refused(&path.join("/"), "there twice")),
        }
    }

    fn finish(mut self) -> Result<Upload> {
        let folder = self.nearest()?;
        let mut files = self.folders.remove(&folder).unwrap_or_default();
        let model_config = files.remove(MODEL_CONFIG_NAME);
        let (card, concepts) = (files.remove(CARD_NAME), files.remove(CONCEPTS_NAME));
        let mut take = |name: &str| files.remove(name).ok_or_else(|| format!("{name} is missing"));
        match (take(CONFIG_NAME), take(WEIGHTS_NAME)) {
            (Ok(config), Ok(weights)) => {
                Ok(Upload { files: AdapterFiles { config, weights, card, concepts }, model_config })
            }
            (config, weights) => {
                let pickle = self.pickles.first().filter(|_| weights.is_err()).map(|path| {
                    format!("{path} is a pickle, which can run code: adapters are read from {WEIGHTS_NAME} only")
                });
                let problems: Problems = [config.err(), weights.err(), pickle].into_iter().flatten().collect();
                Err(Error::unprocessable("the archive holds no PEFT adapter").with_problems(problems))
            }
        }
    }

    /// The folder nearest to the root with one of the files that make an adapter; below it a trainer keeps its checkpoints.
    fn nearest(&self) -> Result<Vec<String>> {
        let made = |files: &BTreeMap<String, Vec<u8>>| [CONFIG_NAME, WEIGHTS_NAME].map(|name| files.contains_key(name));
        let mut adapters: Vec<&Vec<String>> =
            self.folders.iter().filter(|(_, files)| made(files).contains(&true)).map(|(folder, _)| folder).collect();
        adapters.sort_by_key(|folder| folder.len());
        match adapters[..] {
            [first, second, ..] if first.len() == second.len() => {
                let second = format!("{}/{CONFIG_NAME}", second.join("/"));
                Err(refused(
                    &second,
                    &format!("one of two folders, beside {:?}; an archive holds one adapter", first.join("/")),
                ))
            }
            [first, ..] => Ok(first.clone()),
            [] => Ok(Vec::new()),
        }
    }
}

/// A relative path's parts; `./` before it does not count.
fn plain_path(bytes: &[u8]) -> Result<Vec<String>> {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(PATH_BYTES_MAX)]);
    let text = str::from_utf8(bytes).map_err(|_| refused(&shown, "a path that is not UTF-8"))?;
    if text.len() > PATH_BYTES_MAX || text.contains(['\0', '\\']) {
        return Err(refused(&shown, "a path too long, or with a NUL or backslash in it"));
    }
    let part = |component| match component {
        Component::CurDir => Ok(None),
        Component::Normal(part) => Ok(Some(part.to_string_lossy().into_owned())),
        _ => Err(refused(&shown, "a path that leaves the archive's folder")),
    };
    Path::new(text).components().filter_map(|component| part(component).transpose()).collect()
}

fn refused(path: &str, why: &str) -> Error {
    Error::unprocessable(format!("archive entry {path:?} is {why}"))
}

fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::FileTooLarge => Error::too_large(error.to_string()),
        _ => Error::unprocessable(format!("not a readable .tar or .tar.gz: {error}")),
    }
}

/// Fails as soon as more has come out than may.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            let why = format!(
                "the archive unpacks to more than {UNPACKED_BYTES_MAX} bytes, or to {RATIO_MAX} times its own size"
            );
            io::Error::new(ErrorKind::FileTooLarge, why)
        })?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
