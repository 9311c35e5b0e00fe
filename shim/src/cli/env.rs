//! `agent-shim env`: environments by themselves, without a sandbox.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;

use super::{
    context::Context,
    env_args::EnvArgs,
    error::{CliError, Kind},
    launch_args::LaunchArgs,
    output::{clean, print_json, print_line, print_table, tell},
    tools,
};
use crate::{
    env::{
        self, EnvError,
        error::Blame,
        expression::expression,
        gc::{self, Collected, Reason},
        progress::{Report, StandardError},
        spec::{EnvId, EnvSpec},
        store,
        view::{self, EnvView},
    },
    sandbox::{Sandbox, name::Name, record::EnvKind},
};

/// Build, list, show and drop environments of Nix
///
/// An environment is a set of packages under one id: the same packages of the same nixpkgs have the same id, however they
/// were asked for. It is built once, and kept while a sandbox uses it.
#[derive(clap::Args, Debug)]
pub(crate) struct EnvCommandArgs {
    #[command(subcommand)]
    command: EnvCommand,
}

#[derive(Subcommand, Debug)]
#[command(disable_help_subcommand = true)]
enum EnvCommand {
    /// Build the environment that `run` would use, unless it is there
    ///
    /// Prints its id and its store path. What the flags do not say, configuration and variables do, as for `run`.
    Build(BuildArgs),
    /// List all environments
    List,
    /// Show what an environment is made of
    Show(ShowArgs),
    /// Drop the environments that no sandbox uses
    ///
    /// The store keeps what they were made of until `nix-collect-garbage` runs, or `--collect`.
    Gc(GcArgs),
}

#[derive(clap::Args, Debug)]
struct BuildArgs {
    /// The project whose agent-shim.toml counts too; the current folder if left out
    #[arg(value_name = "PATH")]
    project: Option<PathBuf>,
    /// The agent that it is for
    #[arg(short, long, value_name = "NAME")]
    agent: Option<String>,
    #[command(flatten)]
    env: EnvArgs,
    /// Pass over the project's agent-shim.toml
    #[arg(long)]
    no_project_config: bool,
    /// Build it anew: what a folder or a branch of nixpkgs holds may have changed
    #[arg(long)]
    rebuild: bool,
}

#[derive(clap::Args, Debug)]
struct ShowArgs {
    /// The beginning of an environment's id, or the name of a sandbox
    #[arg(value_name = "ID|NAME")]
    what: String,
}

#[derive(clap::Args, Debug)]
struct GcArgs {
    /// Have the store delete what nothing refers to, whoever put it there
    #[arg(long)]
    collect: bool,
}

