//! Attempts that wait: what an agent leaves behind for the next command of the person's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent_tests::finish;
use anyhow::ensure;

use crate::board::each_person;
use crate::world::World;

#[test]
fn links_for_the_next_start() {
    each_person("planted links", |board, world| {
        let key = world.at("home/.ssh/id");
        let folder = world.at("home/.ssh");
        board.tried("a link to a file of the host", || {
            world.start("link", &[], &["cat"])?;
            not_shown(world, "link", &format!("ln -s {key} l; ln -s {folder} f; cat l f/id; true"))
        });
        board.tried("a link in the place of a mount's source", || {
            let project = world.home.project("project-mount")?;
            world.as_person("mkdir project-mount/shared", &[])?;
            let mount = format!("{}/shared:/data", project.display());
            finish(world.start_command("mount", &project, &["--mount", &mount], &["cat"]), b"")?.success()?;
            world.sh("mount", &format!("mv shared gone; ln -s {folder} shared"))?.success()?;
            again(world, "mount", "cat /data/id")
        });
        board.tried("a link in the place of a secret's source", || {
            let project = world.home.project("project-secret")?;
            world.as_person("echo harmless > project-secret/key", &[])?;
            let secret = format!("KEY={}/key", project.display());
            finish(world.start_command("secret", &project, &["--secret", &secret], &["cat"]), b"")?
                .success()?;
            world.sh("secret", &format!("rm key; ln -s {key} key"))?.success()?;
            again(world, "secret", "cat /run/secrets/KEY")
        });
        board.tried("a link above a secret's source", || {
            let project = world.home.project("project-above")?;
            world.as_person("mkdir project-above/keys && echo harmless > project-above/keys/id", &[])?;
            let secret = format!("KEY={}/keys/id", project.display());
            finish(world.start_command("above", &project, &["--secret", &secret], &["cat"]), b"")?
                .success()?;
            world.sh("above", &format!("mv keys gone; ln -s {folder} keys"))?.success()?;
            again(world, "above", "cat /run/secrets/KEY")
        });
        board.tried("a pipe in the place of a secret's source", || {
            let project = world.home.project("project-pipe")?;
            world.as_person("echo harmless > project-pipe/key", &[])?;
            let secret = format!("KEY={}/key", project.display());
            finish(world.start_command("pipe", &project, &["--secret", &secret], &["cat"]), b"")?
                .success()?;
            world.sh("pipe", "rm key; mkfifo key")?.success()?;
            // That it ends at all is the point: nobody will ever write.
            again(world, "pipe", "true")
        });
        board.tried("a link in the place of another project", || {
            world.as_person("mkdir -p project-parent/child", &[])?;
            let [parent, child] =
                ["project-parent", "project-parent/child"].map(|path| world.home.path().join(path));
            finish(world.start_command("child", &child, &[], &["cat"]), b"")?.success()?;
            world.home.run(["stop", "child"])?.success()?;
            finish(world.start_command("parent", &parent, &[], &["cat"]), b"")?.success()?;
            world.sh("parent", &format!("mv child gone; ln -s {folder} child"))?.success()?;
            again(world, "child", "cat /workspace/id")
        });
        board.tried("a link on the way to a mount point", || {
            let project = world.start("way", &[], &["cat"])?;
            world.sh("way", "ln -s /oldroot/tmp link; ln -s ../.. up")?.success()?;
            world.home.run(["stop", "way"])?.success()?;
            for at in ["/workspace/link/planted", "/workspace/up/planted"] {
                let mount = format!("{}:{at}", project.display());
                let output = world.home.run(["start", "way", "--mount", &mount])?;
                ensure!(output.code() != 0, "{output}");
            }
            ensure!(!fs::exists("/tmp/planted")?, "something was made on the host");
            Ok(())
        });
        Ok(())
    });
}

/// Starts it again; it may refuse, or show nothing of the host.
fn again(world: &World, name: &str, script: &str) -> anyhow::Result<()> {
    world.home.run(["stop", name])?.exits(0).or_else(|error| {
        // One that is stopped already says so.
        if world.status(name)?["state"] == "stopped" { world.home.run(["list"]) } else { Err(error) }
    })?;
    let started = world.home.run(["start", name])?;
    if started.code() != 0 {
        println!("refused: {}", started.errors().trim().replace('\n', "; "));
        return Ok(());
    }
    not_shown(world, name, script)
}

fn not_shown(world: &World, name: &str, script: &str) -> anyhow::Result<()> {
    let output = world.sh(name, script)?;
    ensure!(!output.text().contains(&world.marker), "{output}");
    Ok(())
}

