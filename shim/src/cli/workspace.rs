//! How the project gets in: as the folder that it is, or as a clone of the sandbox's own.

use std::time::{Duration, Instant};

use super::{
    context::Context,
    error::{CliError, Kind},
    output::{clean, tell},
};
use crate::{
    config::{origin::Origin as Said, settings::Settings},
    env::progress::StandardError,
    repo::{
        GitError,
        clone::{
            self, CloneError, Dirty, LeftOut, Made, Several,
            origin::{Origin, seems_to_be_in_a_repository},
            watch::Watch,
        },
    },
    sandbox::{
        Sandbox,
        record::{CloneObjects, Cloned, Record, Workspace},
    },
};

/// For git to say what a repository is.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

const BIND_INSTEAD: &str = "`--workspace bind` works in the folder itself";

/// Decides how the project gets in, and writes it into the record. What comes back is still to be cloned.
///
/// Where nobody asked for either, a git repository is cloned, and everything else is bound. Whether it is one is for git to
/// say: without git that stays open, and an agent let into the folder itself, because a program is missing, would be a
/// surprise.
pub(crate) fn decide(
    asked: Option<Workspace>,
    settings: &Settings,
    record: &mut Record,
) -> Result<Option<Origin>, CliError> {
    let mut wish = record.cloned.take().unwrap_or_default();
    let origin = match asked {
        Some(Workspace::Bind) => None,
        None if !seems_to_be_in_a_repository(&record.project) => None,
        Some(Workspace::Clone) | None => {
            settings.apply_clone(&mut wish);
            let until = Instant::now() + ANSWER_PATIENCE;
            let found = Origin::find(&record.project, wish.branch.as_deref(), until);
            let found = found.map_err(|error| told(&error, record))?;
            // Who says on the command line that it is to be cloned knows what it is.
            let is_meant =
                settings.workspace.as_ref().is_some_and(|asked| matches!(asked.origin, Said::Flag(_)));
            if let Some(origin) = found.as_ref().filter(|_| !is_meant) {
                origin.check_own(until).map_err(|error| told(&error, record))?;
            }
            found
        }
    };
    let Some(origin) = origin else {
        if asked == Some(Workspace::Clone) {
            let message = format!("{} is not in a git repository", record.project.display());
            return Err(CliError::new(Kind::WrongState, message)
                .hint(format!("`git init` makes it one, and {BIND_INSTEAD}")));
        }
        if let Some(flag) = settings.flag_for_clones() {
            let message = format!("`{flag}` is for a clone of a git repository");
            return Err(CliError::new(Kind::Usage, message).hint("leave it out"));
        }
        record.workspace = Workspace::Bind;
        return Ok(None);
    };
    record.workspace = Workspace::Clone;
    wish.folder = origin.below.to_str().map(|below| below.trim_end_matches('/').to_owned());
    wish.folder = wish.folder.filter(|below| !below.is_empty());
    wish.shared = Vec::new();
    if wish.objects == Some(CloneObjects::Share) {
        wish.shared = origin.places().map_err(|error| told(&error, record))?;
    }
    wish.made = None;
    record.cloned = Some(wish);
    Ok(Some(origin))
}

/// The same for a sandbox that is there. What it holds is the agent's work, so that nothing changes unless it is discarded.
pub(crate) fn decide_again(
    flags: &Settings,
    before: &Record,
    record: &mut Record,
    fresh: bool,
) -> Result<Option<Origin>, CliError> {
    let unfinished = before.workspace == Workspace::Clone
        && before.cloned.as_ref().is_some_and(|cloned| cloned.made.is_none());
    if fresh || unfinished {
        return decide(Some(record.workspace), flags, record);
    }
    let changed = (record.workspace != before.workspace).then_some("--workspace");
    match changed.or_else(|| flags.flag_for_clones()) {
        Some(flag) => {
            let message = format!("`{flag}` is for a new workspace, and `{}` has one", record.name);
            Err(CliError::new(Kind::Usage, message)
                .hint("`--fresh` makes it anew, and discards what the agent wrote in the sandbox"))
        }
        None => Ok(None),
    }
}

/// Makes the clone, and writes into the record what it is.
pub(crate) fn make(
    ctx: &Context,
    sandbox: &Sandbox,
    record: &mut Record,
    origin: &Origin,
) -> Result<(), CliError> {
    let wish = record.cloned.clone().unwrap_or_default();
    let mut report = StandardError::new();
    let made = Watch::new(&mut report)
        .and_then(|mut watch| clone::clone(origin, &wish, sandbox.folder(), ctx.data.path(), &mut watch))
        .map_err(|error| told(&error, record))?;
    tell_of(record, &made);
    record.cloned = Some(crate::sandbox::record::CloneRecord { made: Some(made.cloned), ..wish });
    Ok(record.write(sandbox.folder())?)
}

/// Tells what would be cloned.
pub(crate) fn show(origin: &Origin) {
    tell(&format!("# clone of {}", clean(&origin.describe())));
}

