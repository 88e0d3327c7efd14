//! `rows.jsonl`: one line a finished cell, on the disk before the next begins. A line that a kill cut short is dropped, and its cell run again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;

use crate::domain::{Error, Result};
use crate::training::study::row::Row;

pub struct Journal {
    file: File,
}

impl Journal {
    /// The rows there are; what follows the last whole line is cut off. A line in the middle that is no row is an error: it was
    /// not written here.
    pub fn open(path: &Path) -> Result<(Self, Vec<Row>)> {
        let open = || {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            let rows = parse(&bytes[..whole])?;
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::End(0))?;
            Ok((Self { file }, rows))
        };
        open().map_err(|error: Error| error.context(path.display()))
    }

    pub fn append(&mut self, row: &Row) -> Result<()> {
        self.file.write_all(&line(row)?)?;
        Ok(self.file.sync_data()?)
    }
}

/// The rows of a file that another process may be writing.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let bytes = std::fs::read(path).map_err(|error| Error::from(error).context(path.display()))?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    parse(&bytes[..whole]).map_err(|error| error.context(path.display()))
}

/// The bytes of a row, with its line's end.
pub fn line(row: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(row).map_err(|error| Error::internal(error.to_string()).with_source(error))?;
    line.push(b'\n');
    Ok(line)
}

fn parse(lines: &[u8]) -> Result<Vec<Row>> {
    let lines = lines.split_inclusive(|&byte| byte == b'\n').enumerate();
    let row = |(at, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|error| Error::unprocessable(format!("line {}: no row: {error}", at + 1)))
    };
    lines.map(row).collect()
}
