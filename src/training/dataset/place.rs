//! Where a row is: its file's line, its own number, and the name that the file gives it.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// Characters of a task's own id; longer ones are no help to find it.
const TASK_ID_CHARS_MAX: usize = 64;

/// A row's place, as a finding names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1; 0 where there are no lines, or the whole file is meant.
    pub(super) line: usize,
    /// From 1 among the file's rows, a table's header not counted; 0 where the whole file is meant.
    pub(super) row: usize,
    /// As the file has it.
    pub(super) task_id: Option<Arc<str>>,
}

impl Place {
    /// No row: the file itself.
    pub(super) fn file() -> Self {
        Self::default()
    }

    /// The file itself, at one of its lines.
    pub(super) fn of_line(line: usize) -> Self {
        Self { line, ..Self::default() }
    }

    /// The same row, with the id that `value` holds if it is a string or a number.
    pub(super) fn called(mut self, value: Option<&Value>) -> Self {
        let id = match value {
            Some(Value::String(id)) if !id.trim().is_empty() => id.trim().chars().take(TASK_ID_CHARS_MAX).collect(),
            Some(Value::Number(id)) => id.to_string(),
            _ => return self,
        };
        self.task_id = Some(id.into());
        self
    }

    pub(super) fn is_file(&self) -> bool {
        self.line == 0 && self.row == 0
    }
}

/// `line 3`; with the row where several share a line, and the id if there is one.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if self.row > self.line {
            write!(f, ", row {}", self.row)?;
        }
        self.task_id.iter().try_for_each(|id| write!(f, ", id {id}"))
    }
}
