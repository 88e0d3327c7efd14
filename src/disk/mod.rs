//! Files as others may have left them: read only if they are regular and small enough, replaced whole, moved aside when they are
//! damaged. Leaves what is in them to their owners.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::domain::Error;

/// What a file or folder is called that was moved aside: `aliases.json.damaged-1`.
pub const ASIDE: &str = ".damaged-";

/// Damaged files of one name that are kept; an operator who has so many has another problem.
const ASIDE_MAX: u32 = 1000;

/// A file or folder that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub path: PathBuf,
    pub why: String,
    /// What a repair did about it.
    pub repaired: Option<String>,
}

impl Damage {
    pub fn new(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), why: why.into(), repaired: None }
    }

    /// Moves it aside, and says where it is now; a failure is told, too.
    #[must_use]
    pub fn set_aside(self) -> Self {
        let repaired = match set_aside(&self.path) {
            Ok(aside) => Some(format!("moved to {}", aside.display())),
            Err(error) => return Self { why: format!("{}; it cannot be moved aside: {error}", self.why), ..self },
        };
        Self { repaired, ..self }
    }

    /// With more that was done, if the damage itself was repaired.
    #[must_use]
    pub fn and_then(self, done: impl FnOnce() -> String) -> Self {
        let repaired = self.repaired.map(|repaired| format!("{repaired}; {}", done()));
        Self { repaired, ..self }
    }
}

/// The whole contents. A folder, a pipe or a device is an error, so is a file of more than `bytes_max`: neither is waited for or read.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let bytes = file.metadata()?.len();
    // Its length, or the list doubles its way there with a copy each time. One more byte shows a file that grew meanwhile.
    let mut contents = Vec::with_capacity(bytes.min(bytes_max) as usize);
    if bytes <= bytes_max {
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut contents)?;
    }
    let bytes = bytes.max(contents.len() as u64);
    if bytes > bytes_max {
        return Err(unfit(format!("it has {bytes} bytes; at most {bytes_max} are read")));
    }
    Ok(contents)
}

/// Text without the byte order mark that some editors put before UTF-8, and no reader of JSON takes.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// [`read`], where there need be no file.
pub fn read_if_there(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    match read(path, bytes_max) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        contents => contents.map(Some),
    }
}

/// Opens a regular file to read. What it is is asked first: opening a pipe waits for whoever writes into it.
pub fn open(path: &Path) -> io::Result<File> {
    require_regular(&fs::metadata(path)?)?;
    File::open(path)
}

/// Opens or creates the file that a process locks, empty.
pub fn open_lock(path: &Path) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(metadata) => require_regular(&metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    File::create(path)
}

/// Replaces a file, its folder made if it is missing: readers see the old one or the new one, and the new one survives a power cut.
/// After a failure nothing is left beside it.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    // As of any new file: the umask says who may read it.
    let readable = Permissions::from_mode(0o666);
    let mut draft = tempfile::Builder::new().prefix(".tmp-").permissions(readable).tempfile_in(folder)?;
    draft.write_all(contents)?;
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    File::open(folder)?.sync_all()
}

/// Moves a damaged file or folder out of the way, beside itself: `name.damaged-1`, or the next number that is free. What is there is
/// never overwritten. The path it has now.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| unfit("it has no name".to_owned()))?.to_string_lossy().into_owned();
    let free = |number: &u32| {
        let aside = path.with_file_name(format!("{name}{ASIDE}{number}"));
        fs::symlink_metadata(&aside).is_err_and(|error| error.kind() == ErrorKind::NotFound).then_some(aside)
    };
    let aside = (1..=ASIDE_MAX).find_map(|number| free(&number));
    let aside = aside.ok_or_else(|| unfit(format!("{ASIDE_MAX} damaged files of this name are there already")))?;
    fs::rename(path, &aside)?;
    File::open(folder_of(path))?.sync_all()?;
    Ok(aside)
}

/// The failure of a step on `path`. What an operator can mend is `unavailable`: a full or read-only disk, missing rights, a file that
/// is not what it should be. Everything else is unexpected.
pub fn failed(path: &Path, error: io::Error) -> Error {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidData => Error::unavailable(message),
        _ => Error::internal(message),
    }
    .with_source(error)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(unfit(if metadata.is_dir() { "it is a folder; a file is wanted" } else { "it is no regular file" }.to_owned()))
}

fn unfit(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::AdapterName;

    fn pipe(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success());
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        pipe(&at("pipe"));
        fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        std::os::unix::fs::symlink(at("pipe"), at("link")).unwrap();
        for name in ["pipe", "folder", "loop", "device", "link"] {
            assert!(read(&at(name), 100).is_err(), "{name}");
            assert!(open_lock(&at(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_is_read_up_to_the_bound_and_not_past_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap(), [7; 100]);
        let error = read(&path, 99).unwrap_err();
        assert!(error.to_string().contains("100 bytes; at most 99"), "{error}");
        assert!(read(&path, u64::MAX).is_ok());
        assert!(read_if_there(&folder.path().join("none"), 9).unwrap().is_none());
    }

    #[test]
    fn a_replaced_file_is_whole_and_a_pipe_in_its_place_is_no_hindrance() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/file");
        for contents in ["one", "two"] {
            replace(&path, contents.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
        fs::remove_file(&path).unwrap();
        pipe(&path);
        replace(&path, b"three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"four").is_err());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_set_aside_never_replaces_what_was_set_aside_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases.json");
        for number in 1..=3 {
            fs::write(&path, number.to_string()).unwrap();
            let aside = set_aside(&path).unwrap();
            assert_eq!(aside, folder.path().join(format!("aliases.json.damaged-{number}")));
            assert_eq!(fs::read_to_string(&aside).unwrap(), number.to_string());
            let name = aside.file_name().unwrap().to_str().unwrap();
            assert!(name.parse::<AdapterName>().is_err(), "what lies aside is no adapter's");
        }
        assert!(set_aside(&path).is_err(), "there is nothing any more");
    }
}