#[test]
fn traps_for_the_removal() {
    each_person("planted traps", |board, world| {
        world.start("box", &[], &["cat"])?;
        let victim = world.at("other");
        let script = format!(
            "cd && ln -s {victim} link && ln -s {victim} /tmp/link && mkdir -p closed/deep && echo x > closed/deep/file &&
             i=0; while [ $i -lt 300 ]; do mkdir d && cd d; i=$((i+1)); done; cd; mkfifo pipe; ln -s . loop
             printf x > \"$(printf 'new\\nline\\033[2J')\"; chmod 000 closed/deep closed; chmod 500 ~ /tmp; true"
        );
        world.sh("box", &script)?.success()?;
        world.home.run(["stop", "box"])?.success()?;
        let home = world.home.data().join("agents/box/home");
        let output = world.home.run(["start", "box", "--fresh"])?.success().map(drop);
        board.attempt("a home that cannot be discarded", output);
        let left = world.sh("box", "ls -A ~; ls /tmp")?;
        board.attempt(
            "a home that is not empty afterwards",
            if left.text().is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{left}")) },
        );
        world.sh("box", &script)?.success()?;
        let output = world.home.run(["destroy", "--force", "box"])?.success().map(drop);
        board.attempt("a sandbox that cannot be destroyed", output);
        board.attempt(
            "a folder that stays",
            if home.exists() { Err(anyhow::anyhow!("{}", home.display())) } else { Ok(()) },
        );
        let kept = fs::read_to_string(world.at("other/file"))?;
        board.attempt(
            "a removal that follows links",
            if kept.contains(&world.marker) { Ok(()) } else { Err(anyhow::anyhow!("{kept}")) },
        );

        world.start("again", &[], &["cat"])?;
        world.sh("again", "rm -f /tmp/.agent-notify; mkdir -p /tmp/.agent-notify/x")?.success()?;
        world.home.run(["stop", "again"])?.success()?;
        board.attempt(
            "a folder in the place of the notification socket",
            world.home.run(["start", "again"])?.success().map(drop),
        );
        Ok(())
    });
}

/// What runs with the rights of its owner, left on the host for somebody else to run.
#[test]
fn programs_for_other_users() {
    each_person("planted programs", |board, world| {
        let project = world.start("box", &[], &["cat"])?;
        world.sh("box", "cp /opt/probe copied; chmod u+s copied; install -m 4755 /opt/probe installed; /opt/probe plant-programs")?;
        board.tried("the control: the same outside", || {
            world.as_person("mkdir outside && cd outside && ../probe plant-programs", &[])?;
            let planted = planted(&world.home.path().join("outside"))?;
            ensure!(planted.len() >= 9, "only {planted:?}");
            Ok(())
        });
        let planted = planted(&project)?;
        board.attempt("programs that run with the rights of their owner", {
            if planted.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{}", planted.join(", "))) }
        });
        // What tools do every day, on the other hand, goes on. A machine's share refuses the group's bit on folders as well.
        let group = if agent_tests::layer().shares_kernel { "chmod g+s shared" } else { "true" };
        let output = world.sh(
            "box",
            &format!(
                "mkdir shared && {group} && chmod 1777 shared && cp -a shared copy && touch x && chmod 755 x"
            ),
        )?;
        board.attempt("the control: other modes", output.success().map(drop));
        Ok(())
    });
}

/// The same by capabilities, which whoever is root in a namespace can give to a file.
#[test]
fn capabilities_for_other_users() {
    each_person("planted capabilities", |board, world| {
        let project = world.start("box", &["--nested"], &["cat"])?;
        let output = world.sh("box", "/opt/probe plant-capabilities")?.success()?;
        board.attempt("the control: it is root in a namespace", {
            let is_root = output.text().starts_with("unshare 0, setgroups 0, uid_map 0, gid_map 0,");
            if is_root { Ok(()) } else { Err(anyhow::anyhow!("{output}")) }
        });
        let outside = world.as_person("mkdir outside && cd outside && ../probe plant-capabilities", &[])?;
        board.attempt("the control: the same outside", {
            if outside.text().contains(", setxattr 0,") { Ok(()) } else { Err(anyhow::anyhow!("{outside}")) }
        });
        let mut capable = Vec::new();
        for entry in fs::read_dir(&project)? {
            let path = entry?.path();
            if rustix::fs::lgetxattr(&path, "security.capability", &mut [0_u8; 64]).is_ok() {
                capable.push(path);
            }
        }
        board.attempt("programs with capabilities", {
            if capable.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{capable:?}: {output}")) }
        });
        Ok(())
    });
}

/// Files with the rights of their owner, or of their group for everybody of it to run.
fn planted(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut planted = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode();
        if entry.file_type()?.is_file() && mode & 0o4000 != 0 {
            planted.push(format!("{} {mode:o}", entry.file_name().display()));
        }
    }
    planted.sort();
    Ok(planted)
}
