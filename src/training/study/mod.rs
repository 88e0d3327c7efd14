//! A study: arms of pre-finetuning compared on many downstream sets by one budget. Owns the grid, its rows, the check that nothing
//! leaks, the statistics and the report. Leaves where backbones come from, flags and progress to `app`, and how an arm is
//! pre-finetuned to its own module.

mod cell;
mod cells;
mod data;
mod draw;
mod grid;
mod journal;
mod leak;
mod report;
mod row;
mod settings;
mod spec;
mod statistics;
mod zero_shot;

#[cfg(test)]
mod tests;

pub use cell::{ArmModel, Bench, PrimaryAdapter};
pub use cells::{Cell, cells, seconds_left, unfinished};
pub use data::{Parted, read_split, wanted_split};
pub use draw::{Drawn, draw};
pub use journal::{Journal, line, read as read_rows};
pub use leak::{Clearance, Cleared, Guard, cleared_pool};
pub use report::{ArmAccount, Conflict, Findings, MeanGradients, Point, Report, report};
pub use row::{Outcomes, Row, ZeroShotRow};
pub use settings::{FineTuneSettings, HeadPooling, PreFinetuneSettings};
pub use spec::{Arm, ArmStrategy, Caps, Downstream, Layers, PoolEntry, PoolSettings, Share, Study, ZeroShot};
pub use statistics::{Difference, Paired, difference, mean_and_spread};
pub use zero_shot::{Told, zero_shot};
