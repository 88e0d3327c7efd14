//! The journal's file: how it is opened, and how an older one is brought up to date.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use crate::disk;
use crate::domain::{Error, Result};

/// Entry `i` brings version `i` to `i + 1`; `user_version` says how many have run. Times are milliseconds since 1970.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE jobs (
        id             TEXT PRIMARY KEY,
        kind           TEXT NOT NULL,
        spec_version   INTEGER NOT NULL,
        spec           TEXT NOT NULL,
        state          TEXT NOT NULL,
        created_at     INTEGER NOT NULL,
        started_at     INTEGER,
        finished_at    INTEGER,
        step           INTEGER NOT NULL DEFAULT 0,
        steps          INTEGER NOT NULL DEFAULT 0,
        epoch          INTEGER NOT NULL DEFAULT 0,
        run_started_at INTEGER,
        run_first_step INTEGER NOT NULL DEFAULT 0,
        progress_at    INTEGER,
        metrics        TEXT NOT NULL DEFAULT '{}',
        wish           TEXT,
        intent_digest  TEXT,
        intent_after   INTEGER,
        interruptions  INTEGER NOT NULL DEFAULT 0,
        result         TEXT,
        error_code     TEXT,
        error_message  TEXT
    ) STRICT;
    CREATE INDEX jobs_by_state ON jobs (state, id);
    CREATE TABLE events (
        job        TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        id         INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        level      TEXT NOT NULL,
        kind       TEXT NOT NULL,
        message    TEXT NOT NULL,
        data       TEXT NOT NULL,
        PRIMARY KEY (job, id)
    ) STRICT, WITHOUT ROWID;
"];

/// For another process that holds the file, such as a backup: our own writes take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens or creates the file. Refuses one that a newer version has written.
pub(super) fn open(path: &Path) -> Result<Connection> {
    connect(path).map_err(|error| error.context(format!("job journal {}", path.display())))
}

/// [`open`], and every page is looked at.
pub(super) fn check(path: &Path) -> Result<()> {
    let found = |connection: Connection| -> Result<String> {
        Ok(connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?)
    };
    match open(path).and_then(found)?.as_str() {
        "ok" => Ok(()),
        problem => Err(Error::unavailable(format!("job journal {}: {problem}", path.display()))),
    }
}

fn connect(path: &Path) -> Result<Connection> {
    // SQLite itself would wait for whoever writes into a pipe.
    match disk::open(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(disk::failed(path, error)),
        _ => {}
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<()> {
    let version: usize = connection.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))? as usize;
    let newest = MIGRATIONS.len();
    let pending = MIGRATIONS.get(version..).ok_or_else(|| {
        Error::conflict(format!("it has version {version}; this program knows versions up to {newest}"))
    })?;
    let transaction = connection.transaction()?;
    pending.iter().try_for_each(|migration| transaction.execute_batch(migration))?;
    transaction.pragma_update(None, "user_version", newest as u32)?;
    transaction.commit()?;
    Ok(())
}

/// A full disk passes, and a damaged file or a read-only disk is the operator's to mend; everything else is a bug of ours.
impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::unavailable("the job journal's disk is full").with_source(source),
            Some(
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::SystemIoFailure,
            ) => Self::unavailable(format!("job journal: {source}; `trunkline store check` says more"))
                .with_source(source),
            _ => Self::internal(format!("job journal: {source}")).with_source(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain;

    #[test]
    fn a_journal_opens_again_and_one_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.sqlite");
        drop(open(&path).unwrap());
        let connection = open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), domain::ErrorKind::Conflict);
        assert!(error.message().contains("version 99"), "{error}");
    }
}
