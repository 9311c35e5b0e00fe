//! What the machine lacks is found by `doctor`, and said in the same words by a command that fails for it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    process::Command,
};

use agent_tests::{Home, Output, Who, agent_init, agent_shim, copy_program, finish};
use anyhow::{Context, ensure};
use serde_json::Value;

const START: [&str; 8] = ["start", "--name", "box", "--env", "host", "project", "--", "cat"];

/// An old one, one that is refused by the kernel, and one that hangs.
const OLD: &str = "#!/bin/sh\n[ \"$1\" = --version ] && { echo bubblewrap 0.4.1; exit; }\n\
                   echo 'bwrap: Unknown option --disable-userns' >&2; exit 1\n";
const REFUSED: &str = "#!/bin/sh\n[ \"$1\" = --version ] && { echo bubblewrap 0.8.0; exit; }\n\
                       echo 'bwrap: No permissions to create new namespace, likely because the kernel does not allow \
                       non-privileged user namespaces.' >&2; exit 1\n";
const HANGING: &str = "#!/bin/sh\nexec sleep 1000\n";

fn person(who: Who) -> anyhow::Result<Home> {
    let home = Home::new(who)?;
    home.project("project")?;
    Ok(home)
}

/// A finding by its id.
fn finding<'a>(report: &'a Value, id: &str) -> anyhow::Result<&'a Value> {
    let findings =
        report["checks"].as_array().into_iter().flatten().filter_map(|check| check["findings"].as_array());
    findings.flatten().find(|finding| finding["id"] == id).with_context(|| format!("no {id} in {report:#}"))
}

fn ids(report: &Value, severity: &str) -> Vec<String> {
    let findings =
        report["checks"].as_array().into_iter().flatten().filter_map(|check| check["findings"].as_array());
    findings
        .flatten()
        .filter(|finding| finding["severity"] == severity)
        .filter_map(|finding| finding["id"].as_str().map(str::to_owned))
        .collect()
}

/// Runs the shim with a change to its command, whatever PATH is then.
fn run(home: &Home, args: &[&str], change: &dyn Fn(&mut Command)) -> anyhow::Result<Output> {
    let shim = home.shim(args);
    let program = shim.get_program().to_owned();
    // An empty PATH hides the program that changes the user too, so that one is named.
    let mut named = Command::new(if program == "setpriv" { "/usr/bin/setpriv".into() } else { program });
    named.args(shim.get_args()).env_clear().current_dir(home.path());
    named.envs(shim.get_envs().filter_map(|(name, value)| Some((name, value?))));
    change(&mut named);
    finish(named, b"")
}

/// `doctor` finds it and exits with 4, in JSON and for people, and `start` and `run` say the same.
fn same_words(home: &Home, id: &str, change: &dyn Fn(&mut Command)) -> anyhow::Result<()> {
    let report = run(home, &["doctor", "--json"], change)?.exits(4)?.json()?;
    ensure!(report["ok"] == false && report["version"] == 1, "{report:#}");
    let found = finding(&report, id)?;
    ensure!(found["severity"] == "required", "{found:#}");
    let hint = found["hint"].as_str().context("a hint")?;
    ensure!(hint.contains(id), "{hint}");
    for (subcommand, code) in [("start", 4), ("run", 125)] {
        let output = run(home, &[&[subcommand], &START[1..]].concat(), change)?.exits(code)?;
        output.complains(&format!("\nhint: {hint}\n"))?;
    }
    let text = run(home, &["doctor"], change)?.exits(4)?;
    let shown = text.text();
    ensure!(shown.contains(&format!("[{id}]")), "{text}");
    ensure!(shown.contains(found["what"].as_str().context("what")?), "{text}");
    for step in found["fix"]["steps"].as_array().context("steps")? {
        let words = step["command"].as_str().or(step["line"].as_str()).context("a command or a line")?;
        ensure!(shown.contains(words) && hint.contains(words), "{words}: {text}");
    }
    ensure!(home.run(["list", "--json"])?.success()?.text() == "[]");
    Ok(())
}

