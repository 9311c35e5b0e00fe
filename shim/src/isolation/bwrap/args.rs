//! A plan as bwrap's command line.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use crate::isolation::plan::{Access, Content, LaunchPlan, Mount, Network, USER_ID};
use crate::isolation::shown;
use crate::isolation::sources::Sources;
use crate::terminal::quote::quoted;

/// The command, and what has to be in place for it.
#[derive(Debug)]
pub(super) struct Rendered<'a> {
    /// Arguments, the program's name first.
    pub(super) args: Vec<OsString>,
    /// The number under which bwrap writes its record.
    pub(super) status_fd: i32,
    /// Numbers under which bwrap reads files from.
    pub(super) files: Vec<(i32, &'a Content)>,
    /// What has to be in place for it.
    pub(super) sources: Sources<'a>,
}

/// Renders `plan`. Numbers above the promised descriptors are ours.
pub(super) fn render(plan: &LaunchPlan) -> Rendered<'_> {
    let status_fd = plan.fds.iter().map(|fd| fd.number).max().unwrap_or(2).max(2) + 1;
    let mut rendered =
        Rendered { args: Vec::new(), status_fd, files: Vec::new(), sources: Sources::default() };
    let id = USER_ID.to_string();
    rendered.push(["bwrap", "--unshare-user", "--uid", &id, "--gid", &id]);
    if !plan.namespaces.nested {
        rendered.push(["--disable-userns"]);
    }
    // Only root of a user namespace, as in a rootless container, would keep any.
    rendered.push(["--cap-drop", "ALL"]);
    rendered.push(["--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"]);
    if plan.namespaces.network == Network::None {
        rendered.push(["--unshare-net"]);
    }
    if plan.dies_with_parent {
        rendered.push(["--die-with-parent"]);
    }
    rendered.push(["--hostname", &plan.hostname, "--chdir", "/"]);
    rendered.push(["--json-status-fd", &status_fd.to_string()]);
    for mount in &plan.mounts {
        rendered.mount(mount, plan);
    }
    rendered.push(["--"]);
    rendered.args.extend(plan.command.iter().map(OsString::from));
    rendered
}

impl<'a> Rendered<'a> {
    fn push<const N: usize>(&mut self, args: [&str; N]) {
        self.args.extend(args.map(OsString::from));
    }

    fn mount(&mut self, mount: &'a Mount, plan: &'a LaunchPlan) {
        match mount {
            Mount::Bind { source, at, access, origin } => {
                let option = match access {
                    Access::ReadOnly => "--ro-bind",
                    Access::ReadWrite => "--bind",
                };
                let source = self.sources.bind(plan, source, *access, *origin);
                self.args.extend([option.into(), source.into_os_string(), at.into()]);
            }
            Mount::Store { source, at, view } => {
                let source = self.sources.store(plan, source, view);
                self.args.extend(["--ro-bind".into(), source.into_os_string(), at.into()]);
            }
            Mount::Tmpfs { at, size_bytes, mode } => {
                self.push(["--perms", &octal(*mode), "--size", &size_bytes.to_string(), "--tmpfs", at]);
            }
            Mount::Proc { at } => self.push(["--proc", at]),
            Mount::Dev { at } => self.push(["--dev", at]),
            Mount::Dir { at, mode } => self.push(["--perms", &octal(*mode), "--dir", at]),
            Mount::Symlink { target, at } => self.push(["--symlink", target, at]),
            Mount::File { at, mode, content } => {
                let number = self.status_fd + 1 + i32::try_from(self.files.len()).unwrap_or(i32::MAX);
                self.files.push((number, content));
                self.push(["--perms", &octal(*mode), "--file", &number.to_string(), at]);
            }
            Mount::Seal { at } => self.push(["--remount-ro", at]),
        }
    }
}

/// The command for a person to read, and for bash to run where nothing is inherited.
pub(super) fn to_shell(plan: &LaunchPlan) -> String {
    let rendered = render(plan);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_shell(&mut out, plan, &rendered);
    out
}

