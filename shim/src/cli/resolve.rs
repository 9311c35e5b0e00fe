//! Which sandbox is meant.

use std::path::Path;

use super::{
    context::Context,
    error::{CliError, Kind},
};
use crate::sandbox::{Sandbox, StateError, name::Name};

/// The sandbox of that name; without one, the one whose project we are in.
pub(crate) fn sandbox(ctx: &Context, name: Option<&str>) -> Result<Sandbox, CliError> {
    match name {
        Some(name) => Ok(Sandbox::find(&ctx.data, &name.parse()?)?),
        None => of_project(ctx, &Context::current_folder()?),
    }
}

/// The sandbox whose project is `folder` or the nearest folder above it.
fn of_project(ctx: &Context, folder: &Path) -> Result<Sandbox, CliError> {
    let sandboxes = Sandbox::all(&ctx.data)?;
    let projects = sandboxes.into_iter().filter_map(|sandbox| {
        // A sandbox whose record cannot be read has no project that we know of.
        let project = sandbox.record().ok()?.project;
        Some((project, sandbox))
    });
    let mut nearest = nearest(folder, projects);
    match (nearest.pop(), nearest.is_empty()) {
        (None, _) => Err(CliError::new(Kind::NotFound, "there is no sandbox of this project")
            .hint("name one that `agent-shim list` shows, or begin with `agent-shim run`")),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            nearest.push(last);
            let names: Vec<&str> = nearest.iter().map(|sandbox| sandbox.name().as_str()).collect();
            let message = format!("this project has several sandboxes: {}", names.join(", "));
            Err(CliError::new(Kind::Usage, message).hint("name the one you mean"))
        }
    }
}

/// Those whose project is nearest above `folder`.
fn nearest<T>(folder: &Path, projects: impl Iterator<Item = (impl AsRef<Path>, T)>) -> Vec<T> {
    let mut depth = 0;
    let mut found = Vec::new();
    for (project, what) in projects {
        let project = project.as_ref();
        let parts = project.components().count();
        if folder.starts_with(project) && parts >= depth {
            if parts > depth {
                found.clear();
                depth = parts;
            }
            found.push(what);
        }
    }
    found
}

/// What the one argument of `run` and `start` means.
#[derive(Debug)]
pub(crate) enum Place {
    /// A sandbox that is there.
    Sandbox(Sandbox),
    /// A project folder, without symbolic links in its path.
    Project(std::path::PathBuf),
}

/// A name means a sandbox if there is one, everything else is a folder.
pub(crate) fn place(ctx: &Context, text: Option<&str>) -> Result<Place, CliError> {
    let text = text.unwrap_or(".");
    if let Ok(name) = text.parse::<Name>() {
        match Sandbox::find(&ctx.data, &name) {
            Ok(sandbox) => return Ok(Place::Sandbox(sandbox)),
            Err(StateError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let path = Path::new(text);
    let error = match path.canonicalize() {
        Ok(path) if path.is_dir() && path.to_str().is_some() => return Ok(Place::Project(path)),
        Ok(path) if path.is_dir() => {
            return Err(CliError::new(Kind::Failed, "the project's path is not UTF-8"));
        }
        Ok(_) => std::io::Error::from(std::io::ErrorKind::NotADirectory),
        Err(error) => error,
    };
    if text.parse::<Name>().is_ok() {
        return Err(CliError::new(Kind::NotFound, format!("`{text}` is neither a sandbox nor a folder"))
            .hint("`agent-shim list` shows the sandboxes"));
    }
    Err(CliError::new(Kind::Failed, format!("the project {text} cannot be used")).because(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folder: &str) -> Vec<&'static str> {
        let projects = [
            ("/src", "src"),
            ("/src/web", "web"),
            ("/src/web", "web-2"),
            ("/src/web/ui", "ui"),
            ("/other", "o"),
        ];
        nearest(Path::new(folder), projects.into_iter())
    }

    #[test]
    fn the_nearest_project_above_is_meant() {
        assert_eq!(found("/src/web/ui/button"), ["ui"]);
        assert_eq!(found("/src/web"), ["web", "web-2"]);
        assert_eq!(found("/src/website"), ["src"]);
        assert!(found("/").is_empty() && found("/tmp").is_empty());
    }
}