#[test]
fn a_machine_on_which_sandboxes_start_lacks_nothing_that_is_required() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = person(*who)?;
        home.run(START)?.success()?;
        let report = home.run(["doctor", "--json"])?.success()?.json()?;
        ensure!(report["ok"] == true, "{report:#}");
        ensure!(ids(&report, "required").is_empty(), "{report:#}");
        ensure!(report["isolation"] == "bwrap" && report["nix"] == false, "{report:#}");
        ensure!(report["facts"]["by_root"] == (home.uid() == 0), "{report:#}");
        let text = home.run(["doctor", "-v"])?.success()?;
        ensure!(text.text().contains("\nok       user namespaces   bwrap makes them\n"), "{text}");
        ensure!(text.text().contains("\nkernel: \"") && !text.text().contains("missing  "), "{text}");
        ensure!(text.text().contains("Everything that `--isolation bwrap` needs is here"), "{text}");
        home.run(["destroy", "--force", "box"])?.success()?;
    }
    Ok(())
}

/// Looking changes nothing, on a machine on which nothing was ever started.
#[test]
fn looking_makes_nothing() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        home.run(["doctor"])?.success()?;
        ensure!(!home.data().exists());
        ensure!(fs::read_dir(home.path().join("home"))?.next().is_none());
    }
    Ok(())
}

#[test]
fn bwrap_is_missing() -> anyhow::Result<()> {
    for who in Home::everyone() {
        same_words(&person(*who)?, "bwrap-missing", &|shim| {
            shim.env("PATH", "/nowhere:/nowhere/else");
        })?;
    }
    Ok(())
}

#[test]
fn bwrap_is_too_old_or_refused() -> anyhow::Result<()> {
    for (script, id) in [(OLD, "bwrap-too-old"), (REFUSED, "user-namespaces-refused")] {
        // Root's bwrap is executed where /tmp is another one, and the test's cannot be seen.
        let home = person(Who::Ordinary)?;
        home.project("bin")?;
        home.program("bin/bwrap", script)?;
        let path = format!("{}:/usr/bin:/bin", home.path().join("bin").display());
        same_words(&home, id, &|shim| {
            shim.env("PATH", &path);
        })?;
    }
    Ok(())
}

/// Each program has its time, and all have the same one.
#[test]
fn programs_that_hang_do_not_hang_doctor() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    home.project("bin")?;
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    let programs = ["bwrap", "nix-build", "nix-store", "crun", "runc", &qemu, "virtiofsd", "git", "pasta"];
    for program in programs {
        home.program(&format!("bin/{program}"), HANGING)?;
    }
    let path = format!("{}:/usr/bin:/bin", home.path().join("bin").display());
    let hangs = |args: &[&str]| {
        run(&home, args, &|shim| {
            shim.env("PATH", &path);
        })
    };
    let report = hangs(&["doctor", "--json", "--env", "nix"])?.exits(4)?.json()?;
    ensure!(ids(&report, "required") == ["bwrap-broken", "nix-broken"], "{report:#}");
    for id in ["bwrap-broken", "nix-broken", "git-missing", "oci-runtime-too-old", "qemu-missing"] {
        let what = finding(&report, id)?["what"].as_str().context("what")?;
        ensure!(what.contains("does not end"), "{what}");
    }
    // What hung is gone with all that it started.
    let left: Vec<String> = agent_tests::Traces::of(&home)?.processes.into_iter().collect();
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}

#[test]
fn init_is_missing() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    // Beside the shim there is one, and it is not what was asked for.
    for named in ["/no/such/init", "relative", "/usr", "/etc/passwd"] {
        let change = |shim: &mut Command| {
            shim.env("AGENT_SHIM_INIT", named);
        };
        let report = run(&home, &["doctor", "--json"], &change)?.exits(4)?.json()?;
        ensure!(ids(&report, "required") == ["agent-init-missing"], "{report:#}");
        let hint = finding(&report, "agent-init-missing")?["hint"].as_str().context("a hint")?;
        let output = run(&home, &START, &change)?;
        output.exits(4)?.complains(&format!("\nhint: {hint}\n"))?.complains(named)?;
    }
    let alone = home.project("bin")?.join("agent-shim");
    copy_program(agent_shim(), &alone)?;
    let report = finish(home.command(&alone, ["doctor", "--json"]), b"")?.exits(4)?.json()?;
    ensure!(ids(&report, "required") == ["agent-init-missing"], "{report:#}");
    // And one that is named is used.
    let mut named = home.command(&alone, ["doctor", "--json"]);
    named.env("AGENT_SHIM_INIT", agent_init());
    let report = finish(named, b"")?.success()?.json()?;
    ensure!(
        report["facts"]["agent_init"]["at"] == agent_init().canonicalize()?.to_string_lossy().as_ref(),
        "{report:#}"
    );
    Ok(())
}

