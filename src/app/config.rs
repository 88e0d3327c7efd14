//! Where a setting comes from: flag over environment over file over default. The only place that reads the environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, FromArgMatches};

use crate::app::cli::Cli;
use crate::domain::{Error, Result};

pub(super) const HELP: &str = "Every flag is also an environment variable (TRUNKLINE_LISTEN for --listen) and a key of the \
--config file (listen = \"…\"). A flag wins over the environment, that over the file, that over the default.";

/// The file is configuration, not data.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is nothing to run.
pub(super) enum Failure {
    Clap(clap::Error),
    Config(Error),
}

impl Failure {
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Self::Clap(error) => {
                // Printing fails only if the terminal is gone; the exit code still says it.
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
            }
            Self::Config(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        }
    }
}

/// Parses `arguments` (the program's name first) over the environment, the file and the defaults.
pub(super) fn parse(arguments: Vec<OsString>) -> std::result::Result<Cli, Failure> {
    let command = with_environment(Cli::command());
    let command = match config_path(&arguments) {
        Some(path) => with_file(command, &path).map_err(Failure::Config)?,
        None => command,
    };
    let matches = command.try_get_matches_from(arguments).map_err(Failure::Clap)?;
    Cli::from_arg_matches(&matches).map_err(Failure::Clap)
}

/// A variable that has no flag, because a flag would show it in the process list.
#[allow(clippy::disallowed_methods, reason = "this is app::config")]
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A key from its variable, without the white space around it. One that is set and empty is a mistake, and no key would be a worse one.
#[allow(clippy::disallowed_methods, reason = "this is app::config")]
pub(super) fn secret(name: &str) -> Result<Option<String>> {
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    match value.to_str().map(str::trim) {
        None => Err(Error::invalid(format!("{name} is not UTF-8"))),
        Some("") => Err(Error::invalid(format!("{name} is empty; give a key, or do not set it"))),
        Some(key) => Ok(Some(key.to_owned())),
    }
}

/// Gives every flag its variable.
fn with_environment(command: clap::Command) -> clap::Command {
    let named = command.mut_args(|arg| match arg.get_long() {
        Some("help" | "version") | None => arg,
        Some(long) => {
            let name = format!("TRUNKLINE_{}", long.replace('-', "_").to_uppercase());
            arg.env(name)
        }
    });
    let children: Vec<String> = named.get_subcommands().map(|child| child.get_name().to_owned()).collect();
    children.into_iter().fold(named, |command, child| command.mut_subcommand(child, with_environment))
}

/// `--config` is needed before parsing, since the file changes the defaults.
fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    let text: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    let given = text.iter().enumerate().find_map(|(at, argument)| match argument.strip_prefix("--config") {
        Some("") => arguments.get(at + 1).map(PathBuf::from),
        Some(value) => value.strip_prefix('=').map(PathBuf::from),
        None => None,
    });
    given.or_else(|| environment("TRUNKLINE_CONFIG").map(PathBuf::from))
}

