//! The image of a sandbox that an engine makes: fetched before anything else is done, as packages are.

use std::env;

use super::{context::Context, error::CliError};
use crate::{
    isolation::engine::{self, EngineError, Image},
    sandbox::{record::Record, start::Failure},
};

/// Has the engine find the image, and takes the image's command where nobody gave one.
pub(crate) fn ensure(ctx: &Context, record: &mut Record) -> Result<(), CliError> {
    let Some((engine, image)) = record.engine() else { return Ok(()) };
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let found = if ctx.global.dry_run {
        engine.find(&path).and_then(|program| Image::inspect(engine, &program, image))
    } else {
        engine::ensure(engine, image, &path)
    };
    let cannot = |error: EngineError| {
        let error = CliError::from(Failure::from(error));
        error.while_doing(format!("cannot start sandbox `{}`", record.name))
    };
    let found = found.map_err(cannot)?;
    if record.agent.is_none() && record.command.is_empty() {
        if found.command.is_empty() {
            return Err(cannot(EngineError::NoCommand { image: image.to_owned() }));
        }
        record.command = found.command;
    }
    Ok(())
}