#[test]
fn the_data_folder_is_nowhere_or_of_no_use() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let nowhere = |shim: &mut Command| {
        shim.env_remove("HOME").env_remove("XDG_DATA_HOME");
    };
    same_words(&home, "data-folder-unknown", &nowhere)?;

    let open = home.project("open")?.join("agents");
    fs::create_dir(&open)?;
    let owned = |mode: u32| -> anyhow::Result<()> {
        chown(&open, Some(home.uid()), Some(home.uid()))?;
        Ok(fs::set_permissions(&open, fs::Permissions::from_mode(mode))?)
    };
    let data = open.parent().context("a folder")?.to_owned();
    let elsewhere = |shim: &mut Command| {
        shim.env("AGENT_SHIM_DATA", &data);
    };
    owned(0o777)?;
    let report = run(&home, &["doctor", "--json"], &elsewhere)?.exits(4)?.json()?;
    ensure!(ids(&report, "required") == ["data-folder-foreign"], "{report:#}");
    let hint = finding(&report, "data-folder-foreign")?["hint"].as_str().context("a hint")?;
    run(&home, &START, &elsewhere)?.exits(3)?.complains(&format!("\nhint: {hint}\n"))?;
    owned(0o500)?;
    let report = run(&home, &["doctor", "--json"], &elsewhere)?.exits(4)?.json()?;
    ensure!(ids(&report, "required") == ["data-folder-not-writable"], "{report:#}");
    let found = finding(&report, "data-folder-not-writable")?;
    let (what, hint) = (found["what"].as_str().context("what")?, found["hint"].as_str().context("a hint")?);
    ensure!(what.contains("Permission denied"), "{what}");
    let refused = run(&home, &START, &elsewhere)?.exits(4)?.complains("Permission denied")?;
    refused.complains(&format!("\nhint: {hint}\n"))?;
    let file = |shim: &mut Command| {
        shim.env("AGENT_SHIM_DATA", "/etc/passwd/here");
    };
    let report = run(&home, &["doctor", "--json"], &file)?.exits(4)?.json()?;
    ensure!(ids(&report, "required") == ["data-folder-not-writable"], "{report:#}");
    run(&home, &START, &file)?.exits(4)?.complains(&format!("\nhint: {hint}\n"))?;
    Ok(())
}

/// For real: in a user namespace of the test's own that allows no more.
#[test]
fn user_namespaces_are_switched_off() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let shim = agent_shim().to_string_lossy().into_owned();
    let within = |args: &[&str]| {
        finish(home.command("unshare", [&["-r", "sh", "-c", script, "sh", &shim], args].concat()), b"")
    };
    let report = within(&["doctor", "--json"])?.exits(4)?.json()?;
    ensure!(ids(&report, "required") == ["user-namespaces-count"], "{report:#}");
    let hint = finding(&report, "user-namespaces-count")?["hint"].as_str().context("a hint")?;
    within(&START)?.exits(4)?.complains(&format!("\nhint: {hint}\n"))?;
    // Root of that namespace is no root, and is told so in its commands all the same.
    ensure!(hint.contains("sysctl -w user.max_user_namespaces="), "{hint}");
    Ok(())
}

