//! What a plan says on every layer.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::IsolationError;
use super::limits::{Cgroups, LimitPlan, Limits};
use super::plan::{INIT, LaunchPlan, Namespaces};
use super::{Request, ids, shape, store};
use crate::sys;

/// The plan of a launch by `program`, on the host's own kernel. Looks at the host, changes nothing.
pub(super) fn draft(
    layer: &'static str,
    program: &Path,
    request: &Request,
) -> Result<LaunchPlan, IsolationError> {
    for_kernel(layer, program, request, sys::landlock_abi())
}

/// The same for a kernel with this version of Landlock, or without it.
pub(super) fn for_kernel(
    layer: &'static str,
    program: &Path,
    request: &Request,
    landlock_abi: i64,
) -> Result<LaunchPlan, IsolationError> {
    shape::check_sources(request)?;
    let limits = if request.limits == Limits::default() {
        LimitPlan::default()
    } else {
        let cgroups = Cgroups::here().map_err(|source| IsolationError::Step {
            doing: "reading the table of cgroups".to_owned(),
            source,
        })?;
        // Two users, or two data folders, can have sandboxes of one name.
        let folder = ids::fnv1a(request.folder.as_os_str().as_bytes());
        cgroups.plan(&request.limits, &format!("{}-{folder:08x}", request.name))?
    };
    let mut fds = request.fds.clone();
    fds.extend(limits.promised(fds.iter().map(|fd| fd.number + 1).max().unwrap_or(3)));
    let mut command = vec![INIT.to_owned()];
    command.extend(request.init_args.iter().cloned());
    let mut mounts = shape::mounts(request)?;
    let facts = store::Facts { landlock_abi, nested: request.nested_namespaces };
    let readable = store::leave_to_init(&mut mounts, facts);
    Ok(LaunchPlan {
        layer,
        program: program.to_owned(),
        hostname: request.name.clone(),
        folder: request.folder.clone(),
        caller: request.caller,
        mounts,
        readable,
        namespaces: Namespaces { network: request.network.clone(), nested: request.nested_namespaces },
        env: request.init_env.clone(),
        fds,
        command,
        limits,
        container: None,
        machine: None,
        dies_with_parent: request.dies_with_parent,
    })
}