pub(crate) fn run(ctx: &Context, args: &EnvCommandArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        EnvCommand::Build(args) => build(ctx, args)?,
        EnvCommand::List => list(ctx)?,
        EnvCommand::Show(args) => show(ctx, args)?,
        EnvCommand::Gc(args) => collect(ctx, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn build(ctx: &Context, args: &BuildArgs) -> Result<(), CliError> {
    let spec = args.spec(ctx)?;
    if ctx.global.dry_run {
        let canonical = spec.canonical()?;
        let (id, text) = (canonical.id(), expression(&canonical));
        if ctx.global.json {
            return print_json(&serde_json::json!({ "id": id, "spec": spec, "expression": text }));
        }
        return print_line(text.trim_end());
    }
    let mut report = StandardError::new();
    let known = if args.rebuild { None } else { env::lookup(&ctx.data, &spec.id()?)? };
    let cached = known.is_some();
    let built = match known {
        Some(built) => built,
        None if args.rebuild => env::rebuild(&ctx.data, &spec, &mut report)?,
        None => env::ensure(&ctx.data, &spec, &mut report)?,
    };
    if ctx.global.json {
        print_json(&serde_json::json!({
            "id": built.id,
            "store_path": built.store_path,
            "store_paths": built.closure.len(),
            "cached": cached,
        }))
    } else {
        print_line(&format!("{}  {}", built.id, built.store_path.display()))
    }
}

impl BuildArgs {
    /// As `run` finds it, with the same flags.
    fn spec(&self, ctx: &Context) -> Result<EnvSpec, CliError> {
        let place = self.project.as_deref().unwrap_or(Path::new("."));
        let project = place.canonicalize().map_err(|error| {
            CliError::new(Kind::Failed, format!("the project {} cannot be used", place.display()))
                .because(&error)
        })?;
        if let Some(image) = self.env.container_image()? {
            let message = format!(
                "`{image}` is the image of a container, and nothing is built of one: of images, only those that begin with \
                 `nix:` are environments"
            );
            return Err(CliError::new(Kind::Usage, message));
        }
        let flags = LaunchArgs {
            agent: self.agent.clone(),
            nix: self.env.clone(),
            no_project_config: self.no_project_config,
            ..LaunchArgs::default()
        };
        let settings = flags.all_settings(ctx, &project)?.with_agent_of_preset(EnvKind::Nix);
        Ok(tools::spec(&settings, settings.agent_alone().as_ref())?)
    }
}

fn list(ctx: &Context) -> Result<(), CliError> {
    let views = view::all(&ctx.data)?;
    if ctx.global.json {
        return print_json(&views);
    }
    let head = ["ID", "STATE", "BUILT", "SANDBOXES", "PACKAGES"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(views.iter().map(row)).collect();
    print_table(&rows)
}

fn row(view: &EnvView) -> Vec<String> {
    let or_nothing = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        view.id.to_string(),
        super::list::word(&view.state),
        or_nothing(view.stored.as_ref().map(|stored| clean(&stored.built_at)).unwrap_or_default()),
        or_nothing(names(&view.sandboxes)),
        or_nothing(clean(&view.packages.join(" "))),
    ]
}

fn show(ctx: &Context, args: &ShowArgs) -> Result<(), CliError> {
    let id = find(ctx, &args.what)?;
    let view = view::one(&ctx.data, &id)?;
    let text = view::expression_of(&ctx.data, &id);
    let size = env::lookup(&ctx.data, &id)?.and_then(|built| store::size(&built));
    if ctx.global.json {
        let mut value = serde_json::to_value(&view).map_err(std::io::Error::from)?;
        value["expression"] = serde_json::json!(text);
        value["size_bytes"] = serde_json::json!(size);
        return print_json(&value);
    }
    let mut rows = vec![("id", view.id.to_string()), ("state", super::list::word(&view.state))];
    if let Some(stored) = &view.stored {
        let spec = &stored.spec;
        rows.extend(spec.preset.clone().map(|preset| ("preset", preset)));
        let list = |name, list: &[String]| (!list.is_empty()).then(|| (name, list.join(" ")));
        rows.extend(list("sets", &spec.sets));
        rows.extend(list("added", &spec.packages));
        rows.push(("nixpkgs", spec.nixpkgs.to_string()));
        rows.extend(spec.unfree.then(|| ("unfree", "allowed".to_owned())));
        rows.push(("built", stored.built_at.clone()));
    }
    rows.push(("packages", view.packages.join(" ")));
    rows.extend(view.store_path.as_ref().map(|path| ("store path", path.display().to_string())));
    rows.extend(view.store_paths.map(|count| {
        let size = size.map(|bytes| format!(", {} MiB", bytes / (1024 * 1024))).unwrap_or_default();
        ("closure", format!("{count} store paths{size}"))
    }));
    rows.push(("sandboxes", names(&view.sandboxes)));
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(key, value)| vec![key.to_owned(), clean(&value)]).collect();
    print_table(&rows)?;
    match text {
        Some(text) => {
            print_line(&format!("\n{}", text.trim_end().lines().map(clean).collect::<Vec<_>>().join("\n")))
        }
        None => Ok(()),
    }
}

/// An id that is the only one to begin like this, or the environment of a sandbox.
fn find(ctx: &Context, what: &str) -> Result<EnvId, CliError> {
    let mut ids = view::beginning_with(&ctx.data, what)?;
    if let Ok(name) = what.parse::<Name>()
        && let Ok(sandbox) = Sandbox::find(&ctx.data, &name)
    {
        return sandbox.record()?.environment.id().cloned().ok_or_else(|| {
            CliError::new(
                Kind::WrongState,
                format!("sandbox `{name}` uses the host's tools and no environment of Nix"),
            )
        });
    }
    match (ids.pop(), ids.len()) {
        (Some(id), 0) => Ok(id),
        (Some(_), _) if !what.is_empty() => {
            Err(CliError::new(Kind::Usage, format!("several environments begin with `{what}`"))
                .hint("write more of the id; `agent-shim env list` shows them"))
        }
        _ => Err(CliError::new(Kind::NotFound, format!("there is no environment and no sandbox `{what}`"))
            .hint("`agent-shim env list` shows the environments")),
    }
}

fn collect(ctx: &Context, args: &GcArgs) -> Result<(), CliError> {
    let collected = gc::collect(&ctx.data, ctx.global.dry_run)?;
    let freed = if args.collect && !ctx.global.dry_run {
        let mut report = StandardError::new();
        let freed = store::collect(&mut report);
        report.done();
        Some(freed?)
    } else {
        None
    };
    if ctx.global.json {
        let mut value = serde_json::to_value(&collected).map_err(std::io::Error::from)?;
        value["store"] = serde_json::json!(freed);
        value["dry_run"] = serde_json::json!(ctx.global.dry_run);
        return print_json(&value);
    }
    say(ctx, &collected)?;
    match freed {
        Some(freed) => print_line(&clean(&freed)),
        None if collected.dropped.is_empty() || ctx.global.dry_run => Ok(()),
        None => {
            tell("`nix-collect-garbage` frees the space they take");
            Ok(())
        }
    }
}

fn say(ctx: &Context, collected: &Collected) -> Result<(), CliError> {
    let verb = if ctx.global.dry_run { "would drop" } else { "dropped" };
    for dropped in &collected.dropped {
        print_line(&format!("{verb} {}  {}", dropped.id, clean(&dropped.packages.join(" "))))?;
    }
    for kept in &collected.kept {
        match &kept.reason {
            Reason::Used { sandboxes } => {
                ctx.say(format_args!("kept {}: used by {}", kept.id, names(sandboxes)));
            }
            Reason::Busy => tell(&format!("kept {}: it is built or taken into use just now", kept.id)),
            Reason::Unknown { sandboxes } => {
                let names = names(sandboxes);
                tell(&format!("kept {}: the record of {names} cannot be read, and may name it", kept.id));
            }
        }
    }
    Ok(())
}

fn names(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(" ")
}

impl From<EnvError> for CliError {
    fn from(error: EnvError) -> Self {
        let (kind, hint) = (
            match error.blame() {
                Blame::Request => Kind::Usage,
                Blame::Machine => Kind::Requirement,
                Blame::Person => Kind::Cancelled,
                Blame::Build => Kind::Failed,
            },
            error.hint(),
        );
        let lines = error.lines().to_vec();
        let made = match error {
            EnvError::State(error) => error.into(),
            error => Self::new(kind, error.to_string()).lines(lines),
        };
        match hint {
            Some(hint) => made.hint(hint),
            None => made,
        }
    }
}
