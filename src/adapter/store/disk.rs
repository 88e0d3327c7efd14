//! Steps on disk that are durable when they return, each with an error that names the path. A test can stop the world after any of them.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::disk::failed;
use crate::domain::Result;

/// The file system, one step at a time.
#[derive(Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) fault: std::sync::Mutex<Option<Fault>>,
}

/// What befalls the step after the next `steps`.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The process dies: this step is half done, and no other follows.
    Killed { steps: usize },
    /// The disk is full: this step alone is half done.
    Full { steps: usize },
}

impl Disk {
    /// Creates a folder; one that is there is fine.
    pub(super) fn create_folder(&self, path: &Path) -> Result<()> {
        self.step(path, || match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            result => result,
        })
    }

    /// Writes a new file and waits for the disk.
    pub(super) fn write(&self, path: &Path, contents: &[u8]) -> Result<()> {
        let write = |contents: &[u8]| {
            let mut file = File::create(path)?;
            file.write_all(contents)?;
            file.sync_all()
        };
        #[cfg(test)]
        if self.is_last_step() {
            let _ = write(&contents[..contents.len() / 2]);
        }
        self.step(path, || write(contents))
    }

    /// Waits until a folder's entries are on disk.
    pub(super) fn sync_folder(&self, path: &Path) -> Result<()> {
        self.step(path, || File::open(path)?.sync_all())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(to, || fs::rename(from, to))
    }

    /// Removes a file; none is fine.
    pub(super) fn remove_file(&self, path: &Path) -> Result<()> {
        self.step(path, || match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        })
    }

    /// Removes a folder with nothing in it; one with something in it, or none, is fine.
    pub(super) fn remove_empty_folder(&self, path: &Path) -> Result<()> {
        self.step(path, || match fs::remove_dir(path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
            result => result,
        })
    }

    pub(super) fn remove_folder(&self, path: &Path) -> Result<()> {
        self.step(path, || fs::remove_dir_all(path))
    }

    fn step(&self, path: &Path, action: impl FnOnce() -> io::Result<()>) -> Result<()> {
        #[cfg(test)]
        self.count().map_err(|error| failed(path, error))?;
        action().map_err(|error| failed(path, error))
    }

    #[cfg(test)]
    fn is_last_step(&self) -> bool {
        matches!(*self.fault.lock().unwrap(), Some(Fault::Killed { steps: 0 } | Fault::Full { steps: 0 }))
    }

    #[cfg(test)]
    fn count(&self) -> io::Result<()> {
        let mut fault = self.fault.lock().unwrap();
        match &mut *fault {
            None => Ok(()),
            Some(Fault::Killed { steps: 0 }) => Err(io::Error::other("killed")),
            Some(Fault::Full { steps: 0 }) => {
                *fault = None;
                Err(ErrorKind::StorageFull.into())
            }
            Some(Fault::Killed { steps } | Fault::Full { steps }) => {
                *steps -= 1;
                Ok(())
            }
        }
    }
}
