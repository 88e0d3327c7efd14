//! Who is meant by a name: an immutable snapshot of adapters, versions and aliases. Pure but for the aliases' counters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::adapter::{AdapterEntry, Unreadable};
use crate::domain::{AdapterName, AdapterRef, Alias, AliasTarget, Error, ErrorKind, Family, Result};
use crate::serving::registry::names::nearest;
use crate::serving::registry::residency::Version;

#[derive(Clone, Default)]
pub(super) struct Catalog {
    adapters: BTreeMap<AdapterName, Arc<Adapter>>,
    aliases: BTreeMap<AdapterName, Arc<LiveAlias>>,
    /// Why nobody knows which aliases there are.
    lost_aliases: Option<Error>,
    /// What is on disk and could not be read at the start.
    unreadable: Arc<[Unreadable]>,
}

#[derive(Clone)]
pub(super) struct Adapter {
    pub(super) name: AdapterName,
    pub(super) active: Option<u32>,
    pub(super) pinned: bool,
    /// Ascending.
    pub(super) versions: Vec<Arc<Version>>,
}

struct LiveAlias {
    alias: Alias,
    /// Requests so far.
    draws: AtomicU64,
}

/// What a reference leads to.
pub(super) struct Found {
    pub(super) version: Arc<Version>,
    pub(super) shadow: Option<AdapterRef>,
}

impl Adapter {
    pub(super) fn active_version(&self) -> Option<&Arc<Version>> {
        self.active.and_then(|version| self.version(version))
    }

    pub(super) fn version(&self, version: u32) -> Option<&Arc<Version>> {
        self.versions.iter().find(|known| known.version == version)
    }

    /// As far as it is known: a version that never loaded has none.
    pub(super) fn family(&self) -> Option<Family> {
        self.active_version().and_then(|version| version.facts()).map(|facts| facts.family)
    }
}

impl Catalog {
    /// With what could be read: the aliases, or why not, and what else is on disk.
    pub(super) fn new(
        entries: Vec<AdapterEntry>,
        aliases: Result<Vec<(AdapterName, Alias)>>,
        unreadable: Vec<Unreadable>,
    ) -> Self {
        let mut catalog = Self { unreadable: unreadable.into(), ..Self::default() };
        for entry in entries {
            let version = |v| Arc::new(Version::new(entry.name.clone(), v));
            let versions = entry.versions.iter().map(version).collect();
            catalog.put(Adapter { name: entry.name, active: entry.active, pinned: entry.pinned, versions });
        }
        match aliases {
            Ok(aliases) => aliases.into_iter().for_each(|(name, alias)| catalog.put_alias(name, alias)),
            Err(error) => catalog.lost_aliases = Some(error),
        }
        catalog
    }

    /// `unavailable` while nobody knows which aliases there are.
    pub(super) fn require_aliases(&self) -> Result<()> {
        self.lost_aliases.clone().map_or(Ok(()), Err)
    }

    /// Why `name`, or that version of it, cannot be read although it is on disk.
    fn damage(&self, name: &AdapterName, version: Option<u32>) -> Option<Error> {
        let is_meant = |one: &&Unreadable| {
            one.name.as_ref() == Some(name) && (version.is_none() || one.version.is_none() || one.version == version)
        };
        let found = self.unreadable.iter().find(is_meant)?;
        Some(Error::unavailable(format!("adapter {found}")))
    }

    pub(super) fn adapters(&self) -> impl Iterator<Item = &Adapter> {
        self.adapters.values().map(AsRef::as_ref)
    }

    pub(super) fn adapter(&self, name: &AdapterName) -> Result<&Adapter> {
        self.adapters.get(name).map(AsRef::as_ref).ok_or_else(|| self.not_found(name))
    }

    /// A version of an adapter; None: the active one.
    pub(super) fn version(&self, name: &AdapterName, version: Option<u32>) -> Result<Arc<Version>> {
        let adapter = self.adapter(name)?;
        let Some(version) = version.or(adapter.active) else {
            let inactive = || Error::conflict(format!("adapter {name} has no active version; activate one"));
            return Err(self.damage(name, None).unwrap_or_else(inactive));
        };
        adapter.version(version).cloned().ok_or_else(|| {
            if let Some(damage) = self.damage(name, Some(version)) {
                return damage;
            }
            let known: Vec<String> = adapter.versions.iter().map(|known| known.version.to_string()).collect();
            let message = format!("adapter {name} has no version {version}; it has {}", known.join(", "));
            Error::new(ErrorKind::AdapterNotFound, message)
        })
    }

    /// An alias chooses one of its targets anew each time.
    pub(super) fn find(&self, reference: &AdapterRef) -> Result<Found> {
        let Some(live) = self.aliases.get(&reference.name) else {
            return Ok(Found { version: self.version(&reference.name, reference.version)?, shadow: None });
        };
        if let Some(version) = reference.version {
            let name = &reference.name;
            return Err(Error::new(
                ErrorKind::AdapterNotFound,
                format!("{name:?} is an alias and has no version {version}; ask for {name} alone"),
            ));
        }
        let draw = live.draws.fetch_add(1, Ordering::Relaxed);
        let target = choose(&live.alias.targets, draw).ok_or_else(|| self.not_found(&reference.name))?;
        let version = self.version(&target.name, target.version)?;
        Ok(Found { version, shadow: live.alias.shadow.clone() })
    }