/// Files of another distribution, put over the host's in a mount namespace of the test's own.
#[test]
fn each_distribution_is_told_in_its_own_words() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("only root can put files over those of the host");
        return Ok(());
    }
    for (release, install, switch) in [
        (
            "ID=debian\nVERSION_ID=12\n",
            "sudo apt-get update && sudo apt-get install bubblewrap",
            "/etc/sysctl.d/",
        ),
        (
            "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n",
            "sudo apt-get install bubblewrap",
            "/etc/sysctl.d/",
        ),
        ("ID=fedora\nVERSION_ID=43\n", "sudo dnf install bubblewrap", "/etc/sysctl.d/"),
        ("ID=manjaro\nID_LIKE=arch\n", "sudo pacman -S bubblewrap", "/etc/sysctl.d/"),
        ("ID=gentoo\n", "sudo emerge --ask sys-apps/bubblewrap", "/etc/sysctl.d/"),
        (
            "ID=nixos\nVERSION_ID=25.05\n",
            "environment.systemPackages = [ pkgs.bubblewrap ];",
            "boot.kernel.sysctl",
        ),
        ("ID=void\n", "https://github.com/containers/bubblewrap", "/etc/sysctl.d/"),
    ] {
        let home = person(Who::Ordinary)?;
        let file = home.file("os-release", release.as_bytes())?;
        let zero = home.file("zero", b"0\n")?;
        let target = fs::canonicalize("/etc/os-release")?;
        let script = format!(
            "mount --bind {} {} && mount --bind {} /proc/sys/user/max_user_namespaces && exec \"$@\"",
            file.display(),
            target.display(),
            zero.display()
        );
        let within = |args: &[&str]| {
            run(&home, args, &|shim| {
                let inner: Vec<_> = std::iter::once(shim.get_program())
                    .chain(shim.get_args())
                    .map(std::ffi::OsStr::to_owned)
                    .collect();
                let envs: Vec<_> = shim
                    .get_envs()
                    .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                    .collect();
                let mut outer = Command::new("/usr/bin/unshare");
                outer.args(["-m", "sh", "-c", &script, "sh", "/usr/bin/env", "PATH=/nowhere"]).args(inner);
                outer.env_clear().envs(envs).current_dir(home.path());
                *shim = outer;
            })
        };
        let report = within(&["doctor", "--json"])?.exits(4)?.json()?;
        ensure!(ids(&report, "required") == ["bwrap-missing", "user-namespaces-count"], "{report:#}");
        let hint = |id: &str| -> anyhow::Result<String> {
            Ok(finding(&report, id)?["hint"].as_str().context("a hint")?.to_owned())
        };
        let (bwrap, count) = (hint("bwrap-missing")?, hint("user-namespaces-count")?);
        ensure!(bwrap.contains(install) && count.contains(switch), "{release}: {report:#}");
        within(&START)?.exits(4)?.complains(&format!("\nhint: {bwrap}\n"))?;
    }
    Ok(())
}

/// Root lends its folders through mounts that not every file system has.
#[test]
fn a_file_system_cannot_show_another_owner() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("only root lends its folders");
        return Ok(());
    }
    let home = person(Who::Myself)?;
    let data = home.path().join("data");
    let script = format!("mount -t ramfs ramfs {} && exec \"$@\"", data.display());
    let shim = agent_shim().to_string_lossy().into_owned();
    let within = |args: &[&str]| {
        finish(home.command("unshare", [&["-m", "sh", "-c", &script, "sh", &shim], args].concat()), b"")
    };
    let report = within(&["doctor", "--json"])?.exits(4)?.json()?;
    ensure!(ids(&report, "required") == ["id-mapped-mounts-missing"], "{report:#}");
    let hint = finding(&report, "id-mapped-mounts-missing")?["hint"].as_str().context("a hint")?;
    within(&START)?.exits(4)?.complains(&format!("\nhint: {hint}\n"))?;
    Ok(())
}

#[test]
fn a_small_disk_is_a_note() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("only root can mount a small disk");
        return Ok(());
    }
    let home = person(Who::Myself)?;
    let script =
        format!("mount -t tmpfs -o size=8m tmpfs {} && exec \"$@\"", home.path().join("data").display());
    let shim = agent_shim().to_string_lossy().into_owned();
    let inner = ["-m", "sh", "-c", &script, "sh", &shim, "doctor", "--json"];
    let report = finish(home.command("unshare", inner), b"")?.success()?.json()?;
    ensure!(finding(&report, "disk-space-low")?["severity"] == "note", "{report:#}");
    Ok(())
}

