//! File descriptors: one for each connection, so the process asks for as many as it may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Beside connections: the store, the journal, the runtime, uploads' temporary files, and connections that are being closed.
const OTHER_FILES_MAX: u64 = 512;

/// Raises the soft limit of open files to what `connections_max` needs, and warns if the hard one is lower.
pub(super) fn make_room_for_connections(connections_max: usize) {
    let wanted = (connections_max as u64).saturating_add(OTHER_FILES_MAX);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| wanted <= current) {
        return;
    }
    let current = Some(maximum.map_or(wanted, |maximum| wanted.min(maximum)));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
        warn!(%error, wanted, connections_max, "the limit of open files cannot be raised for --max-connections");
    } else if current != Some(wanted) {
        warn!(files_max = maximum, wanted, connections_max, "the limit of open files is too low for --max-connections");
    }
}
