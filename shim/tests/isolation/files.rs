//! What of the file system is there, and whose it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use agent_shim::isolation::{Access, ErrorKind, Layer, Secret, UserMount};

use super::world::{SOMEBODY, World, each_user, expect, layer};

#[test]
fn what_is_written_belongs_to_the_owner_of_the_folder() {
    each_user("files::what_is_written_belongs_to_the_owner_of_the_folder", |world| {
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
    each_user("files::nothing_else_of_the_host_is_there", |world| {
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
    each_user("files::what_is_ours_cannot_be_written", |world| {
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
fn secrets_are_files_only_and_stay_as_they_are() {
    each_user("files::secrets_are_files_only_and_stay_as_they_are", |world| {
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
fn mounts_of_the_caller_obey_their_access() {
    each_user("files::mounts_of_the_caller_obey_their_access", |world| {
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

#[test]
fn the_state_of_all_sandboxes_stays_hidden() {
    each_user("files::the_state_of_all_sandboxes_stays_hidden", |world| {
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