/// Nix of another person: a store that may not be written to, a daemon that is not there.
#[test]
fn nix_cannot_be_used() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    home.project("bin")?;
    home.program("bin/nix-build", "#!/bin/sh\necho 'nix-build (Nix) 2.8.0'\n")?;
    home.program("bin/nix-store", "#!/bin/sh\nexit 0\n")?;
    let path = format!("{}:/usr/bin:/bin", home.path().join("bin").display());
    let state = home.project("state")?;
    let required = |nix: &str, store: &str| -> anyhow::Result<Vec<String>> {
        let output = run(&home, &["doctor", "--json", "--env", nix], &|shim| {
            shim.env("PATH", &path).env("NIX_STORE_DIR", store).env("NIX_STATE_DIR", &state);
            shim.env("NIX_REMOTE", "daemon");
        })?;
        let report = output.json()?;
        let ids = ids(&report, "required");
        ensure!(output.code() == if ids.is_empty() { 0 } else { 4 }, "{output}");
        Ok(ids)
    };
    // Whatever the tests run as, this is nobody else's.
    ensure!(required("nix", "/usr")? == ["nix-daemon-down"]);
    ensure!(required("host", "/usr")?.is_empty());
    ensure!(required("nix", "/no/such/store")? == ["nix-store-missing"]);
    let own = home.project("store")?;
    ensure!(required("nix", &own.to_string_lossy())?.is_empty());

    let daemon = state.join("daemon-socket");
    fs::create_dir(&daemon)?;
    let listener = std::os::unix::net::UnixListener::bind(daemon.join("socket"))?;
    fs::set_permissions(daemon.join("socket"), fs::Permissions::from_mode(0o666))?;
    ensure!(required("nix", "/usr")?.is_empty());
    // Left to a group that this person is not in.
    fs::set_permissions(daemon.join("socket"), fs::Permissions::from_mode(0o600))?;
    chown(daemon.join("socket"), Some(nix::unistd::geteuid().as_raw()), None)?;
    if nix::unistd::geteuid().is_root() {
        ensure!(required("nix", "/usr")? == ["nix-store-not-writable"]);
    }
    fs::set_permissions(daemon.join("socket"), fs::Permissions::from_mode(0o666))?;
    drop(listener);
    ensure!(required("nix", "/usr")? == ["nix-daemon-down"]);

    let none = run(&home, &["doctor", "--json", "--env", "nix"], &|shim| {
        shim.env("PATH", "/nowhere");
    })?;
    let report = none.exits(4)?.json()?;
    ensure!(ids(&report, "required") == ["bwrap-missing", "nix-build-missing"], "{report:#}");
    Ok(())
}

/// The machine's own Nix, where it has one.
#[test]
fn a_real_nix_opens_its_store() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let found = Command::new("sh").args(["-c", "command -v nix-build nix-store"]).output()?;
    if !found.status.success() {
        agent_tests::skip("there is no Nix");
        return Ok(());
    }
    let (store, state) = (home.project("store")?, home.project("state")?);
    let real = |store: &std::path::Path| {
        run(&home, &["doctor", "--json", "--env", "nix"], &|shim| {
            shim.env("NIX_STORE_DIR", store).env("NIX_STATE_DIR", &state).env("NIX_LOG_DIR", &state);
            shim.env("NIX_CONF_DIR", &state).env("AGENT_SHIM_NIX_UNFREE", "true");
            // Nix asks for it where /etc/passwd has no name for the user.
            shim.env("USER", "somebody");
        })
    };
    let report = real(&store)?.success()?.json()?;
    ensure!(report["facts"]["nix"]["opened"] == "works", "{report:#}");
    ensure!(ids(&report, "note").contains(&"nix-flakes-off".to_owned()), "{report:#}");
    ensure!(finding(&report, "unfree-not-allowed").is_err(), "{report:#}");
    fs::write(state.join("nix.conf"), "experimental-features = nix-command flakes\n")?;
    let report = real(&store)?.success()?.json()?;
    ensure!(finding(&report, "nix-flakes-off").is_err(), "{report:#}");
    Ok(())
}

#[test]
fn what_is_asked_for_decides_what_is_required() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let nothing = |args: &[&str]| {
        run(&home, args, &|shim| {
            shim.env("PATH", "/nowhere");
        })
    };
    for (isolation, required) in
        [("bwrap", "bwrap-missing"), ("oci", "oci-runtime-missing"), ("microvm", "qemu-missing")]
    {
        let report = nothing(&["doctor", "--json", "--isolation", isolation])?.exits(4)?.json()?;
        ensure!(report["isolation"] == isolation, "{report:#}");
        ensure!(ids(&report, "required").contains(&required.to_owned()), "{report:#}");
        ensure!(ids(&report, "optional").contains(&"nix-build-missing".to_owned()), "{report:#}");
    }
    home.run(["doctor", "--isolation", "zone"])?
        .exits(64)?
        .complains("possible values: bwrap, oci, microvm")?;
    Ok(())
}

#[test]
fn colours_are_for_terminals() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    ensure!(!home.run(["doctor"])?.success()?.text().contains('\x1b'));
    ensure!(home.run(["doctor", "--color", "always"])?.success()?.text().contains("\x1b[32mok\x1b[0m "));
    Ok(())
}
