//! Steps and services.

use agent_protocol::spec::{InitSpec, Service, Step};

use super::{error::ConfigError, origin::Sourced};

/// Finds what init would refuse, and where it was written.
pub(super) fn check(steps: &[Sourced<Step>], services: &[Sourced<Service>]) -> Result<(), ConfigError> {
    let spec = InitSpec {
        steps: steps.iter().map(|step| step.value.clone()).collect(),
        services: services.iter().map(|service| service.value.clone()).collect(),
        ..InitSpec::default()
    };
    let Err(problems) = spec.validate() else { return Ok(()) };
    let problem = &problems[0];
    let unit = |list: &str| {
        let index = problem.at.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?.0;
        index.parse::<usize>().ok()
    };
    let origin = (unit("steps").and_then(|index| steps.get(index)).map(|step| &step.origin))
        .or_else(|| unit("services").and_then(|index| services.get(index)).map(|service| &service.origin));
    Err(ConfigError::written(match origin {
        Some(origin) => format!("{origin}: {problem}"),
        None => problem.to_string(),
    }))
}
