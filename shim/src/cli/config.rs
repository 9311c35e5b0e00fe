use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use serde_json::json;

use super::{
    agree,
    context::Context,
    error::{CliError, Kind},
    output::{clean, print_json, print_line, print_table},
};
use crate::config::{
    load::{Layers, PROJECT_FILE, ProjectFile, Sources},
    settings::Settings,
    show,
    trust::Consents,
};

/// Show what is configured, and where; agree to what a project's file asks for
#[derive(clap::Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
#[command(disable_help_subcommand = true)]
enum What {
    /// Show each value that a new sandbox would get, and where it comes from
    Show(PlaceArgs),
    /// Agree to what a project's agent-shim.toml asks for
    ///
    /// It holds until the file changes, or a path in it leads elsewhere.
    Trust(PlaceArgs),
    /// Take that back
    Untrust(PlaceArgs),
    /// Show where the files are
    Path(PlaceArgs),
}

#[derive(clap::Args, Debug)]
struct PlaceArgs {
    /// The project folder, or its agent-shim.toml; the current folder if left out
    #[arg(value_name = "PATH")]
    place: Option<PathBuf>,
}

pub(crate) fn run(ctx: &Context, args: &ConfigArgs) -> Result<ExitCode, CliError> {
    let sources = Sources::from_environment(Context::current_folder()?);
    match &args.what {
        What::Show(place) => show(ctx, &sources, &place.folder()?),
        What::Trust(place) => trust(ctx, &sources, &place.folder()?),
        What::Untrust(place) => untrust(ctx, &place.folder()?),
        What::Path(place) => paths(ctx, &sources, &place.folder()?),
    }?;
    Ok(ExitCode::SUCCESS)
}

impl PlaceArgs {
    /// The project's folder, without symbolic links in its path.
    fn folder(&self) -> Result<PathBuf, CliError> {
        let Some(place) = &self.place else { return Context::current_folder() };
        let folder = match place.file_name() {
            Some(name) if name == PROJECT_FILE && !place.is_dir() => {
                place.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
            }
            _ => place,
        };
        folder.canonicalize().map_err(|error| {
            CliError::new(Kind::Failed, format!("the project {} cannot be used", place.display()))
                .because(&error)
        })
    }
}

fn show(ctx: &Context, sources: &Sources, folder: &Path) -> Result<(), CliError> {
    let layers = sources.load(Some(folder))?;
    let request = layers.request()?;
    let pending = match (&layers.project, &request) {
        (Some(project), Some(request)) if !Consents::of(&ctx.data).holds(project, request) => Some(request),
        _ => None,
    };
    let question = layers.project.as_ref().zip(pending).map(|(project, asks)| agree::question(project, asks));
    let asks: Vec<_> = pending.iter().flat_map(|request| &request.asks).cloned().collect();
    let (user_file, project_file) = files(sources, &layers, folder);
    let rows = show::rows(&layers.with(Settings::default()));
    if ctx.global.json {
        let asks: Vec<_> = asks
            .iter()
            .map(|ask| json!({ "key": ask.key, "wants_to": ask.words, "origin": ask.origin }))
            .collect();
        return print_json(&json!({
            "settings": rows,
            "files": { "user": user_file, "project": project_file },
            "needs_consent": asks,
        }));
    }
    let mut table = vec![["KEY", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(|row| {
        let key = row.name.as_ref().map_or(row.key.to_owned(), |name| format!("{}.{name}", row.key));
        vec![clean(&key), clean(&row.text()), clean(&row.origin.to_string())]
    }));
    print_table(&table)?;
    if let Some(question) = question {
        print_line(&format!("\nNobody has agreed yet: {question}"))?;
    }
    Ok(())
}

fn trust(ctx: &Context, sources: &Sources, folder: &Path) -> Result<(), CliError> {
    let layers = sources.load(Some(folder))?;
    let request = layers.request()?;
    let project = layers.project.as_ref().ok_or_else(|| none(folder))?;
    let Some(request) = request else {
        return say(ctx, project, "asks for nothing that needs consent", &[]);
    };
    let asks: Vec<String> = request.asks.iter().map(|ask| ask.words.clone()).collect();
    if !ctx.global.dry_run {
        Consents::of(&ctx.data).give(project, &request, SystemTime::now())?;
    }
    say(ctx, project, "may, until it changes,", &asks)
}

fn untrust(ctx: &Context, folder: &Path) -> Result<(), CliError> {
    let file = folder.join(PROJECT_FILE);
    let consents = Consents::of(&ctx.data);
    let had = if ctx.global.dry_run { consents.has(&file) } else { consents.take_back(&file)? };
    match (ctx.global.json, had) {
        (true, had) => print_json(&json!({ "file": file, "had_consent": had })),
        (false, true) => print_line(&clean(&format!("{} must ask again", file.display()))),
        (false, false) => print_line(&clean(&format!("nobody had agreed to {}", file.display()))),
    }
}

fn paths(ctx: &Context, sources: &Sources, folder: &Path) -> Result<(), CliError> {
    let project = folder.join(PROJECT_FILE);
    if ctx.global.json {
        return print_json(&json!({ "user": sources.user_file, "project": project }));
    }
    for path in sources.user_file.iter().chain([&project]) {
        print_line(&clean(&path.display().to_string()))?;
    }
    Ok(())
}

/// The files that were read, for programs.
fn files(sources: &Sources, layers: &Layers, folder: &Path) -> (serde_json::Value, serde_json::Value) {
    let user = json!({ "path": sources.user_file, "exists": sources.user_file.as_ref().is_some_and(|path| path.exists()) });
    let project = json!({
        "path": folder.join(PROJECT_FILE),
        "exists": layers.project.is_some(),
        "sha256": layers.project.as_ref().map(|project| &project.sha256),
    });
    (user, project)
}

fn say(ctx: &Context, project: &ProjectFile, what: &str, asks: &[String]) -> Result<(), CliError> {
    if ctx.global.json {
        return print_json(&json!({ "file": project.path, "sha256": project.sha256, "may": asks }));
    }
    print_line(&clean(&format!("{} {what}", project.path.display())))?;
    asks.iter().try_for_each(|words| print_line(&format!("  - {}", clean(words))))
}

fn none(folder: &Path) -> CliError {
    CliError::new(Kind::NotFound, format!("there is no {PROJECT_FILE} in {}", folder.display()))
        .hint("name the folder of a project that has one")
}
