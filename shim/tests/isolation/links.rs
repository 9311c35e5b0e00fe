//! Symbolic links that an agent has planted for the next start.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use agent_shim::isolation::{Access, Caller, ErrorKind, Handles, Layer, UserMount};

use super::world::{World, layer};

/// An agent can leave a link in the project, for the next start to make a mount point through it.
#[test]
fn a_planted_link_is_no_mount_point() {
    let mut world = World::new();
    std::os::unix::fs::symlink("/oldroot/tmp", world.path("project/link")).unwrap();
    let source = world.path("home").canonicalize().unwrap();
    let at = "/workspace/link/planted".to_owned();
    world.request.mounts = vec![UserMount { source, at, access: Access::ReadWrite }];
    let error = layer().plan(&world.request).unwrap_err().to_string();
    assert!(error.ends_with("project/link is a symbolic link"), "{error}");
}

/// An agent that can write above another project can put a link in its place.
#[test]
fn a_project_that_became_a_link_is_refused() {
    let mut world = World::new();
    let elsewhere = world.path("home").canonicalize().unwrap();
    fs::rename(world.path("project"), world.path("moved")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, world.path("project")).unwrap();
    let refused = layer().plan(&world.request).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage, "{refused}");

    fs::create_dir(world.path("home/below")).unwrap();
    world.request.workspace = world.path("project/below");
    let refused = layer().plan(&world.request).unwrap_err().to_string();
    assert!(refused.contains("a symbolic link in it leads to"), "{refused}");
}

#[test]
fn a_link_planted_in_a_further_mount_is_refused_too() {
    let mut world = World::new();
    let folder = world.path("further").canonicalize().unwrap_or_else(|_| world.path("further"));
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink("/oldroot", folder.join("link")).unwrap();
    let mount =
        |source: PathBuf, at: &str| UserMount { source, at: at.to_owned(), access: Access::ReadWrite };
    let project = world.request.workspace.clone();
    world.request.mounts = vec![mount(folder, "/further"), mount(project, "/further/link/x")];
    let refused = layer().plan(&world.request).unwrap_err().to_string();
    assert!(refused.ends_with("further/link is a symbolic link"), "{refused}");
}

/// Between the plan and its launch another sandbox of the same project may still be at work.
#[test]
fn root_follows_no_link_that_is_planted_after_the_plan() {
    if !matches!(World::new().request.caller, Caller::Root { .. }) {
        eprintln!("skipped: only root reads with more rights than the sandbox has");
        return;
    }
    let mut world = World::new();
    let above = world.request.workspace.join("above");
    fs::create_dir_all(above.join("project")).unwrap();
    world.request.workspace = above.join("project");
    fs::write(world.path("init"), "#!/bin/sh\n").unwrap();
    let layer = layer();
    let plan = layer.plan(&world.request).unwrap();
    fs::rename(&above, world.path("moved")).unwrap();
    std::os::unix::fs::symlink(world.path("moved"), &above).unwrap();
    let null = || OwnedFd::from(File::options().write(true).open("/dev/null").unwrap());
    let handles = Handles { promised: vec![], stdout: null(), stderr: null() };
    let refused = layer.launch(&plan, handles).unwrap_err();
    assert!(refused.to_string().starts_with("opening "), "{refused}");
}