fn tell_of(record: &Record, made: &Made) {
    let note = |text: &str| tell(&format!("note: {}", clean(text)));
    let name = &record.name;
    note(&format!(
        "/workspace is a clone of its own, {}; `agent-shim pull {name}` brings home what is committed there",
        described(&made.cloned)
    ));
    match made.cloned.objects {
        CloneObjects::Copy => {}
        CloneObjects::Reflink => {
            note("it holds every object of the repository, also those of other branches");
        }
        CloneObjects::Share => {
            let shared = record.cloned.iter().flat_map(|cloned| &cloned.shared);
            let shared: Vec<String> = shared.map(|folder| folder.display().to_string()).collect();
            note(&format!("the agent can read every object in {}", shared.join(", ")));
        }
    }
    match &made.dirty {
        Some(Ok(Dirty { files, commit: Some(commit) })) => note(&format!(
            "{} that {} not committed came along, as commit {} on top: {}",
            changes(files),
            if files.count == 1 { "was" } else { "were" },
            short(commit),
            names(files)
        )),
        Some(Ok(Dirty { files, commit: None })) if files.count > 0 => note(&format!(
            "{} that {} not committed {} outside: {}; `--include-dirty` takes them along",
            changes(files),
            if files.count == 1 { "is" } else { "are" },
            if files.count == 1 { "stays" } else { "stay" },
            names(files)
        )),
        Some(Err(error)) => note(&format!("what is not committed stays outside; {error}")),
        Some(Ok(_)) | None => {}
    }
    let LeftOut { submodules, large_files } = &made.left_out;
    if submodules.count > 0 {
        let (what, are) = if submodules.count == 1 {
            ("submodule", "is an empty folder")
        } else {
            ("submodules", "are empty folders")
        };
        note(&format!(
            "{} {what} {are}: {}; `git submodule update --init` inside gets them where it may reach their addresses",
            submodules.count,
            names(submodules)
        ));
    }
    if large_files.count > 0 {
        let (what, are) =
            if large_files.count == 1 { ("file", "is a pointer") } else { ("files", "are pointers") };
        note(&format!(
            "{} {what} of Git LFS {are}: {}; `git lfs pull ADDRESS` inside gets them, or {BIND_INSTEAD}",
            large_files.count,
            names(large_files)
        ));
    }
}

fn changes(files: &Several) -> String {
    format!("{} {}", files.count, if files.count == 1 { "file" } else { "files" })
}

fn short(commit: &str) -> &str {
    &commit[..commit.len().min(10)]
}

fn described(cloned: &Cloned) -> String {
    let at = cloned.commit.as_deref().map(short);
    match (&cloned.branch, at) {
        (Some(branch), Some(at)) => format!("branch `{branch}` at {at}"),
        (Some(branch), None) => format!("branch `{branch}`, without a commit yet"),
        (None, at) => format!("detached at {}", at.unwrap_or_default()),
    }
}

fn names(several: &Several) -> String {
    let more = if several.count > several.names.len() { ", ..." } else { "" };
    several.names.join(", ") + more
}

fn told(error: &CloneError, record: &Record) -> CliError {
    let project = record.project.display();
    let (kind, hint) = match error {
        CloneError::Cancelled(_) => {
            return CliError::new(Kind::Cancelled, "it was called off; everything was undone");
        }
        CloneError::Git(GitError::Missing) => {
            (Kind::Requirement, format!("install git, such as with `apt install git`, or {BIND_INSTEAD}"))
        }
        CloneError::Git(GitError::TooOld { .. }) => {
            (Kind::Requirement, format!("install a newer git, and have it first in PATH, or {BIND_INSTEAD}"))
        }
        CloneError::NotTrusted { .. } => (
            Kind::WrongState,
            format!("if you do: `git config --global --add safe.directory {project}`; {BIND_INSTEAD}"),
        ),
        CloneError::NotOwn { .. } => (
            Kind::WrongState,
            format!(
                "an agent may have put that there; `--workspace clone` clones it if it is meant, and {BIND_INSTEAD}"
            ),
        ),
        CloneError::NoBranch(_) => {
            (Kind::WrongState, format!("`git -C {project} branch --list` shows those there are"))
        }
        CloneError::Elsewhere => {
            (Kind::Usage, "leave out `--branch`, or say `--no-include-dirty`".to_owned())
        }
        CloneError::Dirty(_) => (
            Kind::Failed,
            "commit it, let .gitignore name what is not to come along, or leave out `--include-dirty`"
                .to_owned(),
        ),
        CloneError::NoReflink(_) => (
            Kind::WrongState,
            "`--clone-objects copy` works everywhere; project and sandboxes on one btrfs or xfs can share"
                .to_owned(),
        ),
        CloneError::NotABranch(_) => (Kind::Usage, String::new()),
        CloneError::Partial(_) => (
            Kind::WrongState,
            format!("`git -C {project} fetch --refetch --no-filter` gets the others, and {BIND_INSTEAD}"),
        ),
        _ => (Kind::Failed, BIND_INSTEAD.to_owned()),
    };
    let made = CliError::new(kind, format!("cannot clone {project}")).because(error);
    if hint.is_empty() { made } else { made.hint(hint) }
}