/// Makes the file's values the defaults. A key that is no flag of any command is refused.
fn with_file(command: clap::Command, path: &std::path::Path) -> Result<clap::Command> {
    let at = |what: String| Error::invalid(format!("configuration {}: {what}", path.display()));
    let bytes = std::fs::metadata(path).map_err(|e| at(e.to_string()))?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(at(format!("{bytes} bytes; at most {CONFIG_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| at(e.to_string()))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| at(e.to_string()))?;
    table.into_iter().try_fold(command, |command, (key, value)| {
        let value = plain(&value).ok_or_else(|| at(format!("key {key:?} wants a string, number or boolean")))?;
        let flag = key.replace('_', "-");
        if !has_flag(&command, &flag) {
            return Err(at(format!("key {key:?} is no flag of any command")));
        }
        Ok(with_default(command, &flag, &value))
    })
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(s) => Some(s.clone()),
        toml::Value::Integer(i) => Some(i.to_string()),
        toml::Value::Float(f) => Some(f.to_string()),
        toml::Value::Boolean(b) => Some(b.to_string()),
        _ => None,
    }
}

fn has_flag(command: &clap::Command, flag: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == Some(flag))
        || command.get_subcommands().any(|c| has_flag(c, flag))
}

fn with_default(command: clap::Command, flag: &str, value: &str) -> clap::Command {
    let command = command.mut_args(|arg| {
        let takes_it = arg.get_long() == Some(flag) && matches!(arg.get_action(), ArgAction::Set | ArgAction::SetTrue);
        if takes_it { arg.default_value(value.to_owned()).required(false) } else { arg }
    });
    let children: Vec<String> = command.get_subcommands().map(|child| child.get_name().to_owned()).collect();
    children.into_iter().fold(command, |command, child| command.mut_subcommand(child, |c| with_default(c, flag, value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::cli::Command;

    fn listen(arguments: &[&str]) -> std::result::Result<String, String> {
        match parse(arguments.iter().map(OsString::from).collect()) {
            Ok(Cli { command: Command::Serve(args), .. }) => Ok(args.listen.to_string()),
            Ok(_) => Err("another command".to_owned()),
            Err(Failure::Config(error)) => Err(error.to_string()),
            Err(Failure::Clap(error)) => Err(error.to_string()),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let config = file("listen = \"127.0.0.1:1\"");
        let path = config.path().to_str().unwrap();
        assert_eq!(listen(&["trunkline", "serve"]).unwrap(), "127.0.0.1:8080");
        assert_eq!(listen(&["trunkline", "serve", "--config", path]).unwrap(), "127.0.0.1:1");
        assert_eq!(
            listen(&["trunkline", "--config", path, "serve", "--listen", "127.0.0.1:2"]).unwrap(),
            "127.0.0.1:2"
        );
    }

    #[test]
    fn an_address_may_be_a_name() {
        let listen = |address: &str| listen(&["trunkline", "serve", "--listen", address]);
        for (address, wanted) in [
            ("localhost:8080", "127.0.0.1:8080"),
            ("LocalHost:0", "127.0.0.1:0"),
            ("[::1]:81", "[::1]:81"),
            ("0.0.0.0:80", "0.0.0.0:80"),
        ] {
            assert_eq!(listen(address).unwrap(), wanted, "{address}");
        }
        for (address, wanted) in [
            ("localhost", "NAME:PORT is wanted"),
            ("8080", "NAME:PORT is wanted"),
            (":8080", "NAME:PORT is wanted"),
            ("::1:8080x", "NAME:PORT is wanted"),
            ("localhost:http", "the port \"http\""),
            ("localhost:65536", "the port \"65536\""),
            ("no-such-host.invalid:80", "cannot be resolved"),
        ] {
            let error = listen(address).unwrap_err();
            assert!(error.contains(wanted), "{address}: {error}");
        }
    }

    #[test]
    fn every_flag_of_every_command_has_its_variable() {
        fn visit(command: &clap::Command, path: &str) {
            for arg in command.get_arguments().filter(|a| !matches!(a.get_long(), None | Some("help" | "version"))) {
                let long = arg.get_long().unwrap();
                let wanted = format!("TRUNKLINE_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(wanted.as_str()), "{path} --{long}");
            }
            command.get_subcommands().for_each(|child| visit(child, &format!("{path} {}", child.get_name())));
        }
        visit(&with_environment(Cli::command()), "trunkline");
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        for (text, wanted) in [
            ("lisen = \"x\"", "key \"lisen\" is no flag"),
            ("listen = [1]", "key \"listen\" wants a string"),
            ("listen = ", "TOML parse error"),
            ("listen = \"nowhere\"", "invalid"),
        ] {
            let config = file(text);
            let error = listen(&["trunkline", "serve", "--config", config.path().to_str().unwrap()]).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(listen(&["trunkline", "serve", "--config", "/no/such/file"]).unwrap_err().contains("/no/such/file"));
    }
}
