//! What is damaged in a store, and what can be done about it: damaged files are moved aside, never overwritten, and what follows from
//! the others is written anew.

use std::path::Path;

use crate::adapter::AdapterStore;
use crate::adapter::store::layout::{aliases_json, retired_json};
use crate::disk::Damage;
use crate::domain::{AdapterName, Result};

impl AdapterStore {
    /// Everything that is damaged: small files that cannot be read, versions that cannot be read or are not what was published. With
    /// `repair` it is moved aside, for which the store must be this process's to write.
    pub fn check(&self, repair: bool) -> Result<Vec<Damage>> {
        let _writing = if repair { Some(self.write_access()?) } else { None };
        let mut found: Vec<Damage> =
            [self.check_aliases(repair)?, self.check_retired(repair)?].into_iter().flatten().collect();
        let mut strays = Vec::new();
        for name in self.names(&mut strays)? {
            self.check_adapter(&name, repair, &mut found)?;
        }
        found.extend(strays.iter().map(|stray| Damage::new(&self.layout.root, format!("{stray}; rename the folder"))));
        Ok(found)
    }

    /// Aliases that can still be read are kept.
    fn check_aliases(&self, repair: bool) -> Result<Option<Damage>> {
        let Err(error) = self.layout.read_aliases() else { return Ok(None) };
        let damage = Damage::new(&self.layout.aliases(), error.message());
        if !repair {
            return Ok(Some(damage));
        }
        let saved = self.layout.salvage_aliases();
        let damage = damage.set_aside();
        if damage.repaired.is_some() && !saved.is_empty() {
            self.replace(&self.layout.aliases(), &aliases_json(&saved)?)?;
        }
        Ok(Some(damage.and_then(|| format!("{} aliases could still be read and are kept", saved.len()))))
    }

    /// Numbers of adapters that are gone cannot be known from anything else.
    fn check_retired(&self, repair: bool) -> Result<Option<Damage>> {
        let Err(error) = self.layout.read_retired() else { return Ok(None) };
        let damage = Damage::new(&self.layout.retired(), error.message());
        if !repair {
            return Ok(Some(damage));
        }
        let damage = damage.set_aside();
        if damage.repaired.is_some() {
            self.replace(&self.layout.retired(), &retired_json(Vec::new(), Vec::new()))?;
        }
        Ok(Some(damage.and_then(|| "adapters that were retired may get numbers they had before".to_owned())))
    }

    fn check_adapter(&self, name: &AdapterName, repair: bool, found: &mut Vec<Damage>) -> Result<()> {
        let highest = self.layout.version_numbers(name)?.last().copied();
        let mut whole = Vec::new();
        for version in self.layout.version_numbers(name)? {
            match self.check_version(name, version) {
                Ok(()) => whole.push(version),
                Err(error) => {
                    let damage = Damage::new(&self.layout.version(name, version), error.to_string());
                    found.push(if repair { damage.set_aside() } else { damage });
                }
            }
        }
        self.check_number(&self.layout.highest(name), highest, repair, found)?;
        if repair && let Some(highest) = highest.filter(|highest| whole.last() != Some(highest)) {
            // What was moved aside keeps its number.
            let noted = self.layout.read_number(&self.layout.highest(name))?;
            self.write_number(&self.layout.highest(name), noted.map_or(highest, |noted| noted.max(highest)))?;
        }
        self.check_number(&self.layout.current(name), whole.last().copied(), repair, found)?;
        let current = self.layout.read_number(&self.layout.current(name));
        let is_lost = current.is_ok_and(|current| current.is_some_and(|current| !whole.contains(&current)));
        if let Some(&newest) = whole.last().filter(|_| repair && is_lost) {
            self.write_number(&self.layout.current(name), newest)?;
            let mut damage = Damage::new(&self.layout.current(name), "it names a version that is not there");
            damage.repaired = Some(format!("version {newest} is active, the newest one that is whole"));
            found.push(damage);
        }
        Ok(())
    }

    fn check_version(&self, name: &AdapterName, version: u32) -> Result<()> {
        self.version_entry(&self.layout.version(name, version), version)?;
        self.read(name, version).map(drop)
    }

    /// A file with a version's number; `known` is what it is rebuilt from.
    fn check_number(&self, path: &Path, known: Option<u32>, repair: bool, found: &mut Vec<Damage>) -> Result<()> {
        let Err(error) = self.layout.read_number(path) else { return Ok(()) };
        let damage = Damage::new(path, error.message());
        if !repair {
            found.push(damage);
            return Ok(());
        }
        let mut damage = damage.set_aside();
        if let Some(known) = known.filter(|_| damage.repaired.is_some()) {
            self.write_number(path, known)?;
            damage = damage.and_then(|| format!("it says {known} now"));
        }
        found.push(damage);
        Ok(())
    }
}
