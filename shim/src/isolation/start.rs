//! Starting a layer's program in the surroundings that its plan asks for.

use std::path::Path;

use super::error::IsolationError;
use super::handover::{self, Passed, c_string, step};
use super::limits::Made;
use super::plan::{Caller, LaunchPlan};
use super::process::Process;
use super::sources::{STAGE, Sources, Tree};
use super::userns::{setting, switched_off_by};
use super::{Launched, Remains, stage, tree};
use crate::sys::{self, Program, SpawnError, Step};

/// Puts everything in place in a new process, and executes the program there.
pub(super) fn start(
    plan: &LaunchPlan,
    sources: &Sources<'_>,
    passed: &Passed,
    program: &Program,
    cgroup: Option<Made<'_>>,
) -> Result<Launched, IsolationError> {
    let mut steps = vec![Step::NewSession];
    let detached = match plan.caller {
        Caller::Ordinary => Vec::new(),
        Caller::Root { runs_as } => stage::detach(&sources.staged, runs_as)?,
    };
    let trees = tree::steps(plan.caller, &sources.trees)?;
    if let Some(cgroup) = &cgroup {
        steps.push(Step::JoinCgroup(cgroup.entrance()));
    }
    if let Caller::Root { .. } = plan.caller {
        steps.extend(stage::steps(Path::new(STAGE), &sources.staged, &detached)?);
    }
    if let Some(place) = &sources.place {
        match plan.caller {
            Caller::Root { .. } => steps.push(Step::MountPoint { at: c_string(place)?, folder: true }),
            Caller::Ordinary => handover::folder(place)?,
        }
    }
    steps.extend(trees);
    if let Caller::Root { runs_as } = plan.caller {
        steps.push(Step::BecomeUser(runs_as));
    }
    steps.extend(passed.steps());
    let child =
        sys::spawn(&steps, program).map_err(|error| failed(program, &steps, &sources.trees, error))?;
    let remains = Remains { cgroup: cgroup.map(Made::keep), ..Remains::default() };
    let supervisor = Process::holding(child.pid.as_raw_nonzero().get(), child.pidfd)
        .map_err(|source| step("looking at the layer's process", source))?;
    Ok(Launched { supervisor, remains })
}

fn failed(program: &Program, steps: &[Step], trees: &[Tree<'_>], error: SpawnError) -> IsolationError {
    let switch = || switched_off_by(setting);
    let path = program.path.to_string_lossy();
    match error {
        SpawnError::Clone(source) if tree::needs_namespaces(steps) => {
            IsolationError::NoUserNamespaces { switch: switch(), said: source.to_string() }
        }
        SpawnError::Clone(source) => step("making a process", source),
        SpawnError::Exec(source) => step(format!("executing {path}"), source),
        SpawnError::Step(at, source) => tree::explain(steps, at, source, trees, switch)
            .unwrap_or_else(|source| step(format!("preparing {path} ({:?})", steps[at]), source)),
    }
}