fn write_shell(out: &mut String, plan: &LaunchPlan, rendered: &Rendered<'_>) -> std::fmt::Result {
    shown::descriptors(out, plan)?;
    shown::surroundings(out, plan, &rendered.sources)?;
    write!(out, "env -i")?;
    for (name, value) in &plan.env {
        write!(out, " {}", quoted(format!("{name}={value}").as_bytes()))?;
    }
    write!(out, " {}", quoted(plan.program.as_os_str().as_bytes()))?;
    for arg in &rendered.args[1..] {
        // One option a line, its values behind it.
        let starts_option = arg.as_bytes().starts_with(b"--");
        out.push_str(if starts_option { " \\\n  " } else { " " });
        out.push_str(&quoted(arg.as_bytes()));
    }
    for (number, content) in &rendered.files {
        match content {
            Content::Text(text) => write!(out, " \\\n  {number}< <(printf %s {})", quoted(text.as_bytes()))?,
            Content::Of(path) | Content::Given(path) => {
                write!(out, " \\\n  {number}<{}", quoted(path.as_os_str().as_bytes()))?;
            }
        }
    }
    let record = super::record_path(&plan.folder);
    writeln!(out, " \\\n  {}>>{} </dev/null", rendered.status_fd, quoted(record.as_os_str().as_bytes()))
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::isolation::limits::LimitPlan;
    use crate::isolation::plan::{Caller, Namespaces, PromisedFd, StoreView};
    use crate::isolation::sources::Staged;
    use crate::isolation::store::Closure;

    fn plan(caller: Caller) -> LaunchPlan {
        LaunchPlan {
            layer: "bwrap",
            program: "/usr/bin/bwrap".into(),
            hostname: "web".to_owned(),
            folder: "/data/web".into(),
            caller,
            mounts: vec![
                Mount::system("/usr"),
                Mount::text("/etc/passwd", "it's\n"),
                Mount::given("/root/my project", "/workspace", Access::ReadWrite),
                Mount::File {
                    at: "/run/secrets/key".to_owned(),
                    mode: 0o400,
                    content: Content::Given("/root/key".into()),
                },
                Mount::Seal { at: "/".to_owned() },
            ],
            readable: vec![],
            namespaces: Namespaces { network: Network::None, nested: false },
            env: vec![("PATH".to_owned(), "/usr/bin".to_owned())],
            fds: vec![PromisedFd { name: "control", number: 3 }, PromisedFd { name: "spec", number: 4 }],
            command: ["/run/agent/init", "--spec-fd", "4"].map(str::to_owned).to_vec(),
            limits: LimitPlan::default(),
            container: None,
            machine: None,
            dies_with_parent: false,
        }
    }

    #[test]
    fn an_ordinary_users_command_is_exact() {
        let expected = r"# descriptor 3 is inherited: control
# descriptor 4 is inherited: spec
env -i PATH=/usr/bin /usr/bin/bwrap \
  --unshare-user \
  --uid 1000 \
  --gid 1000 \
  --disable-userns \
  --cap-drop ALL \
  --unshare-pid \
  --as-pid-1 \
  --unshare-ipc \
  --unshare-uts \
  --unshare-cgroup \
  --unshare-net \
  --hostname web \
  --chdir / \
  --json-status-fd 5 \
  --ro-bind /usr /usr \
  --perms 0644 \
  --file 6 /etc/passwd \
  --bind '/root/my project' /workspace \
  --perms 0400 \
  --file 7 /run/secrets/key \
  --remount-ro / \
  -- /run/agent/init \
  --spec-fd 4 \
  6< <(printf %s $'it\'s\n') \
  7</root/key \
  5>>/data/web/bwrap.status </dev/null
";
        assert_eq!(to_shell(&plan(Caller::Ordinary)), expected);
    }

    #[test]
    fn root_stages_what_the_caller_gave_and_nothing_of_the_system() {
        let plan = plan(Caller::Root { runs_as: 0x7a00_0001 });
        let rendered = render(&plan);
        let staged = Staged {
            source: Path::new("/root/my project"),
            access: Access::ReadWrite,
            is_store: false,
            at: "/tmp/0".into(),
        };
        assert_eq!(rendered.sources.staged, [staged]);
        let args = rendered.args.join(" ".as_ref()).into_string().unwrap();
        assert!(args.contains("--ro-bind /usr /usr "), "{args}");
        assert!(args.contains("--bind /tmp/0 /workspace "), "{args}");
        assert!(
            to_shell(&plan).contains("#   /tmp/0 is /root/my project with its owner shown as 2046820353\n")
        );
    }

    fn with_store(caller: Caller, view: StoreView) -> LaunchPlan {
        let mut plan = plan(caller);
        let at = "/nix/store".to_owned();
        plan.mounts.insert(4, Mount::Store { source: "/nix/store".into(), at, view });
        plan
    }

    fn closure() -> Closure {
        let paths = (0..2000).map(|i| format!("/nix/store/{i}").into());
        Closure::new(Path::new("/nix/store"), paths).unwrap()
    }

    #[test]
    fn a_store_is_bound_once_however_much_of_it_there_is() {
        let whole = with_store(Caller::Ordinary, StoreView::Whole);
        assert!(to_shell(&whole).contains("  --ro-bind /nix/store /nix/store \\\n"));

        let tree = with_store(Caller::Ordinary, StoreView::Closure(closure()));
        let shell = to_shell(&tree);
        assert!(shell.contains("  --ro-bind /data/web/store-0 /nix/store \\\n"), "{shell}");
        let said = "# in a mount namespace in which /data/web/store-0 holds 2000 paths of /nix/store\n";
        assert!(shell.contains(said) && shell.lines().count() < 40, "{shell}");

        let tree = with_store(Caller::Root { runs_as: 7 }, StoreView::Closure(closure()));
        let rendered = render(&tree);
        assert_eq!(rendered.sources.trees[0].from, Path::new("/tmp/1"));
        assert_eq!(rendered.sources.trees[0].at, Path::new("/tmp/store-0"));
    }

    #[test]
    fn what_init_keeps_of_a_store_is_one_line() {
        let mut plan = with_store(Caller::Ordinary, StoreView::Whole);
        plan.readable = closure().names().iter().map(|name| format!("/nix/store/{name}")).collect();
        let shell = to_shell(&plan);
        let said = "# of /nix/store, init lets 2000 paths be used and no others, by Landlock\n";
        assert!(shell.contains(said) && shell.lines().count() < 40, "{shell}");
        let json: serde_json::Value = serde_json::from_str(&plan.to_json()).unwrap();
        assert_eq!(json["readable"].as_array().unwrap().len(), 2000);
    }

    #[test]
    fn options_follow_what_was_asked() {
        let mut plan = plan(Caller::Ordinary);
        plan.namespaces = Namespaces { network: Network::Host, nested: true };
        plan.dies_with_parent = true;
        let args = render(&plan).args;
        let has = |option: &str| args.iter().any(|arg| arg == option);
        assert!(!has("--unshare-net") && !has("--disable-userns") && has("--die-with-parent"));
    }

    #[test]
    fn quoting_survives_bash_and_hides_escape_sequences() {
        for text in [
            "plain",
            "",
            "two words",
            "it's",
            "a\nb\\c'd",
            "\x1b[31mred",
            "grün",
            "$(id) `id` \"x\"",
            "a\u{9b}b",
        ] {
            let script = format!("printf %s {}", quoted(text.as_bytes()));
            let out = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), text);
            assert!(!script.chars().any(char::is_control), "{script:?}");
        }
    }

    #[test]
    fn a_plan_is_json_too_and_holds_no_secret() {
        let json: serde_json::Value = serde_json::from_str(&plan(Caller::Ordinary).to_json()).unwrap();
        assert_eq!(json["mounts"][3]["content"]["given"], "/root/key");
        assert_eq!(json["caller"], "ordinary");
    }
}
