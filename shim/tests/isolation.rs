//! What bubblewrap's sandbox promises, with shell scripts in the place of init.
//!
//! Every test runs as whoever runs it, and once more as an ordinary user when that is root.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent_shim::env::host;
use agent_shim::isolation::bwrap::Bubblewrap;
use agent_shim::isolation::{
    Access, Caller, ErrorKind, Handles, Launched, Layer, Limits, Network, Process, PromisedFd, Request,
    Secret, UserMount,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

/// Longer than anything here takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// An id no system gives to anybody.
const SOMEBODY: u32 = 64_123;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Runs the test, and again as an ordinary user when this is root.
fn each_user(name: &str, test: fn(&mut World) -> Outcome) {
    if let Err(error) = test(&mut World::new()) {
        panic!("as uid {}: {error}", rustix::process::getuid().as_raw());
    }
    if !rustix::process::getuid().is_root() {
        return;
    }
    // The test program may lie where an ordinary user cannot get.
    let open_to_all = fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().permissions(open_to_all.clone()).tempdir().unwrap();
    let program = folder.path().join("test");
    // By another process: a child that some other test forks meanwhile would keep our copy open for writing.
    let copied =
        Command::new("cp").args([std::env::current_exe().unwrap(), program.clone()]).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(&program, open_to_all).unwrap();
    let mut again = Command::new(&program);
    again
        .args(["--exact", name, "--nocapture"])
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .current_dir("/")
        .env("TMPDIR", "/tmp");
    let output = again.output().unwrap();
    let ran_it = String::from_utf8_lossy(&output.stdout).contains(" 1 passed");
    assert!(
        output.status.success() && ran_it,
        "as uid {SOMEBODY}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A private folder with a project, a home and a script for PID 1.
struct World {
    folder: tempfile::TempDir,
    request: Request,
    started: Vec<Process>,
}

impl World {
    fn new() -> World {
        // Private, so that root's case proves that a folder only root can enter works.
        let private = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("isolation-").permissions(private).tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        for name in ["home", "tmp", "project"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        let request = Request {
            name: "web".to_owned(),
            folder: path.clone(),
            workspace: path.join("project"),
            environment: host::environment(Path::new("/"), Network::None).unwrap(),
            mounts: vec![],
            secrets: vec![],
            hidden: vec![],
            network: Network::None,
            nested_namespaces: false,
            limits: Limits::default(),
            init: path.join("init"),
            init_args: vec![],
            init_env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            fds: vec![],
            caller: Caller::detect(&path).unwrap(),
            dies_with_parent: false,
        };
        World { folder, request, started: vec![] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(
        &mut self,
        script: &str,
        promised: Vec<(&'static str, OwnedFd)>,
    ) -> io::Result<(Launched, Output)> {
        fs::write(self.path("init"), format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(self.path("init"), fs::Permissions::from_mode(0o755))?;
        let (read, write) = io::pipe()?;
        let layer = layer();
        let plan = layer.plan(&self.request).map_err(io::Error::other)?;
        let stdout = write.try_clone()?.into();
        let handles = Handles { promised, stdout, stderr: write.into() };
        let launched = layer.launch(&plan, handles).map_err(io::Error::other)?;
        self.started.extend(Process::now(launched.supervisor.id().pid)?);
        Ok((launched, Output { pipe: File::from(OwnedFd::from(read)), seen: Vec::new() }))
    }

    /// Runs a script as PID 1 and returns what it printed.
    fn run(&mut self, script: &str) -> io::Result<String> {
        let (launched, mut output) = self.launch(script, vec![])?;
        let printed = output.all()?;
        reap(&launched)?;
        Ok(printed)
    }

    fn init(&self) -> io::Result<Process> {
        let pid = layer().report(self.folder.path())?.init_pid.ok_or(io::ErrorKind::NotFound)?;
        Process::now(pid)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The pid is still init's where bwrap has not recorded its end.
        let report = layer().report(self.folder.path()).unwrap_or_default();
        if report.exit_code.is_none()
            && self.started.iter().any(|bwrap| bwrap.alive().unwrap_or(false))
            && let Ok(init) = self.init()
        {
            let _ = init.signal(Signal::KILL);
        }
        for bwrap in &self.started {
            let _ = bwrap.signal(Signal::KILL);
            // Our child: nobody else may reap it where the host's PID 1 does not.
            let pid = rustix::process::Pid::from_raw(bwrap.id().pid);
            if bwrap.exited_within(DEADLINE).unwrap_or(false) {
                let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
            }
        }
    }
}

/// The other end of a sandbox's stdout and stderr, read with a deadline.
struct Output {
    pipe: File,
    seen: Vec<u8>,
}

impl Output {
    fn until(&mut self, enough: impl Fn(&[u8]) -> bool) -> io::Result<String> {
        let deadline = Instant::now() + DEADLINE;
        while !enough(&self.seen) {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
            if poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&left))? == 0 {
                let seen = String::from_utf8_lossy(&self.seen).into_owned();
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("after printing: {seen}")));
            }
            let mut chunk = [0; 4096];
            match self.pipe.read(&mut chunk)? {
                0 => break,
                n => self.seen.extend(&chunk[..n]),
            }
        }
        Ok(String::from_utf8_lossy(&self.seen).into_owned())
    }

    fn all(&mut self) -> io::Result<String> {
        self.until(|_| false)
    }

    fn line(&mut self, line: &str) -> io::Result<String> {
        let wanted = format!("{line}\n").into_bytes();
        let seen = self.until(|seen| seen.windows(wanted.len()).any(|window| window == wanted))?;
        if seen.contains(line) { Ok(seen) } else { Err(io::Error::other(format!("no `{line}` in: {seen}"))) }
    }
}

fn layer() -> Bubblewrap {
    Bubblewrap::find("/usr/local/bin:/usr/bin:/bin".as_ref()).expect("bubblewrap is needed for these tests")
}

fn reap(launched: &Launched) -> io::Result<i32> {
    if !launched.supervisor.exited_within(DEADLINE)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let pid = rustix::process::Pid::from_raw(launched.supervisor.id().pid);
    let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    Ok(status.and_then(|(_, status)| status.exit_status()).unwrap_or(-1))
}

fn expect(printed: &str, wanted: &[&str]) -> Outcome {
    for line in wanted {
        if !printed.lines().any(|printed| printed == *line) {
            return Err(format!("expected the line `{line}` in:\n{printed}").into());
        }
    }
    Ok(())
}

#[test]
fn pid_1_is_an_unprivileged_user_with_nothing_to_gain() {
    each_user("pid_1_is_an_unprivileged_user_with_nothing_to_gain", |world| {
        let printed = world.run(
            "echo pid $$; echo user $(id -un) $(id -u) $(id -g) $(id -gn); echo host $(hostname)
             pwd; echo path $PATH
             grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status | tr '\t' ' '
             awk '$5 == \"/usr\" { print \"usr\", $6 }' /proc/self/mountinfo
             exit 7",
        )?;
        let nothing = "0000000000000000";
        expect(
            &printed,
            &[
                "pid 1",
                "user sandbox 1000 1000 sandbox",
                "host web",
                "/",
                "path /usr/local/bin:/usr/bin:/bin",
                &format!("CapInh: {nothing}"),
                &format!("CapPrm: {nothing}"),
                &format!("CapEff: {nothing}"),
                &format!("CapBnd: {nothing}"),
                &format!("CapAmb: {nothing}"),
                "NoNewPrivs: 1",
            ],
        )?;
        let usr = printed.lines().find(|line| line.starts_with("usr ")).ok_or("no /usr")?;
        assert!(usr.contains("ro") && usr.contains("nosuid") && usr.contains("nodev"), "{usr}");
        assert_eq!(layer().report(world.folder.path())?.exit_code, Some(7));
        Ok(())
    });
}

#[test]
fn what_is_written_belongs_to_the_owner_of_the_folder() {
    each_user("what_is_written_belongs_to_the_owner_of_the_folder", |world| {
        let owner = fs::metadata(world.path("project"))?;
        fs::write(world.path("project/given"), "from outside")?;
        fs::set_permissions(world.path("project/given"), fs::Permissions::from_mode(0o600))?;
        let printed = world.run(
            "cat /workspace/given; echo; stat -c 'owner %u %g' /workspace /workspace/given
             for d in /workspace /home/sandbox /tmp; do echo made > $d/made && mkdir $d/dir && ln -s x $d/link; done
             chmod 755 /workspace/made && mv /workspace/given /workspace/moved && echo done",
        )?;
        expect(&printed, &["from outside", "owner 1000 1000", "done"])?;
        for folder in ["project", "home", "tmp"] {
            for made in ["made", "dir", "link"] {
                let found = fs::symlink_metadata(world.path(folder).join(made))?;
                assert_eq!((found.uid(), found.gid()), (owner.uid(), owner.gid()), "{folder}/{made}");
            }
        }
        assert_eq!(fs::read_to_string(world.path("project/moved"))?, "from outside");
        Ok(())
    });
}

#[test]
fn a_project_of_another_owner_keeps_its_owner() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: only root can give a folder to somebody else");
        return;
    }
    let mut world = World::new();
    std::os::unix::fs::chown(world.path("project"), Some(SOMEBODY), Some(SOMEBODY + 1)).unwrap();
    world.run("echo x > /workspace/made; echo x > /tmp/made").unwrap();
    let found = fs::metadata(world.path("project/made")).unwrap();
    assert_eq!((found.uid(), found.gid()), (SOMEBODY, SOMEBODY + 1));
    assert_eq!(fs::metadata(world.path("tmp/made")).unwrap().uid(), 0);
}

#[test]
fn nothing_else_of_the_host_is_there() {
    each_user("nothing_else_of_the_host_is_there", |world| {
        let printed = world.run(
            "echo root $(ls -A / | tr '\\n' ' '); echo home $(ls -A /home /home/sandbox)
             echo run $(ls -A /run); echo sys $(ls -A /sys); echo var $(ls -A /var)
             for f in /etc/shadow /etc/machine-id /etc/ssh /etc/sudoers /root /opt /srv /mnt /oldroot /newroot; do
               [ -e $f ] && echo visible $f; done
             echo closed $(find / -xdev -type d ! -perm 755 ! -path /proc)
             [ -e /usr/bin/env ] && [ -s /etc/passwd ] && echo tools
             echo net $(ls /proc/sys/net/ipv4/conf | tr '\\n' ' ')",
        )?;
        assert!(!printed.contains("visible"), "{printed}");
        let beside_usr = |name: &str| ["bin", "sbin", "lib", "lib32", "lib64", "libx32"].contains(&name);
        let root = printed.lines().find_map(|line| line.strip_prefix("root ")).ok_or("no list")?;
        let root: Vec<&str> = root.split(' ').filter(|name| !beside_usr(name)).collect();
        assert_eq!(root, ["dev", "etc", "home", "proc", "run", "sys", "tmp", "usr", "var", "workspace"]);
        expect(
            &printed,
            &["home /home: sandbox /home/sandbox:", "run agent", "sys", "var tmp", "closed", "tools"],
        )?;
        expect(&printed, &["net all default lo"])
    });
}

#[test]
fn what_is_ours_cannot_be_written() {
    each_user("what_is_ours_cannot_be_written", |world| {
        let printed = world.run(
            "for f in /x /usr/x /etc/x /etc/passwd /dev/x /run/x /run/agent/x /run/agent/init /var/x /home/x /sys/x \\
                 /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sysrq-trigger; do
               ( : >> $f ) 2>/dev/null && echo written $f
             done
             rm -f /etc/passwd /run/agent/init /dev/ptmx /bin 2>/dev/null
             [ -e /etc/passwd ] && [ -e /run/agent/init ] && [ -e /dev/ptmx ] && [ -e /bin ] || echo removed
             ( echo x > /proc/sys/kernel/core_pattern ) 2>/dev/null && echo core
             chmod u+w /run/agent/init 2>/dev/null && echo chmod
             mv /run/agent/init /tmp/i 2>/dev/null && echo mv
             mount -o remount,rw / 2>/dev/null && echo remount
             umount /run/agent/init 2>/dev/null && echo umount
             echo x > /dev/shm/x && echo x > /dev/null && head -c 1 /dev/urandom > /tmp/x && echo end",
        )?;
        assert_eq!(printed, "end\n");
        Ok(())
    });
}

#[test]
fn nested_user_namespaces_need_permission() {
    each_user("nested_user_namespaces_need_permission", |world| {
        let script = "unshare --user true 2>/dev/null && echo nested
                      unshare --mount true 2>/dev/null && echo mounts; echo end";
        assert_eq!(world.run(script)?, "end\n");
        world.request.nested_namespaces = true;
        assert_eq!(world.run(script)?, "nested\nend\n");
        Ok(())
    });
}

#[test]
fn only_promised_descriptors_reach_init() {
    each_user("only_promised_descriptors_reach_init", |world| {
        let leak = File::open("/etc/passwd")?;
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty())?;
        let spec = File::open("/dev/null")?;
        // A gap on purpose: what lies between must not pass either.
        world.request.fds = vec![PromisedFd { name: "spec", number: 5 }];
        // A child is asked, because a shell holds its own script open, for itself alone.
        let (launched, mut output) =
            world.launch("readlink -v /proc/self/fd/*", vec![("spec", spec.into())])?;
        let printed = output.all()?;
        reap(&launched)?;
        drop(leak);
        // The three standard ones and the promised one; the pattern found one more, which is the shell's and gone.
        let links: Vec<&str> = printed.lines().filter(|line| !line.contains("No such file")).collect();
        assert_eq!(links.len(), 4, "{printed}");
        assert_eq!((links[0], links[3]), ("/dev/null", "/dev/null"), "{printed}");
        assert!(links[1].starts_with("pipe:") && links[2].starts_with("pipe:"), "{printed}");
        Ok(())
    });
}

#[test]
fn a_missing_descriptor_is_refused_before_anything_starts() {
    let mut world = World::new();
    world.request.fds = vec![PromisedFd { name: "spec", number: 5 }];
    let error = world.launch("true", vec![]).err().unwrap();
    assert!(error.to_string().contains("no descriptor for `spec`"), "{error}");
}

#[test]
fn secrets_are_files_only_and_stay_as_they_are() {
    each_user("secrets_are_files_only_and_stay_as_they_are", |world| {
        let key = world.path("key");
        fs::write(&key, "hunter2\n")?;
        world.request.secrets = vec![Secret { name: "KEY".to_owned(), source: key }];
        let plan = layer().plan(&world.request)?;
        assert!(!layer().to_shell(&plan).contains("hunter2") && !plan.to_json().contains("hunter2"));
        let (launched, mut output) = world.launch(
            "cat /run/secrets/KEY; stat -c '%a %U' /run/secrets/KEY /run/secrets
             ( echo x > /run/secrets/KEY ) 2>/dev/null && echo written
             chmod 600 /run/secrets/KEY 2>/dev/null && echo chmod
             tr '\\0' '\\n' < /proc/1/environ | grep hunter2
             echo up; exec sleep 60",
            vec![],
        )?;
        let printed = output.line("up")?;
        assert_eq!(printed, "hunter2\n400 sandbox\n700 sandbox\nup\n");
        let bwrap = launched.supervisor.id().pid;
        let shown = fs::read(format!("/proc/{bwrap}/cmdline"))?;
        assert!(!shown.windows(7).any(|window| window == b"hunter2"));
        Ok(())
    });
}

#[test]
fn init_and_its_listener_outlive_bwrap() {
    each_user("init_and_its_listener_outlive_bwrap", |world| {
        let socket = world.path("control.sock");
        let listener = UnixListener::bind(&socket)?;
        world.request.fds = vec![PromisedFd { name: "control", number: 3 }];
        let (launched, mut output) =
            world.launch("echo up; exec sleep 60", vec![("control", listener.into())])?;
        output.line("up")?;
        let init = world.init()?;

        launched.supervisor.signal(Signal::KILL)?;
        reap(&launched)?;
        assert!(init.alive()?, "init died with bwrap");
        UnixStream::connect(&socket)?;
        assert_eq!(layer().report(world.folder.path())?.exit_code, None);

        let found = Process::find(init.id())?.ok_or("init cannot be found by what was recorded")?;
        found.signal(Signal::KILL)?;
        assert!(init.exited_within(DEADLINE)?);
        let refused = UnixStream::connect(&socket).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok(())
    });
}

#[test]
fn the_record_says_how_init_ended() {
    each_user("the_record_says_how_init_ended", |world| {
        let (launched, mut output) = world.launch("echo up; exec sleep 60", vec![])?;
        output.line("up")?;
        let init = world.init()?;
        let expected = match world.request.caller {
            Caller::Ordinary => rustix::process::getuid().as_raw(),
            Caller::Root { runs_as } => runs_as,
        };
        let status = fs::read_to_string(format!("/proc/{}/status", init.id().pid))?;
        assert!(
            status.contains(&format!("\nUid:\t{expected}\t{expected}\t{expected}\t{expected}\n")),
            "{status}"
        );
        init.signal(Signal::KILL)?;
        assert_eq!(reap(&launched)?, 137);
        assert_eq!(layer().report(world.folder.path())?.exit_code, Some(137));
        launched.remains.clean()?;
        Ok(())
    });
}

#[test]
fn a_run_nobody_comes_back_to_can_end_with_its_parent() {
    each_user("a_run_nobody_comes_back_to_can_end_with_its_parent", |world| {
        world.request.dies_with_parent = true;
        let (launched, mut output) = world.launch("echo up; exec sleep 60", vec![])?;
        output.line("up")?;
        let init = world.init()?;
        // For init bwrap is the parent; that bwrap follows us is the same option.
        launched.supervisor.signal(Signal::KILL)?;
        assert!(init.exited_within(DEADLINE)?);
        reap(&launched)?;
        Ok(())
    });
}

#[test]
fn mounts_of_the_caller_obey_their_access() {
    each_user("mounts_of_the_caller_obey_their_access", |world| {
        let (data, file) = (world.path("data"), world.path("file"));
        fs::create_dir(&data)?;
        fs::write(&file, "content\n")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let mount = |source: &Path, at: &str, access| {
            let source = source.canonicalize().unwrap();
            UserMount { source, at: at.to_owned(), access }
        };
        world.request.mounts = vec![
            mount(&data, "/data", Access::ReadOnly),
            mount(&data, "/home/sandbox/rw", Access::ReadWrite),
            mount(&file, "/opt/tool/file", Access::ReadOnly),
        ];
        let printed = world.run(
            "echo made > /home/sandbox/rw/made; cat /data/made /opt/tool/file
             ( echo x > /data/x ) 2>/dev/null && echo written
             ( echo x >> /opt/tool/file ) 2>/dev/null && echo written; echo end",
        )?;
        assert_eq!(printed, "made\ncontent\nend\n");
        Ok(())
    });
}

#[test]
fn mounts_that_would_break_the_sandbox_are_refused() {
    let mut world = World::new();
    let source = world.path("home").canonicalize().unwrap();
    for at in [
        "/",
        "relative",
        "/a/../b",
        "/proc/x",
        "/run/agent/init",
        "/run/secrets",
        "/usr",
        "/workspace",
        "/etc/x",
    ] {
        let mount = UserMount { source: source.clone(), at: at.to_owned(), access: Access::ReadWrite };
        world.request.mounts = vec![mount];
        let error = layer().plan(&world.request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{at}");
    }
    let missing = UserMount { source: "/no/such".into(), at: "/data".to_owned(), access: Access::ReadOnly };
    world.request.mounts = vec![missing];
    let error = layer().plan(&world.request).unwrap_err().to_string();
    assert!(error.starts_with("cannot mount /no/such at /data: No such file"), "{error}");
}

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

#[test]
fn the_state_of_all_sandboxes_stays_hidden() {
    each_user("the_state_of_all_sandboxes_stays_hidden", |world| {
        let project = world.path("project").canonicalize()?;
        let state = project.join(".local/share/agent-shim");
        fs::create_dir_all(&state)?;
        fs::write(state.join("token"), "of another sandbox")?;
        world.request.hidden = vec![state.clone()];
        let printed = world.run(
            "s=share/agent-shim; ls -A /workspace/.local/$s; cat /workspace/.local/$s/token 2>/dev/null
             ( : > /workspace/.local/$s/x ) 2>/dev/null && echo written
             mv /workspace/.local /workspace/moved 2>/dev/null
             ls -A /workspace/moved/$s /workspace/.local/$s 2>/dev/null | grep token
             echo end",
        )?;
        assert_eq!(printed, "end\n");

        // A data folder that is named through a link is the same folder.
        let link = world.path("link");
        std::os::unix::fs::symlink(&project, &link)?;
        fs::create_dir_all(&state)?;
        fs::write(state.join("token"), "of another sandbox")?;
        world.request.hidden = vec![link.join(".local/share/agent-shim")];
        let printed = world.run("cat /workspace/.local/share/agent-shim/token 2>/dev/null; echo end")?;
        assert_eq!(printed, "end\n");

        let source = state.clone();
        let mount = UserMount { source, at: "/token".to_owned(), access: Access::ReadOnly };
        world.request.mounts = vec![mount];
        assert_eq!(layer().plan(&world.request).unwrap_err().kind(), ErrorKind::Usage);
        Ok(())
    });
}

/// The fallback for `--pids`: what other sandboxes of the same user run does not count.
#[test]
fn a_process_limit_counts_this_sandbox_alone() {
    each_user("a_process_limit_counts_this_sandbox_alone", |world| {
        let mut neighbour = World::new();
        let crowd = "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; echo up; wait";
        let (_crowd, mut crowd) = neighbour.launch(crowd, vec![])?;
        crowd.line("up")?;
        let printed = world.run(
            // dash ends at the first fork that fails, so another one tries.
            "prlimit --nproc=20 --pid 1; i=0; while [ $i -lt 10 ]; do sleep 60 & i=$((i+1)); done; echo ten
             while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; echo forty",
        )?;
        expect(&printed, &["ten"])?;
        assert!(!printed.contains("forty") && printed.contains("fork"), "{printed}");
        Ok(())
    });
}

#[test]
fn limits_without_controllers_are_refused_not_dropped() {
    let mut world = World::new();
    world.request.limits = Limits { memory_bytes: Some(1 << 30), ..Limits::default() };
    match layer().plan(&world.request) {
        Ok(plan) => assert!(plan.limits.cgroup.is_some()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Requirement);
            assert!(error.to_string().starts_with("--memory cannot be enforced here because "), "{error}");
        }
    }
}

/// Inside a user namespace that allows no more of them, bwrap fails as on a host that forbids them.
#[test]
fn a_host_without_user_namespaces_is_explained() {
    let script =
        "echo 0 > /proc/sys/user/max_user_namespaces && exec bwrap --unshare-user --ro-bind / / true";
    let output =
        Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", script]).output().unwrap();
    assert!(!output.status.success());
    let error = layer().explain(&String::from_utf8_lossy(&output.stderr));
    assert_eq!(error.kind(), ErrorKind::Requirement, "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_failed_launch_leaves_no_process_and_says_why() {
    each_user("a_failed_launch_leaves_no_process_and_says_why", |world| {
        // A script without an interpreter to run it.
        world.request.environment.mounts.clear();
        let (launched, mut output) = world.launch("true", vec![])?;
        let printed = output.all()?;
        assert_eq!(reap(&launched)?, 1);
        let error = layer().explain(&printed).to_string();
        assert_eq!(error, "bwrap failed: execvp /run/agent/init: No such file or directory");
        Ok(())
    });
}
