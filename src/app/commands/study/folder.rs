//! The folder of a study: what is finished, so that a run goes on after any kill and a report needs no data.
//!
//! `study.json`, `clearances.json`, `zero_shot.json`: replaced whole. `rows.jsonl`: a line a cell. `arms/NAME`: what
//! pre-finetuning left, complete once `account.json` is there.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::commands::{json, read_file};
use crate::domain::{Error, Result};
use crate::training::study::{
    ArmAccount, ArmStrategy, Clearance, Findings, Journal, Report, Row, Study, ZeroShotRow, cells, line, read_rows,
};

pub(super) struct Folder(PathBuf);

impl Folder {
    /// Made if missing.
    pub(super) fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(|e| Error::from(e).context(path.display()))?;
        Ok(Self(path.to_owned()))
    }

    pub(super) fn open(path: &Path) -> Result<Self> {
        if !path.join("study.json").is_file() {
            return Err(Error::invalid(format!("{} is no folder of a study: it has no study.json", path.display())));
        }
        Ok(Self(path.to_owned()))
    }

    pub(super) fn report(&self) -> PathBuf {
        self.0.join("report")
    }

    pub(super) fn arm(&self, name: &str) -> PathBuf {
        self.0.join("arms").join(name)
    }

    /// Files of cells under way; emptied.
    pub(super) fn scratch(&self) -> Result<PathBuf> {
        let path = self.0.join("scratch");
        drop(fs::remove_dir_all(&path)); // what is left of a kill is of no use
        fs::create_dir_all(&path).map_err(|e| Error::from(e).context(path.display()))?;
        Ok(path)
    }

    pub(super) fn journal(&self) -> Result<(Journal, Vec<Row>)> {
        Journal::open(&self.0.join("rows.jsonl"))
    }

    pub(super) fn put_study(&self, study: &Study) -> Result<()> {
        self.put("study.json", study)
    }

    pub(super) fn put_clearances(&self, clearances: &[Clearance]) -> Result<()> {
        self.put("clearances.json", &clearances)
    }

    pub(super) fn zero_shot(&self) -> Result<Vec<ZeroShotRow>> {
        self.get_or_default("zero_shot.json")
    }

    pub(super) fn put_zero_shot(&self, rows: &[ZeroShotRow]) -> Result<()> {
        self.put("zero_shot.json", &rows)
    }

    /// None: that arm's pre-finetuning is not over.
    pub(super) fn account(&self, arm: &str) -> Result<Option<ArmAccount>> {
        self.get_or_default(&format!("arms/{arm}/account.json"))
    }

    pub(super) fn put_account(&self, account: &ArmAccount) -> Result<()> {
        self.put(&format!("arms/{}/account.json", account.arm), account)
    }

    /// All that is finished of the study as it was run last; rows of cells that it no longer has are left out, and the last of
    /// two rows of one cell counts.
    pub(super) fn findings(&self) -> Result<Findings> {
        let study: Study = self.get("study.json")?;
        let rows = match self.0.join("rows.jsonl") {
            path if path.is_file() => read_rows(&path)?,
            _ => Vec::new(),
        };
        let pre_finetuned = study.arms.iter().filter(|arm| arm.strategy != ArmStrategy::None);
        let accounts = pre_finetuned.map(|arm| self.account(&arm.name)).collect::<Result<Vec<_>>>()?;
        let arms: HashSet<&str> = study.arms.iter().map(|arm| &*arm.name).collect();
        let mut zero_shot = self.zero_shot()?;
        zero_shot.retain(|row| arms.contains(&*row.arm) && study.zero_shot.iter().any(|zero| row.is_of(zero)));
        Ok(Findings {
            rows: of_study(&study, rows),
            zero_shot,
            clearances: self.get_or_default("clearances.json")?,
            arms: accounts.into_iter().flatten().collect(),
            conclusion: None,
            study,
        })
    }

    /// With the rows behind it as JSON lines: of cells, and of names alone.
    pub(super) fn write_report(&self, to: &Path, report: &Report, findings: &Findings) -> Result<()> {
        fs::create_dir_all(to).map_err(|e| Error::from(e).context(to.display()))?;
        write(&to.join("report.md"), report.markdown.as_bytes())?;
        write(&to.join("report.html"), report.html.as_bytes())?;
        write(&to.join("rows.jsonl"), &lines(&findings.rows)?)?;
        write(&to.join("zero_shot.jsonl"), &lines(&findings.zero_shot)?)?;
        report.plots.iter().try_for_each(|(name, svg)| write(&to.join(name), svg.as_bytes()))
    }

    fn put(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.0.join(name);
        let unfinished = path.with_extension("tmp");
        write(&unfinished, json(value)?.as_bytes())?;
        fs::rename(&unfinished, &path).map_err(|e| Error::from(e).context(path.display()))
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.0.join(name);
        serde_json::from_slice(&read_file(&path)?).map_err(|e| Error::unprocessable(format!("{}: {e}", path.display())))
    }

    fn get_or_default<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T> {
        if self.0.join(name).is_file() { self.get(name) } else { Ok(T::default()) }
    }
}

/// The rows of the study's cells in their order.
fn of_study(study: &Study, rows: Vec<Row>) -> Vec<Row> {
    let mut by_id: HashMap<String, Row> = rows.into_iter().map(|row| (row.id.clone(), row)).collect();
    cells(study).into_iter().filter_map(|cell| by_id.remove(&cell.id(study))).collect()
}

fn lines(rows: &[impl Serialize]) -> Result<Vec<u8>> {
    Ok(rows.iter().map(line).collect::<Result<Vec<_>>>()?.concat())
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    fs::write(path, contents).map_err(|e| Error::from(e).context(path.display()))
}