    /// The alias of the family's default, else the only adapter of the family.
    pub(super) fn find_default(&self, family: Family) -> Result<Found> {
        let alias = format!("default-{family}");
        if let Some((name, _)) = self.aliases.iter().find(|(name, _)| name.as_str() == alias) {
            return self.find(&AdapterRef { name: name.clone(), version: None });
        }
        let of_family: Vec<&Adapter> = self.adapters().filter(|a| a.family() == Some(family)).collect();
        if let [only] = of_family[..] {
            return Ok(Found { version: self.version(&only.name, None)?, shadow: None });
        }
        self.require_aliases()
            .map_err(|error| error.context(format!("whether {alias:?} is an alias cannot be told")))?;
        let names: Vec<&str> = of_family.iter().map(|adapter| adapter.name.as_str()).collect();
        let there_are = if names.is_empty() { "none is registered".to_owned() } else { names.join(", ") };
        Err(Error::new(
            ErrorKind::AdapterNotFound,
            format!(
                "no adapter was named and there is no alias {alias:?}; name one of the {family} adapters ({there_are}) or set the alias"
            ),
        ))
    }

    pub(super) fn aliases(&self) -> Vec<(AdapterName, Alias)> {
        self.aliases.iter().map(|(name, live)| (name.clone(), live.alias.clone())).collect()
    }

    pub(super) fn has_alias(&self, name: &AdapterName) -> bool {
        self.aliases.contains_key(name)
    }

    /// Aliases that can lead to the adapter.
    pub(super) fn aliases_of(&self, adapter: &AdapterName) -> Vec<AdapterName> {
        self.pointing_at(|reference| reference.name == *adapter)
    }

    /// Aliases with a target or shadow that `is_meant`.
    pub(super) fn pointing_at(&self, is_meant: impl Fn(&AdapterRef) -> bool) -> Vec<AdapterName> {
        let leads = |live: &LiveAlias| {
            let targets = live.alias.targets.iter().map(|target| &target.adapter);
            targets.chain(&live.alias.shadow).any(&is_meant)
        };
        self.aliases.iter().filter(|(_, live)| leads(live)).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn put(&mut self, adapter: Adapter) {
        self.adapters.insert(adapter.name.clone(), Arc::new(adapter));
    }

    pub(super) fn remove(&mut self, name: &AdapterName) {
        self.adapters.remove(name);
    }

    pub(super) fn put_alias(&mut self, name: AdapterName, alias: Alias) {
        self.aliases.insert(name, Arc::new(LiveAlias { alias, draws: AtomicU64::new(0) }));
    }

    pub(super) fn remove_alias(&mut self, name: &AdapterName) {
        self.aliases.remove(name);
    }

    pub(super) fn not_found(&self, name: &AdapterName) -> Error {
        if let Some(damage) = self.damage(name, None) {
            return damage;
        }
        if let Some(error) = &self.lost_aliases {
            return error
                .clone()
                .context(format!("no adapter {:?}, and whether it is an alias cannot be told", name.as_str()));
        }
        let known = self.adapters.keys().chain(self.aliases.keys()).map(AdapterName::as_str);
        let nearest = nearest(name.as_str(), known);
        let hint =
            if nearest.is_empty() { "no name is near".into() } else { format!("nearest: {}", nearest.join(", ")) };
        Error::new(ErrorKind::AdapterNotFound, format!("no adapter or alias {:?}; {hint}", name.as_str()))
    }
}

/// Target number `draw` of a sequence in which every target has its weight's share, spread evenly (a Weyl sequence by the golden ratio).
fn choose(targets: &[AliasTarget], draw: u64) -> Option<&AdapterRef> {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let total: u128 = targets.iter().map(|target| u128::from(target.weight)).sum();
    let mut at = (u128::from(draw.wrapping_mul(GOLDEN)) * total) >> 64;
    for target in targets {
        let weight = u128::from(target.weight);
        if at < weight {
            return Some(&target.adapter);
        }
        at -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(weights: &[u32]) -> Vec<AliasTarget> {
        let target = |(at, &weight): (usize, &u32)| AliasTarget { adapter: format!("t{at}").parse().unwrap(), weight };
        weights.iter().enumerate().map(target).collect()
    }

    #[test]
    fn a_weighted_split_gives_each_target_its_share() {
        let check = |weights: &[u32]| {
            let targets = targets(weights);
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            for target in &targets {
                let hits = (0..1000).filter(|&draw| choose(&targets, draw) == Some(&target.adapter)).count();
                let share = f64::from(target.weight) / total;
                assert!((hits as f64 / 1000.0 - share).abs() < 0.01, "{weights:?}: {hits} for {share}");
            }
        };
        check(&[1]);
        check(&[90, 10]);
        check(&[1, 1, 1]);
        check(&[0, 7]);
        check(&[u32::MAX, u32::MAX]);
        assert_eq!(choose(&targets(&[0]), 3), None);
    }
}
