//! A part of a store, as a tree of mounts. What init keeps by Landlock instead is in the tests of real sandboxes.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use agent_shim::isolation::{Access, Closure, ErrorKind, Handles, Layer, Mount, StoreView, UserMount};

use super::world::{Outcome, World, each_user, expect, layer};

/// Where Landlock would keep it, was it not for nested namespaces.
const USUAL: &str = "/nix/store";
/// Where Landlock cannot keep it: below a folder in which more can be made.
const BELOW_TMP: &str = "/tmp/home/nix/store";

/// A store with a tool, a file, a link and other things, of which the first three are asked for.
fn store(world: &World) -> (PathBuf, Vec<PathBuf>) {
    let store = world.path("store").canonicalize().unwrap_or_else(|_| {
        let store = world.path("store");
        let write = |path: &str, text: &str, mode: u32| {
            let path = store.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("aaa-tool/bin/tool", "#!/bin/sh\necho the tool runs\n", 0o555);
        write("bbb-file", "a file\n", 0o444);
        symlink("aaa-tool/bin/tool", store.join("ccc-link")).unwrap();
        write("xxx-other/bin/tool", "#!/bin/sh\necho another tool runs\n", 0o555);
        write("yyy-file", "another file\n", 0o444);
        store.canonicalize().unwrap()
    });
    let paths = ["aaa-tool", "bbb-file", "ccc-link"].map(|name| store.join(name)).to_vec();
    (store, paths)
}

fn show(world: &mut World, at: &str, view: StoreView) {
    let (source, _) = store(world);
    world.request.environment.mounts.retain(|mount| !matches!(mount, Mount::Store { .. }));
    world.request.environment.mounts.push(Mount::Store { source, at: at.to_owned(), view });
}

fn show_closure(world: &mut World, at: &str) -> Outcome {
    let (source, paths) = store(world);
    show(world, at, StoreView::Closure(Closure::new(&source, paths)?));
    Ok(())
}

#[test]
fn a_whole_store_is_all_there_and_read_only() {
    each_user("store::a_whole_store_is_all_there_and_read_only", |world| {
        for at in [USUAL, BELOW_TMP] {
            show(world, at, StoreView::Whole);
            let printed = world.run(&format!(
                "cd {at}; echo $(ls); xxx-other/bin/tool; cat yyy-file ccc-link
                 ( : > new ) 2>/dev/null && echo written; ( : >> yyy-file ) 2>/dev/null && echo written; echo end"
            ))?;
            expect(
                &printed,
                &[
                    "aaa-tool bbb-file ccc-link xxx-other yyy-file",
                    "another tool runs",
                    "another file",
                    "end",
                ],
            )?;
            assert!(!printed.contains("written"), "{printed}");
        }
        Ok(())
    });
}

#[test]
fn a_tree_holds_the_closure_and_nothing_else() {
    each_user("store::a_tree_holds_the_closure_and_nothing_else", |world| {
        for (at, nested) in [(USUAL, true), (BELOW_TMP, false)] {
            world.request.nested_namespaces = nested;
            show_closure(world, at)?;
            let plan = layer().plan(&world.request)?;
            assert!(plan.readable.is_empty());
            let printed = world.run(&format!(
                "cd {at}; echo $(ls -A); aaa-tool/bin/tool; cat bbb-file; ./ccc-link
                 for name in xxx-other xxx-other/bin/tool yyy-file; do
                   [ -e $name ] && echo $name is there; cat $name 2>/dev/null; stat $name >/dev/null 2>&1 && echo known
                 done
                 ( : > new ) 2>/dev/null && echo written; ( : >> bbb-file ) 2>/dev/null && echo written
                 ( : > aaa-tool/new ) 2>/dev/null && echo written; rm -rf aaa-tool bbb-file ccc-link 2>/dev/null
                 mv aaa-tool new 2>/dev/null; mkdir new 2>/dev/null && echo made; echo $(ls -A)
                 umount aaa-tool bbb-file . 2>/dev/null && echo umounted"
            ))?;
            let names = "aaa-tool bbb-file ccc-link";
            assert_eq!(printed, format!("{names}\nthe tool runs\na file\nthe tool runs\n{names}\n"), "{at}");
        }
        Ok(())
    });
}

/// bwrap runs below one more user namespace of an ordinary user's, and nothing inside may notice.
#[test]
fn a_tree_changes_nothing_else() {
    each_user("store::a_tree_changes_nothing_else", |world| {
        let script = "echo user $(id -un) $(id -u) $(id -g); echo pid $$
             grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status | tr '\\t' ' '
             unshare --user true 2>/dev/null && echo nested
             for d in /workspace /home/sandbox /tmp; do echo made > $d/made && mkdir $d/dir && stat -c '%u %g' $d/made; done
             stat -c '%a' /tmp /home/sandbox /usr; ls -A /run; ls -A /dev | sort
             cat /workspace/given; ls -ld /workspace/given | cut -c 1-10";
        fs::write(world.path("project/given"), "from outside\n")?;
        fs::set_permissions(world.path("project/given"), fs::Permissions::from_mode(0o600))?;
        let owner = fs::metadata(world.path("project"))?;
        let mut printed = Vec::new();
        for view in [None, Some(BELOW_TMP)] {
            if let Some(at) = view {
                show_closure(world, at)?;
            }
            printed.push(world.run(script)?);
            for folder in ["project", "home", "tmp"] {
                for made in ["made", "dir"] {
                    let path = world.path(folder).join(made);
                    let found = fs::symlink_metadata(&path)?;
                    assert_eq!((found.uid(), found.gid()), (owner.uid(), owner.gid()), "{folder}/{made}");
                    if made == "dir" { fs::remove_dir(path)? } else { fs::remove_file(path)? }
                }
            }
        }
        assert!(!printed[0].contains("nested") && printed[0].contains("user sandbox 1000 1000"));
        assert_eq!(printed[0], printed[1]);
        Ok(())
    });
}

#[test]
fn every_mount_of_a_tree_is_closed() {
    each_user("store::every_mount_of_a_tree_is_closed", |world| {
        show_closure(world, BELOW_TMP)?;
        let printed =
            world.run(&format!("awk '$5 ~ \"^{BELOW_TMP}\" {{ print $5, $6 }}' /proc/self/mountinfo"))?;
        let mounts: BTreeMap<&str, &str> = printed.lines().filter_map(|line| line.split_once(' ')).collect();
        let at = |name: &str| format!("{BELOW_TMP}{name}");
        assert_eq!(
            mounts.keys().copied().collect::<Vec<_>>(),
            [at("").as_str(), at("/aaa-tool").as_str(), at("/bbb-file").as_str()]
        );
        for (at, options) in mounts {
            for option in ["ro", "nosuid", "nodev"] {
                assert!(options.split(',').any(|found| found == option), "{at} {options}");
            }
        }
        Ok(())
    });
}

#[test]
fn the_host_sees_nothing_of_a_tree() {
    each_user("store::the_host_sees_nothing_of_a_tree", |world| {
        show_closure(world, BELOW_TMP)?;
        let (_launched, mut output) = world.launch("echo up; exec sleep 60", vec![])?;
        output.line("up")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let folder = world.path("").to_string_lossy().into_owned();
        assert!(!mounts.contains(&folder), "{mounts}");
        Ok(())
    });
}

#[test]
fn a_tree_of_two_thousand_is_one_bind() {
    each_user("store::a_tree_of_two_thousand_is_one_bind", |world| {
        let (source, mut paths) = store(world);
        for i in 0..2000 {
            let path = source.join(format!("many-{i:04}"));
            fs::create_dir(&path)?;
            paths.push(path);
        }
        show(world, BELOW_TMP, StoreView::Closure(Closure::new(&source, paths)?));
        let plan = layer().plan(&world.request)?;
        let shell = layer().to_shell(&plan);
        assert!(shell.contains(" holds 2003 paths of ") && !shell.contains("many-0007"), "{shell}");
        assert!(plan.to_json().contains("many-0007"));
        assert_eq!(world.run(&format!("ls {BELOW_TMP} | wc -l"))?, "2003\n");
        Ok(())
    });
}

#[test]
fn a_package_that_is_gone_is_named() {
    each_user("store::a_package_that_is_gone_is_named", |world| {
        show_closure(world, BELOW_TMP)?;
        fs::write(world.path("init"), "#!/bin/sh\n")?;
        let plan = layer().plan(&world.request)?;
        let gone = store(world).0.join("bbb-file");
        fs::remove_file(&gone)?;
        let null = || OwnedFd::from(fs::File::options().write(true).open("/dev/null").unwrap());
        let handles = Handles { promised: vec![], stdout: null(), stderr: null() };
        let expected =
            format!("{} is not in the store any more, and the environment needs it", gone.display());
        let error = layer().launch(&plan, handles).unwrap_err();
        assert_eq!(error.to_string(), expected);
        let error = layer().plan(&world.request).unwrap_err();
        assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::Requirement));
        assert!(error.hint().is_some_and(|hint| hint.contains("env build")));
        Ok(())
    });
}

