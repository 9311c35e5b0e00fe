//! Programs, and what they say of themselves.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::programs::{Answer, Question, is_program};
use crate::requirement::facts::{Program, Trial};
use crate::requirement::machine::Machine;
use crate::requirement::version::Version;

/// Where virtiofsd is, which nobody is to start by hand: on most distributions, on Arch, and qemu's old one on Debian.
const VIRTIOFSD: [&str; 3] = ["usr/libexec/virtiofsd", "usr/lib/virtiofsd", "usr/lib/qemu/virtiofsd"];

/// Asks a program for its version.
pub(super) fn ask_version(
    machine: &Machine,
    found: Option<PathBuf>,
    version: impl Fn(&str) -> Option<Version>,
) -> Program {
    let Some(path) = found else { return Program::Missing };
    let answer = ask(machine, &path, ["--version"], None);
    if let Answer::Ended { status, stdout, stderr } = &answer
        && status.success()
        && let Some(version) = version(stdout).or_else(|| version(stderr))
    {
        return Program::Works { path, version };
    }
    let why = answer.complaint().unwrap_or_else(|| "it does not say which version it is".to_owned());
    Program::Broken { path, why }
}

/// Asks one of which any version will do: Debian 12's passt says that its version is unknown.
pub(super) fn ask_any_version(machine: &Machine, name: &str) -> Program {
    let version = |text: &str| Version::printed(text).or(Some(Version(0, 0, 0)));
    ask_version(machine, machine.program(name), version)
}

/// The virtiofsd that a machine gets, and whether it can translate ids, without which only root could use it.
pub(super) fn ask_virtiofsd(machine: &Machine) -> (Program, bool) {
    let fixed = VIRTIOFSD.iter().map(|path| machine.file(path)).filter(|path| is_program(path));
    let found: Vec<PathBuf> = machine.program("virtiofsd").into_iter().chain(fixed).collect();
    let translates = |path: &&PathBuf| match ask(machine, path, ["--help"], None) {
        Answer::Ended { stdout, .. } => stdout.contains("--translate-uid"),
        _ => false,
    };
    let usable = found.iter().find(translates);
    let program = ask_version(machine, usable.or(found.first()).cloned(), Version::printed);
    (program, usable.is_some())
}

/// Runs a program in the machine's environment.
pub(super) fn ask<const N: usize>(
    machine: &Machine,
    program: &Path,
    args: [&str; N],
    user: Option<u32>,
) -> Answer {
    let variables = machine.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    Question {
        program,
        args: args.map(OsString::from).to_vec(),
        variables: variables.collect(),
        user,
        patience: machine.patience,
    }
    .ask()
}

/// Whether a program did what was asked, or what it printed to say why not.
pub(super) fn trial(answer: &Answer) -> Trial {
    match answer {
        Answer::Ended { status, .. } if status.success() => Trial::Works,
        Answer::Ended { stderr, .. } if !stderr.trim().is_empty() => Trial::Failed(stderr.clone()),
        Answer::Ended { .. } | Answer::NotStarted(_) => Trial::Failed(answer.complaint().unwrap_or_default()),
        Answer::Hangs => Trial::Hangs,
    }
}