#[test]
fn a_plan_can_be_shown_before_there_is_a_store() -> Outcome {
    let mut world = World::new();
    show(&mut world, USUAL, StoreView::Closure(Closure::default()));
    fs::remove_dir_all(world.path("store"))?;
    let plan = layer().plan(&world.request)?;
    // Not the whole of it, whatever it will hold.
    let empty = StoreView::Closure(Closure::default());
    assert!(plan.mounts.iter().any(|mount| matches!(mount, Mount::Store { view, .. } if *view == empty)));
    Ok(())
}

/// An agent can leave a link in its /tmp, for the next start to make the store's mount point through it.
#[test]
fn a_planted_link_leads_no_store_elsewhere() -> Outcome {
    let mut world = World::new();
    show_closure(&mut world, BELOW_TMP)?;
    symlink("/oldroot", world.path("tmp/home"))?;
    let error = layer().plan(&world.request).unwrap_err().to_string();
    assert!(error.ends_with("tmp/home is a symbolic link"), "{error}");
    Ok(())
}

#[test]
fn nothing_is_mounted_in_a_store() {
    let mut world = World::new();
    show(&mut world, USUAL, StoreView::Whole);
    for at in [USUAL, "/nix/store/xxx-other", "/nix/store/new"] {
        let source = world.path("home").canonicalize().unwrap();
        let mount = UserMount { source, at: at.to_owned(), access: Access::ReadOnly };
        world.request.mounts = vec![mount];
        let error = layer().plan(&world.request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{at}");
        assert!(error.to_string().ends_with("the store is at /nix/store"), "{error}");
    }
}
